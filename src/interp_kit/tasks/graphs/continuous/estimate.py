"""Means and variances at the three levels by sampling, with their standard errors.

Values that are observed are held, and each sample is weighed by their density (likelihood weighting); their noise
follows from them. A counterfactual runs the same noise through the changed model: abduction, action, prediction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from interp_kit.core.config import check_count
from interp_kit.tasks.graphs.continuous.model import ContinuousModel
from interp_kit.tasks.graphs.models import topological

SAMPLES = 100_000
FEWEST = 100.0  # Effective samples. Below, the standard error itself cannot be trusted.


@dataclass(frozen=True)
class Estimate:
    """A mean and a variance with their standard errors (delta method for weighted samples).

    samples: drawn; effective: what they are worth after weighting, (sum of weights)^2 / sum of their squares.
    """

    mean: float
    variance: float
    mean_error: float
    variance_error: float
    samples: int
    effective: float


def estimate(
    model: ContinuousModel,
    target: str,
    *,
    do: Mapping[str, float] | None = None,
    given: Mapping[str, float] | None = None,
    counterfactual: Mapping[str, float] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean and variance of a variable, by sampling.

    Args:
        model: A continuous model.
        target: Whose distribution is asked for.
        do: What is set throughout.
        given: What was observed, exactly.
        counterfactual: What the observed world is imagined to have had instead; the target is then of that world.
        samples: How many are drawn.
        seed: Of the noise.

    Raises:
        ValueError: for unknown names, values that are not finite, a variable both set and observed, an observed
            variable that has no noise, and observations so unlikely that fewer than 100 samples count.
    """
    check_count("samples", samples, 2)
    asked = next(iter(model.assignment({target: 0.0})))
    fixed, seen, changed = (model.assignment(values) for values in (do, given, counterfactual))
    for v in seen:
        if v in fixed:
            raise ValueError(f"{model.names[v]} is set and observed: expected one of the two")
        if model.variances[v] == 0:
            raise ValueError(f"{model.names[v]} is observed but has no noise: its density cannot be weighed")
    noise = np.random.default_rng(seed).standard_normal((len(model.names), samples))
    noise *= np.sqrt(model.variances)[:, None]
    values, log = np.empty_like(noise), np.zeros(samples)
    order = topological(model.parents)
    for v in order:
        if v in seen:
            noise[v] = model.inside(v, seen[v]) - model.before(v, values)
            log -= noise[v] ** 2 / (2 * model.variances[v])
        known = fixed.get(v, seen.get(v))
        values[v] = model.leaky(v, model.before(v, values) + noise[v]) if known is None else known
    if counterfactual:
        there = fixed | changed
        for v in order:
            values[v] = there[v] if v in there else model.leaky(v, model.before(v, values) + noise[v])
    weights = np.exp(log - log.max())
    return _moments(values[asked], weights / weights.sum())


def _moments(x: np.ndarray, weights: np.ndarray) -> Estimate:
    effective = float(1 / (weights**2).sum())
    if effective < min(FEWEST, len(x)):
        raise ValueError(
            f"of {len(x):,} samples only {effective:.0f} count: the observations are too unlikely; take more samples"
        )
    mean = float(weights @ x)
    square = (x - mean) ** 2
    variance = float(weights @ square)
    errors = [math.sqrt(float(weights**2 @ (part - middle) ** 2)) for part, middle in ((x, mean), (square, variance))]
    return Estimate(mean, variance, errors[0], errors[1], len(x), effective)
