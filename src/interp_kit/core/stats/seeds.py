"""Means over a few training seeds."""

from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
    """Mean over seeds with Student's 95 % interval, which for three seeds is wide: t = 4.30."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def over_seeds(values: np.ndarray) -> Difference:
    """The mean of one value per seed; nan bounds for fewer than three seeds."""
    values, n = np.asarray(values, dtype=float), len(values)
    if n < 3:
        return Difference(float(values.mean()), float("nan"), float("nan"), n)
    reach = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Difference(float(values.mean()), float(values.mean() - reach), float(values.mean() + reach), n)
