"""Means that can be told from 0 among many, for sentences that must not make a finding of the largest of many."""

import numpy as np
from scipy import stats

from interp_kit.core.stats.chance import holm
from interp_kit.core.stats.intervals import Estimate, mean_interval

LEVEL = 0.05
ROUNDING = 1e-4  # a mean below it is the arithmetic's, not the model's
CHANCE = "cannot be told from chance"
HALF = 0.5  # share of what there is, from which on a sentence says that a thing is so; below, that a part of it is


def most(low: float | np.floating, value: float | np.floating) -> bool:
    """True if a share is surely more than HALF: the lower end of its interval is, or the share itself if it has no
    interval."""
    return bool((value if np.isnan(low) else low) > HALF)


def told(values: np.ndarray) -> np.ndarray:
    """Say of each of several means whether it can be told from 0, the number of means allowed for.

    Student's t over the units, two-sided, corrected by Holm (1979) at the 5 % level. Values that all agree have no
    spread to test by: they count if they are not 0.

    Args:
        values: (mean, unit).

    Returns:
        (mean,) True if it can be told from 0; never for one below ROUNDING in size, nor for fewer than two units.
    """
    values = np.asarray(values, dtype=float)
    mean = values.mean(1)
    if values.shape[1] < 2:
        return np.zeros(len(values), dtype=bool)
    error = values.std(1, ddof=1) / np.sqrt(values.shape[1])
    constant = error <= 1e-9 * np.maximum(np.abs(mean), ROUNDING)
    p = 2 * stats.t.sf(np.abs(mean) / np.where(constant, np.inf, error), values.shape[1] - 1)
    p = np.where(constant, np.where(np.abs(mean) > ROUNDING, 0.0, 1.0), p)
    return (np.array(holm(p.tolist())) < LEVEL) & (np.abs(mean) > ROUNDING)


def mean_of(values: np.ndarray, unit: str, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """The mean of (unit,) values with its interval, clipped to the least and largest mean that there can be."""
    value, low, high = (float(part) for part in mean_interval(values, bounds=bounds))
    return Estimate(value, low, high, len(values), unit)


def out_of(n: int, of: int, what: str) -> str:
    """`3 of 20 components`, `none of 20 components`."""
    return f"{n or 'none'} of {of} {what}"
