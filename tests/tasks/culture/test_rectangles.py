"""Rectangles, their parts, and uniform disjoint triples, against loops, brute-force enumeration and chi-square."""

import numpy as np
import pytest

from interp_kit.tasks.culture import rectangles as rect

SAMPLES = 200_000


@pytest.fixture(scope="module")
def triples() -> np.ndarray:
    """200,000 sampled triples."""
    return rect.sample_triples(SAMPLES, np.random.default_rng(5))


def test_there_are_1182_rectangles(geometry) -> None:
    assert len(geometry.bounds) == 1182
    assert rect.rectangles().tolist() == [list(r) for r in geometry.bounds]


def test_relations(geometry) -> None:
    np.testing.assert_array_equal(rect.disjoint(), geometry.apart)
    np.testing.assert_array_equal(rect.touching() & rect.disjoint(), geometry.touch)
    assert geometry.apart.any()
    corner_to_corner = geometry.bounds.index((0, 0, 3, 3)), geometry.bounds.index((3, 3, 6, 6))
    assert geometry.apart[corner_to_corner]
    assert not rect.touching()[corner_to_corner]


def test_parts(geometry) -> None:
    """Every table against its definition, cell by cell."""
    tables = {
        "full": rect.full(), "inner": rect.inner(), "border": rect.border(),
        **{f"corner {k}": rect.corner(k) for k in range(4)},
        **{f"line {d}": rect.line(d) for d in range(4)},
        **{f"half {d}": rect.half(d) for d in range(4)},
    }  # fmt: skip
    for n, (i1, j1, i2, j2) in enumerate(geometry.bounds):
        inside = [(i, j) for i in range(i1, i2) for j in range(j1, j2)]
        edge = [(i, j) for i, j in inside if i in (i1, i2 - 1) or j in (j1, j2 - 1)]
        down, up, right, left = (i1 + i2) // 2, (i1 + i2 - 1) // 2, (j1 + j2) // 2, (j1 + j2 - 1) // 2
        expected = {
            "full": inside,
            "inner": [cell for cell in inside if cell not in edge],
            "border": edge,
            "corner 0": [(i1, j1), (i1 + 1, j1), (i1, j1 + 1)],
            "corner 1": [(i1, j2 - 1), (i1 + 1, j2 - 1), (i1, j2 - 2)],
            "corner 2": [(i2 - 1, j1), (i2 - 2, j1), (i2 - 1, j1 + 1)],
            "corner 3": [(i2 - 1, j2 - 1), (i2 - 2, j2 - 1), (i2 - 1, j2 - 2)],
            "line 0": [(i, j) for i, j in inside if i == down],
            "line 1": [(i, j) for i, j in inside if i == up],
            "line 2": [(i, j) for i, j in inside if j == right],
            "line 3": [(i, j) for i, j in inside if j == left],
            "half 0": [(i, j) for i, j in inside if i >= down],
            "half 1": [(i, j) for i, j in inside if i <= up],
            "half 2": [(i, j) for i, j in inside if j >= right],
            "half 3": [(i, j) for i, j in inside if j <= left],
        }
        for name, wanted in expected.items():
            assert np.flatnonzero(tables[name][n]).tolist() == sorted(10 * i + j for i, j in wanted), (name, n)


def test_steps(geometry) -> None:
    assert sorted(rect.STEPS) == [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    index = {r: n for n, r in enumerate(geometry.bounds)}
    for d, (di, dj) in enumerate(rect.STEPS):
        for n, (i1, j1, i2, j2) in enumerate(geometry.bounds):
            refused = i1 + di < 0 or j1 + dj < 0 or i2 + di >= 10 or j2 + dj >= 10  # Strict on the exclusive end.
            assert rect.moved()[d, n] == (-1 if refused else index[i1 + di, j1 + dj, i2 + di, j2 + dj])


def test_there_are_29917020_triples(geometry) -> None:
    assert sum(int(geometry.neighbours(n)[1].sum()) for n in range(1182)) == rect.count_triples() == 29_917_020


def test_triples_are_disjoint(geometry, triples: np.ndarray) -> None:
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert geometry.apart[triples[:, a], triples[:, b]].all()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_rectangle_as_often_as_it_occurs_in_triples(geometry, triples: np.ndarray, place: int, goodness) -> None:
    weights = np.array([geometry.neighbours(n)[1].sum() for n in range(1182)], float)
    assert goodness(np.bincount(triples[:, place], minlength=1182), weights) > 1e-3


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), (2, 0)])
def test_pairs_within_a_triple(geometry, triples: np.ndarray, first: int, second: int, goodness) -> None:
    """Areas of two rectangles of a triple, jointly, and whether they touch: by how many triples hold each pair."""
    apart = geometry.apart.astype(float)
    weights = (apart @ apart) * apart
    area = np.array([bin(bits).count("1") for bits in geometry.bits])
    small = np.searchsorted(np.sort(np.unique(area)), area)
    kind = (small[:, None] * small.max() + small[None]) * 2 + geometry.touch
    expected = np.bincount(kind.ravel(), weights.ravel())
    observed = np.bincount(kind[triples[:, first], triples[:, second]], minlength=len(expected))
    assert goodness(observed, expected) > 1e-3


def test_triples_are_uniform_over_all_that_there_are(geometry, triples: np.ndarray, goodness) -> None:
    """All three at once: the place of each rectangle's middle in four quarters of the grid, by full enumeration."""
    quarter = np.array([(i1 + i2 >= 10) * 2 + (j1 + j2 >= 10) for i1, j1, i2, j2 in geometry.bounds])
    expected = np.zeros(64)
    for n in range(1182):
        others, pairs = geometry.neighbours(n)
        a, b = np.nonzero(pairs)
        joint = quarter[n] * 16 + quarter[others[a]] * 4 + quarter[others[b]]
        expected += np.bincount(joint, minlength=64)
    assert expected.sum() == 29_917_020
    observed = np.bincount(quarter[triples] @ [16, 4, 1], minlength=64)
    assert goodness(observed, expected) > 1e-3


class Listed(np.random.Generator):
    """A generator whose next integers are given."""

    def __init__(self, numbers: np.ndarray) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = numbers

    def integers(self, *args: object, **kwargs: object) -> np.ndarray:
        return self.numbers


def test_a_pair_is_drawn_by_as_many_numbers_as_triples_begin_with_it(geometry) -> None:
    """The first and the last number of each of 500 pairs; those between must then be its own too."""
    apart = geometry.apart.astype(np.int64)
    thirds = ((apart.astype(float) @ apart).astype(np.int64) * apart).ravel()
    ends = np.cumsum(thirds)
    pairs = np.random.default_rng(0).choice(np.flatnonzero(thirds), 500, replace=False)
    for numbers in (ends[pairs] - thirds[pairs], ends[pairs] - 1):
        drawn = rect.sample_triples(500, Listed(numbers))
        np.testing.assert_array_equal(drawn[:, 0] * 1182 + drawn[:, 1], pairs)


def test_no_triples_and_the_same_triples() -> None:
    assert rect.sample_triples(0, np.random.default_rng(0)).shape == (0, 3)
    np.testing.assert_array_equal(*(rect.sample_triples(9, np.random.default_rng(3)) for _ in range(2)))
