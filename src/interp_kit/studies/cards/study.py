"""Does supervised fine-tuning memorise where reinforcement learning generalises, and what does each change inside?

From one weak start S0, three seeds of it, go two supervised continuations that differ in the order of data alone, and
one by reinforcement learning; beside them models that saw a few hundred prompts. What reinforcement learning changed is
read against what another order of data changes: the two supervised continuations are the yardstick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import call
from typing import Any

import numpy as np

from interp_kit.analysis.causal.ablation import AblationResult, ablate
from interp_kit.analysis.causal.interchange import InterchangeResult, interchange
from interp_kit.analysis.causal.patching import PatchingResult, patch
from interp_kit.analysis.comparison.component_overlap import JaccardResult, jaccard
from interp_kit.analysis.comparison.model_diffing import ModelDiffResult, diff_models
from interp_kit.analysis.dictionaries.feature_shift import FeatureShift
from interp_kit.analysis.probing.probe import probe
from interp_kit.analysis.probing.probe_result import ProbeResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.example import Example
from interp_kit.core.parallel import in_processes
from interp_kit.core.showing import PROGRESS
from interp_kit.engine.metrics import accuracy, log_probability
from interp_kit.engine.sweep import sweep
from interp_kit.models.checkpoints import read_manifest
from interp_kit.registry.models import load
from interp_kit.studies.cards.activity import Activity, activity
from interp_kit.studies.cards.evaluate import TESTED, CardsEvaluation, evaluate_cards
from interp_kit.studies.cards.features import feature_shift
from interp_kit.studies.cards.recipe import arms
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.catalogue import COMPOSITIONAL, NEW_COLOURS, Part, Split
from interp_kit.tasks.cards.dataset import CardsConfig
from interp_kit.tasks.cards.rules import IN_DISTRIBUTION, ODD_MINUS_EVEN, RED_MINUS_BLUE

SEEDS = (0, 1, 2)
START, SFT, AGAIN, RL, RL_TRL = "s0", "sft", "sft-reordered", "rl", "rl-trl"
SMALL = ("small-100", "small-300", "small-1000")
KINDS = (START, SFT, AGAIN, RL, RL_TRL, *SMALL)
INSIDE = (START, SFT, AGAIN, RL)  # the kinds that are looked into
ID, OOD = "id_test", tuple(name for name in TESTED if name != "id_test")
ROWS = 256  # deals an analysis reads
TRAINED_ON = 5000  # training deals, at most, in which the nearest neighbour is looked for
TESTS = 1000  # deals of each split that accuracy is measured on
TOP, TOP_NEURONS = 4, 25  # of 10 heads and MLPs, and of 512 neurons
CARDS = 5  # of the deals that probes and pairs are made of, so that every text has the same positions
READ = ("running3", "sum_RED", "contribution3", "matched3", "total")
PLACES = ("card3", f"card{CARDS}", "answer?")

PROBED = {
    ID: Split("id, 5 cards", (Part(tuple(rule.name for rule in IN_DISTRIBUTION), (CARDS, CARDS)),)),
    "ood_new_colors": Split("new colours, 5 cards", (Part((NEW_COLOURS[0].name,), (CARDS, CARDS)),)),
    "ood_compositional": Split("compositional, 5 cards", (Part((COMPOSITIONAL[0].name,), (CARDS, CARDS)),)),
}
# rules whose texts are equally long, so that two deals of the same cards differ in words of the rule alone
SWAPPED = {
    "ID to ID": (RED_MINUS_BLUE.name, ODD_MINUS_EVEN.name),
    "ID to OOD": (RED_MINUS_BLUE.name, NEW_COLOURS[0].name),
}
ONE_RULE = Split("red minus blue, 5 cards", (Part((RED_MINUS_BLUE.name,), (CARDS, CARDS)),))
FEWEST = 16  # solved pairs, for a patching figure
SOLVED = 0.5  # share of deals that a model must answer for an exchange of variables to mean anything
CARRIED = ("contribution3", "running3", "total")  # variables of the algorithm that are exchanged


@dataclass(frozen=True)
class Inside:
    """Measurements inside one model.

    Attributes:
        name: Of the model.
        importance: Split -> what ablating each head and MLP costs in log-probability of the right completion.
        neurons: The same of each neuron, on id_test and all other splits together.
        probes: Split -> where variables are readable.
        patches: "ID to ID", "ID to OOD" -> which positions carry the rule; None where too few pairs are solved.
        exchanged: Variable -> interchange accuracy by layer and position; {} where red_minus_blue is not solved.
        activity: Intensity and diversity of activations.
    """

    name: str
    importance: dict[str, AblationResult]
    neurons: dict[str, AblationResult]
    probes: dict[str, ProbeResult]
    patches: dict[str, PatchingResult | None]
    exchanged: dict[str, InterchangeResult]
    activity: Activity


@dataclass(frozen=True)
class Study:
    """Everything measured.

    Attributes:
        evaluations: Model -> accuracy on every split.
        inside: Model -> what was measured inside; of the kinds in INSIDE.
        overlaps: (comparison, seed) -> Jaccard of heads and MLPs, and between arms of neurons too.
        diffs: (receiver kind, donor kind, seed, split) -> which parts carry the difference in behaviour.
        features: Kind -> features of a sparse autoencoder, by distribution; of the first seed.
        seeds: Of the models.
    """

    evaluations: dict[str, CardsEvaluation]
    inside: dict[str, Inside]
    overlaps: dict[tuple[str, int], tuple[JaccardResult, ...]]
    diffs: dict[tuple[str, str, int, str], ModelDiffResult]
    features: dict[str, FeatureShift]
    seeds: tuple[int, ...]

    def accuracy(self, kind: str, split: str) -> np.ndarray:
        """(seed,) accuracy of the models of a kind on a split."""
        return np.array([self.evaluations[model_of(kind, seed)].splits[split].accuracy for seed in self.seeds])

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of which every seed is there."""
        return tuple(k for k in KINDS if all(model_of(k, seed) in self.evaluations for seed in self.seeds))


