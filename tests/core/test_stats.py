"""Intervals against closed forms and simulation, nulls against enumeration."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from interp_kit.core.stats import chance
from interp_kit.core.stats.chance import expected_jaccard, jaccard, permutation_p
from interp_kit.core.stats.intervals import (
    WHOLE,
    Estimate,
    by_group,
    clustered_mean,
    counted,
    effective_number,
    exact_share,
    lopsided,
    mean_estimate,
    mean_interval,
    no_interval,
    of_all,
    ratio_interval,
    scope,
    wilson,
    wilson_share,
)

Z = 1.959963984540054  # 97.5 % point of the normal distribution


@pytest.mark.parametrize("n", [1, 2, 5, 32, 1000])
def test_wilson_is_the_closed_form(n: int) -> None:
    for successes in {0, 1, n // 3, n - 1, n}:
        p = successes / n
        centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        found = wilson(successes, n, "seeds")
        assert found.value == p
        assert found.low == pytest.approx(max(centre - half, 0), abs=1e-9)
        assert found.high == pytest.approx(min(centre + half, 1), abs=1e-9)
        assert (found.n, found.unit) == (n, "seeds")


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=r"no units|successes of"):
        wilson(successes, n)


def hall(values: np.ndarray, student: float) -> tuple[float, float]:
    """Ends of Hall's interval, his transformation (1992, J. R. Statist. Soc. B 54: 221) inverted by root finding."""
    n, skew = len(values), scipy.stats.skew(values, bias=False)

    def transformed(w: float) -> float:
        return w + skew * w**2 / 3 + skew**2 * w**3 / 27 + skew / (6 * n)

    roots = [
        scipy.optimize.brentq(lambda w, end=end: transformed(w) - end / math.sqrt(n), -1e3, 1e3)
        for end in (student, -student)
    ]
    low, high = (values.mean() - w * values.std(ddof=1) for w in roots)
    return low, high


@pytest.mark.parametrize("n", [4, 5, 12, 40])
def test_mean_interval_is_the_wider_side_of_students_and_halls(n: int) -> None:
    values = np.random.default_rng(n).exponential(2.0, size=(3, n))
    mean, low, high = mean_interval(values)
    np.testing.assert_allclose(mean, values.mean(-1))
    for i, row in enumerate(values):
        student = scipy.stats.t.ppf(0.975, n - 1)
        half = student * row.std(ddof=1) / math.sqrt(n)
        by_hall = hall(row, student)
        assert low[i] == pytest.approx(min(row.mean() - half, by_hall[0]))
        assert high[i] == pytest.approx(max(row.mean() + half, by_hall[1]))


def test_mean_interval_without_skew_is_students() -> None:
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    half = 2.7764451 * math.sqrt(2.5 / 5)  # t(0.975; 4) from a printed table
    assert mean == 3
    assert (low, high) == pytest.approx((3 - half, 3 + half), abs=1e-6)


def test_mean_interval_follows_shift_scale_and_reflection() -> None:
    values = np.random.default_rng(2).exponential(1.0, size=9)
    _, low, high = mean_interval(values)
    _, moved_low, moved_high = mean_interval(7 - 2 * values)
    assert (moved_low, moved_high) == pytest.approx((7 - 2 * high, 7 - 2 * low))


def test_mean_interval_takes_every_row_by_itself() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 10))
    found = mean_interval(values)
    assert all(part.shape == (2, 3) for part in found)
    np.testing.assert_allclose([part[1, 2] for part in found], mean_interval(values[1, 2]))


def test_mean_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no seeds to average"):
        mean_interval(np.zeros((3, 0)), unit="seeds")


