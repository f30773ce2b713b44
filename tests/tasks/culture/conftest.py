"""The rules of the world tasks written a second time, cell by cell, and all rectangles and triples by brute force."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import chisquare

Rectangle = tuple[int, int, int, int]
Rows = list[list[int]]
Reference = Callable[[str, int, list[int], list[Rectangle]], tuple[Rows, Rows] | None]


def cells(r: Rectangle) -> list[tuple[int, int]]:
    """Every (row, column) of a rectangle."""
    i1, j1, i2, j2 = r
    return [(i, j) for i in range(i1, i2) for j in range(j1, j2)]


def overlap(r: Rectangle, s: Rectangle) -> bool:
    """Whether two rectangles share a cell."""
    return bool(set(cells(r)) & set(cells(s)))


def share_an_edge(r: Rectangle, s: Rectangle) -> bool:
    """Whether some cell of one has a cell of the other beside, above or below it."""
    other = set(cells(s))
    return any((i + di, j + dj) in other for i, j in cells(r) for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)))


STEP_WORDS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def step(words: str) -> tuple[int, int]:
    """ "down left" -> (1, -1)."""
    found = [STEP_WORDS[word] for word in words.split()]
    return sum(di for di, _ in found), sum(dj for _, dj in found)


def reference_pair(
    task: str, direction: int, c: list[int], r: list[Rectangle], words: str = ""
) -> tuple[Rows, Rows] | None:
    """X and f(X) as ten rows of ten colours, None where the rule refuses the triple; `words` says translate's step."""
    if any(overlap(r[a], r[b]) for a, b in ((0, 1), (0, 2), (1, 2))):
        return None
    x, f = ([[0] * 10 for _ in range(10)] for _ in range(2))

    def paint(grid: Rows, r: Rectangle, colour: int) -> None:
        for i, j in cells(r):
            grid[i][j] = colour

    i1, j1, i2, j2 = r[2]
    small = (i1 + 1, j1 + 1, i2 - 1, j2 - 1)
    if task == "half_fill":
        for n in range(3):
            a1, b1, a2, b2 = r[n]
            middle = [
                ((a1 + a2) // 2, b1, (a1 + a2) // 2 + 1, b2),
                ((a1 + a2 - 1) // 2, b1, (a1 + a2 - 1) // 2 + 1, b2),
                (a1, (b1 + b2) // 2, a2, (b1 + b2) // 2 + 1),
                (a1, (b1 + b2 - 1) // 2, a2, (b1 + b2 - 1) // 2 + 1),
            ][direction]
            for grid in (x, f):
                paint(grid, r[n], c[2 * n])
                paint(grid, middle, c[2 * n + 1])
        for i, j in cells(r[2]):
            in_half = [i >= (i1 + i2) // 2, i <= (i1 + i2 - 1) // 2, j >= (j1 + j2) // 2, j <= (j1 + j2 - 1) // 2]
            if in_half[direction]:
                f[i][j] = c[5]
        return x, f
    if task == "corners":
        for n in range(3):
            a1, b1, a2, b2 = r[n]
            top_left = [(a1, b1), (a1 + 1, b1), (a1, b1 + 1)]
            bottom_right = [(a2 - 1, b2 - 1), (a2 - 2, b2 - 1), (a2 - 1, b2 - 2)]
            top_right = [(a1, b2 - 1), (a1 + 1, b2 - 1), (a1, b2 - 2)]
            bottom_left = [(a2 - 1, b1), (a2 - 2, b1), (a2 - 1, b1 + 1)]
            for i, j in top_left + bottom_right if direction == 0 else top_right + bottom_left:
                x[i][j] = c[n]
            paint(f, r[n], c[n])
        return x, f
    for n in range(2):
        paint(x, r[n], c[n])
        paint(f, r[n], c[n])
    paint(x, r[2], c[2])
    if task == "translate":
        di, dj = step(words)
        if i1 + di < 0 or j1 + dj < 0 or i2 + di >= 10 or j2 + dj >= 10:
            return None
        paint(f, (i1 + di, j1 + dj, i2 + di, j2 + dj), c[2])
    elif task == "grow":
        if i2 - i1 < 4 or j2 - j1 < 4:
            return None
        shrunk = [row.copy() for row in f]
        paint(shrunk, small, c[2])
        paint(f, r[2], c[2])
        return (shrunk, f) if direction == 0 else (f, shrunk)
    else:
        paint(f, r[2], c[2])
        if task == "replace_color":
            paint(f, r[0], c[3])
        elif task == "frame":
            paint(f, small, 0)
        elif task == "detect":
            for a1, b1, _, _ in r[:2]:
                f[a1][b1] = f[a1 + 1][b1] = f[a1][b1 + 1] = c[3]
        elif task == "contact":
            touched = [s for s in r[1:] if share_an_edge(r[0], s)]
            if not touched:
                return None
            for a1, b1, a2, b2 in touched:
                for i, j in cells((a1, b1, a2, b2)):
                    if i in (a1, a2 - 1) or j in (b1, b2 - 1):
                        f[i][j] = c[0]
        else:
            raise AssertionError(task)
    return x, f


@dataclass(frozen=True)
class Geometry:
    """All rectangles by loops, and their relations by arithmetic on 100-bit numbers.

    bounds: i1, j1, i2, j2 of each; bits: its cells as a number; apart, touch: (rectangle, rectangle).
    """

    bounds: list[Rectangle]
    bits: list[int]
    apart: np.ndarray
    touch: np.ndarray

    def neighbours(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        """The rectangles disjoint from one, and which of them are pairwise disjoint: the triples that begin with it."""
        others = np.flatnonzero(self.apart[first])
        return others, self.apart[np.ix_(others, others)]


def as_bits(found: list[tuple[int, int]]) -> int:
    """Cells as a 100-bit number."""
    return sum(1 << (10 * i + j) for i, j in found)


@pytest.fixture(scope="session")
def geometry() -> Geometry:
    """Rectangles, and which of them are disjoint and which touch, without the package."""
    bounds = [
        (i1, j1, i2, j2)
        for i1 in range(10) for j1 in range(10) for i2 in range(11) for j2 in range(11)
        if i2 - i1 >= 3 and j2 - j1 >= 3 and (i2 - i1) * (j2 - j1) <= 50
    ]  # fmt: skip
    bits = [as_bits(cells(r)) for r in bounds]
    around = [
        as_bits([(i, j) for i, j in [*((i, j) for i in (i1 - 1, i2) for j in range(j1, j2)),
                                     *((i, j) for i in range(i1, i2) for j in (j1 - 1, j2))]
                 if 0 <= i < 10 and 0 <= j < 10])
        for i1, j1, i2, j2 in bounds
    ]  # fmt: skip
    apart = np.array([[not a & b for b in bits] for a in bits])
    touch = np.array([[bool(a & b) for b in bits] for a in around]) & apart
    return Geometry(bounds, bits, apart, touch)


@pytest.fixture(scope="session")
def reference() -> Callable[..., tuple[Rows, Rows] | None]:
    """reference(task, direction, colours, rectangles, words): see `reference_pair`."""
    return reference_pair


@pytest.fixture(scope="session")
def goodness() -> Callable[[np.ndarray, np.ndarray], float]:
    """goodness(observed, weights): p of counts (value,) under weights (value,), by chi-square. Values expected fewer
    than five times are put together, and an impossible one must not occur."""

    def p_value(observed: np.ndarray, weights: np.ndarray) -> float:
        length = max(len(observed), len(weights))
        observed, weights = (np.pad(a.astype(float), (0, length - len(a))) for a in (observed, weights))
        assert not observed[weights == 0].any()
        observed, expected = observed[weights > 0], weights[weights > 0] * observed.sum() / weights.sum()
        rare = expected < 5
        observed, expected = (np.append(a[~rare], a[rare].sum()) for a in (observed, expected))
        if not rare.any():
            observed, expected = observed[:-1], expected[:-1]
        return float(chisquare(observed, expected).pvalue) if len(observed) > 1 else 1.0

    return p_value
