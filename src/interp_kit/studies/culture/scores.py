"""Quizzes that culture models solve: counts by structure and by task, with intervals, beside what copying and the best
possible answers get."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, mean_estimate, wilson
from interp_kit.reports.plotting import intervals

ALL = "all"
UNIT = "quizzes"


@dataclass(frozen=True, kw_only=True)
class CultureTests(AbstractResult):
    """Quizzes that each model solves.

    models: names; noise: (level,) of the prompt; task: (quiz,) index in `tasks`; structure: (quiz,) index in
    `structures`; right: (model, level, quiz) the answer is right in every token; expected: (model, level, quiz) the
    probability that a sampled answer is; cells: (model, level, quiz) share of the answer's cells whose most probable
    colour is right, given the true cells before them; loss: (model, level, quiz) cross-entropy in nats, mean over all
    404 tokens of the clean quiz, read with noise; copied: (quiz,) share of cells that copying the third grid gets
    right; ceiling: (quiz,) the probability with which the best possible answer to the noiseless prompt is right, nan
    for quizzes that models made.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    structures: tuple[str, ...]
    noise: np.ndarray
    task: np.ndarray
    structure: np.ndarray
    right: np.ndarray
    expected: np.ndarray
    cells: np.ndarray
    loss: np.ndarray
    copied: np.ndarray
    ceiling: np.ndarray
    config: Mapping[str, Any]

    @property
    def answers(self) -> str:
        """Choice of answers: "greedy", or "sampled" at temperature 1."""
        return "greedy" if self.config["greedy"] else "sampled"

    def accuracy(self, model: str, noise: float | int = 0.0, structure: str = ALL, task: str = ALL) -> Estimate:
        """The share of quizzes solved, with Wilson's interval; nan where there is no such quiz (n = 0).

        Raises ValueError for a model, level, structure or task that was not tested, listing those that were.
        """
        m, level, rows = self._at(model, noise, structure, task)
        hits = self.right[m, level, rows]
        return wilson(int(hits.sum()), len(hits), UNIT) if len(hits) else _nothing()

    def perplexity(self, model: str, noise: float | int = 0.0, structure: str = ALL, task: str = ALL) -> Estimate:
        """exp(mean cross-entropy) over all 404 tokens, with the interval of the mean over quizzes; arguments as in
        `accuracy`."""
        m, level, rows = self._at(model, noise, structure, task)
        if not rows.any():
            return _nothing()
        e = mean_estimate(self.loss[m, level, rows], UNIT, (0.0, np.inf))
        return Estimate(float(np.exp(e.value)), float(np.exp(e.low)), float(np.exp(e.high)), e.n, UNIT)

    def to_frame(self) -> pd.DataFrame:
        """One row per model, level of noise, structure and task, "all" among both: share of right answers with Wilson's
        interval over quizzes and n, the mean probability of a sampled answer to be right, perplexity, share of right
        cells and, to compare these with, what copying the third grid and what the best possible answer get."""
        rows = []
        for model in self.models:
            for noise in self.noise.tolist():
                for structure in (ALL, *self.structures):
                    for task in (ALL, *self.tasks):
                        rows.append(self._row(model, noise, structure, task))
        return pd.DataFrame(rows)

    def _row(self, model: str, noise: float, structure: str, task: str) -> dict[str, Any]:
        m, level, chosen = self._at(model, noise, structure, task)
        e = self.accuracy(model, noise, structure, task)
        return {
            "model": model,
            "answers": self.answers,
            "noise": noise,
            "structure": structure,
            "task": task,
            "value": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
            "expected": _mean(self.expected[m, level, chosen]),
            "perplexity": self.perplexity(model, noise, structure, task).value,
            "cells": _mean(self.cells[m, level, chosen]),
            "copied_cells": _mean(self.copied[chosen]),
            "copied": _mean(self.copied[chosen] == 1),
            "ceiling": _mean(self.ceiling[chosen]),
        }

    def _at(self, model: str, noise: float, structure: str, task: str) -> tuple[int, int, np.ndarray]:
        """Indices of model and level, and (quiz,) True on the quizzes."""
        m, level = _index(model, self.models, "model"), _index(float(noise), self.noise.tolist(), "noise")
        rows = np.ones(len(self.task), bool)
        if structure != ALL:
            rows &= self.structure == _index(structure, self.structures, "structure")
        if task != ALL:
            rows &= self.task == _index(task, self.tasks, "task")
        return m, level, rows

    def caption(self) -> str:
        """See AbstractResult."""
        n, made = len(self.task), int(self.config["culture"])
        source = f", {made} of them made by models" if made else ""
        ceiling = _mean(self.ceiling)
        best = "" if np.isnan(ceiling) else f"; the best possible answers get {ceiling:.3f} of world quizzes"
        return (
            f"Quizzes solved, every token right, answers {_how(self.answers)} (n ="
            f" {numbered(n, 'distinct quizzes')}{source}; 95 %"
            f" Wilson intervals over quizzes). Copying the third grid solves {_mean(self.copied == 1):.3f}{best}."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Accuracy of each model: overall at every level of noise, then by structure and by task at the last level."""
        last = float(self.noise[-1])
        groups = [(f"all, {_level(p)}", p, ALL, ALL) for p in self.noise.tolist()]
        groups += [(s, last, s, ALL) for s in self.structures] + [(t, last, ALL, t) for t in self.tasks]
        found = {m: [self.accuracy(m, p, s, t) for _, p, s, t in groups] for m in self.models}
        series = {}
        for model, estimates in found.items():
            value, low, high = np.array([(e.value, e.low, e.high) for e in estimates]).T
            series[model] = (value, low, high)
        names = [f"{name} (n = {e.n})" for (name, *_), e in zip(groups, found[self.models[0]], strict=True)]
        ceiling = _mean(self.ceiling)
        reference = {} if np.isnan(ceiling) else {"best possible, all": ceiling}
        title = f"Quizzes solved, answers {_how(self.answers)}, {_level(last)}"
        x_label = "share of quizzes"
        return intervals(names, series, ax=ax, title=title, x_label=x_label, reference=reference, limits=(-0.02, 1.02))

    def __str__(self) -> str:
        probability = "sampling" if self.config["greedy"] else "expected"
        legend = (
            f"{probability}: mean probability that a sampled answer is right, exactly; ceiling: what the best possible"
            " answer gets, as some quizzes have several;\nintervals: Wilson, 95 %, over n quizzes"
        )
        return "\n\n".join([*(self.table(model) for model in self.models), legend])

    def table(self, model: str) -> str:
        """One model as text: perplexity, then accuracy by structure and by task, one column per level of noise."""
        levels, sampled = self.noise.tolist(), "sampling" if self.config["greedy"] else "expected"
        perplexities = ", ".join(f"{self.perplexity(model, p).value:.4f} {_level(p)}" for p in levels)
        lines = [f"{model}: perplexity {perplexities}", f"  {'answers ' + self.answers:<16}"]
        lines[1] += "".join(f"{_level(p):<21}{sampled:<10}" for p in levels) + f"{'ceiling':<10}n"
        groups = [(ALL, ALL), *((s, ALL) for s in self.structures), *((ALL, t) for t in self.tasks)]
        for structure, task in groups:
            rows = [self._row(model, p, structure, task) for p in levels]
            name = structure if structure != ALL else task
            shown = (
                f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["n"] else f"{'-':<21}"
                for row in rows
            )
            line = "".join(f"{e:<22}{row['expected']:<9.3f}" for e, row in zip(shown, rows, strict=True))
            lines.append(f"  {name:<16}{line}{rows[0]['ceiling']:<10.3f}{rows[0]['n']}".replace("nan", "-  "))
        return "\n".join(lines)


def _nothing() -> Estimate:
    return Estimate(float("nan"), float("nan"), float("nan"), 0, UNIT)


def _mean(values: np.ndarray) -> float:
    """The mean of the values there are; nan where there are none."""
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(known.mean()) if len(known) else float("nan")


def _index(value: Any, among: Sequence[Any], what: str) -> int:
    if value not in among:
        raise ValueError(f"no {what} {value!r}; there are {', '.join(map(str, among))}")
    return list(among).index(value)


def _level(noise: float) -> str:
    return f"noise {noise:g}" if noise else "no noise"


def _how(answers: str) -> str:
    return "by argmax (greedy)" if answers == "greedy" else "sampled at temperature 1"