def test_there_is_no_interval_for_few_units_or_units_without_spread() -> None:
    rows = np.array([[0.1, 0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1, 0.2]])
    mean, low, high = mean_interval(rows)
    np.testing.assert_allclose(mean, [0.1, 0.12])
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, False]
    assert all(np.isnan(end).all() for end in mean_interval(rows[1, -3:])[1:])
    assert np.isfinite(mean_interval(rows[1, -4:])[1:]).all()
    assert all(np.isnan(end) for end in ratio_interval(rows[1, -4:], np.arange(1.0, 5.0))[1:])
    assert np.isfinite(ratio_interval(rows[1], np.arange(1.0, 6.0) ** 2 + 9)[1:]).all()


def test_mean_estimate_is_mean_interval_clipped_to_its_bounds() -> None:
    values = [0.7, 0.9, 1.0, 1.0, 0.95]
    free, bound = mean_estimate(values), mean_estimate(values, bounds=(0.0, 1.0))
    assert (free.value, free.low, free.high) == pytest.approx(tuple(float(x) for x in mean_interval(np.array(values))))
    assert free.high > 1
    assert (bound.low, bound.high, bound.n, bound.unit) == (free.low, 1, 5, "seeds")


def test_mean_estimate_of_few_units_has_no_interval() -> None:
    for values in ([0.5], [0.5, 0.7, 0.9], [0.5] * 4):
        found = mean_estimate(values)
        assert found.value == pytest.approx(np.mean(values))
        assert math.isnan(found.low)
        assert math.isnan(found.high)


@pytest.mark.parametrize("values", [[1.0, 1.0, 0.0, 1.0], [1.0] * 5, [0.0] * 5, [0.25] * 8])
def test_shares_that_are_all_or_nothing_or_alike_get_the_exact_interval(values: list[float]) -> None:
    found = mean_estimate(values, "sets", (0.0, 1.0))
    expected = scipy.stats.binomtest(round(sum(values)), len(values)).proportion_ci(0.95, method="exact")
    assert (found.value, found.n, found.unit) == (pytest.approx(np.mean(values)), len(values), "sets")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert math.isnan(mean_estimate(values[:3], "sets", (0.0, 1.0)).low)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]], [float("inf")]])
def test_mean_estimate_refuses(values: list) -> None:
    with pytest.raises(ValueError, match="finite value"):
        mean_estimate(np.array(values))