def model_of(kind: str, seed: int) -> str:
    """The name of a shipped model."""
    return f"cards/{kind}-seed{seed}"


def distinct(split: str | Split, n: int, seed: int) -> list[Example]:
    """n deals of a split, no text twice: two sets of components are compared on equally many examples."""
    drawn = CardsTask(split).sample(2 * n, seed)
    found = list({example.tokens: example for example in drawn}.values())[:n]
    if len(found) < n:
        raise ValueError(f"{2 * n} deals of {split} hold only {len(found)} distinct texts")
    return found


def batch_of(split: str | Split, n: int = ROWS, seed: int = 7) -> TokenBatch:
    """n distinct deals of a split."""
    return CardsTask(split).batch(distinct(split, n, seed))


def evaluated(name: str) -> CardsEvaluation:
    """Accuracy of one model, also on what it was trained on where its recipe is known."""
    known = {model_of(arm.kind, arm.seed): arm for arm in arms()}
    trained_on = known[name].deals() if name in known else None
    if trained_on is not None:
        trained_on = trained_on.take(np.arange(min(len(trained_on), TRAINED_ON)))
    return evaluate_cards(load(name), CardsConfig(test=TESTS), trained_on=trained_on)


def examined(name: str) -> Inside:
    """Look into one model."""
    model = load(name)
    options: dict[str, Any] = {"kind": "mean", "metric": log_probability, "progress": False}
    mixed = [example for split in OOD for example in distinct(split, ROWS // len(OOD), 8)]
    both = {ID: batch_of(ID, len(mixed)), "ood": CardsTask(ID).batch(mixed)}
    return Inside(
        name,
        importance={split: ablate(model, batch_of(split), **options) for split in TESTED},
        neurons={of: ablate(model, batch, units=("neuron",), **options) for of, batch in both.items()},
        probes={
            split: probe(model, batch_of(of), READ, positions=PLACES, repeats=1, control_repeats=0, progress=False)
            for split, of in PROBED.items()
        },
        patches={name: _swapped(model, rules) for name, rules in SWAPPED.items()},
        exchanged=_exchanged(model),
        activity=activity(model, both[ID]),
    )


def _swapped(model: Any, rules: tuple[str, str]) -> PatchingResult | None:
    """Patch deals of the same cards under two rules; None where the model solves both sides of fewer than FEWEST."""
    pairs = CardsTask(Split("two rules", (Part(rules, (CARDS, CARDS)),))).pairs("rule", "answer", limit=ROWS)
    right = [sweep(model, side, [], accuracy("answer")).baseline[0] == 1 for side in (pairs.clean, pairs.corrupt)]
    if int((right[0] & right[1]).sum()) < FEWEST:
        return None
    return patch(model, pairs, only_solved=True, progress=False)


def _exchanged(model: Any) -> dict[str, InterchangeResult]:
    """Exchange variables of the algorithm between deals, at the third card, the last, and where the answer is said."""
    task = CardsTask(ONE_RULE)
    batch = batch_of(ONE_RULE)
    if sweep(model, batch, [], accuracy("answer")).baseline[0].mean() < SOLVED:
        return {}
    base, source = (task.sample(2 * ROWS, seed) for seed in (31, 32))
    pairs = list(zip(base, source, strict=True))
    options: dict[str, Any] = {"positions": PLACES, "pairs": pairs, "only_solved": True, "progress": False}
    return {variable: interchange(model, task, variable, "answer", **options) for variable in CARRIED}


def compared(inside: dict[str, Inside], seeds: Sequence[int]) -> dict[tuple[str, int], tuple[JaccardResult, ...]]:
    """Overlap of the most important parts: within a model between distributions, and between arms."""
    found: dict[tuple[str, int], tuple[JaccardResult, ...]] = {}
    for seed in seeds:
        here = {kind: inside[model_of(kind, seed)] for kind in INSIDE if model_of(kind, seed) in inside}
        for kind, one in here.items():
            for split in OOD:
                found[f"{kind}: {ID} ~ {split}", seed] = (_overlap(one.importance[ID], one.importance[split], TOP),)
            neurons = _overlap(one.neurons[ID], one.neurons["ood"], TOP_NEURONS)
            found[f"{kind}: neurons, id ~ ood", seed] = (neurons,)
        for a, b in ((SFT, AGAIN), (SFT, RL), (START, SFT), (START, RL)):
            if a in here and b in here:
                heads = _overlap(here[a].importance[ID], here[b].importance[ID], TOP)
                found[f"{a} ~ {b}", seed] = (heads, _overlap(here[a].neurons[ID], here[b].neurons[ID], TOP_NEURONS))
    return found


def _overlap(a: AblationResult, b: AblationResult, k: int) -> JaccardResult:
    return jaccard(a, b, k=k, match="index", permutations=1000)


def differing(receiver: str, donor: str, seed: int, split: str) -> ModelDiffResult:
    """Put parts of one arm into another."""
    models = load(model_of(receiver, seed)), load(model_of(donor, seed))
    return diff_models(*models, batch_of(split), metric=log_probability, progress=False)


def study(seeds: Sequence[int] = SEEDS, *, jobs: int | None = None, progress: bool = PROGRESS) -> Study:
    """Measure all arms that are there.

    Args:
        seeds: Of the models.
        jobs: Processes; by default one a core and at most four.
        progress: Whether to show a bar.

    Raises:
        ValueError: Of a seed, S0 or one of its supervised continuations is missing.
    """
    there = set(read_manifest())
    if missing := [m for kind in (START, SFT, AGAIN) for s in seeds if (m := model_of(kind, s)) not in there]:
        raise ValueError(f"the study needs {', '.join(missing)}, which are not shipped checkpoints")
    names = [m for kind in KINDS for seed in seeds if (m := model_of(kind, seed)) in there]
    inner = [m for kind in INSIDE for seed in seeds if (m := model_of(kind, seed)) in there]
    ends = [(a, b, s, split) for a, b in ((START, SFT), (START, RL), (RL, SFT)) for s in seeds for split in (ID, OOD[0])
            if {model_of(a, s), model_of(b, s)} <= there]  # fmt: skip
    shifts = [kind for kind in (SFT, RL) if model_of(kind, seeds[0]) in there]
    work: list[partial[Any]] = [partial(examined, name) for name in inner]
    work += [partial(feature_shift, model_of(kind, seeds[0])) for kind in shifts]
    work += [partial(evaluated, name) for name in names]
    work += [partial(differing, *end) for end in ends]
    done = iter(in_processes(call, work, jobs, name="measurements", progress=progress))
    inside = {name: next(done) for name in inner}
    features = {kind: next(done) for kind in shifts}
    evaluations = {name: next(done) for name in names}
    diffs = {end: next(done) for end in ends}
    return Study(evaluations, inside, compared(inside, seeds), diffs, features, tuple(seeds))
