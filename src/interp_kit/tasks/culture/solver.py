"""The oracle: what follows from three grids of a quiz about the fourth, by Bayes' rule over all worlds that explain
them.

The complete pair (A and f_A, or B and f_B) gives the hypotheses: every rule with its parameters and roles of the
colours that paints exactly this pair. Each of them, applied to the other half (or undone, where A or B is asked for),
gives the worlds that agree with all that is visible, and so the possible answers; each weighs as much as the sampler
makes it probable. What the oracle cannot know, no model can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import perm
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture.explain import Array, Halves, backward, cell_codes, explain, forward, join
from interp_kit.tasks.culture.grids import (
    COLOURS,
    GRIDS,
    QUARTER,
    STRUCTURES,
    Tokens,
    add_noise,
    check,
    noisy_cells,
    reconfigure,
    split,
)
from interp_kit.tasks.culture.noisy import nearest
from interp_kit.tasks.culture.world import RULES, TASKS, Grid, draw_worlds

if TYPE_CHECKING:
    import pandas as pd

ROWS = 1024  # quizzes at a time: each has about 80 hypotheses before they are painted
NOISY_ROWS = 128  # each has about 30 partial placements with a number for every rectangle


@dataclass(frozen=True)
class Solution:
    """Answers of the oracle to n quizzes.

    answers: (n, 100) the most probable last grid, zeros where no world explains the quiz; possible: (n,) how many last
    grids are consistent with the prompt, 0 where none is; posterior: (n,) probability of the answer given the prompt,
    for quizzes drawn as `sample_worlds` draws them; task: (n,) index in RULES of the rule behind the answer, -1 where
    none explains the quiz.
    """

    answers: Grid
    possible: Array
    posterior: NDArray[np.float64]
    task: Array

    def __len__(self) -> int:
        return len(self.possible)

    @property
    def certain(self) -> NDArray[np.bool_]:
        """(n,) True where the prompt determines the answer."""
        return self.possible == 1


@cache
def triples_taken(t: int, direction: int) -> int:
    """Number of triples that the rule takes at that direction: its sampler is uniform over them."""
    apart = rect.disjoint().astype(np.float64)
    if TASKS[t] == "contact":
        aloof = (rect.disjoint() & ~rect.touching()).astype(np.float64)
        return round(((apart @ apart) * apart).sum() - ((aloof @ apart) * aloof).sum())
    third = np.arange(len(apart))
    taken = RULES[t].accept(np.stack([third] * 3, axis=1), np.full(len(third), direction))
    return round((((apart @ apart) * apart).sum(1) * taken).sum())


@cache
def _log_priors() -> NDArray[np.float64]:
    """(task, direction) log-probability that a quiz is of that kind, with given colours and two given triples."""
    table = np.full((len(RULES), max(r.directions for r in RULES)), -np.inf)
    for t, r in enumerate(RULES):
        for d in range(r.directions):
            table[t, d] = -np.log(r.directions * perm(COLOURS - 1, r.colours)) - 2 * np.log(triples_taken(t, d))
    return table


def solve(quizzes: Tokens, structure: int | NDArray[np.integer], noise: float = 0.0) -> Solution:
    """The last grid of (n, 404) quizzes in canonical order (A f_A B f_B), each asked in a structure.

    structure: index in STRUCTURES, one for all or one a row. Its last grid is the unknown one, and what stands in its
    place is not read. In the fifth structure, too, the last grid is asked for, all others given. noise: probability
    with which cells of the grid that may be noisy in that structure were drawn anew; all others are taken at their
    word, so that noise in them leaves no world to explain them. Where there is noise nothing is impossible, and answers
    about 10^7 times less probable than the best are not counted.

    Raises ValueError for quizzes that are none or not in canonical order, an unknown structure, and noise outside 0 to
    0.3 (beyond, wrong cells are no longer rare enough to search from the best world).
    """
    if not 0 <= noise <= 0.3:
        raise ValueError(f"noise {noise}: the oracle takes 0 to 0.3")
    check(quizzes)
    strange = np.flatnonzero(quizzes[:, ::QUARTER].argsort(1) != np.arange(len(GRIDS)))
    if len(strange):
        raise ValueError(f"quiz {strange[0] // len(GRIDS)} is not in canonical order: see `reconfigure`")
    index = np.broadcast_to(structure, len(quizzes))
    if not np.isin(index, range(len(STRUCTURES))).all():
        raise ValueError(f"structure {structure}: expected indices 0..{len(STRUCTURES) - 1}")
    asked = np.array([GRIDS.index(s.order[-1]) for s in STRUCTURES])[index]
    noisy = np.array([any(s.noisy) for s in STRUCTURES])[index] & (noise > 0)
    # a wrong cell against a right one; 1 leaves those that may have none as they are
    odds = (noise / COLOURS) / (1 - noise + noise / COLOURS)
    grids, rows = split(quizzes).astype(np.uint8), NOISY_ROWS if noisy.any() else ROWS
    slices = [slice(start, start + rows) for start in range(0, max(len(grids), 1), rows)]
    parts = [_solve(grids[part], asked[part], noisy[part], odds) for part in slices]
    return Solution(*(np.concatenate([getattr(p, name) for p in parts]) for name in Solution.__dataclass_fields__))


def _solve(grids: Grid, asked: Array, noisy: NDArray[np.bool_], odds: float) -> Solution:
    """`solve` for (n, 4, 100) grids, of which grid `asked` (n,) is not read and its partner may be noisy."""
    every = np.arange(len(grids))
    complete = np.where(asked < 2, 2, 0)
    hypotheses = explain(grids[every, complete], grids[every, complete + 1])
    known, to_apply = grids[every, asked ^ 1], asked % 2 == 1
    # A pair determines its rule up to names that change no answer (which of two r is r0), so noise is searched by one.
    single = np.zeros(len(hypotheses.row), bool)
    single[np.unique(hypotheses.row, return_index=True)[1]] = True
    found, wrong = [], []
    for after, exactly in ((False, forward), (True, backward)):
        here = to_apply[hypotheses.row] != after
        found.append(exactly(hypotheses.take(here & ~noisy[hypotheses.row]), known))
        wrong.append(np.zeros(len(found[-1].row), np.int64))
        nearly, misses = nearest(hypotheses.take(here & noisy[hypotheses.row] & single), known, after)
        found.append(nearly)
        wrong.append(misses)
    worlds = join(found)
    log_weight = _log_priors()[worlds.task, worlds.direction]
    if noisy.any():
        log_weight = log_weight + np.concatenate(wrong) * np.log(odds)
    shown, painted = worlds.painted()
    return _weighed(len(grids), worlds, log_weight, np.where(to_apply[worlds.row, None], painted, shown))


def _weighed(n: int, worlds: Halves, log_weight: NDArray[np.float64], answers: Grid) -> Solution:
    """The most probable of the answers (k, 100) of each of n rows, each answer weighing as its worlds together do."""
    heaviest = np.full(n, -np.inf)
    np.maximum.at(heaviest, worlds.row, log_weight)
    weight = np.exp(log_weight - heaviest[worlds.row])
    numbers = answers @ cell_codes()
    order = np.lexsort((numbers, worlds.row))
    row, numbers = worlds.row[order], numbers[order]
    new = np.concatenate([[True], (np.diff(row) != 0) | (np.diff(numbers) != 0)])[: len(row)]
    first = order[new]  # of each answer, one world
    weights = np.bincount(np.cumsum(new) - 1, weight[order], minlength=len(first))
    total = np.bincount(worlds.row, weight, minlength=n)
    by_weight = np.lexsort((weights, worlds.row[first]))  # the heaviest of each row stands last
    best = np.full(n, -1)
    best[worlds.row[first][by_weight]] = by_weight
    solved = best >= 0
    world = first[best[solved]]
    found = Solution(
        answers=np.zeros((n, rect.CELLS), np.uint8),
        possible=np.bincount(worlds.row[first], minlength=n),
        posterior=np.zeros(n),
        task=np.full(n, -1),
    )
    found.answers[solved], found.task[solved] = answers[world], worlds.task[world]
    found.posterior[solved] = weights[best[solved]] / total[solved]
    return found


@dataclass(frozen=True)
class Bound:
    """The exact match that no predictor can pass, by structure and task.

    n: quizzes of each task; noise: in the prompt grids that may be noisy; structures, tasks: names; ambiguous:
    (structure, task) share of quizzes of which several answers are consistent with the prompt; accuracy: (structure,
    task) mean posterior of the best answer, which is the expected exact match of the oracle.
    """

    n: int
    noise: float
    structures: tuple[str, ...]
    tasks: tuple[str, ...]
    ambiguous: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def to_frame(self) -> "pd.DataFrame":
        """One row per structure and task."""
        import pandas as pd

        rows = [
            (structure, task, self.noise, self.n, self.ambiguous[s, t], self.accuracy[s, t])
            for s, structure in enumerate(self.structures)
            for t, task in enumerate(self.tasks)
        ]
        return pd.DataFrame(rows, columns=["structure", "task", "noise", "n", "ambiguous", "accuracy"])


def bound(n: int, seed: int = 0, structures: Sequence[int] = range(len(STRUCTURES)), noise: float = 0.0) -> Bound:
    """Share of each task that the prompt determines, by the oracle on n sampled quizzes of each.

    Raises ValueError for n < 1, and as `solve` does.
    """
    if n < 1:
        raise ValueError(f"a bound needs at least one quiz of each task, got n = {n}")
    rng = np.random.default_rng(seed)
    quizzes = draw_worlds(np.repeat(np.arange(len(RULES)), n), rng).quizzes()
    solved = [solve(_noisy(quizzes, s, noise, rng), s, noise) for s in structures]
    return Bound(
        n=n,
        noise=noise,
        structures=tuple(STRUCTURES[s].name for s in structures),
        tasks=TASKS,
        ambiguous=np.array([(s.possible > 1).reshape(-1, n).mean(1) for s in solved]),
        accuracy=np.array([s.posterior.reshape(-1, n).mean(1) for s in solved]),
    )


def _noisy(quizzes: Tokens, structure: int, noise: float, rng: np.random.Generator) -> Tokens:
    return reconfigure(add_noise(reconfigure(quizzes, structure), noisy_cells(structure), rng, noise), 0)
