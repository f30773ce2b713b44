"""Exact match on inputs never trained on, over models that left out different ones, beside baselines that know no
rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.behaviour.evaluation import HELD_OUT, EvaluationResult, columns
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, mean_estimate
from interp_kit.reports.plotting import intervals


@dataclass(frozen=True, kw_only=True)
class HeldOutResult(AbstractResult):
    """Exact match on inputs never trained on, over models trained with different inputs left out.

    models: names; total: inputs that the task has; omitted: (model,) how many were left out; omission_set: (model,)
    number of the set left out, equal where two models leave out the same; model, majority, lookup: (model,) exact match
    on the inputs left out, of the model and of both baselines.
    """

    models: tuple[str, ...]
    total: int
    omitted: np.ndarray
    omission_set: np.ndarray
    model: np.ndarray
    majority: np.ndarray
    lookup: np.ndarray
    config: Mapping[str, object]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of inputs left out, each once, in rising order."""
        return tuple(np.unique(self.omitted).tolist())

    def estimate(self, omitted: int, of: str = "model") -> Estimate:
        """Mean exact match of "model", "majority" or "lookup" with its 95 % interval over omission sets.

        Models that leave out the same set are averaged first: seeds do not make a set count twice. Raises ValueError
        if no model leaves out that many.
        """
        if omitted not in self.sizes:
            raise ValueError(f"no model leaves out {omitted} inputs; there are {', '.join(map(str, self.sizes))}")
        values: np.ndarray = getattr(self, of)
        sets = np.unique(self.omission_set[self.omitted == omitted])
        means = np.array([values[self.omission_set == number].mean() for number in sets])
        return mean_estimate(means, unit="omission sets", bounds=(0.0, 1.0))

    def to_frame(self) -> pd.DataFrame:
        """One row per number of inputs left out: mean exact match, interval over omission sets, both baselines."""
        rows = []
        for size in self.sizes:
            row: dict[str, object] = {"omitted": size, "total": self.total}
            for of, prefix in (("model", ""), ("majority", "majority_"), ("lookup", "lookup_")):
                e = self.estimate(size, of)
                row |= {of if prefix else "value": e.value, f"{prefix}low": e.low, f"{prefix}high": e.high}
                row |= {"n": e.n, "unit": e.unit}
            rows.append(row | {"models": int((self.omitted == size).sum())})
        return pd.DataFrame(rows)

    def units(self) -> pd.DataFrame:
        """One row per model: what it left out, and exact match on that beside both baselines."""
        keys = ("omitted", "omission_set", "model", "majority", "lookup")
        return pd.DataFrame({"name": self.models, **{key: getattr(self, key) for key in keys}})

    def caption(self) -> str:
        """See AbstractResult."""
        n = ", ".join(f"{numbered(self.estimate(size).n, 'sets')} of {size}" for size in self.sizes)
        return (
            f"Exact match on inputs never trained on, by how many of the {self.total} are left out (n = {n}; 95 %"
            " intervals over omission sets, one dot a model), beside a"
            " lookup table that answers with the nearest seen input and the majority of the seen inputs by field."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: by number of inputs left out, exact match beside a lookup of the nearest seen input."""
        found = []
        for size in self.sizes:
            share, other = self.estimate(size), self.estimate(size, "lookup")
            beside = (
                f"{share.short()} of them are answered (n = {numbered(share.n, share.unit)}), by lookup {other.short()}"
            )
            if np.isnan(share.low):
                text = "the models are not compared with a lookup of the nearest seen input, as so few have no interval"
            elif share.low > other.value:
                text = "the models answer more than a lookup of the nearest seen input"
            elif share.high < other.value:
                text = "the models answer less than a lookup of the nearest seen input"
            else:
                text = "the models cannot be told from a lookup of the nearest seen input"
            found.append(f"With {size} of {self.total} inputs left out, {text}: {beside}.")
        return tuple(found)

    def plot(self, ax: Axes | None = None) -> Axes:
        """One line per number of inputs left out: the mean, each model as a dot, and both baselines."""
        series = {of: columns([self.estimate(n, of) for n in self.sizes]) for of in ("model", "lookup", "majority")}
        names = [f"{n} of {self.total} left out (n = {self.estimate(n).n})" for n in self.sizes]
        title = "Inputs never trained on"
        ax = intervals(names, series, ax=ax, title=title, x_label="exact match", limits=(-0.02, 1.02))
        ax.scatter(self.model, np.searchsorted(self.sizes, self.omitted) - 0.38, s=9, color="#000000", alpha=0.5)
        return ax


def summarise_held_out(results: Sequence[EvaluationResult]) -> HeldOutResult:
    """Exact match on held-out inputs over models, by how many inputs each left out.

    Raises ValueError for no results, one in which nothing is held out, or results of different tasks or input counts.
    """
    if not results:
        raise ValueError("no evaluations to summarise")
    for result in results:
        if HELD_OUT not in result.splits:
            raise ValueError(f"{result.config['model']} was trained on every input: nothing of it is held out")
        if (result.config["task"], len(result.inputs)) != (results[0].config["task"], len(results[0].inputs)):
            raise ValueError("the evaluations are of different tasks, or of different numbers of inputs")
    sets = [frozenset(map(tuple, result.inputs[result.held_out].tolist())) for result in results]
    numbers = {omission: number for number, omission in enumerate(dict.fromkeys(sets))}
    return HeldOutResult(
        models=tuple(str(result.config["model"]) for result in results),
        total=len(results[0].inputs),
        omitted=np.array([int(result.held_out.sum()) for result in results]),
        omission_set=np.array([numbers[omission] for omission in sets]),
        model=np.array([result.estimate(HELD_OUT).value for result in results]),
        majority=np.array([result.baseline("majority", HELD_OUT) for result in results]),
        lookup=np.array([result.baseline("lookup", HELD_OUT) for result in results]),
        config={"analysis": "summarise_held_out", "task": results[0].config["task"], "models": len(results)},
    )
