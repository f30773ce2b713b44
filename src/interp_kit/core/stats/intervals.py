"""Intervals, nulls and permutation tests. n is always the number of independent units, and `unit` says which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from interp_kit.core.showing import numbered

FEWEST = 4  # units from which the interval of a mean covers: docs/coverage.md
FEWEST_OF_RATIO = 5
FEWEST_EFFECTIVE = 2  # units of equal size that lopsided ones are worth
EXACT = 1e-12  # relative to the largest value: a spread below it is rounding in float64
ROUNDING = 8  # the same in coarser precision, in its epsilons
SHARE = 1e-4  # the same of a ratio in coarser precision: a network enlarges rounding before it is read
WHOLE = "all there are: values are exact for them, intervals speak of a larger population like them"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    value: the point estimate; low, high: ends of the interval (nan where n is too small for one, or the units do not
    differ); n: independent units; unit: what they are ("inputs", "seeds", "omission sets").
    """

    value: float
    low: float
    high: float
    n: int
    unit: str

    def __str__(self) -> str:
        return f"{self.short()} (n = {numbered(self.n, self.unit)})"

    def short(self) -> str:
        """Value and interval, or the value alone if there is no interval."""
        return f"{self.value:z.2f}" + ("" if np.isnan(self.low) else f" [{self.low:z.2f}, {self.high:z.2f}]")


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


def exact_share(share: float, n: float) -> tuple[float, float]:
    """The exact 95 % interval of a proportion (Clopper & Pearson 1934); n, independent units, may be a fraction."""
    k = share * n
    low = float(special.betaincinv(k, n - k + 1, 0.025)) if k > 0 else 0.0
    return low, float(special.betaincinv(k + 1, n - k, 0.975)) if k < n else 1.0


