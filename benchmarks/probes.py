"""Logistic probes of many sites against scikit-learn, on one thread, with the objective of each fit beside its optimum.

Features are made up after activations: correlated, unit mean square, standard deviations that fall as i^-0.75 (close to
the residual stream of culture/gpt_000). A label is the sign of a direction in them plus logistic noise; the best
possible accuracy is about 0.8.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmarks.measure import Row, compare
from interp_kit.analysis.probing.linear import fit_logistic

SITES, TIMED = 180, 10  # both sides fit TIMED sites, and their seconds are multiplied
N, D, NOISE = 4000, 128, 0.5


def activations(rng: np.random.Generator) -> np.ndarray:
    """(N, D), float32."""
    x = rng.normal(size=(N, D)) * (1.0 + np.arange(D)) ** -0.75 @ np.linalg.qr(rng.normal(size=(D, D)))[0]
    return (x / np.sqrt((x**2).mean())).astype(np.float32)


def linear_labels(rng: np.random.Generator, x: np.ndarray, labels: int) -> np.ndarray:
    """(label, N), 0 or 1."""
    score = x @ rng.normal(size=(D, labels))
    return (score / score.std(0) + NOISE * rng.logistic(size=score.shape) > 0).astype(np.int64).T


def objective(x: np.ndarray, y: np.ndarray, weights: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
    """(label,) |w|^2 / 2 + sum of log losses, in float64."""
    score = weights.astype(np.float64) @ x.astype(np.float64).T + intercepts[:, None]
    return 0.5 * (weights.astype(np.float64) ** 2).sum(1) + np.logaddexp(0, (1 - 2 * y) * score).sum(1)


def by_sklearn(x: np.ndarray, y: np.ndarray, solver: str, tol: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """Weights (label, D) and intercepts (label,), one fit per label; C = 1, and tol as scikit-learn has it."""
    fits = [LogisticRegression(max_iter=10_000, solver=solver, tol=tol).fit(x, label) for label in y]
    return np.concatenate([fit.coef_ for fit in fits]), np.concatenate([fit.intercept_ for fit in fits])


def probing() -> list[Row]:
    """180 sites with one label each, and with eight labels each."""
    rng = np.random.default_rng(0)
    features = np.stack([activations(rng) for _ in range(TIMED)])
    every = np.stack([linear_labels(rng, x, 8) for x in features])
    with threadpool_limits(1):
        return [row for labels in (1, 8) for row in _probing(features, every[:, :labels])]


def _probing(features: np.ndarray, target: np.ndarray) -> list[Row]:
    """features: (site, N, D); target: (site, label, N)."""

    def ours() -> list[tuple[np.ndarray, np.ndarray]]:
        return list(zip(*fit_logistic(features[:, None], target), strict=True))

    def peer(solver: str, x: np.ndarray = features, tol: float = 1e-4) -> list[tuple[np.ndarray, np.ndarray]]:
        return [by_sklearn(*site, solver, tol) for site in zip(x, target, strict=True)]

    def reached(fits: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        return np.array([objective(x, y, *fit) for x, y, fit in zip(features, target, fits, strict=True)])

    solvers = ("lbfgs", "newton-cholesky")
    exact = peer("newton-cholesky", features.astype(np.float64), tol=1e-11)
    mine, *theirs = (reached(fits) for fits in (ours(), *(peer(solver) for solver in solvers)))
    best = np.min([reached(exact), mine, *theirs], axis=0)
    assert (mine <= theirs[0]).all(), "scikit-learn comes nearer to the optimum"
    gaps = [f"{(value - best).max():.0e}" for value in (mine, *theirs)]
    rows = compare(
        f"probes, {SITES} sites, {target.shape[1]} label{'s' * (target.shape[1] > 1)}, n {N}, d {D}, L2-regularised"
        f" logistic ({TIMED} sites timed on both sides, times {SITES // TIMED})",
        ours,
        {f"scikit-learn LogisticRegression, {solver}": partial(peer, solver) for solver in solvers},
        difference=f"objective above its optimum at most {gaps[0]}; lbfgs {gaps[1]}, newton-cholesky {gaps[2]}",
    )
    return [replace(row, ours=row.ours * SITES / TIMED, peer=row.peer * SITES / TIMED) for row in rows]


if __name__ == "__main__":
    print(*probing(), sep="\n")