def test_ratio_interval_over_ones_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).exponential(1.0, size=(4, 9))
    np.testing.assert_allclose(ratio_interval(values, np.ones(9)), mean_interval(values))
    np.testing.assert_allclose(ratio_interval(values, np.full(9, -2.0))[0], -values.mean(-1) / 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_ratio_interval_is_where_the_mean_of_the_difference_may_be_zero(sign: int) -> None:
    """Fieller's own definition, without skew: r is in it where Student's test does not tell top - r * bottom from 0."""
    bottom = sign * np.array([2.0, 3.0, 4.0, 3.0, 2.0, 4.0, 3.0])
    top = np.array([1.0, -1.0, 0.5, -0.5, 0.0, 0.0, 0.0]) + 0.4 * bottom
    ratio, low, high = ratio_interval(top, bottom)
    wide = []
    for end in (low, high):
        residual = top - end * bottom
        wide.append(abs(residual.mean()) / residual.std(ddof=1) * math.sqrt(7))
    assert low < ratio < high
    skew = abs(scipy.stats.skew(top - ratio * bottom, bias=False))
    assert skew < 1e-12
    assert wide == pytest.approx([scipy.stats.t.ppf(0.975, 6)] * 2)


def test_proportional_pairs_give_the_ratio_and_no_interval() -> None:
    gap = np.random.default_rng(0).uniform(0.1, 2.0, size=20)
    ratio, low, high = ratio_interval(np.stack([0.25 * gap, -gap]), gap)
    np.testing.assert_allclose(ratio, [0.25, -1.0])
    assert np.isnan([low, high]).all()


def test_ratio_over_what_may_be_zero_has_no_interval() -> None:
    ratio, low, high = ratio_interval(np.array([1.0, 2.0, 1.5, 1.2, 1.0]), np.array([3.0, -2.0, 2.0, -2.5, 0.5]))
    assert np.isfinite(ratio)
    assert np.isnan([low, high]).all()


def test_ratio_interval_is_of_a_ratio_of_means() -> None:
    numerator, gap = np.full(5, 0.5), np.array([1e-6, 1.0, 1.0, 0.9, 1.1])
    ratio, _, _ = ratio_interval(numerator, gap)
    assert ratio == pytest.approx(0.625, abs=1e-5)  # The mean of the ratios is 100,000.


def test_pairs_of_one_unit_count_once() -> None:
    """Each pair twice over says no more than once, in whatever order."""
    rng = np.random.default_rng(3)
    gap = rng.uniform(1, 2, size=12)
    gain = 0.4 * gap + rng.normal(0, 0.3, size=(5, 12))
    once = ratio_interval(gain, gap)
    order = rng.permutation(24)
    doubled = ratio_interval(
        np.tile(gain, 2)[:, order], np.tile(gap, 2)[order], groups=np.tile(np.arange(12), 2)[order]
    )
    for a, b in zip(once, doubled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    alone = ratio_interval(gain, gap, groups=np.arange(12))
    np.testing.assert_allclose(alone, once)
    pretended = ratio_interval(np.tile(gain, 2), np.tile(gap, 2))
    assert ((pretended[2] - pretended[1]) < 0.85 * (once[2] - once[1])).all()


@given(n=st.integers(1, 60), k=st.integers(0, 60))
def test_wilson_is_that_of_scipy_and_takes_shares_between(n: int, k: int) -> None:
    k = min(k, n)
    expected = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    found = wilson_share(k / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    if k < n:
        between = wilson_share((k + 0.5) / n, n)
        assert found.low < between.low < wilson_share((k + 1) / n, n).low


def test_the_interval_of_none_and_of_all_ends_with_the_scale() -> None:
    assert {wilson(0, n).low for n in range(1, 200)} == {0.0}
    assert {wilson(n, n).high for n in range(1, 200)} == {1.0}


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no units"):
        wilson_share(0.5, 0)


def test_one_unit_has_no_interval() -> None:
    value, low, high = ratio_interval(np.array([[1.0, 2.0]]), np.array([2.0, 2.0]), groups=np.zeros(2))
    assert value.tolist() == [0.75]
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_units_of_unequal_size_count_whole() -> None:
    """Groups whose numbers have gaps and stand in no order, against their sums by hand."""
    rng = np.random.default_rng(4)
    groups = rng.permutation(np.repeat([7, 3, 11, 20, 5, 2], [1, 4, 2, 1, 3, 2]))
    gap = rng.uniform(1, 2, size=13)
    gain = 0.5 * gap + rng.normal(0, 0.4, size=(3, 13))
    found = ratio_interval(gain, gap, groups=groups)
    np.testing.assert_allclose(found[0], gain.sum(1) / gap.sum())
    sums = [(gain[:, groups == number].sum(1), gap[groups == number].sum()) for number in np.unique(groups)]
    summed = ratio_interval(np.stack([top for top, _ in sums], axis=1), np.array([bottom for _, bottom in sums]))
    known = np.isfinite(summed[1])
    assert known.any()
    assert np.isfinite(found[1]).all(), "sums without a bounded interval are held against what their sizes give"
    np.testing.assert_allclose(np.array(found)[:, known], np.array(summed)[:, known])


def test_captions_say_where_the_units_are_no_sample() -> None:
    assert scope({"whole": True}) == f" ({WHOLE})"
    assert scope({"whole": False}) == scope({}) == ""
    assert (of_all("worlds", True), of_all("worlds", False)) == ("worlds, all there are", "worlds")


def test_what_n_counts() -> None:
    assert counted(np.array([3, 1, 2]), "pairs") == "3 pairs"
    assert counted(np.array([3, 1, 3]), "pairs") == "2 (3 pairs, some of the same texts)"


def test_intervals_take_views_of_any_kind() -> None:
    values = np.arange(6.0)[::-1]
    values.flags.writeable = False
    assert mean_interval(values)[0] == 2.5
    assert ratio_interval(values[None], np.ones(6))[0] == 2.5


def test_ratio_interval_without_a_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to recover"):
        ratio_interval(np.ones(2), np.array([1.0, -1.0]))


def test_permutation_p_counts_the_observation_and_is_never_zero() -> None:
    null = np.array([0.0, 1.0, 2.0, 3.0])
    assert permutation_p(10.0, null) == 1 / 5
    assert permutation_p(3.0, null) == 2 / 5
    assert permutation_p(1.5, null) == 3 / 5
    assert permutation_p(-1.0, null) == 1
    assert permutation_p(0.1 + 0.2, np.array([0.3])) == 1  # Equal but for rounding.


@given(st.floats(-10, 10), st.lists(st.floats(-10, 10), max_size=50))
def test_permutation_p_is_a_probability(observed: float, null: list[float]) -> None:
    assert 1 / (1 + len(null)) <= permutation_p(observed, np.array(null)) <= 1


def test_permutation_p_is_valid_under_the_null() -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 20))
    p = np.array([permutation_p(row[0], row[1:]) for row in draws])
    for level in (0.05, 0.1, 0.5):
        assert abs(np.mean(p <= level) - level) < 5 * math.sqrt(level * (1 - level) / 4000)


@pytest.mark.parametrize(("observed", "null"), [(float("nan"), [0.0, 1.0]), (1.0, [0.0, float("nan")])])
def test_permutation_p_of_an_undefined_statistic_is_no_small_number(observed: float, null: list[float]) -> None:
    assert math.isnan(permutation_p(observed, np.array(null)))


def test_jaccard() -> None:
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 2 / 4
    assert jaccard({1}, {2}) == 0
    assert jaccard({1}, {1}) == 1
    assert jaccard(set(), set()) == 1


@pytest.mark.parametrize("total", [0, 1, 2, 4, 6])
def test_expected_jaccard_is_the_mean_over_all_subsets(total: int) -> None:
    for size_a, size_b in itertools.product(range(total + 1), repeat=2):
        fixed = set(range(size_a))  # By symmetry one subset may stay where it is.
        brute = [jaccard(fixed, set(other)) for other in itertools.combinations(range(total), size_b)]
        assert expected_jaccard(total, size_a, size_b) == pytest.approx(np.mean(brute), abs=1e-9)


def test_expected_jaccard_of_the_documented_heads() -> None:
    assert expected_jaccard(16, 5, 5) == pytest.approx(0.20, abs=0.005)
    assert expected_jaccard(8, 5, 5) == pytest.approx(0.47, abs=0.005)


@pytest.mark.parametrize("sizes", [(4, 5, 1), (4, 1, 5), (4, -1, 1)])
def test_expected_jaccard_refuses(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="of 4 components"):
        expected_jaccard(*sizes)


def test_estimate_reads_with_n_and_interval() -> None:
    assert str(Estimate(0.5, 0.25, 0.75, 8, "inputs")) == "0.50 [0.25, 0.75] (n = 8 inputs)"
    assert str(Estimate(0.5, float("nan"), float("nan"), 1, "seeds")) == "0.50 (n = 1 seed)"


@pytest.mark.parametrize(("groups", "evenness", "rows"), [(36, 0.3, 600), (36, 3.0, 600), (10, 0.3, 600)])
def test_clustered_intervals_cover_where_groups_differ_in_size(groups: int, evenness: float, rows: int) -> None:
    """Groups differ in how hard they are, too; what an interval over rows would claim covers far less."""
    rng, covered, naive = np.random.default_rng(4), [], []
    for _ in range(600):
        group = rng.choice(groups, size=rows, p=rng.dirichlet(np.full(groups, evenness)))
        values = rng.random(rows) < rng.beta(4, 2, size=groups)[group]
        found = clustered_mean(values, group, "groups")
        covered.append(found.low <= 4 / 6 <= found.high)
        naive.append(abs(found.value - 4 / 6) <= 1.96 * np.sqrt(found.value * (1 - found.value) / rows))
    assert 0.90 <= np.mean(covered) <= 0.98
    assert np.mean(naive) < 0.7


@pytest.mark.parametrize(("groups", "size", "share"), [(16, 4, 0.95), (36, 4, 0.9), (16, 30, 0.8), (8, 4, 0.5)])
def test_clustered_shares_cover(groups: int, size: int, share: float) -> None:
    """Groups differ in how hard they are; Student's interval, of the same rows without bounds, covers less."""
    rng, group = np.random.default_rng(5), np.repeat(np.arange(groups), size)
    exact, student = [], []
    for _ in range(1500):
        hard = rng.beta(20 * share, 20 * (1 - share), groups)
        right = rng.random(len(group)) < hard[group]
        found, plain = clustered_mean(right, group, "groups", (0.0, 1.0)), clustered_mean(right, group, "groups")
        exact.append(found.low <= share <= found.high)
        student.append(plain.low <= share <= plain.high)
    assert 0.94 <= np.mean(exact) <= 0.995, np.mean(exact)
    assert np.mean(student) <= np.mean(exact)
    if share > 0.8:
        assert np.mean(student) < 0.93


def test_clustered_shares_of_single_rows_are_exact() -> None:
    """Each row a group of its own: Clopper and Pearson's interval, at fewer rows by the ratio of z to t squared."""
    right = np.arange(40) < 31
    found = clustered_mean(right, np.arange(40), "inputs", (0.0, 1.0))
    rows = 39 * (scipy.stats.norm.ppf(0.975) / scipy.stats.t.ppf(0.975, 39)) ** 2
    k = found.value * rows
    assert found.low == pytest.approx(scipy.stats.beta.ppf(0.025, k, rows - k + 1))
    assert found.high == pytest.approx(scipy.stats.beta.ppf(0.975, k + 1, rows - k))
    whole = scipy.stats.binomtest(31, 40).proportion_ci()
    assert found.low < whole.low
    assert found.high > whole.high
    assert exact_share(31 / 40, 40.0) == pytest.approx((whole.low, whole.high))
    assert (exact_share(0.0, 7.5)[0], exact_share(1.0, 7.5)[1]) == (0.0, 1.0)
    minus = clustered_mean(np.where(right, 1.0, -1.0), np.arange(40), "inputs", (-1.0, 1.0))
    assert (minus.low, minus.high) == pytest.approx((2 * found.low - 1, 2 * found.high - 1))


@pytest.mark.parametrize("large", [3, 5])
def test_ratios_cover_where_a_few_units_hold_most_pairs(large: int) -> None:
    """Units as of pairs drawn from a graph of texts: a few hold most of the pairs, dozens hold one. Sums over units of
    such sizes left most ratios without an interval."""
    size = np.array([300] * large + [1] * 60)
    groups, rng, covered, given = np.repeat(np.arange(len(size)), size), np.random.default_rng(0), [], 0
    assert lopsided(effective_number(groups), len(size))
    for _ in range(400):
        gap = rng.gamma(2, 1, len(groups)) + rng.gamma(20, 0.1, len(size))[groups]
        moved = gap * (0.25 + rng.normal(0, 0.1, len(size))[groups]) + rng.normal(0, 1, len(groups))
        _, low, high = ratio_interval(moved, gap, groups=groups)
        if np.isfinite(low):
            covered.append(low <= 0.25 <= high)
            given += 1
    assert given > 390
    assert 0.92 <= np.mean(covered) <= 0.985, np.mean(covered)


def test_units_are_lopsided_if_worth_fewer_than_half_as_many() -> None:
    """Of n units of which one holds k rows and the others one each, the worth is (n - 1 + k)^2 / (n - 1 + k^2)."""
    for k, expected in ((6, False), (7, True)):  # 6.1 and 5.4 of 12, half being 6
        groups = np.repeat(np.arange(12), [k, *[1] * 11])
        worth = (11 + k) ** 2 / (11 + k * k)
        assert effective_number(groups) == pytest.approx(worth)
        assert lopsided(worth, 12) is expected is (worth < 6)
    assert not lopsided(6.0, 12)


def test_skewed_ratios_of_unequal_units_have_an_interval_that_covers() -> None:
    """Of few units that carry all, the sums have no bounded interval: these are held against what their sizes give."""
    rng, covered, unbounded = np.random.default_rng(1), [], 0
    for _ in range(500):
        groups = np.repeat(np.arange(12), rng.integers(1, 8, 12))
        gap = rng.normal(19.8, 2.4, len(groups))
        own = np.where(rng.random(12) < 0.15, rng.uniform(8, 16, 12), rng.uniform(-0.6, 2, 12))
        moved = own[groups] + rng.normal(0, 1, len(groups))
        _, low, high = ratio_interval(moved, gap, groups=groups)
        assert low < high, "every one has an interval"
        sums = by_group(moved, groups), by_group(gap, groups)
        if np.isnan(ratio_interval(*sums)[1]):
            unbounded += 1
            covered.append(low <= (0.15 * 12 + 0.85 * 0.7) / 19.8 <= high)
    assert unbounded > 100
    assert np.mean(covered) > 0.95


def test_lopsided_units_over_ones_are_a_clustered_mean() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), [200, 150, *[1] * 28])
    values = rng.normal(2, 1, len(groups)) + rng.normal(0, 1, 30)[groups]
    found, by = ratio_interval(values, np.ones(len(values)), groups=groups), clustered_mean(values, groups, "units")
    assert np.array(found) == pytest.approx([by.value, by.low, by.high])


