"""Study of the culture models: how small transformers solve grid quizzes, from checkpoints to a page with grids.

What they solve, beside what can be solved at all; which attention and MLP layers each task needs; which heads look at
the same cell of an earlier grid; what is written without them, and where it goes wrong; from which layer the task and
its direction can be read, and in which grid they stand; what of a rule can be exchanged; and whether models that share
no initialisation need the same parts. Every measure is also taken on an untrained network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from interp_kit.analysis.behaviour.attention_lags import AttentionLags, attention_lags
from interp_kit.analysis.behaviour.generation import Generations, generate_under
from interp_kit.analysis.causal.ablation import AblationResult, ablate
from interp_kit.analysis.causal.patching import PatchingResult, patch
from interp_kit.analysis.comparison.component_overlap import JaccardResult, jaccard
from interp_kit.analysis.probing.probe import probe
from interp_kit.analysis.probing.probe_result import ProbeResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.core.parallel import in_processes
from interp_kit.core.showing import PROGRESS
from interp_kit.engine.edits import Edit, Zero
from interp_kit.engine.metrics import exact_match, first_difference, log_probability
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel
from interp_kit.registry.models import untrained
from interp_kit.studies.culture.models import load_hooked
from interp_kit.studies.culture.rules.study import RuleMeasures, examine_rules
from interp_kit.tasks.culture.grids import GRIDS, QUARTER, cell_name
from interp_kit.tasks.culture.task import CultureTask
from interp_kit.tasks.culture.world import TASKS

# From the token before the one that is predicted: its neighbours to the left, above, and the same cell of each grid.
LAGS = {
    "cell to the left": 0,
    "cell above": 9,
    "same cell, third grid": QUARTER - 1,
    "same cell, second grid": 2 * QUARTER - 1,
    "same cell, first grid": 3 * QUARTER - 1,
}
FEWEST = 6  # pairs that a model has to tell apart before anything is copied between them


@dataclass(frozen=True)
class Sizes:
    """Number of quizzes per measure. pairs: of which those that the model tells apart are used; exchanged: pairs
    under two rules; at_once: quizzes of each pair of rules shown at once."""

    ablated: int = 64
    looked: int = 32
    generated: int = 24
    probed: int = 320
    pairs: int = 64
    exchanged: int = 40
    at_once: int = 16


@dataclass(frozen=True)
class Examination:
    """Everything measured on one model.

    layers, layers_exact: whole attention and MLP layers set to zero, by log-probability and by share of quizzes solved;
    parts: every head and MLP set to its mean; patches: by task, which grid carries its latent (see LATENTS), for
    the tasks whose latent the model tells apart; task_of: rows of the ablated quizzes by task.
    """

    name: str
    layers: AblationResult
    layers_exact: AblationResult
    parts: AblationResult
    lags: AttentionLags
    generations: Generations
    shown_tasks: tuple[str, ...]
    task_probe: ProbeResult
    direction_probe: ProbeResult
    patches: dict[str, PatchingResult]
    task_of: dict[str, list[int]]
    rules: RuleMeasures


@dataclass(frozen=True)
class Study:
    """The examined models, an untrained one beside them, and how alike are their important parts, and those that carry
    the rule (None for one model)."""

    models: tuple[Examination, ...]
    control: Examination
    similarity: JaccardResult | None
    rule_similarity: JaccardResult | None = None


def by_task(batch: TokenBatch) -> dict[str, list[int]]:
    """Task name -> rows of the batch."""
    tasks = batch.label("task").cpu().numpy()
    return {name: np.flatnonzero(tasks == t).tolist() for t, name in enumerate(TASKS)}


def examine(
    id: int, checkpoint_dir: str | Path | None = None, *, control: bool = False, sizes: Sizes | None = None
) -> Examination:
    """Run the analyses on one model, or on the same network untrained."""
    sizes = sizes or Sizes()
    model = load_hooked(id, checkpoint_dir=checkpoint_dir)
    name = f"gpt_{id:03d}"
    if control:
        model, name = untrained(model, derive_seed(id, "untrained") % 2**31), f"{name} untrained"
    task = CultureTask()
    batch = task.batch(task.sample(sizes.ablated, seed=1))
    lags = attention_lags(model, batch.take(range(sizes.looked)), LAGS)
    parts = ablate(model, batch, kind="mean", metric=log_probability)
    written = batch.take(range(sizes.generated))
    half = CultureTask(tasks=("half_fill",))
    ends = [cell_name("f_A", 99), "B", cell_name("B", 99), "f_B"]
    return Examination(
        name=name,
        layers=ablate(model, batch, kind="zero", units=("attention", "mlp"), metric=log_probability),
        layers_exact=ablate(model, batch, kind="zero", units=("attention", "mlp"), metric=exact_match),
        parts=parts,
        lags=lags,
        generations=generate_under(model, written, _removals(lags)),
        shown_tasks=tuple(TASKS[t] for t in written.label("task").tolist()),
        task_probe=_probe(model, CultureTask(), "task", ends, sizes.probed),
        direction_probe=_probe(model, half, "half", ends, sizes.probed),
        patches={name: found for name in LATENTS if (found := _patch(model, name, sizes)) is not None},
        task_of=by_task(batch),
        rules=examine_rules(model, sizes.exchanged, sizes.at_once),
    )


def _removals(lags: AttentionLags) -> dict[str, Edit]:
    """For each place, without the head that looks there most; and without each layer's attention."""
    found: dict[str, Edit] = {}
    for name, column in zip(lags.names, lags.attention.mean(-1).T, strict=True):
        head = lags.heads[int(column.argmax())]
        layer, number = (int(part) for part in head[1:].split("H"))
        found.setdefault(f"no {head} ({name})", Edit("W_O", layer, Zero(), head=number))
    layers = sorted({int(head[1:].split("H")[0]) for head in lags.heads})
    return found | {f"no L{layer} attention": Edit("W_O", layer, Zero()) for layer in layers}


