"""Intervals, nulls and permutation tests. n is always the number of independent units, and `unit` says which."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special, stats


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    value: the point estimate; low, high: ends of the interval (nan where n is too small to give one); n: independent
    units; unit: what they are ("inputs", "seeds", "omission sets").
    """

    value: float
    low: float
    high: float
    n: int
    unit: str

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.2f} (n = {self.n} {self.unit})"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] (n = {self.n} {self.unit})"


def wilson(successes: int, n: int, unit: str = "inputs") -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927). Raises ValueError for n = 0."""
    if n < 1:
        raise ValueError("a proportion of no units has no value")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    return wilson_share(successes / n, int(n), unit)


def wilson_share(share: float | np.floating, n: int, unit: str = "inputs") -> Estimate:
    """A mean share of n independent units, each of which may itself be a share, with Wilson's score interval: as wide
    as where every unit were 0 or 1, so wide enough. Raises ValueError for n = 0."""
    if n < 1:
        raise ValueError("a share of no units has no value")
    z = float(stats.norm.ppf(0.975))
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return Estimate(float(share), float(low) if share > 0 else 0.0, float(high) if share < 1 else 1.0, n, unit)


def t_interval(
    values: Sequence[float] | np.ndarray, unit: str = "seeds", bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """The mean with Student's t interval over independent units (training seeds, omission sets), clipped to `bounds`.

    With one unit the interval is nan. With n equal values it has width zero: the spread is then unknown, not zero,
    so read it beside n.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"a mean needs at least one finite value a unit, got {values!r}")
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(mean, float("nan"), float("nan"), 1, unit)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n, unit)


def bootstrap_indices(n: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, n) indices drawn with replacement."""
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def _bootstrap_weights(n: int, resamples: int, seed: int) -> np.ndarray:
    """(n, resamples) how often each unit is drawn in each resample, as a share."""
    index = bootstrap_indices(n, resamples, seed) + np.arange(resamples)[:, None] * n
    return np.bincount(index.ravel(), minlength=n * resamples).reshape(resamples, n).T / n


def _product(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """values @ weights, on torch's threads: numpy's own wait for one another, many milliseconds beside other work."""
    own = np.require(values, requirements=["C", "W"])
    return (torch.from_numpy(own) @ torch.from_numpy(weights)).numpy()


def counted(groups: np.ndarray, unit: str) -> str:
    """What n is, for a caption: "16 pairs", or "8 (16 pairs, some of the same texts)"."""
    n = len(np.unique(groups))
    return f"{n} {unit}" if n == len(groups) else f"{n} ({len(groups)} {unit}, some of the same texts)"


def _by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(..., group) sums of (..., n) over the members of each group."""
    _, at = np.unique(groups, return_inverse=True)
    return _product(values, np.eye(int(at.max()) + 1)[at])


def bootstrap_mean(
    values: np.ndarray, unit: str = "inputs", resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the last axis and its percentile bootstrap interval (Efron 1979).

    values: (..., n), one column an independent unit; the columns are resampled together. Returns mean, low, high,
    each of shape (...). Raises ValueError where there is no unit.
    """
    values = np.asarray(values, dtype=float)
    n = values.shape[-1]
    if n == 0:
        raise ValueError(f"no {unit} to average over")
    weights = _bootstrap_weights(n, resamples, seed)
    means = _product(values, weights)
    low, high = np.percentile(means, [2.5, 97.5], axis=-1)
    return np.asarray(values.mean(-1)), np.asarray(low), np.asarray(high)


def bootstrap_ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    resamples: int = 2000,
    seed: int = 0,
    *,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratio of means with a percentile bootstrap interval over pairs.

    numerator: (..., n); denominator: (n,). A ratio of means, not a mean of ratios: one pair with a small gap must not
    decide the figure. groups: (n,) which independent unit each pair belongs to, where several belong to one: whole
    units are resampled (Davison & Hinkley 1997, 3.8), and the interval is nan where there is only one. Raises
    ValueError where the mean denominator is zero.
    """
    numerator, denominator = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    if groups is not None and len(np.unique(groups)) < len(groups):
        numerator, denominator = _by_group(numerator, groups), _by_group(denominator, groups)
    total = denominator.mean()
    if total == 0:
        raise ValueError("the mean denominator is zero: there is nothing to recover")
    n = len(denominator)
    if n == 1 and groups is not None:
        nothing = np.full(numerator.shape[:-1], np.nan)
        return np.asarray(numerator[..., 0] / total), nothing, nothing.copy()
    weights = _bootstrap_weights(n, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = _product(numerator, weights) / _product(denominator, weights)
    percentile = np.nanpercentile if np.isnan(ratios).any() else np.percentile  # the first is many times slower
    low, high = percentile(ratios, [2.5, 97.5], axis=-1)
    return np.asarray(numerator.mean(-1) / total), np.asarray(low), np.asarray(high)


def permutation_p(observed: float, null: np.ndarray) -> float:
    """One-sided p: the share of the null at least as large as what was observed, the observation counted in
    (Phipson & Smyth 2010: a permutation p is never zero); nan where the statistic is undefined."""
    null = np.asarray(null, dtype=float)
    if np.isnan(observed) or np.isnan(null).any():
        return float("nan")
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + len(null)))


def jaccard(a: set, b: set) -> float:
    """|a & b| / |a | b| (Jaccard 1912); 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


def expected_jaccard(total: int, size_a: int, size_b: int) -> float:
    """Mean Jaccard index of two independent uniform subsets of `size_a` and `size_b` of `total` components, exactly
    (their overlap is hypergeometric)."""
    if not 0 <= size_a <= total or not 0 <= size_b <= total:
        raise ValueError(f"subsets of {size_a} and {size_b} of {total} components")
    if size_a + size_b == 0:
        return 1.0
    overlap = np.arange(max(0, size_a + size_b - total), min(size_a, size_b) + 1)
    log_p = _log_choose(size_a, overlap) + _log_choose(total - size_a, size_b - overlap) - _log_choose(total, size_b)
    return float(np.sum(np.exp(log_p) * overlap / (size_a + size_b - overlap)))


def _log_choose(n: int, k: np.ndarray | int) -> np.ndarray:
    k = np.asarray(k, dtype=float)
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))