def test_a_ratio_without_an_interval_says_why() -> None:
    one, rng = np.repeat(np.arange(11), [500, *[1] * 10]), np.random.default_rng(2)
    gap = 1 + rng.random(len(one))
    low = ratio_interval(gap * rng.random(len(one)), gap, groups=one)[1]
    assert np.isnan(low)
    assert no_interval(low[None], one, gap) == "; none for 1 of 1: one of the 11 units holds most of the pairs"
    apart, nan = np.arange(20), np.array([np.nan, 0.2])
    assert no_interval(np.array([0.1, 0.2]), apart, gap[:20]) == ""
    assert (
        no_interval(nan, apart, gap[:20])
        == "; none for 1 of 2: all units give the same share, or shares too skewed to have a bounded one"
    )
    assert "cannot be told from 0" in no_interval(nan, apart, rng.normal(0, 1, 20))
    assert "4 independent units are too few, 5 are needed" in no_interval(nan, apart[:4], gap[:4])


def test_a_count_of_lopsided_units_says_what_they_are_worth() -> None:
    assert counted(np.repeat(np.arange(8), 2), "pairs") == "8 (16 pairs, some of the same texts)"
    groups = np.repeat(np.arange(34), [100, 100, *[1] * 32])
    worth = "worth 2.7 units of equal size"
    assert counted(groups, "pairs") == f"34 (232 pairs, some of the same texts, {worth})"


