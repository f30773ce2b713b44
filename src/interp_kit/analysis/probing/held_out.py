"""The held-out score of one probe label: which units are left out together, and how the predictions are judged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from interp_kit.analysis.probing.linear import fit_logistic, fit_ridge, standardise
from interp_kit.core.identity import derive_seed


@dataclass(frozen=True)
class ProbeOptions:
    """Options for fitting and scoring probes; see `probing.probe` for each."""

    folds: int
    repeats: int
    c: float
    alpha: float
    seed: int

    def short(self, repeats: int) -> "ProbeOptions":
        """The same with another number of repeats."""
        return ProbeOptions(self.folds, repeats, self.c, self.alpha, self.seed)


class Scorer:
    """Held-out score of one label on any feature sets, always on the same splits."""

    def __init__(self, truth: np.ndarray, numeric: bool, options: ProbeOptions, key: tuple[str, str]) -> None:
        self.truth, self.numeric, self.options = truth, numeric, options
        state = derive_seed(options.seed, "split", *key)
        n = len(truth) if numeric else np.unique(truth, return_counts=True)[1].min()
        folds = int(min(options.folds, n))
        kind = KFold if numeric else StratifiedKFold
        self.splits = [
            split
            for repeat in range(options.repeats)
            for split in kind(folds, shuffle=True, random_state=(state + repeat) % 2**32).split(
                np.zeros(len(truth)), truth
            )
        ]
        self.folds = folds

    def __call__(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """(cell,) mean over repeats; features: (unit, r) of every cell after rotation."""
        found, widths = np.empty(len(features)), [cell.shape[1] for cell in features]
        for width in set(widths):  # cells of one width are fitted together
            cells = [i for i, r in enumerate(widths) if r == width]
            found[cells] = self._scores(np.stack([features[i] for i in cells]))
        return found

    def _scores(self, features: np.ndarray) -> np.ndarray:
        """(cell,) of (cell, unit, r)."""
        classes = np.unique(self.truth)
        predicted = np.zeros((len(self.splits) // self.folds, len(features), len(self.truth)))
        sizes = [len(train) for train, _ in self.splits]
        for size in set(sizes):  # splits of one size are fitted together
            numbers = [i for i, n in enumerate(sizes) if n == size]
            train = np.stack([self.splits[i][0] for i in numbers])
            test = np.stack([self.splits[i][1] for i in numbers])
            x, z = standardise(features[:, train], features[:, test])
            value = self._predict(x, self.truth[train], z, classes)
            for j, i in enumerate(numbers):
                predicted[i // self.folds][:, test[j]] = value[:, j]
        score = np.mean([self._score(p, classes) for p in predicted], axis=0)
        # what is equal for all units tells nothing: which class the ties fall to hangs on the sizes of the folds
        flat = np.ptp(features, axis=1).max(-1) <= 1e-12 * np.abs(features).max((1, 2))
        return np.where(flat, 0.0 if self.numeric else 1 / len(classes), score)

    def _predict(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """(cell, split, test unit) predictions; x, z: (cell, split, unit, r), y: (split, unit)."""
        if self.numeric:
            w, b = fit_ridge(x, np.broadcast_to(y.astype(np.float64), x.shape[:-1]), self.options.alpha)
            return (z @ w[..., None])[..., 0] + b[..., None]
        # two classes are one probe; more are one against the rest, and share the work on each x
        wanted = classes[1:] if len(classes) == 2 else classes
        w, b = fit_logistic(x, (y == wanted[:, None, None, None]).astype(np.int64), self.options.c)
        scores = (z @ w[..., None])[..., 0] + b[..., None]
        return classes[(scores[0] > 0).astype(int)] if len(classes) == 2 else classes[np.argmax(scores, axis=0)]

    def _score(self, predicted: np.ndarray, classes: np.ndarray) -> np.ndarray:
        if self.numeric:
            return 1 - ((predicted - self.truth) ** 2).sum(-1) / ((self.truth - self.truth.mean()) ** 2).sum()
        return np.mean([(predicted[:, self.truth == k] == k).mean(-1) for k in classes], axis=0)


def threshold(null: np.ndarray) -> np.ndarray:
    """(row, position) score that only 5 % of permutations exceed anywhere, from (permutation, row, position) null
    scores.

    Cells differ in how many units they have, so each is first measured in its own null's standard deviations.
    """
    if len(null) < 2:
        return np.full(null.shape[1:], np.nan)
    mean, spread = null.mean(0), np.maximum(null.std(0, ddof=1), 1e-6)
    largest = np.array([np.nanmax(z) if np.isfinite(z).any() else np.nan for z in (null - mean) / spread])
    return mean + np.percentile(largest, 95) * spread
