"""Location of the rule of a quiz in a network, and what of it can be exchanged.

One quiz is run under two rules that paint its A and B alike, so that f_A alone tells which f_B is right. Activations of
one run are put into the other, whole, in a subspace, or moved by a constant direction. An answer is judged against what
the task's own rules make of the same B. `answers` lets whole answers be written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.analysis.causal.ablation import AblationResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.core.pairs import PairBatch, make_pairs
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, wilson
from interp_kit.engine.edits import Add, Copy, Edit, Source
from interp_kit.engine.harvest import harvest
from interp_kit.engine.metrics import AtField, first_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel, initialisation, model_name
from interp_kit.reports.plotting import heatmap
from interp_kit.studies.culture.rules.circuit import parts_of
from interp_kit.tasks.culture.composed import PLAIN, two_rules
from interp_kit.tasks.culture.grids import CELLS, cell_name
from interp_kit.tasks.culture.task import CultureTask
from interp_kit.tasks.culture.world import TASKS

UNIT = "quizzes"
WHOLE = "everything"
RANKS = (1, 4, 16, 64)
SCALES = (1, 4)


def _cells(grid: str) -> list[str]:
    return [cell_name(grid, cell) for cell in range(CELLS)]


PLACES = {
    "markers": ["f_A", "B", "f_B"],
    "f_A cells": _cells("f_A"),
    "B cells": _cells("B"),
    "f_B cells": _cells("f_B"),
    "B and f_B": ["B", *_cells("B"), "f_B", *_cells("f_B")],
    "f_A, B and f_B": ["f_A", *_cells("f_A"), "B", *_cells("B"), "f_B", *_cells("f_B")],
}


def rule_pairs(n: int, seed: int, rules: Mapping[str, tuple[str, ...]] | None = None) -> PairBatch:
    """Pairs of quizzes with one A and B under two rules, all independent of each other.

    Args:
        n: How many; an equal number of each ordered pair of rules, up to one.
        seed: Of all draws.
        rules: Rule of the clean quiz -> rules of the corrupt one; by default all ordered pairs of PLAIN.

    Returns:
        The pairs, each side with its own true f_B.
    """
    chosen = list(permutations(PLAIN, 2)) if rules is None else [(a, b) for a, others in rules.items() for b in others]
    rng = np.random.default_rng(derive_seed(seed, "rule pairs"))
    drawn, task = two_rules(n, chosen, rng), CultureTask(tasks=PLAIN)
    clean, corrupt = task.examples(drawn.first), task.examples(drawn.second)
    target = task.fields[0].name
    return make_pairs(task, clean, corrupt, "task", target, "own")  # pyright: ignore[reportArgumentType]


class Followed(AtField):
    """1 where the most probable token is the right one, 2 where it is the wrong one, else 0."""

    title, differentiable = "rule followed", False

    def values(self, logits: Tensor, batch: TokenBatch, reference: Tensor | None) -> Tensor:
        assert self.wrong is not None
        best = logits[..., 0, :].argmax(-1)
        return (best == self.right_of(batch)).float() + 2 * (best == self.wrong).float()


@dataclass(frozen=True, eq=False)
class Within(Source):
    """Write what the same model has on `batch` in the span of orthonormal columns `basis` (d, k) alone. along: (d, k)
    orthonormal directions in which the change of the coordinates is written, by default the basis itself."""

    batch: TokenBatch
    basis: Float[Tensor, "d k"]
    along: Float[Tensor, "d k"] | None = None

    def needs(self, batch: TokenBatch) -> TokenBatch:
        return self.batch

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return old + (given - old) @ self.basis @ (self.basis if self.along is None else self.along).T


@dataclass(frozen=True, kw_only=True)
class RuleExchange(AbstractResult):
    """Answers of a model at the first cell on which two rules differ, where activations are of the other rule's run.

    what: of each edit, what was exchanged; place: where; layer: (edit,) into which layer, the number of layers after
    the last; answers: (edit, pair) 1 the run's own rule's, 2 the other rule's, 0 neither's; unedited: (pair,) the same
    without an edit; own, other: (pair,) index of the two rules in TASKS.
    """

    what: tuple[str, ...]
    place: tuple[str, ...]
    layer: np.ndarray
    answers: np.ndarray
    unedited: np.ndarray
    own: np.ndarray
    other: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Independent quizzes behind every figure."""
        return self.answers.shape[1]

    def share(self, edit: int, answer: int = 2, rule: str | None = None) -> Estimate:
        """The share of quizzes answered so (see `answers`) under an edit, of all or those whose other rule is `rule`,
        with Wilson's 95 % interval."""
        rows = self.answers[edit] if rule is None else self.answers[edit][self.other == TASKS.index(rule)]
        return wilson(int((rows == answer).sum()), len(rows), UNIT)

    def at(self, what: str, place: str, layer: int | None = None) -> int:
        """The number of an edit. Raises ValueError if there is none."""
        for i, found in enumerate(zip(self.what, self.place, self.layer.tolist(), strict=True)):
            if found[:2] == (what, place) and layer in (None, found[2]):
                return i
        raise ValueError(f"no edit of {what} at {place}, layer {layer}")

    def to_frame(self) -> pd.DataFrame:
        """One row per edit: shares of quizzes that follow the other rule, with interval, that stay, and the rest."""
        rows = []
        for i, (what, place, layer) in enumerate(zip(self.what, self.place, self.layer.tolist(), strict=True)):
            follows = self.share(i)
            stays, neither = (float((self.answers[i] == answer).mean()) for answer in (1, 0))
            rows.append((what, place, layer, follows.value, follows.low, follows.high, stays, neither, self.n))
        columns = ["exchanged", "place", "layer", "follows", "low", "high", "stays", "neither", "n"]
        return pd.DataFrame(rows, columns=columns)

    def caption(self) -> str:
        """See AbstractResult."""
        stays = float((self.unedited == 1).mean())
        return (
            f"Share of quizzes in which {self.config['model']} answers by the other rule, at the first cell on which"
            f" the two rules differ, when activations before a layer are those of the same quiz under that rule"
            f" (n = {numbered(self.n, 'distinct quizzes')}, {len(set(self.other.tolist()))} rules, 95 %"
            " intervals in the table;"
            f" without an edit {stays:.2f} are answered by the quiz's own rule)."
        )

    def plot(self, ax: Axes | None = None, what: str = WHOLE) -> Axes:
        """Layers by places, of what was exchanged."""
        frame = self.to_frame()
        frame = frame[frame["exchanged"] == what]
        table = frame.pivot_table(index="layer", columns="place", values="follows", sort=False)
        last = int(self.layer.max())
        names = [f"before L{layer}" if layer < last else f"after L{last - 1}" for layer in table.index]
        return heatmap(
            table.to_numpy(), names, list(table.columns), ax=ax,
            title=f"{self.config['model']}: rule exchanged (n = {self.n})", label="answers by the other rule",
            limits=(0.0, 1.0),
        )  # fmt: skip


