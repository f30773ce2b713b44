"""Linear-Gaussian causal models with a LeakyReLU on variables that have parents, their noise inside of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_kit.tasks.graphs.models import topological

SLOPE = 0.2
WEIGHT = 2.0  # Weights are uniform between -WEIGHT and WEIGHT.
VARIANCE, SPREAD = 0.5, 0.25  # Mean and standard deviation of a noise variance, normal truncated at 0.


@dataclass(frozen=True)
class ContinuousModel:
    """x = leaky(sum of weight * parent + noise), and x = noise without parents; make one with `continuous_model`.

    names: of the variables; parents: their numbers; weights: of the parents; variances: of the noise, normal around 0;
    slope: of the LeakyReLU below 0, 1 for a linear model.
    """

    names: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    variances: tuple[float, ...]
    slope: float = SLOPE

    def assignment(self, values: Mapping[str, float] | None) -> dict[int, float]:
        """Name -> value as number -> value. Raises ValueError for another name, and for what is not finite."""
        found = {}
        for name, value in (values or {}).items():
            if name not in self.names:
                raise ValueError(f"the model has no variable {name!r}: expected one of {', '.join(self.names)}")
            if not math.isfinite(value):
                raise ValueError(f"{name} cannot be {value!r}: expected a finite number")
            found[self.names.index(name)] = float(value)
        return found

    def before(self, v: int, values: np.ndarray) -> np.ndarray:
        """(n,) what the parents in (variables, n) values add up to, before the noise of v."""
        return np.asarray(self.weights[v]) @ values[list(self.parents[v])]

    def leaky(self, v: int, inside: np.ndarray) -> np.ndarray:
        """The variable from what is inside of its LeakyReLU."""
        return np.where(inside >= 0, inside, self.slope * inside) if self.parents[v] else inside

    def simulate(self, standard: np.ndarray) -> np.ndarray:
        """(variables, n) values from standard normal draws, one per noise."""
        noise = standard * np.sqrt(self.variances)[:, None]
        values = np.zeros_like(noise)
        for v in topological(self.parents):
            values[v] = self.leaky(v, self.before(v, values) + noise[v])
        return values

    def inside(self, v: int, value: float) -> float:
        """Argument of the LeakyReLU of a variable that has this value."""
        return value / self.slope if self.parents[v] and value < 0 else value


def continuous_model(
    variables: Mapping[str, tuple[Mapping[str, float], float]], *, slope: float = SLOPE
) -> ContinuousModel:
    """A model of {name: ({parent: weight}, noise variance)}, variables in any order.

        continuous_model({"rain": ({}, 1.0), "wet": ({"rain": 0.8}, 0.5)})

    Raises ValueError for parents that are not variables, a cycle, weights that are not finite, variances that are
    negative or not finite, and a slope that is not positive.
    """
    names = tuple(variables)
    number = {name: v for v, name in enumerate(names)}
    if not (math.isfinite(slope) and slope > 0):
        raise ValueError(f"the slope is {slope!r}: expected a positive number, or a value would not tell its noise")
    for name, (weights, variance) in variables.items():
        for parent, weight in weights.items():
            if parent not in number:
                raise ValueError(f"{name!r} has the parent {parent!r}: expected one of {', '.join(names)}")
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {parent!r} in {name!r} is {weight!r}: expected a finite number")
        if not (math.isfinite(variance) and variance >= 0):
            raise ValueError(f"the noise variance of {name!r} is {variance!r}: expected a finite number of 0 or more")
    parents = tuple(tuple(number[parent] for parent in weights) for weights, _ in variables.values())
    topological(parents, names)
    return ContinuousModel(
        names,
        parents,
        tuple(tuple(map(float, weights.values())) for weights, _ in variables.values()),
        tuple(float(variance) for _, variance in variables.values()),
        slope,
    )


def random_continuous(parents: Sequence[Sequence[int]], rng: np.random.Generator) -> ContinuousModel:
    """A model on this DAG: weights uniform on -2 to 2, noise variances normal (0.5, 0.25) truncated at 0, names v0, v1,
    … in random order. The model's variables are in the order of their names."""
    name = rng.permutation(len(parents)).tolist()
    variables = {}
    for v in sorted(range(len(parents)), key=lambda v: name[v]):
        variance = -1.0
        while variance < 0:
            variance = float(rng.normal(VARIANCE, SPREAD))
        of = rng.permutation(np.asarray(parents[v], dtype=int)).tolist()
        variables[f"v{name[v]}"] = ({f"v{name[p]}": float(rng.uniform(-WEIGHT, WEIGHT)) for p in of}, variance)
    return continuous_model(variables)
