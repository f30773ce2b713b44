"""Logistic regressions of several labels on one large feature set: L-BFGS (Nocedal 1980) on all labels side by side,
every product one of matrices, with a preconditioner that they share.

The preconditioner is the Hessian at zero, an upper bound of the Hessian anywhere (Boehning & Lindsay 1988).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

NATS = 1e-9  # a row and unit of c: by how much the objective may miss its optimum
MEMORY = 8  # steps that L-BFGS remembers


def fit_shared(
    x: Float[np.ndarray, "n r"], target: Int[np.ndarray, "label n"], c: float | int
) -> tuple[Float[np.ndarray, "label r"], Float[np.ndarray, " label"]]:
    """Weights and intercepts that minimise |w|^2 / 2 + c * sum of log losses, the objective within NATS * c * n.

    Steps are taken in float32 while that is precise enough, then in float64. Labels that take long, such as separable
    ones with little regularisation, go on alone, each with its Hessian where it stands. Raises FloatingPointError if
    a label does not converge.
    """
    mean = x.mean(0)
    with np.errstate(invalid="ignore", over="ignore"):
        rough = _Objective.of(x, mean, np.float32, c)
    if not rough.reach < 1e15:
        raise FloatingPointError("features are not finite, or too large for float32")
    half, weights = target - 0.5, np.zeros((len(target), x.shape[1] + 1))
    tolerance = np.full(len(target), np.sqrt(2 * NATS * c * len(x)))
    floor = np.maximum(tolerance, 1e-6 * rough.distance(rough.gradient(weights, half)))
    inverse = rough.inverse_hessian(weights[0])
    weights, ready = _descend(rough, weights, half, inverse, floor, 25)
    exact, done = _Objective.of(x, mean, np.float64, c), ready.copy()
    weights[ready], done[ready] = _descend(exact, weights[ready], half[ready], inverse, tolerance[ready], 10)
    for i in np.flatnonzero(~done):
        one = slice(i, i + 1)
        for objective in (rough, *[exact] * 100):
            inverse = objective.inverse_hessian(weights[i])
            if objective is rough:
                weights[one], _ = _descend(rough, weights[one], half[one], inverse, floor[one], 10)
            weights[one], done[one] = _descend(exact, weights[one], half[one], inverse, tolerance[one], 10)
            if done[i]:
                break
        else:
            raise FloatingPointError("a logistic probe did not converge")
    return weights[:, :-1], weights[:, -1] - weights[:, :-1] @ mean


@dataclass(frozen=True)
class _Objective:
    """|w|^2 / 2 + c * sum of log losses on one design, (n, r + 1), in its precision. The last column, the intercept's,
    is ones. reach: the largest norm of a row, and sqrt(2 / c) for the intercept's own share, which counts where c is
    small."""

    design: np.ndarray
    c: float | int
    reach: float

    @staticmethod
    def of(x: np.ndarray, mean: np.ndarray, precision: type[np.floating], c: float | int) -> "_Objective":
        """On the centred features."""
        design = np.ones((len(x), x.shape[1] + 1), precision)
        np.subtract(x, mean, out=design[:, :-1], dtype=np.result_type(x, precision), casting="same_kind")
        reach = np.sqrt(np.einsum("nr,nr->n", design, design).max()) + np.sqrt(2 / c)
        return _Objective(design, c, float(reach))

    def gradient(self, weights: np.ndarray, half: np.ndarray) -> np.ndarray:
        """(label, r + 1); half: (label, n), the labels minus a half."""
        excess = np.ascontiguousarray((self.design @ weights.astype(self.design.dtype).T).T)
        excess *= 0.5
        np.tanh(excess, out=excess)  # 2 p - 1
        excess *= 0.5
        excess -= half
        gradient = self.c * (excess @ self.design).astype(np.float64)
        gradient[:, :-1] += weights[:, :-1]
        return gradient

    def inverse_hessian(self, weights: np.ndarray) -> np.ndarray:
        """(r + 1, r + 1) at the weights (r + 1,) of one label, with a little of rounding on the diagonal."""
        score = self.design @ weights.astype(self.design.dtype)
        scaled = self.design * (0.5 / np.cosh(np.clip(score / 2, -10, 10)))[:, None]  # root of p (1 - p), never 0
        hessian = self.c * (scaled.T @ scaled).astype(np.float64)
        ridge = np.append(np.ones(len(weights) - 1), 0) + np.finfo(self.design.dtype).eps * hessian.trace()
        return np.linalg.inv(hessian + np.diag(ridge))

    def distance(self, gradient: np.ndarray) -> np.ndarray:
        """(label,) d >= |w - w*|; with the best intercept for w, the objective is at most d^2 / 2 above its optimum.

        Moving the intercept to its best moves all residuals in one direction, in sum by the intercept's gradient, and
        the gradient of w by at most reach times that. As a function of w alone the objective is then strongly convex
        with constant 1.
        """
        return np.sqrt(_dot(gradient[:, :-1], gradient[:, :-1])) + self.reach * np.abs(gradient[:, -1])


def _descend(
    objective: _Objective,
    weights: np.ndarray,
    half: np.ndarray,
    inverse: np.ndarray,
    tolerance: np.ndarray,
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Run at most `steps` steps of L-BFGS from an inverse Hessian, and tell which labels are then within their
    tolerance. A step is halved while the objective still rises steeply at its end."""
    found, done, left = weights.copy(), np.zeros(len(weights), dtype=bool), np.arange(len(weights))
    half = half.astype(objective.design.dtype)
    gradient, history = objective.gradient(weights, half), []
    for _ in range(steps):
        near = objective.distance(gradient) <= tolerance[left]
        if near.any():
            found[left], done[left] = weights, near
            far = ~near
            left, weights, gradient, half = left[far], weights[far], gradient[far], half[far]
            history = [tuple(part[far] for part in pair) for pair in history]
        if not len(left):
            return found, done
        step = -_towards(gradient, history, inverse)
        slope, there = _dot(gradient, step), objective.gradient(weights + step, half)
        for _ in range(60):
            beyond = ~(_dot(there, step) <= -0.5 * slope)
            if not beyond.any():
                break
            factor = np.where(beyond, 0.5, 1.0)
            step, slope = factor[:, None] * step, factor * slope
            there = objective.gradient(weights + step, half)
        history = [*history[1 - MEMORY :], _pair(step, there - gradient, inverse)]
        weights, gradient = weights + step, there
    found[left], done[left] = weights, objective.distance(gradient) <= tolerance[left]
    return found, done


