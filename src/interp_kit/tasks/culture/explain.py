"""Worlds that explain what is visible of a quiz: the oracle's search, from tokens alone.

X hides nothing, so each colour's cells give its
rectangle; f(X) hides something in translate, where the moved rectangle may cover others, and in contact, where borders
run into r0. Whatever is proposed here is painted and compared, so that no world is wrong, and proposals leave none out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture.grids import COLOURS
from interp_kit.tasks.culture.world import MOST_COLOURS, RULES, TASKS, Grid

Array = NDArray[np.int64]
Codes = NDArray[np.float64]


@dataclass(frozen=True)
class Halves:
    """Hypothetical halves of quizzes, X and f(X).

    row: (k,) the quiz each is about; task, direction: (k,); colours: (k, 6); triple: (k, 3) rectangles, as in Worlds.
    """

    row: Array
    task: Array
    direction: Array
    colours: Array
    triple: Array

    def take(self, which: NDArray) -> "Halves":
        """Those of these indices, or of a mask."""
        return Halves(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def painted(self) -> tuple[Grid, Grid]:
        """(k, 100) X and f(X)."""
        x, f = np.zeros((2, len(self.row), rect.CELLS), np.uint8)
        for t in np.unique(self.task):
            at = np.flatnonzero(self.task == t)
            x[at], f[at] = RULES[t].paint(self.triple[at], self.colours[at], self.direction[at])
        return x, f

    def drawable(self) -> "Halves":
        """Those whose triple is disjoint and which the rule takes."""
        a, b, c = self.triple.T
        apart = rect.disjoint()
        kept = self.take(apart[a, b] & apart[a, c] & apart[b, c])
        taken = np.zeros(len(kept.row), bool)
        for t in np.unique(kept.task):
            at = np.flatnonzero(kept.task == t)
            taken[at] = RULES[t].accept(kept.triple[at], kept.direction[at])
        return kept.take(taken)


def join(parts: Sequence[Halves]) -> Halves:
    """All of them, one after the other."""
    return Halves(*(np.concatenate([getattr(p, name) for p in parts]) for name in Halves.__dataclass_fields__))


# Shapes: sets of cells go by a number, additive over disjoint sets, so that a rectangle is found by its cells ---------


@cache
def cell_codes() -> Codes:
    """(100,) a large random integer for each cell."""
    return np.random.default_rng(0).integers(2**40, size=rect.CELLS).astype(np.float64)


def _codes(grids: Grid) -> Codes:
    """(n, 11) the number of each colour's cells in (n, 100) grids: a sum of integers below 2**53, hence exact."""
    return np.stack([(grids == colour) @ cell_codes() for colour in range(COLOURS)], axis=1)


@cache
def _table(shape: str) -> tuple[Codes, Array]:
    """Sorted numbers of a shape of every rectangle, and the rectangles in that order."""
    name, _, which = shape.partition(" ")
    masks = {
        "full": rect.full,
        "inner": rect.inner,
        "border": rect.border,
        "body": lambda: rect.full() & ~rect.line(int(which)),
        "corners": lambda: rect.opposite_corners(int(which)),
        "unmarked": lambda: rect.full() & ~rect.corner(0),
    }[name]()
    codes = masks @ cell_codes()
    order = np.argsort(codes)
    if (np.diff(codes[order]) == 0).any():
        raise AssertionError(f"two rectangles have the same {shape}")
    return codes[order], order


def _find(shape: str, codes: Codes) -> Array:
    """The rectangle whose `shape` has these cells, -1 where there is none."""
    known, order = _table(shape)
    at = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    return np.where(known[at] == codes, order[at], -1)


def _shapes(t: int, direction: int) -> tuple[str, str, str]:
    """Shapes of r0, r1, r2 in X, in colours c0, c1, c2 (half_fill: c0, c2, c4)."""
    return {
        "grow": ("full", "full", "inner" if direction == 0 else "full"),
        "half_fill": (f"body {direction}",) * 3,
        "corners": (f"corners {direction}",) * 3,
    }.get(TASKS[t], ("full",) * 3)