def test_clustered_means_of_equal_groups_are_students_of_their_means() -> None:
    rng = np.random.default_rng(0)
    values, group = rng.normal(size=60), np.repeat(np.arange(12), 5)
    found = clustered_mean(values, group, "groups")
    means = values.reshape(12, 5).mean(1)
    low, high = scipy.stats.t.interval(0.95, 11, loc=means.mean(), scale=scipy.stats.sem(means))
    assert (found.value, found.low, found.high, found.n) == (*map(pytest.approx, (means.mean(), low, high)), 12)
    alike = clustered_mean(np.ones(60), group, "groups", (0.0, 1.0))
    assert (alike.value, alike.high) == (1.0, 1.0)
    assert alike.low == pytest.approx(0.025 ** (1 / 12))
    assert np.isnan(clustered_mean(np.full(60, 0.3), group, "groups").low)
    assert np.isnan(clustered_mean(values, np.zeros(60), "groups").low)
    with pytest.raises(ValueError, match="no groups"):
        clustered_mean(np.zeros(0), np.zeros(0), "groups")


def _null_rejections(simulations: int, resamples: int, seed: int) -> float:
    """Share of p <= .05 among clustered data without a difference."""
    rng, rejected = np.random.default_rng(seed), 0
    groups = np.repeat(np.arange(20), rng.integers(1, 9, 20))
    for _ in range(simulations):
        values = rng.standard_t(3, 20)[groups] + rng.normal(size=len(groups))
        rejected += chance.sign_flip(values, groups, resamples=resamples, seed=int(rng.integers(2**31))) <= 0.05
    return rejected / simulations