def _probe(model: HookedModel, task: CultureTask, label: str, positions: Sequence[str], n: int) -> ProbeResult:
    batch = task.batch(task.sample(n, seed=2))
    return probe(model, batch, [label], positions=positions, folds=4, repeats=1, control_repeats=0)


def _patch(model: HookedModel, name: str, sizes: Sizes) -> PatchingResult | None:
    """Grid and layer that carry the latent of a rule: clean into corrupt, whole grids at a time.

    On the pairs of which the model prefers the right answer on both sides; None where those are fewer than FEWEST.
    """
    task = CultureTask(tasks=(name,))
    pairs = task.pairs(LATENTS[name], cell_name("f_B", 44), completion="clean", limit=sizes.pairs)
    preferred = [sweep(model, side, [], first_difference(pairs)).baseline[0] for side in (pairs.clean, pairs.corrupt)]
    told = np.flatnonzero((preferred[0] > 0) & (preferred[1] < 0))
    if len(told) < FEWEST:
        return None
    found = patch(model, pairs.take(told.tolist()), positions=whole_grids(), metric=first_difference)
    return replace(found, dropped=len(pairs) - len(told))


def whole_grids() -> dict[str, list[str]]:
    """Grid -> the names of its positions, marker and cells."""
    return {grid: [grid, *(cell_name(grid, cell) for cell in range(QUARTER - 1))] for grid in GRIDS}


def _one(which: tuple[int, bool], checkpoint_dir: str | Path | None, sizes: Sizes | None) -> Examination:
    id, control = which
    return examine(id, checkpoint_dir, control=control, sizes=sizes)


def study(
    ids: Sequence[int],
    checkpoint_dir: str | Path | None = None,
    *,
    sizes: Sizes | None = None,
    jobs: int | None = None,
    progress: bool = PROGRESS,
) -> Study:
    """Examine these models and, as a control, the first of them untrained. Raises ValueError for no model."""
    if not ids:
        raise ValueError("no culture model to examine")
    run = partial(_one, checkpoint_dir=checkpoint_dir, sizes=sizes)
    *models, control = in_processes(
        run, [*((id, False) for id in ids), (ids[0], True)], jobs, name="models", progress=progress
    )
    if len(models) == 1:
        return Study(tuple(models), control, None)
    parts = len(models[0].rules.parts.component)
    alike = jaccard(*(m.parts for m in models), k=5, match="functional")
    # the four MLPs lead everywhere: five parts would hardly tell models apart
    rules = jaccard(*(m.rules.parts for m in models), k=max(1, min(12, parts // 4)), match="functional")
    return Study(tuple(models), control, alike, rules)


# rule -> the latent that is patched: its shared parameter, or the colour that it adds
LATENTS = {"translate": "direction", "grow": "direction", "half_fill": "direction", "replace_color": "c3"}