def mean_interval(
    values: np.ndarray, unit: str = "inputs", bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the last axis with a 95 % interval that allows for skew.

    Each end is the wider of Student's t and of Hall's (1992) cubic transformation of t, which removes skewness. It
    covers 0.93 to 0.97 for normal and exponential units from n = 4 to 64, and more for units of two values
    (docs/coverage.md). Nothing is drawn, so no seed moves it.

    Args:
        values: (..., n), one column per independent unit.
        unit: what the units are, for the error.
        bounds: least and largest value that the mean can have, to which the interval is clipped.

    Returns:
        mean, low, high: (...). low and high are nan for n < FEWEST, and where all units have one value, up to rounding
        in the precision of `values`: their spread is then unknown, not zero.

    Raises:
        ValueError: if there is no unit.
    """
    rounding = _rounding(values)
    values = np.ascontiguousarray(values, dtype=float)  # sums depend on the order in memory
    if values.shape[-1] == 0:
        raise ValueError(f"no {unit} to average over")
    mean = np.asarray(values.mean(-1))
    if values.shape[-1] < FEWEST:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    below, above, spread = _reach(values - mean[..., None], np.asarray(rounding * np.abs(values).max(-1)))
    low, high = (np.asarray(np.clip(mean - reach * spread, *bounds)) for reach in (above, below))
    return mean, low, high


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, *, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratio of means with a 95 % interval over pairs: Fieller's (1954), its critical values as in `mean_interval`.

    A ratio of means, not a mean of ratios: one pair with a small gap must not decide the figure.

    Args:
        numerator: (..., n).
        denominator: (n,).
        groups: (n,) which independent unit each pair belongs to. Pairs of one unit are summed first. Where a few units
            hold most pairs (`lopsided`), each unit's sum is compared with what its size gives, and Student's t has the
            effective number of units, less one, as degrees of freedom, as in `clustered_mean`. So it is, with the wider
            of both critical values, where sums of other unequal units have no bounded interval.

    Returns:
        ratio, low, high: (...). low and high are nan for fewer than FEWEST_OF_RATIO units, for an effective number of
        lopsided ones below FEWEST_EFFECTIVE, where numerator and denominator are proportional over units, up to
        rounding in their precision (the spread is then unknown), and where the mean denominator is not distinguishable
        from zero (every ratio would be possible). `why_none` says which.

    Raises:
        ValueError: if the mean denominator is zero.
    """
    exact = max(_rounding(numerator), _rounding(denominator)) == EXACT
    numerator, denominator = (np.ascontiguousarray(part, dtype=float) for part in (numerator, denominator))
    effective = size = None
    if groups is not None and len(np.unique(groups)) < len(groups):
        size, effective = by_group(np.ones(len(groups)), groups), effective_number(groups)
        numerator, denominator = by_group(numerator, groups), by_group(denominator, groups)
    total, n = denominator.mean(), len(denominator)
    if total == 0:
        raise ValueError("the mean denominator is zero: there is nothing to recover")
    ratio = np.asarray(numerator.mean(-1) / total)
    if n < FEWEST_OF_RATIO:
        return ratio, np.full_like(ratio, np.nan), np.full_like(ratio, np.nan)
    if total < 0:
        numerator, denominator, total = -numerator, -denominator, -total
    of_ratio = np.abs(ratio) if exact else np.maximum(np.abs(ratio), 1)  # both are of one measurement
    scale = np.abs(numerator).max(-1) + of_ratio * np.abs(denominator).max()
    rounding = np.asarray((EXACT if exact else SHARE) * scale)
    below, above, spread = _reach(numerator - ratio[..., None] * denominator, rounding)
    if size is None or effective is None:
        low, high = _ratio_ends(numerator, denominator, ratio, np.ones(n), (below, above))
    else:
        student = stats.t.ppf(0.975, max(effective - 1, 1)) / np.sqrt(n - n / effective) * np.sqrt((n - 1) / n)
        if lopsided(effective, n):
            if effective < FEWEST_EFFECTIVE:
                return ratio, np.full_like(ratio, np.nan), np.full_like(ratio, np.nan)
            below, above = np.full_like(ratio, -student), np.full_like(ratio, student)
            low, high = _ratio_ends(numerator, denominator, ratio, size / size.mean(), (below, above))
        else:
            low, high = _ratio_ends(numerator, denominator, ratio, np.ones(n), (below, above))
            # sums of unequal units spread by their sizes alone, so that with skew some ends would lie at infinity
            wide = np.asarray(np.minimum(below, -student)), np.asarray(np.maximum(above, student))
            sized = _ratio_ends(numerator, denominator, ratio, size / size.mean(), wide)
            unbounded = ~(np.isfinite(low) & np.isfinite(high))
            low, high = (np.where(unbounded, other, end) for end, other in zip((low, high), sized, strict=True))
    known = np.isfinite(low) & np.isfinite(high) & np.isfinite(spread)
    return ratio, np.where(known, low, np.nan), np.where(known, high, np.nan)


def _ratio_ends(
    numerator: np.ndarray,
    denominator: np.ndarray,
    ratio: np.ndarray,
    part: np.ndarray,
    reach: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high (...) by Fieller, nan where there is none. part: (n,) of the mean that each unit has by its size;
    reach: below and above, in standard deviations of a unit."""
    total, n = denominator.mean(), len(denominator)
    rest, around = numerator - (total * ratio)[..., None] * part, denominator - total * part
    squares = [np.asarray((a * b).sum(-1) / (n - 1)) for a, b in ((rest, rest), (rest, around), (around, around))]
    below, above = reach
    low, high = (_fieller(np.asarray(total * ratio), float(total), squares, far) for far in (above, below))
    return low, high


def effective_number(groups: np.ndarray) -> float:
    """Number of groups of equal size that say as much as these (Kish 1965): 1 / sum of their squared shares of rows."""
    share = np.unique(groups, return_counts=True)[1] / len(groups)
    return float(1 / (share**2).sum())


def lopsided(effective: float, n: int) -> bool:
    """True if n groups are worth fewer than half as many of equal size."""
    return 2 * effective < n


def why_none(groups: np.ndarray, gap: np.ndarray) -> str:
    """Reason, in words, that a ratio of `ratio_interval` has no interval; groups, gap: (pair,) unit and denominator."""
    n, effective = len(np.unique(groups)), effective_number(groups)
    if n < FEWEST_OF_RATIO:
        few = "is" if n == 1 else "are"
        return f"{numbered(n, 'independent units')} {few} too few, {FEWEST_OF_RATIO} are needed"
    if lopsided(effective, n) and effective < FEWEST_EFFECTIVE:
        return f"one of the {n} units holds most of the pairs"
    _, low, high = (float(part) for part in ratio_interval(gap, np.ones(len(gap)), groups=groups))
    if low <= 0 <= high:
        return "the gap that it is a share of cannot be told from 0"
    return "all units give the same share, or shares too skewed to have a bounded one"


def no_interval(low: np.ndarray, groups: np.ndarray, gap: np.ndarray) -> str:
    """For a caption, after the interval: how many of the ratios have none, and why; nothing if all have one. low:
    (ratio,) lower ends, nan where there is none; groups, gap: as for `why_none`."""
    missing = int(np.isnan(low).sum())
    return f"; none for {missing} of {len(low)}: {why_none(groups, gap)}" if missing else ""


def none_where(low: np.ndarray, n: int) -> str:
    """For a caption, after the interval, where the units themselves are not at hand: why some have none; nothing if all
    have one. low: lower ends, nan where there is none; n: independent units."""
    if not np.isnan(low).any():
        return ""
    return (
        f", {FEWEST_OF_RATIO} units or more needed"
        if n < FEWEST_OF_RATIO
        else ", none where all units agree, or are too skewed"
    )


def mean_estimate(
    values: Sequence[float] | np.ndarray, unit: str = "seeds", bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """The mean over independent units (training seeds, omission sets) with `mean_interval`, clipped to `bounds`.

    Shares, whose bounds are 0 and 1, get the exact interval of a proportion where every unit is 0 or 1, or all are
    equal (Clopper & Pearson 1934; for shares between, as wide as where every unit were 0 or 1). Raises ValueError for
    no value, or one that is not finite.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"a mean needs at least one finite value a unit, got {values!r}")
    n = len(values)
    if bounds == (0.0, 1.0) and n >= FEWEST and (np.isin(values, bounds).all() or not np.ptp(values)):
        share = float(values.mean())
        return Estimate(share, *exact_share(share, float(n)), n, unit)
    mean, low, high = (float(part) for part in mean_interval(values, unit))
    return Estimate(mean, float(np.maximum(low, bounds[0])), float(np.minimum(high, bounds[1])), n, unit)


def clustered_mean(
    values: np.ndarray, groups: np.ndarray, unit: str, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """The mean over rows, with an interval over the groups that they belong to, which may differ much in size.

    The variance is that of each group's summed residual; a mean that hangs on two groups gets the interval of two,
    whatever the number of rows, as the effective number of groups (Kish 1965), less one, are the degrees of freedom.
    Shares (rows all at one of `bounds` or the other) get the exact interval of a proportion at the number of
    independent rows that this variance stands for (Korn & Graubard 1998), which covers at least 0.95 of samples in
    nearly every case simulated; other rows get Student's, which covers 0.93 to 0.96 of normal values, but too few of
    skewed ones (docs/coverage.md). Shares of 0 and 1 count as many independent rows as there are effective groups.
    Other rows without spread get no interval.

    Raises ValueError for no rows.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        raise ValueError(f"no {unit} to average over")
    _, index = np.unique(groups, return_inverse=True)
    size = np.bincount(index)
    mean, share = float(values.mean()), size / size.sum()
    effective = float(1 / (share**2).sum())
    residual = np.bincount(index, weights=values) - mean * size
    if not np.ptp(values) and mean in bounds:
        reach = (bounds[1] - bounds[0]) * (1 - 0.025 ** (1 / effective))
        low, high = (mean, mean + reach) if mean == bounds[0] else (mean - reach, mean)
        return Estimate(mean, low, high, len(size), unit)
    variance = float((residual**2).sum()) / len(values) ** 2
    if len(size) < 2 or variance < 1e-24:
        return Estimate(mean, float("nan"), float("nan"), len(size), unit)
    variance, student = variance / (1 - 1 / effective), float(stats.t.ppf(0.975, max(effective - 1, 1)))
    if np.isin(values, bounds).all():
        p, width = (mean - bounds[0]) / (bounds[1] - bounds[0]), bounds[1] - bounds[0]
        rows = p * (1 - p) * width**2 / variance * (stats.norm.ppf(0.975) / student) ** 2
        low, high = (bounds[0] + width * end for end in exact_share(p, float(min(rows, len(values)))))
    else:
        low, high = np.clip([mean - student * np.sqrt(variance), mean + student * np.sqrt(variance)], *bounds)
    return Estimate(mean, float(low), float(high), len(size), unit)


def _rounding(values: np.ndarray) -> float:
    """Relative spread that the arithmetic alone makes: measurements in float32 agree to fewer digits."""
    kind = np.asarray(values).dtype
    return max(EXACT, ROUNDING * float(np.finfo(kind).eps)) if kind.kind == "f" else EXACT


def _reach(residual: np.ndarray, rounding: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance that the mean may lie from the truth, below and above (...), in standard deviations of the units, and
    that standard deviation, nan where it is no more than `rounding`; residual: (..., n), of mean zero."""
    n = residual.shape[-1]
    spread = np.sqrt(np.asarray((residual**2).sum(-1)) / (n - 1))
    spread = np.where(spread > rounding, spread, np.nan)
    cubes = np.asarray((residual**3).sum(-1))
    skewness = cubes / spread**3 * n / ((n - 1) * (n - 2))  # as scipy.stats.skew(bias=False)
    student = float(stats.t.ppf(0.975, n - 1))
    slope = np.where(np.abs(skewness) > 1e-9, skewness, 1e-9) / 3
    hall = [
        (np.cbrt(1 + 3 * slope * (sign * student / np.sqrt(n) - skewness / (6 * n))) - 1) / slope for sign in (-1, 1)
    ]
    plain = student / np.sqrt(n)
    return np.asarray(np.minimum(hall[0], -plain)), np.asarray(np.maximum(hall[1], plain)), spread


def _fieller(top: np.ndarray, bottom: float, squares: Sequence[np.ndarray], reach: np.ndarray) -> np.ndarray:
    """The ratio r at which top - r * bottom is `reach` standard deviations of (numerator - r * denominator); nan where
    the denominator itself is less than that from zero. squares: their variances and covariance."""
    of_top, between, of_bottom = squares
    a = bottom**2 - reach**2 * of_bottom
    b = top * bottom - reach**2 * between
    c = top**2 - reach**2 * of_top
    with np.errstate(invalid="ignore", divide="ignore"):
        root = (b - np.sign(reach) * np.sqrt(np.maximum(b**2 - a * c, 0))) / a
    return np.where(a > 0, root, np.nan)


def by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(..., group) sums of (..., n) over the members of each group."""
    order = np.argsort(groups, kind="stable")
    first = np.unique(groups[order], return_index=True)[1]
    return np.add.reduceat(values[..., order], first, axis=-1)


def counted(groups: np.ndarray, unit: str) -> str:
    """Describe n for a caption: "16 pairs", or "8 (16 pairs, some of the same texts)"."""
    n, worth = len(np.unique(groups)), effective_number(groups)
    if n == len(groups):
        return numbered(n, unit)
    unequal = f", worth {worth:.1f} units of equal size" if lopsided(worth, n) else ""
    return f"{n} ({len(groups)} {unit}, some of the same texts{unequal})"


def scope(config: Mapping[str, Any]) -> str:
    """For a caption, after n: where the units are the whole population, that they are; of a sample how it was drawn, if
    the config says it."""
    said = WHOLE if config.get("whole") else config.get("sample")
    return f" ({said})" if said else ""


def of_all(unit: str, whole: bool) -> str:
    """The unit of an Estimate: "worlds", or "worlds, all there are"."""
    return f"{unit}, all there are" if whole else unit