def test_sign_flips_by_unit_keep_their_level_where_flips_by_pair_do_not() -> None:
    assert 0.03 < _null_rejections(800, 199, 0) < 0.07
    rng, alone = np.random.default_rng(1), 0
    groups = np.repeat(np.arange(10), 20)
    for _ in range(100):
        alone += chance.sign_flip(rng.normal(size=10)[groups], None, resamples=199) <= 0.05
    assert alone > 50


@pytest.mark.slow
def test_sign_flips_are_calibrated() -> None:
    assert _null_rejections(4000, 999, 2) == pytest.approx(0.05, abs=0.01)


def test_sign_flips_agree_with_all_of_them() -> None:
    units = np.random.default_rng(0).normal(0.5, 1, 9)
    every = np.array([[1 - 2 * (k >> i & 1) for i in range(9)] for k in range(512)]) @ units
    exact = np.mean(np.abs(every) >= abs(units.sum()) - 1e-12)
    assert chance.sign_flip(units) == pytest.approx(exact, abs=0.015)
    assert chance.sign_flip(np.zeros(5)) == 1
    assert chance.sign_flip(np.ones(30)) == pytest.approx(1e-4)
    with pytest.raises(ValueError, match="one finite difference"):
        chance.sign_flip(np.array([]))
    with pytest.raises(ValueError, match="groups of"):
        chance.sign_flip(np.ones(3), np.ones(2))


