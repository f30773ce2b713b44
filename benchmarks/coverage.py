"""Coverage of 95 % intervals: `python -m benchmarks.coverage` prints the table of docs/coverage.md.

Samples are drawn from known distributions; a method covers if its interval contains the true value in 95 % of them. The
percentile bootstrap (Efron 1979), which the kit used before, stands beside what it uses now.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from interp_kit.core.stats.intervals import mean_estimate, mean_interval, ratio_interval, wilson

SIZES = (4, 5, 6, 8, 12, 16, 32, 64)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Data:
    """A distribution of units: how they are drawn, and their true mean."""

    draw: Draw
    mean: float


def _auroc(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.where(rng.random(shape) < 0.5, 1.0, rng.uniform(0.7, 1.0, shape))


NORMAL = Data(lambda rng, shape: rng.normal(3, 1, shape), 3)
EXPONENTIAL = Data(lambda rng, shape: rng.exponential(1, shape), 1)
HALF = Data(lambda rng, shape: (rng.random(shape) < 0.5).astype(float), 0.5)
NINE = Data(lambda rng, shape: (rng.random(shape) < 0.9).astype(float), 0.9)
PROMISED = {"normal": NORMAL, "exponential": EXPONENTIAL, "Bernoulli .5": HALF, "Bernoulli .9": NINE}
SHARES = {
    "Bernoulli .5": HALF,
    "Bernoulli .9": NINE,
    "4 answers, each right in .85": Data(lambda rng, shape: rng.binomial(4, 0.85, shape) / 4, 0.85),
    "AUROC: half 1, half in .7 to 1": Data(_auroc, 0.925),
}
HEAVY = {"log-normal": Data(lambda rng, shape: rng.lognormal(-0.5, 1, shape), 1)}


@dataclass(frozen=True)
class Row:
    """covered: share of the samples with an interval in which it contains the truth; given: share of samples that get
    an interval; width: its median; bootstrap: what the percentile bootstrap covers."""

    of: str
    data: str
    n: int
    covered: float
    given: float
    width: float
    bootstrap: float

    def __str__(self) -> str:
        """As a row of a Markdown table."""
        before = "" if np.isnan(self.bootstrap) else f"{self.bootstrap:.3f}"
        given = f"{self.given:.2f}"
        if not self.given:
            return f"| {self.of} | {self.data} | {self.n} | none | {given} | | {before} |"
        figures = f"{self.covered:.3f} | {given} | {self.width:.2f} | {before}"
        return f"| {self.of} | {self.data} | {self.n} | {figures} |"


HEADER = (
    "| of | data | n | covers | samples with an interval | median width | percentile bootstrap covers |\n"
    "|---|---|---|---|---|---|---|"
)


def percentile_bootstrap(top: np.ndarray, bottom: np.ndarray, resamples: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Low and high of the ratio of means of (sample, n) `top` and `bottom`, the same resamples for all samples."""
    n = top.shape[1]
    drawn = np.random.default_rng(0).integers(0, n, (resamples, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in drawn], axis=1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanpercentile(top @ weights / (bottom @ weights), [2.5, 97.5], axis=1)
    return low, high


def _share(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    near = 1e-9  # of rounding
    return float(((low <= truth + near) & (truth - near <= high)).mean())


def _row(of: str, data: str, ends: tuple[np.ndarray, np.ndarray], top: np.ndarray, bottom: np.ndarray, truth: float):
    low, high = ends
    given = np.isfinite(low)
    some = min(len(top), 2000)
    before = _share(*percentile_bootstrap(top[:some], bottom[:some]), truth)
    width = float(np.median((high - low)[given])) if given.any() else float("nan")
    covered = _share(low[given], high[given], truth) if given.any() else float("nan")
    return Row(of, data, top.shape[1], covered, float(given.mean()), width, before)


def mean_row(name: str, data: Data, n: int, samples: int, seed: int = 0) -> Row:
    """`mean_interval` on samples of n units."""
    values = data.draw(np.random.default_rng(seed), (samples, n))
    return _row("mean", name, mean_interval(values)[1:], values, np.ones_like(values), data.mean)


def ratio_row(name: str, data: Data, n: int, samples: int, seed: int = 0, bottom: Data | None = None) -> Row:
    """`ratio_interval` on samples of n pairs, numerator and denominator drawn independently."""
    rng, below = np.random.default_rng(seed), bottom or data
    top, under = data.draw(rng, (samples, n)), below.draw(rng, (samples, n))
    use = under.mean(1) != 0
    top, under = top[use], under[use]
    ends = np.array([ratio_interval(a, b)[1:] for a, b in zip(top, under, strict=True)]).T
    return _row("ratio", name, (ends[0], ends[1]), top, under, data.mean / below.mean)


def share_row(name: str, data: Data, n: int, samples: int, seed: int = 0) -> Row:
    """`mean_estimate` on shares, which are known to lie in 0 to 1."""
    values = data.draw(np.random.default_rng(seed), (samples, n))
    found = [mean_estimate(row, bounds=(0.0, 1.0)) for row in values]
    ends = np.array([e.low for e in found]), np.array([e.high for e in found])
    return _row("share", name, ends, values, np.ones_like(values), data.mean)


def wilson_row(truth: float, n: int) -> Row:
    """`wilson` on n yes-or-no units, summed over all possible counts."""
    found = [wilson(k, n) for k in range(n + 1)]
    ends = np.array([[e.low, e.high] for e in found])
    chance = stats.binom.pmf(range(n + 1), n, truth)
    covered = float(chance[(ends[:, 0] <= truth) & (truth <= ends[:, 1])].sum())
    order = np.argsort(ends[:, 1] - ends[:, 0])
    middle = order[np.searchsorted(np.cumsum(chance[order]), 0.5)]
    name = f"Bernoulli {truth:.1f}".replace("0.", ".")
    return Row("proportion (Wilson)", name, n, covered, 1.0, float(ends[middle, 1] - ends[middle, 0]), float("nan"))


def main(means: int = 20000, others: int = 4000) -> None:
    """Print the table."""
    print(HEADER, flush=True)
    rows: list[tuple[Callable[..., Row], dict[str, Data], int]] = [
        (mean_row, {**PROMISED, **HEAVY}, means),
        (ratio_row, PROMISED, others),
        (share_row, SHARES, others),
    ]
    for row, table, samples in rows:
        for name, data in table.items():
            for n in SIZES:
                print(row(name, data, n, samples), flush=True)
    for truth in (0.5, 0.9):
        for n in SIZES:
            print(wilson_row(truth, n))
    for n in SIZES:
        print(ratio_row("exponential over normal", EXPONENTIAL, n, others, bottom=NORMAL), flush=True)


if __name__ == "__main__":
    main()