def _measured(
    model: HookedModel, pairs: PairBatch, edits: Mapping[tuple[str, str, int], list[Edit]], **config: Any
) -> RuleExchange:
    """Run the edits, (what, place, layer) -> those made together, on the clean side."""
    first = first_difference(pairs)
    swept = sweep(model, pairs.clean, list(edits.values()), Followed(first.field, first.right, first.wrong, first.at))
    what, place, layer = zip(*edits, strict=True)
    own, other = (side.label("task").cpu().numpy() for side in (pairs.clean, pairs.corrupt))
    return RuleExchange(
        what=what, place=place, layer=np.array(layer), answers=swept.values[:, 0].astype(int),
        unedited=swept.baseline[0].astype(int), own=own, other=other,
        config={"analysis": "rule exchange", "model": model_name(model), "task": "culture", **config},
    )  # fmt: skip


def exchange(model: HookedModel, pairs: PairBatch) -> RuleExchange:
    """Exchange the whole residual stream, place by place, before each layer but the first and after the last. Before
    the first, it is the text itself: only f_A tells the rules apart there."""
    source = Copy(pairs.corrupt)
    edits = {
        (WHOLE, place, layer + 1): [Edit("resid_post", layer, source, position=name) for name in names]
        for layer in range(model.cfg.n_layers)
        for place, names in PLACES.items()
    }
    return _measured(model, pairs, edits)