def _pair(step: np.ndarray, change: np.ndarray, inverse: np.ndarray) -> tuple[np.ndarray, ...]:
    """Memory of L-BFGS for one step: it, the change of the gradient, one over their product, and the product over
    what the inverse Hessian expected. Strong convexity bounds the product from below; what rounding made smaller is
    left out."""
    size = _dot(step, change)
    sound = size > 0.5 * _dot(step[:, :-1], step[:, :-1])
    size, expected = (np.where(sound, x, 1.0) for x in (size, _dot(change, change @ inverse)))
    return step, change, sound / size, size / expected


def _towards(gradient: np.ndarray, history: list[tuple[np.ndarray, ...]], inverse: np.ndarray) -> np.ndarray:
    """The inverse Hessian of L-BFGS times the gradient, by its two loops; history: the oldest first."""
    shares = []
    for step, change, rate, _ in reversed(history):
        shares.append(rate * _dot(step, gradient))
        gradient = gradient - shares[-1][:, None] * change
    gradient = gradient @ inverse
    if history:
        gradient = gradient * history[-1][3][:, None]
    for (step, change, rate, _), share in zip(history, reversed(shares), strict=True):
        gradient = gradient + (share - rate * _dot(change, gradient))[:, None] * step
    return gradient


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(label,) inner products."""
    return np.einsum("lr,lr->l", a, b)
