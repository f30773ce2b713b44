"""Intervals against closed forms and simulation, nulls against enumeration."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from interp_kit.core.stats import (
    Estimate,
    bootstrap_indices,
    bootstrap_mean,
    bootstrap_ratio,
    counted,
    expected_jaccard,
    jaccard,
    permutation_p,
    t_interval,
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


def test_t_interval_is_the_textbook_one() -> None:
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * math.sqrt(2.5 / 5)  # t(0.975; 4) from a printed table
    assert found.value == 3
    assert found.low == pytest.approx(3 - half, abs=1e-6)
    assert found.high == pytest.approx(3 + half, abs=1e-6)
    assert (found.n, found.unit) == (5, "seeds")


@pytest.mark.parametrize("n", [2, 5, 12])
def test_t_interval_covers_the_mean_in_95_of_100_samples(n: int) -> None:
    samples = np.random.default_rng(n).normal(3.0, 2.0, size=(4000, n))
    covered = sum(found.low <= 3.0 <= found.high for found in map(t_interval, samples))
    assert abs(covered / 4000 - 0.95) < 0.0172  # Five standard deviations.


def test_t_interval_of_one_unit_is_unknown_and_of_equal_ones_has_no_width() -> None:
    single = t_interval([0.5])
    assert single.value == 0.5
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    equal = t_interval([0.5] * 4)
    assert (equal.low, equal.high, equal.n) == (0.5, 0.5, 4)


def test_t_interval_is_clipped_to_its_bounds() -> None:
    free, bound = t_interval([0.9, 1.0, 1.0]), t_interval([0.9, 1.0, 1.0], bounds=(0.0, 1.0))
    assert free.high > 1
    assert (bound.low, bound.high) == (free.low, 1)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]], [float("inf")]])
def test_t_interval_refuses(values: list) -> None:
    with pytest.raises(ValueError, match="finite value"):
        t_interval(np.array(values))


def test_bootstrap_indices_are_draws_with_replacement() -> None:
    found = bootstrap_indices(6, 5000, 3)
    assert found.shape == (5000, 6)
    assert np.array_equal(found, bootstrap_indices(6, 5000, 3))
    assert not np.array_equal(found, bootstrap_indices(6, 5000, 4))
    counts = np.bincount(found.ravel(), minlength=6)
    assert len(counts) == 6
    assert np.abs(counts / 30000 - 1 / 6).max() < 0.011
    assert any(len(set(row)) < 6 for row in found.tolist())


def test_bootstrap_mean_is_the_normal_interval_of_many_units() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, size=(3, 400))
    mean, low, high = bootstrap_mean(values)
    np.testing.assert_allclose(mean, values.mean(-1))
    half = Z * values.std(-1, ddof=1) / 20
    np.testing.assert_allclose(high - mean, half, rtol=0.12)
    np.testing.assert_allclose(mean - low, half, rtol=0.12)


def test_bootstrap_mean_resamples_the_columns_together() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 10))
    mean, low, high = bootstrap_mean(values, resamples=200, seed=5)
    assert mean.shape == low.shape == high.shape == (2, 3)
    alone = bootstrap_mean(values[1, 2], resamples=200, seed=5)
    np.testing.assert_allclose([mean[1, 2], low[1, 2], high[1, 2]], alone)


def test_bootstrap_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no seeds to average"):
        bootstrap_mean(np.zeros((3, 0)), unit="seeds")


def test_bootstrap_ratio_of_proportional_pairs_is_exact() -> None:
    gap = np.random.default_rng(0).uniform(0.1, 2.0, size=20)
    ratio, low, high = bootstrap_ratio(np.stack([0.25 * gap, -gap]), gap)
    for found in (ratio, low, high):
        np.testing.assert_allclose(found, [0.25, -1.0])


def test_bootstrap_ratio_is_a_ratio_of_means() -> None:
    numerator, gap = np.array([0.5, 0.5, 0.5]), np.array([1e-6, 1.0, 1.0])
    ratio, low, high = bootstrap_ratio(numerator, gap)
    assert ratio == pytest.approx(0.75, abs=1e-5)  # The mean of the ratios is 166,667.
    assert low <= ratio <= high


def test_bootstrap_ratio_covers_the_true_ratio() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(400):
        gap = rng.normal(3.0, 1.0, size=60)
        _, low, high = bootstrap_ratio(0.4 * gap + rng.normal(0, 0.5, size=60), gap, resamples=400)
        covered += bool(low <= 0.4 <= high)
    assert 0.88 < covered / 400 <= 0.99


def test_pairs_of_one_unit_are_drawn_together() -> None:
    """Each pair twice over says no more than once, in whatever order."""
    rng = np.random.default_rng(3)
    gap = rng.uniform(1, 2, size=12)
    gain = 0.4 * gap + rng.normal(0, 0.3, size=(5, 12))
    once = bootstrap_ratio(gain, gap)
    order = rng.permutation(24)
    doubled = bootstrap_ratio(
        np.tile(gain, 2)[:, order], np.tile(gap, 2)[order], groups=np.tile(np.arange(12), 2)[order]
    )
    for a, b in zip(once, doubled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    alone = bootstrap_ratio(gain, gap, groups=np.arange(12))
    np.testing.assert_allclose(alone, once)
    pretended = bootstrap_ratio(np.tile(gain, 2), np.tile(gap, 2))
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
    value, low, high = bootstrap_ratio(np.array([[1.0, 2.0]]), np.array([2.0, 2.0]), groups=np.zeros(2))
    assert value.tolist() == [0.75]
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_units_of_unequal_size_are_drawn_whole() -> None:
    """Against every possible draw of five units, whose numbers have gaps and stand in no order."""
    rng = np.random.default_rng(4)
    groups = rng.permutation(np.repeat([7, 3, 11, 20, 5], [1, 4, 2, 1, 3]))
    gap = rng.uniform(1, 2, size=11)
    gain = 0.5 * gap + rng.normal(0, 0.4, size=(3, 11))
    value, low, high = bootstrap_ratio(gain, gap, groups=groups)
    np.testing.assert_allclose(value, gain.sum(1) / gap.sum())
    units = [np.flatnonzero(groups == number) for number in np.unique(groups)]
    draws = [np.concatenate([units[i] for i in draw]) for draw in itertools.product(range(5), repeat=5)]
    ratios = np.stack([gain[:, draw].sum(1) / gap[draw].sum() for draw in draws], axis=-1)
    ends = np.percentile(ratios, [2.5, 97.5], axis=-1)
    assert np.abs(np.stack([low, high]) - ends).max() < 0.1 * (ends[1] - ends[0]).min()


def test_the_interval_of_two_units_goes_from_one_to_the_other() -> None:
    gain, gap = np.array([[1.0, 2.0, 1.0, 0.0]]), np.array([2.0, 2.0, 4.0, 1.0])
    value, low, high = bootstrap_ratio(gain, gap, groups=np.array([5, 5, 9, 9]))
    assert (value[0], low[0], high[0]) == pytest.approx((4 / 9, 1 / 5, 3 / 4))


def test_what_n_counts() -> None:
    assert counted(np.array([3, 1, 2]), "pairs") == "3 pairs"
    assert counted(np.array([3, 1, 3]), "pairs") == "2 (3 pairs, some of the same texts)"


def test_bootstraps_take_views_of_any_kind() -> None:
    values = np.arange(6.0)[::-1]
    values.flags.writeable = False
    assert bootstrap_mean(values)[0] == 2.5
    assert bootstrap_ratio(values[None], np.ones(6))[0] == 2.5


def test_bootstrap_ratio_without_a_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to recover"):
        bootstrap_ratio(np.ones(2), np.array([1.0, -1.0]))


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
    assert str(Estimate(0.5, float("nan"), float("nan"), 1, "seeds")) == "0.50 (n = 1 seeds)"