def carrying_layer(found: RuleExchange, place: str = "f_A cells") -> int:
    """The last layer before which exchanging a whole place makes most quizzes follow, 0 where none does."""
    layers = [
        layer
        for i, (what, at, layer) in enumerate(zip(found.what, found.place, found.layer.tolist(), strict=True))
        if (what, at) == (WHOLE, place) and layer < found.layer.max() and found.share(i).value > 0.5
    ]
    return max(layers, default=0)


def exchange_within(model: HookedModel, pairs: PairBatch, fitted: PairBatch, layer: int, seed: int = 0) -> RuleExchange:
    """Exchange the cells of f_A before `layer` in subspaces, or move all of them by one direction per pair of rules.

    fitted: pairs of other quizzes, from which directions are computed: the mean of each rule over quizzes and cells,
    whose differences are the constant directions and span the "rule means"; and the principal directions of the
    differences of two runs, cell by cell. Controls are random directions as long as the constant ones, random subspaces
    of the same ranks, and a "placebo", the coordinates of the largest principal subspace written along random
    directions.
    """
    place, site = "f_A cells", f"resid_pre.{layer}"
    names, d = PLACES[place], model.cfg.d_model
    sides = [harvest(model, side, site, positions=names)[site].float() for side in (fitted.clean, fitted.corrupt)]
    tasks = [side.label("task") for side in (fitted.clean, fitted.corrupt)]
    both, of = torch.cat(sides).mean(1), torch.cat(tasks).to(sides[0].device)
    means = torch.stack([both[of == t].mean(0) if (of == t).any() else both.mean(0) for t in range(len(TASKS))])
    own, other = (side.label("task").to(means.device) for side in (pairs.clean, pairs.corrupt))
    rules = means[torch.unique(of)]
    span = torch.linalg.svd(rules - rules.mean(0), full_matrices=False)[2][: len(rules) - 1].T
    change = (sides[1] - sides[0]).flatten(0, 1)
    axes = torch.linalg.eigh(change.T @ change)[1].flip(1)
    generator = torch.Generator().manual_seed(derive_seed(seed, "rules", "random") % 2**63)
    random = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float32))[0].to(axes)
    turned = _turned(means[other] - means[own], seed)
    sources: dict[str, Source] = {}
    for scale in SCALES:
        sources[f"constant direction x {scale}"] = Add(means[other] - means[own], scale)
        sources[f"random direction x {scale}"] = Add(turned, scale)
    sources[f"rule means, rank {span.shape[1]}"] = Within(pairs.corrupt, span)
    ranks = [rank for rank in RANKS if rank < d]
    for kind, basis in (("differences", axes), ("random", random)):
        sources |= {f"{kind}, rank {rank}": Within(pairs.corrupt, basis[:, :rank]) for rank in ranks}
    sources[f"placebo, rank {ranks[-1]}"] = Within(pairs.corrupt, axes[:, : ranks[-1]], random[:, : ranks[-1]])
    sources[WHOLE] = Copy(pairs.corrupt)
    edits = {
        (what, place, layer): [Edit("resid_pre", layer, source, position=name) for name in names]
        for what, source in sources.items()
    }
    return _measured(model, pairs, edits, fitted=len(fitted))


def _turned(vectors: Float[Tensor, "pair d"], seed: int) -> Float[Tensor, "pair d"]:
    """A random direction per pair, as long as its vector."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "rules", "random direction") % 2**63)
    drawn = torch.randn(vectors.shape, generator=generator, dtype=torch.float32).to(vectors)
    return drawn * vectors.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)


def exchange_parts(model: HookedModel, pairs: PairBatch) -> AblationResult:
    """Share of the lead of the own rule's answer, at the first cell on which two rules differ, is lost when a head
    or an MLP gives everywhere what it gives under the other rule."""
    parts = parts_of(model, Copy(pairs.corrupt))
    first = first_difference(pairs)
    swept = sweep(model, pairs.clean, list(parts.values()), first)
    solved = int((swept.baseline[0] > 0).sum())
    return AblationResult(
        component=tuple(parts),
        layer=np.array([edit.layer for edit in parts.values()]),
        fields=(first.field,),
        effect=swept.baseline[None] - swept.values,
        baseline=swept.baseline,
        config={
            "analysis": "exchange_parts", "model": model_name(model), "initialisation": initialisation(model),
            "task": "culture", "whole": False, "kind": "exchange", "metric": first.title, "seed": 0, "resamples": 1,
            "solved": solved, "solved_of": len(pairs),
        },
    )  # fmt: skip
