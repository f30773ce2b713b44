"""Questions about continuous models in words, with sampled answers and their standard errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp_kit.tasks.graphs.continuous.estimate import SAMPLES, Estimate, estimate
from interp_kit.tasks.graphs.continuous.model import ContinuousModel, continuous_model
from interp_kit.tasks.graphs.questions.formal import LEVELS

DIGITS = 2


@dataclass(frozen=True)
class Asked:
    """A question in words, and the mean and variance that it asks for."""

    level: str
    text: str
    answer: Estimate


def printed_continuous(model: ContinuousModel) -> ContinuousModel:
    """The model with numbers of two digits, as it is printed. No noise variance is rounded to 0."""
    return continuous_model(
        {
            name: (
                {model.names[p]: round(w, DIGITS) for p, w in zip(of, weights, strict=True)},
                max(round(variance, DIGITS), 10**-DIGITS),
            )
            for name, of, weights, variance in zip(
                model.names, model.parents, model.weights, model.variances, strict=True
            )
        },
        slope=model.slope,
    )


def ask_continuous(model: ContinuousModel, level: str, rng: np.random.Generator, *, samples: int = SAMPLES) -> Asked:
    """A random question about a printed model: its target, what is set, and what is observed, drawn from the model.

    The target is none of those that are set or observed. Raises ValueError for another level and fewer than three
    variables.
    """
    if level not in LEVELS:
        raise ValueError(f"the level is {level!r}: expected one of {', '.join(LEVELS)}")
    if len(model.names) < 3:
        raise ValueError(
            f"the model has {len(model.names)} variables: expected 3 or more, to set, observe and ask about"
        )
    x, z, y = (model.names[v] for v in rng.permutation(len(model.names))[:3])
    seed = int(rng.integers(2**31))
    value = round(float(rng.normal(0, 1)), DIGITS)
    world = model.simulate(rng.standard_normal((len(model.names), 1)))
    seen = {z: round(float(world[model.names.index(z), 0]), DIGITS)}
    options: dict[str, Any] = {
        "observational": {"given": seen},
        "interventional": {"do": {x: value}},
        "counterfactual": {"given": seen, "counterfactual": {x: value}},
    }[level]
    answer = estimate(model, y, samples=samples, seed=seed + 1, **options)
    order = rng.permutation(len(model.names)).tolist()
    parts = [
        "A causal model over real variables. noise(s) is normal with mean 0 and variance s, independent for each"
        f" variable; leaky(x) is x for x >= 0 and {model.slope:g} x below.",
        "\n".join(_equation(model, v) for v in order),
        f"Question: {_words(level, y, seen, {x: value})} End with a line of the form ANSWER [mean, variance].",
    ]
    return Asked(level, "\n\n".join(parts), answer)


def _equation(model: ContinuousModel, v: int) -> str:
    noise = f"noise({model.variances[v]:.{DIGITS}f})"
    pairs = zip(model.weights[v], model.parents[v], strict=True)
    terms = " + ".join(f"({w:.{DIGITS}f}) {model.names[p]}" for w, p in pairs)
    return f"{model.names[v]} = leaky({terms} + {noise})" if terms else f"{model.names[v]} = {noise}"


def _words(level: str, target: str, seen: Mapping[str, float], changed: Mapping[str, float]) -> str:
    observed = " and ".join(f"{name} is {value:.{DIGITS}f}" for name, value in seen.items())
    been = " and ".join(f"{name} to {value:.{DIGITS}f}" for name, value in changed.items())
    what = f"What are the mean and the variance of {target}"
    if level == "observational":
        return f"Suppose it is observed that {observed}. {what} given this observation?"
    if level == "interventional":
        return f"Suppose an intervention sets {been}. {what} after it?"
    return (
        f"Suppose it is observed, without any intervention, that {observed}. {what} had an intervention set {been} in"
        " the same situation, all noise as it was?"
    )
