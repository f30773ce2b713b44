"""Detection of a class by a number: area under the ROC curve and mutual information, with 95 % intervals that hold for
few units and for perfect separation, at which a bootstrap or DeLong's interval has no width."""

import itertools

import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

from interp_kit.core.stats.intervals import Estimate

LEVEL = 0.95


def ranked(values: Float[np.ndarray, "unit candidate"]) -> Float[np.ndarray, "unit candidate"]:
    """Mean ranks of each column, from 1. Ties share their mean."""
    return np.asarray(stats.rankdata(values, axis=0), dtype=float)


def auroc(
    ranks: Float[np.ndarray, "unit candidate"], labels: Bool[np.ndarray, "label unit"]
) -> Float[np.ndarray, "label candidate"]:
    """The area under the ROC curve of every column for every label: the share of pairs of a positive and a negative in
    which the positive has the larger value, ties counting half (Mann & Whitney 1947).

    Args:
        ranks: Of `ranked`.
        labels: True on positives.

    Returns:
        (label, candidate), nan for a label without positives or negatives.
    """
    positive = labels.sum(1)[:, None].astype(float)
    negative = labels.shape[1] - positive
    with np.errstate(invalid="ignore", divide="ignore"):
        return (labels.astype(float) @ ranks - positive * (positive + 1) / 2) / (positive * negative)


def auroc_interval(area: np.ndarray | float, positive: int, negative: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of an area under the ROC curve from independent units: method 5 of Newcombe (2006), a score
    interval with the variance of Hanley & McNeil (1982) at the interval's own end.

    Args:
        area: (...).
        positive: Number of units of the class.
        negative: Number of the others.

    Returns:
        low, high: (...), in 0 to 1. Neither end has no width at an area of 0 or 1.
    """
    area = np.asarray(area, dtype=float)
    z, size = stats.norm.ppf((1 + LEVEL) / 2), (positive + negative) / 2

    ends = []
    for bound, sign in ((np.zeros_like(area), 1.0), (np.ones_like(area), -1.0)):
        outside, inside = bound, area.copy()  # the end lies between them
        for _ in range(50):
            theta = (outside + inside) / 2
            spread = theta * (1 - theta) / (positive * negative)
            reach = z * np.sqrt(spread * (1 + (size - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))))
            out = sign * (area - theta) > reach
            outside, inside = np.where(out, theta, outside), np.where(out, inside, theta)
        ends.append(np.asarray((outside + inside) / 2))
    return ends[0], ends[1]


def best_threshold(values: Float[np.ndarray, " unit"], label: Bool[np.ndarray, " unit"]) -> float:
    """The threshold above which a value says the class, by Youden's J: the largest difference between the shares of
    positives and of negatives above it. Halfway between two values; of equal ones the lowest."""
    order = np.argsort(values, kind="stable")
    placed, hit = values[order], label[order]
    above = 1 - np.cumsum(hit) / max(hit.sum(), 1) - (1 - np.cumsum(~hit) / max((~hit).sum(), 1))
    last = np.append(placed[1:] > placed[:-1], False)  # a threshold lies between two different values
    if not last.any():
        return float(placed[-1])
    at = int(np.flatnonzero(last)[above[last].argmax()])
    return float((placed[at] + placed[at + 1]) / 2)


def mutual_information(said: Bool[np.ndarray, " unit"], label: Bool[np.ndarray, " unit"]) -> Estimate:
    """Bits that a yes or no tells of a class, with a 95 % interval at the class's share in these units.

    The interval holds every value that the two rates can give within their exact (Clopper & Pearson 1934) intervals of
    97.5 % each, so that it covers with at least 95 % (Bonferroni), and reaches 0 where the rates may be equal.
    """
    positive, negative = int(label.sum()), int((~label).sum())
    if not positive or not negative:
        raise ValueError(f"{positive} units of the class and {negative} others: expected one of each or more")
    counts = int((said & label).sum()), int((said & ~label).sum())
    share = positive / len(label)
    rates = [counts[0] / positive, counts[1] / negative]
    boxes = [_exact(k, n, 1 - (1 - LEVEL) / 2) for k, n in zip(counts, (positive, negative), strict=True)]
    # convex in the rates: the most is at a corner; the least where they are nearest
    high = max(_bits(hit, false, share) for hit, false in itertools.product(*boxes))
    (hit_low, hit_high), (false_low, false_high) = boxes
    if hit_low <= false_high and false_low <= hit_high:
        low = 0.0
    else:
        low = _bits(hit_low, false_high, share) if hit_low > false_high else _bits(hit_high, false_low, share)
    return Estimate(_bits(rates[0], rates[1], share), low, high, len(label), "inputs")


def entropy(share: float | np.ndarray) -> np.ndarray:
    """Bits of a yes or no that has this share of yes."""
    share = np.asarray(share, dtype=float)
    return np.asarray((special.entr(share) + special.entr(1 - share)) / np.log(2))


def _bits(hit: float, false: float, share: float) -> float:
    said = share * hit + (1 - share) * false
    return float(max(0.0, entropy(said) - share * entropy(hit) - (1 - share) * entropy(false)))


def _exact(k: int, n: int, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of k of n."""
    tail = (1 - level) / 2
    low = float(special.betaincinv(k, n - k + 1, tail)) if k else 0.0
    return low, float(special.betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
