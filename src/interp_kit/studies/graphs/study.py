"""Does a model that answers a causal question at once compute what another writes down first, and does either go deeper
than what it was trained on?

Both were trained on questions of depth 0 to 2 over graphs of one half of the classes; depth 3, and the other graphs,
are new. Where the truth of every step is known, three things can be asked of each: is the step there (probes), is it
used (interchange; for the trace, overwriting what is written), and which parts do it (ablation).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import call
from typing import Any

import pandas as pd

from interp_kit.analysis.causal.ablation import AblationResult, ablate
from interp_kit.analysis.causal.interchange import InterchangeResult, interchange
from interp_kit.analysis.causal.patching import PatchingResult, patch
from interp_kit.analysis.comparison.component_overlap import JaccardResult, jaccard
from interp_kit.analysis.dictionaries.feature_shift import FeatureShift, feature_shift
from interp_kit.analysis.dictionaries.sae import train_sae
from interp_kit.analysis.dictionaries.sae_training import SAEConfig
from interp_kit.analysis.probing.probe import probe
from interp_kit.analysis.probing.probe_result import ProbeResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.files import read_json
from interp_kit.core.parallel import in_processes
from interp_kit.core.showing import PROGRESS
from interp_kit.engine.metrics import accuracy, log_probability
from interp_kit.engine.sweep import sweep
from interp_kit.models.checkpoints import checkpoint_root, read_manifest
from interp_kit.registry.models import load
from interp_kit.studies.graphs.accuracy import KINDS, GraphsEvaluation, evaluate_graphs
from interp_kit.studies.graphs.chain import MEDIATORS, ChainTask
from interp_kit.studies.graphs.overwritten import Overwritten, overwritten
from interp_kit.tasks.graphs.layout import QUERY
from interp_kit.tasks.graphs.task import CompactGraphsTask

DIRECT, TRACE = "direct", "trace"
ARMS = "graphs/arms.json"  # below the folder of checkpoints
MODELS = {DIRECT: "graphs/direct", TRACE: "graphs/trace"}  # form -> shipped checkpoint
TRAINED = (0, 1, 2)  # depths of the training questions
ASKED = {"test": 4096, "train": 1024}  # questions of graphs never seen, and of graphs seen in training
ROWS = 256  # questions an analysis reads
TOP = 8  # of 36 heads and MLPs
FEWEST = 16  # solved pairs, for a patching figure
SOLVED = 0.5  # share of chain questions that a model must answer for an exchange to mean anything
QUESTION = ("X", "x", "?", "Y", "=")
# mediator -> field of the trace that follows from it first, and the places before that field, both entries together
NEXT = {"P(d)": "s2.f0", "P(a)": "s3.f0"}
BETWEEN = {
    "P(d)": {"s1.f0, s1.f1": ("s1.f0", "s1.f1"), "s2": ("s2",), "s2.l1": ("s2.l1",)},
    "P(a)": {
        "s1.f0, s1.f1": ("s1.f0", "s1.f1"),
        "s2.f0, s2.f1": ("s2.f0", "s2.f1"),
        "s3": ("s3",),
        "s3.l1": ("s3.l1",),
    },
}
CELLS = {"do, depth 0": ("do", 0), "do, depth 2": ("do", 2), "see, depth 0": ("see", 0), "see, depth 2": ("see", 2)}
AGAIN = "do, depth 2 again"  # other questions of one cell: the yardstick of all that is compared
PAIRS = (("do, depth 2", AGAIN), ("do, depth 0", "do, depth 2"), ("see, depth 0", "see, depth 2"),
         ("do, depth 0", "see, depth 0"), ("do, depth 2", "see, depth 2"))  # fmt: skip


@dataclass(frozen=True)
class Inside:
    """Measurements inside one model.

    Attributes:
        model: Its name.
        probes: Where P(d), P(a) and the answer of chain questions are readable.
        chain: (solved, asked) chain questions.
        exchanged: Mediator -> interchange accuracy by layer and position; {} where too few chain questions are solved.
        importance: Cell -> what ablating each head and MLP costs in log-probability of the completion.
        overlaps: Two cells -> Jaccard of their most important parts.
        features: Features of an autoencoder, by cell.
        kind: Patching between do() and see() prompts that differ in that token alone; None where too few are solved.
    """

    model: str
    probes: ProbeResult
    chain: tuple[int, int]
    exchanged: dict[str, InterchangeResult]
    importance: dict[str, AblationResult]
    overlaps: dict[tuple[str, str], JaccardResult]
    features: FeatureShift
    kind: PatchingResult | None


@dataclass(frozen=True)
class Study:
    """Everything measured.

    Attributes:
        evaluations: Form -> accuracy by kind and depth.
        inside: Form -> what was measured inside.
        overwritten: What the trace model answers after a factor of its trace was overwritten.
        arms: Model trained on with another objective, and its start -> accuracy by kind and depth, as
            `studies.graphs.checkpoints` measured it; empty where it did not.
    """

    evaluations: dict[str, GraphsEvaluation]
    inside: dict[str, Inside]
    overwritten: Overwritten
    arms: Mapping[str, pd.DataFrame]


def batch_of(form: str, cell: str, seed: int = 7, n: int = ROWS) -> TokenBatch:
    """n questions of a cell, on graphs never seen in training."""
    kind, depth = CELLS[cell.removesuffix(" again")]
    task = CompactGraphsTask(form, "test", (depth,))
    drawn = task.sample(4 * n, seed + cell.endswith(" again"))
    return task.batch([example for example in drawn if example.labels["kind"] == KINDS.index(kind)][:n])


def evaluated(form: str, name: str) -> GraphsEvaluation:
    """Accuracy of one model."""
    model = load(name)
    parts = [evaluate_graphs(model, form, splits=(split,), n=n) for split, n in ASKED.items()]
    return GraphsEvaluation(name, form, {split: a for part in parts for split, a in part.answered.items()})


def written_over(name: str) -> Overwritten:
    """True if the model follows its own trace."""
    return overwritten(load(name))


def examined(form: str, name: str) -> Inside:
    """Look into one model."""
    model, chain = load(name), ChainTask(form)
    asked = chain.batch(chain.sample(4 * ROWS, 7))
    options: dict[str, Any] = {"kind": "mean", "metric": log_probability, "progress": False}
    importance = {cell: ablate(model, batch_of(form, cell), **options) for cell in (*CELLS, AGAIN)}
    solved = sweep(model, asked, [], accuracy("answer")).baseline[0]
    return Inside(
        name,
        probes=probe(model, asked, (*MEDIATORS, "answer"), positions=QUESTION, repeats=1, control_repeats=0,
                     progress=False),
        chain=(int(solved.sum()), len(solved)),
        exchanged=_exchanged(model, chain) if solved.mean() >= SOLVED else {},
        importance=importance,
        overlaps={(a, b): jaccard(importance[a], importance[b], k=TOP, match="index", permutations=1000)
                  for a, b in PAIRS},
        features=_features(model, form),
        kind=_kinds(model, form),
    )  # fmt: skip


def _exchanged(model: Any, chain: ChainTask) -> dict[str, InterchangeResult]:
    """Exchange each mediator. What follows from it is the answer of the direct model, and the next factor of the trace:
    behind that, the trace has the base's own value in its text. Places are inputs of layers: the first layer, too, may
    read what is written."""
    base, source = (chain.sample(4 * ROWS, seed) for seed in (31, 32))
    options: dict[str, Any] = {"pairs": list(zip(base, source, strict=True)), "only_solved": True, "progress": False}
    found = {}
    for mediator in MEDIATORS:
        places = {name: (name,) for name in QUESTION}
        target = "answer"
        if chain.form == TRACE:
            target, places = NEXT[mediator], places | BETWEEN[mediator]
        found[mediator] = interchange(model, chain, mediator, target, sites="resid_pre", positions=places, **options)
    return found


def _features(model: Any, form: str) -> FeatureShift:
    mixed = CompactGraphsTask(form, "test", TRAINED)
    config = SAEConfig(architecture="topk", width=512, k=16, training_samples=200_000, max_examples=3000)
    sae = train_sae(model, mixed, site="resid_post.1", config=config, progress=False)
    first = "do, depth 2"
    others = {cell: batch_of(form, cell) for cell in (*CELLS, AGAIN) if cell != first}
    return feature_shift(model, sae, batch_of(form, first), others)


def _kinds(model: Any, form: str) -> PatchingResult | None:
    """Patch do() and see() prompts; None where the model solves both sides of fewer than FEWEST."""
    if form == TRACE:
        return None  # the two traces differ too, so it is not one token alone
    pairs = CompactGraphsTask(form, "test", TRAINED).pairs("kind", "answer", limit=ROWS)
    right = [sweep(model, side, [], accuracy("answer")).baseline[0] == 1 for side in (pairs.clean, pairs.corrupt)]
    if int((right[0] & right[1]).sum()) < FEWEST:
        return None
    return patch(model, pairs, positions=QUERY, only_solved=True, progress=False)


def study(*, jobs: int | None = None, progress: bool = PROGRESS) -> Study:
    """Measure the shipped models.

    Args:
        jobs: Processes; by default one a core and at most four.
        progress: Whether to show a bar.

    Raises:
        ValueError: A model is missing.
    """
    there = read_manifest()
    if missing := [name for name in MODELS.values() if name not in there]:
        raise ValueError(f"the study needs {', '.join(missing)}, which are not shipped checkpoints")
    work: list[partial[Any]] = [partial(examined, form, name) for form, name in MODELS.items()]
    work += [partial(evaluated, form, MODELS[form]) for form in (TRACE, DIRECT)]
    work.append(partial(written_over, MODELS[TRACE]))
    done = iter(in_processes(call, work, jobs, name="measurements", progress=progress))
    inside = {form: next(done) for form in MODELS}
    evaluations = {form: next(done) for form in (TRACE, DIRECT)}
    return Study(evaluations, inside, next(done), arms())


def arms() -> dict[str, pd.DataFrame]:
    """Measurements of the arms at packaging."""
    path = checkpoint_root() / ARMS
    if not path.exists():
        return {}
    return {name: pd.DataFrame(rows) for name, rows in read_json(path)["models"].items()}
