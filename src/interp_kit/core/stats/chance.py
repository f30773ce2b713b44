"""Levels of chance: p-values by permutation and sign flips, and the overlap of random sets."""

from collections.abc import Sequence

import numpy as np
from scipy import special

from interp_kit.core.stats.intervals import by_group


def permutation_p(observed: float, null: np.ndarray) -> float:
    """One-sided p: the share of the null at least as large as what was observed, the observation counted in
    (Phipson & Smyth 2010: a permutation p is never zero); nan where the statistic is undefined."""
    null = np.asarray(null, dtype=float)
    if np.isnan(observed) or np.isnan(null).any():
        return float("nan")
    return float((1 + np.sum(null >= observed - 1e-12)) / (1 + len(null)))


RESAMPLES = 9999


def sign_flip(
    differences: np.ndarray, groups: np.ndarray | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Two-sided p of paired differences by random changes of sign: under the null, the sum over an independent unit is
    as likely as its opposite.

    Args:
        differences: (n,) of pairs.
        groups: (n,) which independent unit each pair belongs to; its pairs change sign together. None: each to its own.
        resamples: Number of random changes; p is at least 1 / (resamples + 1).
        seed: Of them.

    Returns:
        p, 1 if all units are 0.

    Raises:
        ValueError: for no pair, values that are not finite, and groups of another length.
    """
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 1 or not len(differences) or not np.isfinite(differences).all():
        raise ValueError(f"the test needs one finite difference or more, got {differences!r}")
    if groups is not None and len(groups) != len(differences):
        raise ValueError(f"there are {len(groups)} groups of {len(differences)} differences: expected one each")
    units = differences if groups is None else by_group(differences, np.asarray(groups))
    rng, null = np.random.default_rng(seed), []
    for at in range(0, resamples, 1000):
        signs = rng.integers(2, size=(min(1000, resamples - at), len(units))) * 2 - 1
        null.append(np.abs(signs @ units))
    scale = float(np.abs(units).sum()) or 1.0
    return permutation_p(float(abs(units.sum())) / scale, np.concatenate(null) / scale)


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the same order. A nan is left out of the count."""
    values = np.asarray(p, dtype=float)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    corrected, largest = values.copy(), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[i]))
        corrected[i] = largest
    return corrected.tolist()


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
