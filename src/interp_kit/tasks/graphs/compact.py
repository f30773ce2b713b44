"""Exact answers and factors of compact questions, many at once, in integer multiples of 1/32.

Every table entry P(v = 1 | parents) is 0, 1/2 or 1, so each product of tables over the five variables is a multiple of
1/32. Conditioning divides two of them, and leaves the grid in some worlds: those questions are not asked (`valid`).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from interp_kit.tasks.graphs.shapes import NODES, classes, renamed
from interp_kit.tasks.graphs.structure import DO, SEE, STEPS, Structure, structure

UNIT = 2**NODES  # Answers and factors are multiples of 1/UNIT.
DEPTHS = (0, 1, 2, 3)  # Those that occur with five variables.
STATES = (np.arange(UNIT)[:, None] >> np.arange(NODES)[::-1]) & 1  # (32, 5) every assignment


@dataclass(frozen=True)
class Worlds:
    """n questions.

    parents: (n, 5, 2) parents of each variable in rising order, -1 for none; table: (n, 5, 4) P(v = 1) in halves, by
    the values of the parents read as a binary number, -1 where there is no such row; kind: (n,) DO or SEE; x, y: (n,)
    the variable that is given and the one asked about; value: (n,) the value given, 0 or 1.
    """

    parents: np.ndarray
    table: np.ndarray
    kind: np.ndarray
    x: np.ndarray
    value: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: np.ndarray) -> "Worlds":
        """These questions, in this order."""
        return Worlds(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Solution:
    """Answers to n questions, in 1/32.

    valid: (n,) True if the answer exists and is a multiple of 1/32; answer: (n,), -1 if not; factors: (n, 5, 8) the
    entries of the factor after each step, live variables read as a binary number, -1 past the last; rows: (n,) the mean
    of Y's own table rows that agree with X = x; prior: (n,) P(Y = 1) with nothing given.
    """

    structure: Structure
    valid: np.ndarray
    answer: np.ndarray
    factors: np.ndarray
    rows: np.ndarray
    prior: np.ndarray


def n_rows(parents: np.ndarray) -> np.ndarray:
    """(n, 5) the number of table rows of each variable: 1, 2 or 4."""
    return 2 ** (parents >= 0).sum(-1)


def draw(n: int, rng: np.random.Generator, split: str | None = None, depths: Sequence[int] = DEPTHS) -> Worlds:
    """n valid questions in graphs of a split (None: of all), balanced by `balanced`; names, tables and the value given
    are uniform. Questions that are not valid are drawn anew, with their graphs."""
    of = classes()
    rows = of.of(split)
    mass = balanced(of.weight[rows], queries(of.parents[rows]), depths).ravel()
    found: list[Worlds] = []
    while (missing := n - sum(map(len, found))) > 0:
        tried = 2 * missing + 16
        dag, query = np.divmod(rng.choice(mass.size, size=tried, p=mass), len(QUERIES))
        name = rng.permuted(np.tile(np.arange(NODES), (tried, 1)), axis=1)
        kind, x, y = QUERIES[query].T
        parents = renamed(of.parents[rows[dag]], name)
        table = random_tables(parents, rng)
        each = np.arange(tried)
        worlds = Worlds(parents, table, kind, name[each, x], rng.integers(2, size=tried), name[each, y])
        found.append(worlds.take(np.flatnonzero(solve(worlds).valid)[:missing]))
    return Worlds(*(np.concatenate([getattr(w, field.name) for w in found]) for field in fields(Worlds)))


def random_tables(parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, 5, 4) tables with uniform entries for these parents."""
    table = rng.integers(3, size=(*parents.shape[:2], 4))
    table[np.arange(4) >= n_rows(parents)[..., None]] = -1
    return table


def probabilities(worlds: Worlds) -> np.ndarray:
    """(n, 5, 32) the table entry of each variable at its own value in each assignment of all, in halves."""
    values = STATES.T[np.maximum(worlds.parents, 0)] * (worlds.parents >= 0)[..., None]
    two = worlds.parents[..., 1:] >= 0
    row = np.where(two, 2 * values[:, :, 0] + values[:, :, 1], values[:, :, 0])
    one = np.take_along_axis(worlds.table, row, axis=2)
    return np.where(STATES.T == 1, one, 2 - one)


