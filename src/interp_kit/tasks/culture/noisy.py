"""Worlds that nearly explain a noisy grid: the oracle's search where cells of the prompt may be wrong.

Every cell that a world paints and the grid does not show costs a factor, so all but the worlds with fewest such cells
are improbable. Rectangles are placed one after the other, each where few cells of it show another colour, and partial
placements far below the best are dropped; what is left is painted and counted exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture.explain import Array, Halves, join, kinds
from interp_kit.tasks.culture.world import TASKS, Grid

MISSES = 2  # worlds with more wrong cells than the best and these are about 10^7 times less probable (at noise 0.05)
SLACK = 6  # how far below the best a partial placement may be, in cells gained less cells lost
UNSEEN = 255  # in place of a colour
Layer = tuple[int, NDArray[np.bool_]]


def nearest(hypotheses: Halves, grid: Grid, after: bool) -> tuple[Halves, Array]:
    """Each hypothesis with all rectangles with which it paints X (or, `after`, f(X)) but for few cells of its grid.

    grid: (n, 100), by row of the hypotheses, of which there is at most one a row. Returns the worlds, and (k,) how many
    cells of each are not as the grid shows, at most MISSES more than in the best of its row.
    """
    found = []
    for t, direction, at in kinds(hypotheses):
        these = hypotheses.take(at)
        hidden = after and TASKS[t] == "contact"
        found.append(_framed(these, grid) if hidden else _placed(these, grid, t, direction, after))
    worlds = (join(found) if found else hypotheses).drawable()
    wrong = (worlds.painted()[after] != grid[worlds.row]).sum(1)
    fewest = np.full(len(grid), rect.CELLS)
    np.minimum.at(fewest, worlds.row, wrong)
    near = np.flatnonzero(wrong <= fewest[worlds.row] + MISSES)
    return worlds.take(near), wrong[near]


@dataclass(frozen=True)
class _Beam:
    """Partial placements: worlds with -1 for rectangles not yet placed, what they cost, and whose they are."""

    worlds: Halves
    cost: NDArray[np.float64]
    hypothesis: Array

    @classmethod
    def of(cls, these: Halves) -> "_Beam":
        nowhere = np.full_like(these.triple, -1)
        worlds = Halves(these.row, these.task, these.direction, these.colours, nowhere)
        return cls(worlds, np.zeros(len(these.row)), np.arange(len(these.row)))

    def place(self, k: int, total: NDArray[np.float64]) -> "tuple[_Beam, Array]":
        """Every placement with every r_k that leaves its total (placement, rectangle) within SLACK of the best of its
        hypothesis; and of each new placement the index of the old."""
        total = total.copy()
        for other in range(3):
            placed = np.flatnonzero(self.worlds.triple[:, other] >= 0)
            total[placed] += np.where(rect.disjoint()[self.worlds.triple[placed, other]], 0, np.inf)
        best = np.full(self.hypothesis.max(initial=-1) + 1, np.inf)
        np.minimum.at(best, self.hypothesis, total.min(1))
        kept, r = np.nonzero(np.isfinite(total) & (total <= best[self.hypothesis, None] + SLACK))
        worlds = self.worlds.take(kept)
        worlds.triple[:, k] = r
        return _Beam(worlds, total[kept, r], self.hypothesis[kept]), kept


def _placed(these: Halves, grid: Grid, t: int, direction: int, after: bool) -> Halves:
    """The placements of hypotheses of one kind, of which each colour belongs to one rectangle."""
    beam = _Beam.of(these)
    moved = rect.moved()[direction] if TASKS[t] == "translate" else np.arange(len(rect.full()))
    covers = after and TASKS[t] == "translate"
    for k in (2, 0, 1):
        shown = grid[beam.worlds.row]
        if covers and k < 2:  # What the moved rectangle covers says nothing about the others.
            shown = np.where(rect.full()[moved[beam.worlds.triple[:, 2]]], np.uint8(UNSEEN), shown)
        total = beam.cost[:, None] + _cost(beam.worlds, shown, _layers(t, direction, k, after))
        if k == 2:
            total[:, moved < 0] = np.inf
        beam, _ = beam.place(k, total)
    return beam.worlds


def _framed(these: Halves, grid: Grid) -> Halves:
    """The placements of contact in f(X). The colour of r0 is that of borders too, so r1 and r2 are placed by their own
    colours, with or without a border; which of them touch r0 is known once r0 is placed."""
    beam, full, inner, border = _Beam.of(these), rect.full(), rect.inner(), rect.border()
    looks: dict[int, list[NDArray[np.float64]]] = {}
    for k in (1, 2):
        shown, colour = grid[beam.worlds.row], beam.worlds.colours[:, 0, None]
        plain, inside = (_cost(beam.worlds, shown, [(k, mask)]) for mask in (full, inner))
        around = _cost(beam.worlds, shown, [(0, border)])
        missing = _cost(beam.worlds, np.where(shown == colour, np.uint8(UNSEEN), shown), [(0, border)])
        new, kept = beam.place(k, beam.cost[:, None] + np.minimum(plain, inside + missing))
        r = new.worlds.triple[:, k]
        looks = {j: [cost[kept] for cost in both] for j, both in looks.items()}
        looks[k] = [plain[kept, r], inside[kept, r] + around[kept, r]]
        beam = new
    total = _cost(beam.worlds, grid[beam.worlds.row], [(0, full)])
    for k, (plain, framed) in looks.items():
        total += np.where(rect.touching()[beam.worlds.triple[:, k]], framed[:, None], plain[:, None])
    return beam.place(0, total)[0].worlds


def _cost(worlds: Halves, shown: Grid, layers: Sequence[Layer]) -> NDArray[np.float64]:
    """(k, rectangle) cells of the layers that look white or another's, less those that show their own colour. A colour
    that no rectangle has is noise, whatever is painted there, and counts as neither."""
    total = np.zeros((len(shown), len(rect.full())), np.float32)
    painted = (shown[:, :, None] == worlds.colours[:, None]).any(2)
    for c, mask in layers:
        own = shown == worlds.colours[:, c, None]
        total += np.where(own, -1, painted | (shown == 0)).astype(np.float32) @ mask.T.astype(np.float32)
    return total.astype(np.float64)


def _layers(t: int, direction: int, k: int, after: bool) -> list[Layer]:
    """Shape of rectangle k in X or f(X), by index: sets of cells, and the colour (index of c) of each."""
    full, inner, task = rect.full(), rect.inner(), TASKS[t]
    if task == "half_fill":
        line = rect.half(direction) if after and k == 2 else rect.line(direction)
        return [(2 * k, full & ~line), (2 * k + 1, line)]
    if task == "grow" and k == 2 and direction == int(after):
        return [(2, inner)]
    if task == "corners" and not after:
        return [(k, rect.opposite_corners(direction))]
    if after and task == "replace_color" and k == 0:
        return [(3, full)]
    if after and task == "translate" and k == 2:
        return [(2, full[rect.moved()[direction]])]
    if after and task == "frame" and k == 2:
        return [(2, rect.border())]
    if after and task == "detect" and k < 2:
        return [(k, full & ~rect.corner(0)), (3, rect.corner(0))]
    return [(k, full)]
