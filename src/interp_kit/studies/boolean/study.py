"""Main study of GPT-2s that learned five structural equations: how they compute them, from checkpoints to a page.

Models: five training seeds, beside three planted models whose mechanism is known and one that never learned. Questions:
where newB is readable beyond copying D, by which path newD is computed, how alike the seeds are, and what happens on
inputs that were never trained on. The same code runs on any set of models (`study`), so that a planted or an untrained
set must, and does, lead to other conclusions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import call
from pathlib import Path
from typing import Any

from interp_kit.analysis.behaviour.evaluation import EvaluationResult, evaluate
from interp_kit.analysis.behaviour.held_out import HeldOutResult, summarise_held_out
from interp_kit.analysis.causal.ablation import AblationResult, ablate
from interp_kit.analysis.causal.lesion import lesion
from interp_kit.analysis.causal.lesion_result import LesionResult
from interp_kit.analysis.causal.mechanism import MechanismResult, mechanism
from interp_kit.analysis.causal.patching import PatchingResult, patch
from interp_kit.analysis.causal.routes import SOLVED
from interp_kit.analysis.comparison.component_overlap import JaccardResult, jaccard
from interp_kit.analysis.dictionaries.sae import SAEConfig, SAEResult, train_sae
from interp_kit.analysis.probing.probe import probe
from interp_kit.analysis.probing.probe_result import ProbeResult
from interp_kit.analysis.probing.readability import ReadabilityResult, readability
from interp_kit.core.parallel import in_processes
from interp_kit.core.showing import PROGRESS
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Mean, output
from interp_kit.models.checkpoints import read_manifest
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.planted import PLANTED_MECHANISMS
from interp_kit.registry.models import load, omitted_examples
from interp_kit.tasks.boolean import BooleanTask

SEEDS = ("boolean-gpt2", *(f"boolean-gpt2-seed{seed}" for seed in (1, 2, 3, 4)))
LABELS = ("newA", "newB", "newC", "newD", "sum1", "sum2")
MEDIATOR, TARGET = "newB", "newD"
PERMUTATIONS = 50
STEPS = 40  # of training after a lesion


@dataclass(frozen=True)
class Examination:
    """Everything measured on one model. denoise, noise: None where the model does not solve the target; lesion: None if
    it was not asked for."""

    name: str
    evaluation: EvaluationResult
    mechanism: MechanismResult
    probe: ProbeResult | None = None
    ablation: AblationResult | None = None
    heads: AblationResult | None = None
    denoise: PatchingResult | None = None
    noise: PatchingResult | None = None
    lesion: LesionResult | None = None


@dataclass(frozen=True)
class Study:
    """The examined models, the yardsticks beside them, and what they show together."""

    models: tuple[Examination, ...]
    yardsticks: tuple[Examination, ...]
    readability: ReadabilityResult
    similarity: JaccardResult
    head_similarity: JaccardResult
    held_out: HeldOutResult | None
    sae: SAEResult | None


def examine(
    name: str,
    full: bool = True,
    labels: Sequence[str] = LABELS,
    permutations: int = PERMUTATIONS,
    steps: int | None = None,
) -> Examination:
    """Run the analyses of one model; `full` adds probes, patching and ablation to accuracy and mechanism, `steps` of
    training after it a lesion."""
    task, model = BooleanTask(), load(name)
    batch = task.batch(task.enumerate())
    evaluation = evaluate(model, task, omitted=omitted_examples(model, task))
    route = mechanism(model, task, mediator=MEDIATOR, target=TARGET)
    if not full:
        return Examination(name, evaluation, route)
    solves = route.solved.value >= SOLVED
    pairs = task.pairs(MEDIATOR, TARGET)
    heads = ablate(model, batch, kind="mean", units=("head",))
    return Examination(
        name,
        evaluation,
        route,
        probe=probe(model, batch, labels, permutations=permutations),
        ablation=ablate(model, batch, kind="mean"),
        heads=heads,
        denoise=patch(model, pairs, only_solved=True) if solves else None,
        noise=patch(model, pairs, only_solved=True, direction="noise") if solves else None,
        lesion=None if steps is None else without_top_head(model, task, heads, steps),
    )


def without_top_head(model: HookedModel, task: AbstractTask, heads: AblationResult, steps: int) -> LesionResult:
    """The lesion of the head that an ablation found most important. One order of training texts: the independent units
    of the study are its models."""
    top = heads.component[int(heads.importance().argmax())]
    return lesion(model, task, output(top, Mean()), steps=steps, seeds=(0,), batch_size=8, progress=False)


def evaluate_named(name: str) -> EvaluationResult:
    """Accuracy alone, on seen and omitted inputs."""
    task, model = BooleanTask(), load(name)
    return evaluate(model, task, omitted=omitted_examples(model, task))


def train_report_sae(name: str) -> SAEResult:
    """A TopK dictionary of the residual stream in the middle of the model."""
    model = load(name)
    site = f"resid_post.{(model.cfg.n_layers - 1) // 2}"
    return train_sae(model, BooleanTask(), site=site, config=SAEConfig(training_samples=200_000), progress=False)


def study(
    names: Sequence[str] = SEEDS,
    *,
    yardsticks: Sequence[str] | None = None,
    held_out: Sequence[str] = (),
    sae: bool = True,
    labels: Sequence[str] = LABELS,
    permutations: int = PERMUTATIONS,
    steps: int | None = STEPS,
    jobs: int | None = None,
    progress: bool = PROGRESS,
) -> Study:
    """Examine `names` (three or more seeds of one kind), with the planted models and an untrained one as yardsticks.

    held_out: names of models with omitted inputs, for the curve. labels, permutations: of the probes. steps: of
    training after a lesion; None leaves it out. jobs: processes, by default one a core and at most four. Raises
    ValueError for fewer than three models: one seed chooses where to probe, two report.
    """
    if len(names) < 3:
        raise ValueError(f"the study compares at least three seeds, got {len(names)}")
    planted = [f"boolean-{name}" for name in PLANTED_MECHANISMS]
    beside = [*planted, f"untrained:{names[0]}"] if yardsticks is None else list(yardsticks)
    work: list[partial[Any]] = [partial(train_report_sae, names[0])] if sae else []
    work += [partial(examine, name, True, labels, permutations, steps) for name in names]
    work += [partial(examine, name, False) for name in beside]
    work += [partial(evaluate_named, name) for name in held_out]
    done = iter(in_processes(call, work, jobs, name=_counted(names, beside, held_out, sae), progress=progress))
    dictionary = next(done) if sae else None
    models, others = tuple(islice(done, len(names))), tuple(islice(done, len(beside)))
    curve = list(done)
    return Study(
        models=models,
        yardsticks=others,
        readability=readability([_present(m.probe) for m in models]),
        similarity=jaccard(*(_present(m.ablation) for m in models), k=5),
        head_similarity=jaccard(*(_present(m.heads) for m in models), k=5),
        held_out=summarise_held_out(curve) if curve else None,
        sae=dictionary,
    )


def omitted_models(root: Path | None = None) -> list[str]:
    """The shipped models with omitted inputs."""
    return [name for name, entry in read_manifest(root).items() if entry.omitted and entry.task == "boolean"]


def _counted(names: Sequence[str], beside: Sequence[str], held_out: Sequence[str], sae: bool) -> str:
    """Name of the study's bar, by default "5 networks, 4 controls, 10 with inputs left out, 1 autoencoder" on it."""
    kinds = {"networks": len(names), "controls": len(beside), "with inputs left out": len(held_out), "autoencoder": sae}
    return ", ".join(f"{int(n)} {kind}" for kind, n in kinds.items() if n)


def _present(value):
    assert value is not None
    return value
