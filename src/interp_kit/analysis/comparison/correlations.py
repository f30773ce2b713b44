"""Correlations between the units of two networks over the same tokens, matched on some texts and measured on others,
and similarity of their representations (debiased CKA), with jackknife intervals over blocks of texts."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.optimize import linear_sum_assignment

SPREAD = 1e-6  # of the largest standard deviation, below which a unit is constant


def correlations(
    a: Float[np.ndarray, "token unit"], b: Float[np.ndarray, "token other"]
) -> Float[np.ndarray, "unit other"]:
    """Every correlation, nan of constant units."""
    a, b = ((part - part.mean(0)).astype(np.float64) for part in (a, b))
    return _correlation(a.T @ b / len(a), (a * a).mean(0)[:, None], (b * b).mean(0)[None])


def matched(
    a: Float[np.ndarray, "token unit"],
    b: Float[np.ndarray, "token other"],
    match: Int[np.ndarray, " unit"],
    block: Int[np.ndarray, " token"],
) -> Float[np.ndarray, "left unit"]:
    """The correlation of each unit with its match: over all tokens, then without each block of them in turn; nan of
    constant units, and where the match is -1."""
    own, other, sums = a.astype(np.float64), b[:, np.maximum(match, 0)].astype(np.float64), []
    for part in (np.ones_like(own), own, other, own**2, other**2, own * other):
        each = np.stack([part[block == k].sum(0) for k in range(block.max() + 1)])
        sums.append(np.concatenate([each.sum(0)[None], each.sum(0) - each]))
    n, x, y, xx, yy, xy = sums
    found = _correlation(xy / n - x * y / n**2, xx / n - (x / n) ** 2, yy / n - (y / n) ** 2)
    return np.where(match >= 0, found, np.nan)


def _correlation(covariance: np.ndarray, of_a: np.ndarray, of_b: np.ndarray) -> np.ndarray:
    floors = [SPREAD**2 * np.nanmax(np.maximum(v, 0), initial=0.0) for v in (of_a, of_b)]
    known = (of_a > floors[0]) & (of_b > floors[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, covariance / np.sqrt(np.where(known, of_a * of_b, 1.0)), np.nan)


def best_match(correlation: Float[np.ndarray, "unit other"]) -> Int[np.ndarray, " unit"]:
    """For each unit the other with the largest correlation, -1 for a constant unit."""
    known = np.where(np.isfinite(correlation), correlation, -np.inf)
    return np.where(np.isfinite(known.max(1)), known.argmax(1), -1)


def one_to_one(correlation: Float[np.ndarray, "unit other"]) -> Int[np.ndarray, " unit"]:
    """The assignment with the largest sum of correlations (Kuhn 1955), no other unit taken twice; -1 for a unit that is
    left over or constant."""
    live, others = (np.flatnonzero(np.isfinite(correlation).any(axis)) for axis in (1, 0))
    match = np.full(len(correlation), -1)
    if len(live) and len(others):
        rows, columns = linear_sum_assignment(correlation[np.ix_(live, others)], maximize=True)
        match[live[rows]] = others[columns]
    return match


def jackknife(left: np.ndarray, value: float) -> tuple[float, float]:
    """The 95 % interval of a statistic from its values without each unit in turn (Tukey 1958), by Student's t; nan for
    fewer than four."""
    n = len(left)
    if n < 4 or not np.isfinite(left).all():
        return float("nan"), float("nan")
    spread = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum())
    reach = float(stats.t.ppf(0.975, n - 1) * spread)
    return value - reach, value + reach


def without_each(
    models: int, pairs: Sequence[tuple[int, int]], statistic: Callable[[Sequence[int]], float]
) -> np.ndarray:
    """A statistic of pairs of models, without each model in turn. statistic: takes numbers of pairs."""
    return np.array([statistic([k for k, pair in enumerate(pairs) if m not in pair]) for m in range(models)])


def gram(values: Float[np.ndarray, "token unit"]) -> Float[np.ndarray, "token token"]:
    """Inner products of all tokens, the diagonal zero, as the unbiased estimators take them."""
    made = values.astype(np.float64) @ values.astype(np.float64).T
    np.fill_diagonal(made, 0.0)
    return made


def debiased_cka(a: Float[np.ndarray, "token token"], b: Float[np.ndarray, "token token"]) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019) from two Gram matrices of `gram`, by the unbiased
    estimator of HSIC (Song et al. 2012), so that it is 0 on average for unrelated representations however wide they
    are."""
    return _hsic(a, b) / float(np.sqrt(max(_hsic(a, a), 0.0) * max(_hsic(b, b), 0.0)) or np.nan)


def _hsic(a: np.ndarray, b: np.ndarray) -> float:
    n, left, right = len(a), a.sum(1), b.sum(1)
    cross = (a * b).sum() + left.sum() * right.sum() / ((n - 1) * (n - 2)) - 2 * left @ right / (n - 2)
    return float(cross / (n * (n - 3)))
