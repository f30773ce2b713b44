"""Probabilities as they are printed: two digits, in integers, rows and answers summing to exactly 100 hundredths.

The largest remainder method rounds them. Remainders that are equal, or too close for floats, are compared as integers;
of equal ones the first gains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from interp_kit.tasks.graphs.models import DiscreteModel

HUNDRED = 100
CLOSE = 1e-7  # Hundredths. Nearer than this to a tie, floats decide nothing.


@dataclass(frozen=True)
class PrintedModel:
    """A model whose tables have two digits; make one with `printed`.

    names: of the variables; parents: their parents, in printed order; counts: their tables in hundredths.
    """

    names: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    counts: tuple[np.ndarray, ...]

    @cached_property
    def model(self) -> DiscreteModel:
        """The same in floats."""
        return DiscreteModel(self.names, self.parents, tuple(table / HUNDRED for table in self.counts))

    @cached_property
    def integers(self) -> DiscreteModel:
        """The same in Python's integers, of which no product is too large."""
        return DiscreteModel(self.names, self.parents, tuple(table.astype(object) for table in self.counts))

    @cached_property
    def cardinalities(self) -> tuple[int, ...]:
        """Values of each variable."""
        return tuple(table.shape[-1] for table in self.counts)


def printed(model: DiscreteModel, rng: np.random.Generator | None = None) -> PrintedModel:
    """The model as it is printed. rng: shuffles each variable's parents, whose order may tell the topological one."""
    parents, counts = [], []
    for of, table in zip(model.parents, model.tables, strict=True):
        axes = np.arange(len(of)) if rng is None else rng.permutation(len(of))
        parents.append(tuple([of[i] for i in axes]))
        counts.append(hundredths(table).transpose([*axes, len(of)]))
    return PrintedModel(model.names, tuple(parents), tuple(counts))


def hundredths(rows: np.ndarray) -> np.ndarray:
    """(…, values) integers that sum to 100, from probabilities that sum to 1."""
    exact = HUNDRED * np.asarray(rows, dtype=float)
    low = np.floor(exact + 1e-9)
    rank = np.argsort(np.argsort(low - exact, axis=-1, kind="stable"), axis=-1)
    missing = HUNDRED - low.sum(-1, keepdims=True)
    return (low + (rank < missing)).astype(np.int64)


def shares(amounts: Sequence[int]) -> tuple[int, ...]:
    """Integers that sum to 100, in proportion to these, by largest remainder."""
    total = sum(amounts)
    parts = [divmod(HUNDRED * amount, total) for amount in amounts]
    missing = HUNDRED - sum(low for low, _ in parts)
    first = sorted(range(len(parts)), key=lambda i: (-parts[i][1], i))[:missing]
    return tuple([low + (i in first) for i, (low, _) in enumerate(parts)])


def rounded(weights: Sequence[float], exact: Callable[[], Sequence[int]]) -> tuple[int, ...]:
    """The shares of these weights. exact: gives them as integers, and is called if floats cannot decide."""
    total = sum(weights)
    parts = [HUNDRED * weight / total for weight in weights]
    low = [int(part) for part in parts]
    rest = sorted([(low[i] - parts[i], i) for i in range(len(parts))])
    missing = HUNDRED - sum(low)
    unsure = any(w not in (0, total) and not -1 + CLOSE < r < -CLOSE for r, w in ((r, weights[i]) for r, i in rest))
    if unsure or (0 < missing < len(rest) and rest[missing][0] - rest[missing - 1][0] < CLOSE):
        return shares(exact())
    for _, i in rest[:missing]:
        low[i] += 1
    return tuple(low)


def most_probable(weights: Sequence[float], exact: Callable[[], Sequence[int]]) -> int:
    """The most probable value, the first one of several."""
    top = max(weights)
    if sum(weight > top * (1 - CLOSE) for weight in weights) == 1:
        return list(weights).index(top)
    amounts = list(exact())
    return amounts.index(max(amounts))


def decimal(count: int) -> str:
    """Hundredths as two digits after the point."""
    return f"{count // HUNDRED}.{count % HUNDRED:02d}"
