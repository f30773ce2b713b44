"""The eight world tasks: rules A -> f(A) on three disjoint rectangles, sampled in bulk with everything that made them.

Rules and distributions follow F. Fleuret's culture project (public domain). A rule paints by look-up in the tables of
`rectangles`; the same rule paints a counterfactual, in which one latent is changed and all others are kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture.grids import COLOURS, compose

MOST_COLOURS = 6
Array = NDArray[np.int64]
Grid = NDArray[np.uint8]
Paint = Callable[[Array, Array, Array], tuple[Grid, Grid]]
Accept = Callable[[Array, Array], NDArray[np.bool_]]


def _always(triples: Array, direction: Array) -> NDArray[np.bool_]:
    return np.ones(len(triples), bool)


@dataclass(frozen=True)
class Rule:
    """One world task.

    colours: how many distinct colours it draws; directions: how many values its shared discrete parameter has (1: it
    has none), with `directions_mean` naming them; paint: (n, 3) rectangles, (n, colours), (n,) direction -> grids X and
    f(X), (n, 100) each; accept: which triples the rule takes, in A and in B alike (others are drawn again).
    """

    name: str
    colours: int
    directions_mean: tuple[str, ...]
    paint: Paint
    accept: Accept = _always

    @property
    def directions(self) -> int:
        return len(self.directions_mean)


def _paint(layers: Sequence[tuple[NDArray[np.bool_], Array | int]]) -> Grid:
    """Masks (n, 100), each with its colour (n,), painted one over the other on white."""
    grid = np.zeros(layers[0][0].shape, np.uint8)
    for mask, colour in layers:
        np.copyto(grid, np.asarray(colour, np.uint8).reshape(-1, 1), where=mask)
    return grid


def _plain(r: Array, c: Array) -> list[tuple[NDArray[np.bool_], Array | int]]:
    return [(rect.full()[r[:, k]], c[:, k]) for k in range(3)]


def _by_direction(table: Callable[[int], NDArray[np.bool_]], values: int, direction: Array, r: Array) -> NDArray:
    return np.stack([table(d) for d in range(values)])[direction, r]


def _replace_color(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    return _paint(_plain(r, c)), _paint([*_plain(r, c), (rect.full()[r[:, 0]], c[:, 3])])


def _translate(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    target = rect.moved()[d, r[:, 2]]
    return _paint(_plain(r, c)), _paint([*_plain(r, c)[:2], (rect.full()[target], c[:, 2])])


def _can_move(r: Array, d: Array) -> NDArray[np.bool_]:
    return rect.moved()[d, r[:, 2]] >= 0


def _grow(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    large, small = _paint(_plain(r, c)), _paint([*_plain(r, c)[:2], (rect.inner()[r[:, 2]], c[:, 2])])
    shrinks = (d == 1)[:, None]
    return np.where(shrinks, large, small), np.where(shrinks, small, large)


def _can_shrink(r: Array, d: Array) -> NDArray[np.bool_]:
    i1, j1, i2, j2 = rect.rectangles()[r[:, 2]].T
    return (i2 - i1 >= 4) & (j2 - j1 >= 4)


def _half_fill(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    layers = []
    for k in range(3):
        layers += [
            (rect.full()[r[:, k]], c[:, 2 * k]),
            (_by_direction(rect.line, 4, d, r[:, k]), c[:, 2 * k + 1]),
        ]
    return _paint(layers), _paint([*layers, (_by_direction(rect.half, 4, d, r[:, 2]), c[:, 5])])


def _frame(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    return _paint(_plain(r, c)), _paint([*_plain(r, c), (rect.inner()[r[:, 2]], 0)])


def _detect(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    marks = [(rect.corner(0)[r[:, k]], c[:, 3]) for k in (0, 1)]
    return _paint(_plain(r, c)), _paint([*_plain(r, c), *marks])


def _corners(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    shown = [(_by_direction(rect.opposite_corners, 2, d, r[:, k]), c[:, k]) for k in range(3)]
    return _paint(shown), _paint(_plain(r, c))


def _contact(r: Array, c: Array, d: Array) -> tuple[Grid, Grid]:
    borders = [(rect.border()[r[:, k]] & rect.touching()[r[:, 0], r[:, k]][:, None], c[:, 0]) for k in (1, 2)]
    return _paint(_plain(r, c)), _paint([*_plain(r, c), *borders])


def _some_contact(r: Array, d: Array) -> NDArray[np.bool_]:
    return rect.touching()[r[:, 0], r[:, 1]] | rect.touching()[r[:, 0], r[:, 2]]


_UP_DOWN = {-1: "up", 0: "", 1: "down"}
_LEFT_RIGHT = {-1: "left", 0: "", 1: "right"}
RULES = (
    Rule("replace_color", 4, ("",), _replace_color),
    Rule(
        "translate",
        3,
        tuple(" ".join(filter(None, (_UP_DOWN[di], _LEFT_RIGHT[dj]))) for di, dj in rect.STEPS),
        _translate,
        _can_move,
    ),
    Rule("grow", 3, ("grows", "shrinks"), _grow, _can_shrink),
    Rule("half_fill", 6, ("bottom", "top", "right", "left"), _half_fill),
    Rule("frame", 3, ("",), _frame),
    Rule("detect", 4, ("",), _detect),
    Rule("corners", 3, ("top left and bottom right", "top right and bottom left"), _corners),
    Rule("contact", 3, ("",), _contact, _some_contact),
)
TASKS = tuple(rule.name for rule in RULES)


@dataclass(frozen=True)
class Worlds:
    """n quizzes as what made them.

    task: (n,) index in RULES; colours: (n, 6) colours c0, c1, … of the quiz, -1 beyond those its rule has; direction:
    (n,) the shared discrete parameter (step, growth, half, polarity), 0 where the rule has none; rectangles: (n, 2, 3)
    index of r0, r1, r2 in A and in B.
    """

    task: Array
    colours: Array
    direction: Array
    rectangles: Array

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: NDArray) -> "Worlds":
        """The quizzes of these rows (indices or a mask)."""
        return Worlds(self.task[rows], self.colours[rows], self.direction[rows], self.rectangles[rows])

    def put(self, rows: Array, others: "Worlds") -> "Worlds":
        """These worlds, in which the others (k of them) stand at the k rows."""
        merged = Worlds(self.task.copy(), self.colours.copy(), self.direction.copy(), self.rectangles.copy())
        for name in self.__dataclass_fields__:
            getattr(merged, name)[rows] = getattr(others, name)
        return merged

    def grids(self) -> Grid:
        """(n, 4, 100) colours of A, f_A, B, f_B."""
        grids = np.empty((len(self), 4, rect.CELLS), np.uint8)
        for t, rule in enumerate(RULES):
            rows = np.flatnonzero(self.task == t)
            for side in range(2):
                grids[rows, 2 * side], grids[rows, 2 * side + 1] = rule.paint(
                    self.rectangles[rows, side], self.colours[rows], self.direction[rows]
                )
        return grids

    def quizzes(self) -> NDArray[np.uint8]:
        """(n, 404) tokens in canonical order."""
        return compose(self.grids())

    def accepted(self) -> NDArray[np.bool_]:
        """(n,) whether the sampler can draw it: colours distinct and as many as the rule has, a direction that it has,
        rectangles disjoint and taken in A and B. A latent changed by hand may break any of these."""
        c, r = self.colours, self.rectangles
        apart = rect.disjoint()
        taken = ((r >= 0) & (r < len(apart))).all((1, 2)) & (self.task >= 0) & (self.task < len(RULES))
        for a, b in ((0, 1), (0, 2), (1, 2)):
            taken[taken] &= apart[r[taken, :, a], r[taken, :, b]].all(1)
        for t, rule in enumerate(RULES):
            rows = np.flatnonzero(taken & (self.task == t))
            used, d = c[rows, : rule.colours], self.direction[rows]
            sound = (np.diff(np.sort(used, axis=1), axis=1) > 0).all(1) & (used >= 1).all(1) & (used < COLOURS).all(1)
            sound &= (c[rows, rule.colours :] == -1).all(1) & (d >= 0) & (d < rule.directions)
            taken[rows] = sound
            for side in range(2):
                taken[rows[sound]] &= rule.accept(r[rows[sound], side], d[sound])
        return taken

    def changed(self, **latents: Array) -> "Worlds":
        """The same worlds with other latents, such as direction=…; painted anew by `grids`."""
        return replace(self, **latents)


def rule(name: str) -> int:
    """The index in RULES of a task. Raises ValueError listing them."""
    if name not in TASKS:
        raise ValueError(f"no world task {name!r}; there are {', '.join(TASKS)}")
    return TASKS.index(name)


def sample_worlds(n: int, rng: np.random.Generator, tasks: Sequence[str] = TASKS) -> Worlds:
    """n quizzes, each of a task drawn uniformly from `tasks`. Raises ValueError for an unknown task, none, or n < 0."""
    if n < 0:
        raise ValueError(f"cannot sample {n} quizzes")
    if not tasks:
        raise ValueError("no world task to sample from")
    chosen = np.array([rule(name) for name in tasks])
    return draw_worlds(chosen[rng.integers(len(chosen), size=n)], rng)


def draw_worlds(task: Array, rng: np.random.Generator) -> Worlds:
    """One quiz of each task in (n,), an index in RULES."""
    n = len(task)
    worlds = Worlds(
        task=task,
        colours=np.full((n, MOST_COLOURS), -1),
        direction=np.zeros(n, np.int64),
        rectangles=np.zeros((n, 2, 3), np.int64),
    )
    palette = rng.permuted(np.tile(np.arange(1, COLOURS), (n, 1)), axis=1)
    for t, r in enumerate(RULES):
        rows = np.flatnonzero(task == t)
        worlds.colours[rows, : r.colours] = palette[rows, : r.colours]
        worlds.direction[rows] = rng.integers(r.directions, size=len(rows))
        for side in range(2):
            worlds.rectangles[rows, side] = _accepted_triples(r, worlds.direction[rows], rng)
    return worlds


def _accepted_triples(r: Rule, direction: Array, rng: np.random.Generator) -> Array:
    """(n, 3) triples that the rule takes: those it refuses are drawn again, whole."""
    triples = rect.sample_triples(len(direction), rng)
    waiting = np.flatnonzero(~r.accept(triples, direction))
    while len(waiting):
        triples[waiting] = rect.sample_triples(len(waiting), rng)
        waiting = waiting[~r.accept(triples[waiting], direction[waiting])]
    return triples