def solve(worlds: Worlds) -> Solution:
    """Structure, factors and answers of these questions."""
    n, rows = len(worlds), np.arange(len(worlds))
    plan = structure(worlds.parents, worlds.kind, worlds.x, worlds.y)
    chance = probabilities(worlds)
    bits = STATES.T.astype(bool)
    given = bits[worlds.x] == worlds.value[:, None].astype(bool)
    product = given * UNIT
    done = np.zeros((n, NODES), dtype=bool)
    done[rows, worlds.x] = True
    factors = np.full((n, STEPS, 8), -1)
    for step in range(STEPS):
        variable = plan.order[:, step]
        taken = variable >= 0
        product = np.where(taken[:, None], product * chance[rows, variable] // 2, product)
        done[rows[taken], variable[taken]] = True
        # A variable to come is in no table yet: it is held at 0, so that each entry is counted once.
        held = product * ~(bits & ~done[:, :, None]).any(1)
        live = plan.live[:, step]
        entry = np.zeros((n, UNIT), dtype=int)
        for axis in range(3):
            there = live[:, axis] >= 0
            entry = np.where(there[:, None], 2 * entry + bits[live[:, axis]], entry)
        size = np.where(taken, 2 ** (live >= 0).sum(1), 0)
        for k in range(8):
            factors[:, step, k] = np.where(k < size, (held * (entry == k)).sum(1), -1)
    last = factors[rows, (plan.order >= 0).sum(1) - 1]
    total = last[:, 0] + last[:, 1]
    valid = (total > 0) & (UNIT * last[:, 1] % np.maximum(total, 1) == 0)
    answer = np.where(valid, UNIT * last[:, 1] // np.maximum(total, 1), -1)
    return Solution(plan, valid, answer, factors, _own_rows(worlds), _prior(chance, bits[worlds.y]))


def _own_rows(worlds: Worlds) -> np.ndarray:
    index = np.arange(len(worlds))
    own, parents = worlds.table[index, worlds.y], worlds.parents[index, worlds.y]
    count = (parents >= 0).sum(1)
    row = np.arange(4)
    fits = row < (2**count)[:, None]
    for j in range(2):
        value = (row >> np.maximum(count - 1 - j, 0)[:, None]) & 1
        fits &= (parents[:, j] != worlds.x)[:, None] | (value == worlds.value[:, None])
    return UNIT // 2 * (own * fits).sum(1) // fits.sum(1)


def _prior(chance: np.ndarray, asked: np.ndarray) -> np.ndarray:
    return (chance.prod(1) * asked).sum(1)


QUERIES = np.array([(kind, x, y) for kind in (DO, SEE) for x in range(NODES) for y in range(NODES) if x != y])


CONNECTED = 0.75  # Share of questions in which X can matter, where a kind and depth has both.


def queries(parents: np.ndarray) -> Structure:
    """The structure of each of QUERIES in each DAG, DAG by DAG: (dags * 40) questions."""
    many = np.repeat(parents, len(QUERIES), axis=0)
    kind, x, y = np.tile(QUERIES, (len(parents), 1)).T
    return structure(many, kind, x, y)


def balanced(weight: np.ndarray, plan: Structure, allowed: Sequence[int]) -> np.ndarray:
    """(dags, 40) probability of each DAG and query such that each kind and each allowed depth is drawn equally often,
    and in each X is connected to Y in 75 %; within these, DAGs by `weight` (dags,) and queries uniformly.

    plan: `queries` of these DAGs. Raises ValueError if a kind or depth never occurs.
    """
    depth, connected = (a.reshape(-1, len(QUERIES)) for a in (plan.depth, plan.connected))
    mass = np.zeros(depth.shape)
    for kind, wanted in itertools.product((DO, SEE), allowed):
        here = (depth == wanted) & (QUERIES[:, 0] == kind)
        if not here.any():
            raise ValueError(f"no question of depth {wanted} in these graphs: expected of 0 to {depth.max()}")
        parts = [(here & connected, CONNECTED), (here & ~connected, 1 - CONNECTED)]
        present = [(part * weight[:, None], share) for part, share in parts if part.any()]
        for part, share in present:
            mass += part / part.sum() * (share if len(present) == 2 else 1)
    return mass / mass.sum()