def test_holm_as_statsmodels_documents_it() -> None:
    assert chance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert chance.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert chance.holm([]) == []


def test_what_differs_by_rounding_alone_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    noisy = (3.2 + 1e-7 * rng.normal(size=16)).astype(np.float32)
    gap = (10 + 1e-6 * rng.normal(size=16)).astype(np.float32)
    assert np.isnan(mean_interval(noisy)[1])
    assert np.isnan(ratio_interval(noisy[None], gap)[1]).all()
    steep = (3.2 + 3e-4 * rng.normal(size=16)).astype(np.float32)
    assert np.isnan(ratio_interval(steep[None], gap)[1]).all()
    assert np.isfinite(ratio_interval(steep[None].astype(float), gap.astype(float))[1]).all()
    wide = (3.2 + 3e-2 * rng.normal(size=16)).astype(np.float32)
    assert np.isfinite(ratio_interval(wide[None], gap)[1]).all()
    nothing = (1e-7 * rng.normal(size=16)).astype(np.float32)
    assert np.isnan(ratio_interval(nothing[None], gap)[1]).all()


def test_a_small_true_spread_has_an_interval() -> None:
    rng = np.random.default_rng(0)
    values = 3.2 + 1e-4 * rng.normal(size=16)
    for kind in (np.float32, np.float64):
        _, low, high = mean_interval(values.astype(kind))
        assert 0 < high - low < 1e-3
    _, low, high = mean_interval(3.2 + 1e-7 * rng.normal(size=16))
    assert 0 < high - low < 1e-6, "float64 holds it"


def test_bounds_clip_an_interval() -> None:
    values = np.array([0.0, 1, 1, 1, 1, 1, 1, 1])
    assert mean_interval(values)[2] > 1
    assert mean_interval(values, bounds=(0.0, 1.0))[2] == 1
    assert np.isnan(mean_interval(np.ones(8), bounds=(0.0, 1.0))[2])