def _shapes_after(t: int, direction: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Shapes of r0, r1, r2 in f(X), and their colours: indices of c. Not for translate and contact, whose
    rectangles hide or frame one another."""
    if TASKS[t] == "half_fill":
        return (f"body {direction}", (0,)), (f"body {direction}", (2,)), ("full", (4, 5))
    return {
        "replace_color": (("full", (3,)), ("full", (1,)), ("full", (2,))),
        "grow": (("full", (0,)), ("full", (1,)), ("full" if direction == 0 else "inner", (2,))),
        "frame": (("full", (0,)), ("full", (1,)), ("border", (2,))),
        "detect": (("unmarked", (0,)), ("unmarked", (1,)), ("full", (2,))),
        "corners": (("full", (0,)), ("full", (1,)), ("full", (2,))),
    }[TASKS[t]]


# From the complete pair to hypotheses ----------------------------------------------------------------------------


def explain(x: Grid, f: Grid) -> Halves:
    """Every world that paints (n, 100) x and f: rule, direction, colours by role, rectangles; `row` is that of x.

    Nothing in X hides anything, so each role's colour gives its rectangle by its cells. A row that no world
    fits is absent.
    """
    codes, present = _codes(x), np.stack([(x == colour).any(1) for colour in range(COLOURS)], axis=1)
    fresh = np.stack([(f == colour).any(1) for colour in range(COLOURS)], axis=1) & ~present
    added = np.where(fresh[:, 1:].any(1), fresh[:, 1:].argmax(1) + 1, -1)
    found: list[Halves] = []
    for t, task in enumerate(RULES):
        for direction in range(task.directions):
            for row, colours, triple in _placed(x, codes, t, direction):
                if task.colours == 4:
                    colours[:, 3] = added[row]
                    row, colours, triple = (a[added[row] > 0] for a in (row, colours, triple))
                same = np.ones(len(row), np.int64)
                found.append(Halves(row, t * same, direction * same, colours, triple))
    worlds = join(found).drawable()
    shown, after = worlds.painted()
    return worlds.take((shown == x[worlds.row]).all(1) & (after == f[worlds.row]).all(1))


def _placed(x: Grid, codes: Codes, t: int, direction: int) -> Iterator[tuple[Array, Array, Array]]:
    """(rows, colours (k, 6), triples (k, 3)) for each order in which three colours of X can be r0, r1 and r2."""
    shapes = _shapes(t, direction)
    where = {shape: _find(shape, codes) for shape in set(shapes)}
    usable = np.any([found >= 0 for found in where.values()], axis=0)
    usable[:, 0] = False
    rows = np.flatnonzero(usable.sum(1) == 3)
    three = np.nonzero(usable[rows])[1].reshape(-1, 3)
    for roles in permutations(range(3)):
        body = three[:, roles]
        triple = np.stack([where[shape][rows, body[:, k]] for k, shape in enumerate(shapes)], axis=1)
        fits = (triple >= 0).all(1)
        row, body, triple = rows[fits], body[fits], triple[fits]
        colours = np.full((len(row), MOST_COLOURS), -1)
        if TASKS[t] == "half_fill":
            line = rect.line(direction).argmax(1)
            colours[:, 0::2] = body
            colours[:, 1::2] = np.take_along_axis(x[row], line[triple], axis=1)
        else:
            colours[:, :3] = body
        yield row, colours, triple


# From a hypothesis and one grid of the other half to its rectangles ------------------------------------------------


def forward(hypotheses: Halves, x: Grid) -> Halves:
    """Each hypothesis with the rectangles of X where it can paint it; X shows every rectangle."""
    codes, triple = _codes(x), np.full_like(hypotheses.triple, -1)
    for t, direction, at in kinds(hypotheses):
        step = 2 if TASKS[t] == "half_fill" else 1
        for k, shape in enumerate(_shapes(t, direction)):
            triple[at, k] = _find(shape, codes[hypotheses.row[at], hypotheses.colours[at, step * k]])
    return _verified(hypotheses, triple, x, after=False)


def backward(hypotheses: Halves, f: Grid) -> Halves:
    """Each hypothesis with all rectangles with which it paints f, several times where something is hidden."""
    codes, parts = _codes(f), []
    for t, direction, at in kinds(hypotheses):
        these = hypotheses.take(at)
        if TASKS[t] == "translate":
            parts.append(_unhidden(these, f, codes, direction))
        elif TASKS[t] == "contact":
            parts += [_unframed(these, f, codes, framed) for framed in ((0, 1), (1, 0), (1, 1))]
        else:
            triple = [
                _find(shape, np.sum([codes[these.row, these.colours[:, c]] for c in which], axis=0))
                for shape, which in _shapes_after(t, direction)
            ]
            parts.append(_verified(these, np.stack(triple, axis=1), f, after=True))
    return join(parts) if parts else hypotheses


def _unhidden(these: Halves, f: Grid, codes: Codes, direction: int) -> Halves:
    """The moved rectangle is all visible; the two others may reach under it as far as they show what they show."""
    moved = rect.moved()[direction]
    back = np.full(len(moved), -1)
    back[moved[moved >= 0]] = np.flatnonzero(moved >= 0)
    target = _find("full", codes[these.row, these.colours[:, 2]])
    seen = target >= 0
    these, target = these.take(seen), target[seen]
    full = rect.full().astype(np.float32)
    sizes, covered = full.sum(1), full[target]
    reach = []
    for k in (0, 1):
        shown = (f[these.row] == these.colours[:, k, None]).astype(np.float32)
        all_shown = shown @ full.T == shown.sum(1, keepdims=True)
        reach.append(all_shown & ((shown + covered) @ full.T == sizes) & (shown.any(1))[:, None])
    first, second = (_padded(which) for which in reach)
    n, i, j = np.nonzero((first[:, :, None] >= 0) & (second[:, None, :] >= 0))
    return _verified(these.take(n), np.stack([first[n, i], second[n, j], back[target[n]]], axis=1), f, after=True)


def _padded(which: NDArray[np.bool_]) -> Array:
    """(n, most) column indices of True in each row, padded with -1."""
    counts = which.sum(1)
    order = np.argsort(~which, axis=1, kind="stable")[:, : max(counts.max(initial=0), 1)]
    return np.where(np.arange(order.shape[1]) < counts[:, None], order, -1)


def _unframed(these: Halves, f: Grid, codes: Codes, framed: tuple[int, int]) -> Halves:
    """r1 and r2 as if they have (framed) or have not a border of c0; what c0 is left is r0."""
    left, found = codes[these.row, these.colours[:, 0]], []
    borders = rect.border() @ cell_codes()
    for k, has_border in zip((1, 2), framed, strict=True):
        found.append(_find("inner" if has_border else "full", codes[these.row, these.colours[:, k]]))
        left = left - has_border * np.where(found[-1] >= 0, borders[found[-1]], 0)
    return _verified(these, np.stack([_find("full", left), *found], axis=1), f, after=True)


def kinds(worlds: Halves) -> Iterator[tuple[int, int, Array]]:
    """(task, direction, indices) of each kind of hypothesis there is."""
    for t, direction in np.unique(np.stack([worlds.task, worlds.direction]), axis=1).T.tolist():
        yield t, direction, np.flatnonzero((worlds.task == t) & (worlds.direction == direction))


def _verified(hypotheses: Halves, triple: Array, grid: Grid, after: bool) -> Halves:
    """Hypotheses with these rectangles, where they are drawable and paint exactly the grid of their row."""
    placed = np.flatnonzero((triple >= 0).all(1))
    h = hypotheses.take(placed)
    worlds = Halves(h.row, h.task, h.direction, h.colours, triple[placed]).drawable()
    return worlds.take((worlds.painted()[after] == grid[worlds.row]).all(1))
