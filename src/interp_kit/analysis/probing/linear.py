"""Many linear probes at once: L2-regularised logistic and ridge regression, batched over feature sets and labels.

The optimum is scikit-learn's (LogisticRegression with lbfgs, Ridge) on the same split. Small feature sets are fitted
together by Newton's method; a thousand probes of 28 rows would otherwise spend their time in Python.
"""

from contextlib import suppress

import numpy as np
from jaxtyping import Float, Int

from interp_kit.analysis.probing.logistic import fit_shared

LARGE = 30_000  # numbers in a feature set from which it is fitted by itself; below, Newton's method was faster


def rotate(features: Float[np.ndarray, "units d"]) -> Float[np.ndarray, "units r"]:
    """The rows in an orthonormal basis of their own span, r = min(units, d) columns.

    Inner products are unchanged, so an L2-regularised linear model is the same; only the wide, empty directions go.
    """
    units, d = features.shape
    if d <= units:
        return features.astype(np.float64)
    u, s, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    return u * s


def standardise(
    train: Float[np.ndarray, "... n r"], test: Float[np.ndarray, "... m r"]
) -> tuple[np.ndarray, np.ndarray]:
    """Centre by the training mean and divide by one number, so that training rows have mean squared norm r.

    One scale for all features keeps the rotation free; sites of any norm and width meet the same regularisation.
    """
    mean = train.mean(-2, keepdims=True)
    centred = train - mean
    scale = np.sqrt((centred**2).mean((-2, -1), keepdims=True))
    scale = np.where(scale > 1e-12, scale, 1.0)
    return centred / scale, (test - mean) / scale


def fit_logistic(
    features: Float[np.ndarray, "... n r"], target: Int[np.ndarray, "... n"], c: float | int = 1.0
) -> tuple[Float[np.ndarray, "... r"], Float[np.ndarray, " ..."]]:
    """Weights and intercepts that minimise |w|^2 / 2 + c * sum of log losses, as
    sklearn.linear_model.LogisticRegression.

    target: 0 or 1, both present. Leading axes broadcast, and labels on one feature set share the work on it: features
    (site, 1, n, r) and target (label, n) give weights (site, label, r). Feature sets of n * r < LARGE are fitted all at
    once by Newton's method; larger ones, and what rounding keeps Newton's from its end, one after another by
    `fit_shared`. Raises FloatingPointError if a probe does not converge.
    """
    n, r = features.shape[-2:]
    if n * r < LARGE:
        if target.ndim >= features.ndim:  # labels that share all of the features: memory for one at a time
            w, b = zip(*(fit_logistic(features, label, c) for label in target), strict=True)
            return np.stack(w), np.stack(b)
        with suppress(FloatingPointError):
            return _newton(features, target, c)
    lead = np.broadcast_shapes(features.shape[:-2], target.shape[:-1])
    features = features.reshape((1,) * (len(lead) + 2 - features.ndim) + features.shape)
    target = np.broadcast_to(target, (*lead, n))
    weights, intercepts = np.empty((*lead, r)), np.empty(lead)
    for site in np.ndindex(features.shape[:-2]):
        labels = tuple(i if size > 1 else slice(None) for i, size in zip(site, features.shape[:-2], strict=True))
        w, b = fit_shared(features[site], target[labels].reshape(-1, n), c)
        weights[labels], intercepts[labels] = w.reshape(weights[labels].shape), b.reshape(intercepts[labels].shape)
    return weights, intercepts


def _newton(features: np.ndarray, target: np.ndarray, c: float | int) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method for everything at once, a step halved while the objective does not fall."""
    sign = 2.0 * target - 1.0
    design = np.concatenate([features, np.ones((*features.shape[:-1], 1))], axis=-1)
    penalty = np.ones(design.shape[-1])
    penalty[-1] = 0.0
    weights = np.zeros((*np.broadcast_shapes(design.shape[:-2], target.shape[:-1]), design.shape[-1]))

    def objective(w: np.ndarray) -> np.ndarray:
        margin = sign * (design @ w[..., None])[..., 0]
        return np.asarray(0.5 * (penalty * w**2).sum(-1) + c * np.logaddexp(0.0, -margin).sum(-1))

    def gradient_of(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score = (design @ w[..., None])[..., 0]
        p = 1.0 / (1.0 + np.exp(-np.clip(score, -500, 500)))
        return penalty * w + c * (np.swapaxes(design, -1, -2) @ (p - target)[..., None])[..., 0], c * p * (1 - p)

    value, (gradient, curve) = objective(weights), gradient_of(weights)
    for _ in range(60):
        if np.abs(gradient).max() < 1e-7:
            return weights[..., :-1], weights[..., -1]
        hessian = np.swapaxes(design, -1, -2) @ (design * curve[..., None]) + np.diag(np.maximum(penalty, 1e-10))
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        length = np.ones(step.shape[:-1])
        proposal = objective(weights - step)
        for _ in range(30):
            worse = proposal > value + 1e-12 * np.abs(value)
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
            proposal = objective(weights - length[..., None] * step)
        weights, value = weights - length[..., None] * step, proposal
        gradient, curve = gradient_of(weights)
    raise FloatingPointError(f"a logistic probe did not converge: gradient {np.abs(gradient).max():.1e}")


def fit_ridge(
    features: Float[np.ndarray, "... n r"], target: Float[np.ndarray, "... n"], alpha: float = 1.0
) -> tuple[Float[np.ndarray, "... r"], Float[np.ndarray, " ..."]]:
    """Weights and intercepts that minimise the squared error + alpha |w|^2, as sklearn.linear_model.Ridge."""
    mean, centre = features.mean(-2), target.mean(-1)
    x, y = features - mean[..., None, :], target - centre[..., None]
    gram = np.swapaxes(x, -1, -2) @ x + alpha * np.eye(x.shape[-1])
    weights = np.linalg.solve(gram, np.swapaxes(x, -1, -2) @ y[..., None])[..., 0]
    return weights, np.asarray(centre - (mean * weights).sum(-1))
