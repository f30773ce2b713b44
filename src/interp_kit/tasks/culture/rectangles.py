"""Every rectangle that a quiz can hold, what each of its parts covers, and exactly uniform disjoint triples of them.

A rectangle is half-open, [i1, i2) x [j1, j2), at least 3 wide and high and of area 50 at most; there are 1,182 of them,
and they go by index. All parts are tables over that index, so that samplers paint by look-up.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

SIDE = 10
CELLS = SIDE * SIDE
SMALLEST, LARGEST_AREA = 3, 50
STEPS = tuple((di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if (di, dj) != (0, 0))

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@cache
def rectangles() -> Index:
    """(rectangle, 4) i1, j1, i2, j2 of every rectangle, in lexicographic order."""
    found = [
        (i1, j1, i2, j2)
        for i1 in range(SIDE)
        for j1 in range(SIDE)
        for i2 in range(i1 + SMALLEST, SIDE + 1)
        for j2 in range(j1 + SMALLEST, SIDE + 1)
        if (i2 - i1) * (j2 - j1) <= LARGEST_AREA
    ]
    return np.array(found)


def area(i1: Index, j1: Index, i2: Index, j2: Index) -> Mask:
    """(n, 100) True on the cells of [i1, i2) x [j1, j2), for bounds of shape (n,)."""
    row, column = np.divmod(np.arange(CELLS), SIDE)
    inside = (row >= i1[:, None]) & (row < i2[:, None]) & (column >= j1[:, None]) & (column < j2[:, None])
    return inside


def _part(bounds: Callable[[Index, Index, Index, Index], tuple[Index, Index, Index, Index]]) -> Mask:
    return area(*bounds(*rectangles().T))


@cache
def full() -> Mask:
    """(rectangle, 100) every cell of the rectangle."""
    return _part(lambda i1, j1, i2, j2: (i1, j1, i2, j2))


@cache
def inner() -> Mask:
    """(rectangle, 100) the rectangle shrunk by one cell on each side."""
    return _part(lambda i1, j1, i2, j2: (i1 + 1, j1 + 1, i2 - 1, j2 - 1))


@cache
def border() -> Mask:
    """(rectangle, 100) its border, one cell wide."""
    return full() & ~inner()


@cache
def corner(which: int) -> Mask:
    """(rectangle, 100) three cells, an L, in one corner: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    i1, j1, i2, j2 = rectangles().T
    i, di = ((i1, 1), (i2 - 1, -1))[which // 2]
    j, dj = ((j1, 1), (j2 - 1, -1))[which % 2]
    cells = np.stack([i * SIDE + j, (i + di) * SIDE + j, i * SIDE + j + dj], axis=1)
    found = np.zeros((len(i1), CELLS), bool)
    np.put_along_axis(found, cells, True, axis=1)
    return found


@cache
def opposite_corners(polarity: int) -> Mask:
    """(rectangle, 100) two opposite corner Ls: polarity 0 top left and bottom right, 1 the other two."""
    return corner(0) | corner(3) if polarity == 0 else corner(1) | corner(2)


@cache
def line(direction: int) -> Mask:
    """(rectangle, 100) the centre line of half_fill: a row for directions 0 and 1, a column for 2 and 3."""

    def bounds(i1: Index, j1: Index, i2: Index, j2: Index) -> tuple[Index, Index, Index, Index]:
        i, j = (i1 + i2 - direction % 2) // 2, (j1 + j2 - direction % 2) // 2
        return (i, j1, i + 1, j2) if direction < 2 else (i1, j, i2, j + 1)

    return _part(bounds)


@cache
def half(direction: int) -> Mask:
    """(rectangle, 100) the half that half_fill fills: 0 to the bottom, 1 to the top, 2 to the right, 3 to the left."""

    def bounds(i1: Index, j1: Index, i2: Index, j2: Index) -> tuple[Index, Index, Index, Index]:
        i, j = (i1 + i2 - direction % 2) // 2, (j1 + j2 - direction % 2) // 2
        return ((i, j1, i2, j2), (i1, j1, i + 1, j2), (i1, j, i2, j2), (i1, j1, i2, j + 1))[direction]

    return _part(bounds)


@cache
def moved() -> Index:
    """(step, rectangle) index of the rectangle moved by STEPS[step], -1 where the rule of translate refuses it: its
    start must stay at 0 or above and its exclusive end below 10."""
    index = {tuple(r): n for n, r in enumerate(rectangles().tolist())}
    return np.array(
        [
            [
                index[i1 + di, j1 + dj, i2 + di, j2 + dj]
                if i1 + di >= 0 and j1 + dj >= 0 and i2 + di < SIDE and j2 + dj < SIDE
                else -1
                for i1, j1, i2, j2 in rectangles().tolist()
            ]
            for di, dj in STEPS
        ]
    )


@cache
def disjoint() -> Mask:
    """(rectangle, rectangle) True where two rectangles share no cell; touching is allowed."""
    (i1, j1, i2, j2), (u1, v1, u2, v2) = rectangles().T[:, :, None], rectangles().T[:, None, :]
    return (i2 <= u1) | (u2 <= i1) | (j2 <= v1) | (v2 <= j1)


@cache
def touching() -> Mask:
    """(rectangle, rectangle) True where two disjoint rectangles share an edge segment, not just a corner."""
    (i1, j1, i2, j2), (u1, v1, u2, v2) = rectangles().T[:, :, None], rectangles().T[:, None, :]
    rows, columns = (i1 < u2) & (u1 < i2), (j1 < v2) & (v1 < j2)
    return (rows & ((j2 == v1) | (v2 == j1))) | (columns & ((i2 == u1) | (u2 == i1)))


@cache
def _pairs() -> tuple[Index, Index]:
    """Disjoint ordered pairs, flattened, and the running number of triples that begin with them."""
    apart = disjoint().astype(np.float32)
    thirds = np.where(disjoint(), (apart @ apart).astype(np.int64), 0)
    pairs = np.flatnonzero(thirds)
    return pairs, np.cumsum(thirds.ravel()[pairs])


@cache
def _neighbours() -> tuple[Index, Index]:
    """(rectangle, most) the rectangles disjoint from each, padded, and (rectangle,) how many there are."""
    counts = disjoint().sum(1)
    order = np.argsort(~disjoint(), axis=1, kind="stable")[:, : counts.max()]
    return order, counts


def count_triples() -> int:
    """Number of ordered triples of pairwise disjoint rectangles: 29,917,020."""
    return int(_pairs()[1][-1])


def sample_triples(n: int, rng: np.random.Generator) -> Index:
    """(n, 3) rectangle indices, each row uniform over the ordered, pairwise disjoint triples.

    The first two are drawn by how many triples begin with them, the third uniformly among those that fit.
    """
    pairs, ends = _pairs()
    first, second = np.divmod(pairs[np.searchsorted(ends, rng.integers(ends[-1], size=n), side="right")], len(full()))
    neighbours, counts = _neighbours()
    third = np.empty(n, np.int64)
    waiting = np.arange(n)
    while len(waiting):
        a = first[waiting]
        third[waiting] = neighbours[a, (rng.random(len(a)) * counts[a]).astype(np.int64)]
        waiting = waiting[~disjoint()[second[waiting], third[waiting]]]
    return np.stack([first, second, third], axis=1)
