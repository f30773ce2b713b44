"""Share of the examples behind a figure that the model answers correctly. A share of a gap is a finding about a task
only if the model solves that task: an untrained network has gaps too, and shares of them.

A pair is solved if the most likely token of the unedited model is the right answer on both of its sides.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from interp_kit.core.pairs import PairBatch
from interp_kit.core.showing import caution, numbered
from interp_kit.engine.metrics import Accuracy, AtField, ExactMatch, Metric

FEW = 0.5  # of the pairs: whoever guesses between two answers solves both sides of a quarter


def solving(metric: Metric, pairs: PairBatch) -> tuple[Metric, Metric]:
    """Metrics that tell if the clean side and the corrupt side are answered correctly, read where `metric` is read."""
    if not isinstance(metric, AtField):
        return ExactMatch(), ExactMatch()
    if metric.field not in pairs.clean.answer and (metric.right is None or metric.wrong is None):
        return Accuracy(pairs.target), Accuracy(pairs.target)
    clean = Accuracy(metric.field, right=metric.right, at=metric.at)
    return clean, replace(clean, right=None if metric.right is None else metric.wrong)


def both_sides(metric: Metric, pairs: PairBatch, logits: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """(pair,) True where both sides are solved. logits: tokens (batch, pos) and the positions to read (batch, read) ->
    unedited logits (batch, read, vocab)."""
    right = []
    for measured, side in zip(solving(metric, pairs), (pairs.clean, pairs.corrupt), strict=True):
        found = logits(side.tokens, measured.reads(side))
        right.append(measured.measure(found, side, found).cpu().numpy() == 1)
    return np.logical_and(*right)


def counted_solved(solved: np.ndarray, *, left_out: int = 0, only_solved: bool = False) -> dict[str, Any]:
    """Entries of a result's config about it. solved: of the pairs in use; left_out: pairs not in use as they are
    not."""
    return {"only_solved": only_solved, "solved": int(solved.sum()), "solved_of": solved.size + left_out}


def is_few(config: Mapping[str, Any]) -> bool:
    """True if the model solves less than FEW of the pairs that are in use."""
    used = config["solved"] if config["only_solved"] else config["solved_of"]
    return config["solved"] < FEW * used


def said(config: Mapping[str, Any], dropped: int = 0, what: str = "both sides of", unit: str = "pairs") -> str:
    """For a caption: how many are left out, or that none are and how many the model solves."""
    if "solved" not in config:  # saved by an earlier version
        return f"{dropped} unsolved {unit} left out"
    if config["only_solved"]:
        return f"{config['solved_of'] - config['solved']} unsolved {unit} left out"
    first = f"{dropped} unsolved {unit} left out, the others" if dropped else "not filtered"
    few = f", FEWER THAN {FEW:.0%}: this says little of the task" if is_few(config) else ""
    return (
        f"{first}: the model solves {what + ' ' if what else ''}{config['solved']} of"
        f" {numbered(config['solved_of'], unit)}{few}"
    )


def caveat(config: Mapping[str, Any], what: str = "both sides of", unit: str = "pairs") -> str:
    """Sentence that a first finding begins with if the model solves few of the pairs in use; else ""."""
    if "solved" not in config or not is_few(config):
        return ""
    of = f"{what + ' ' if what else ''}{config['solved']} of {numbered(config['solved_of'], unit)}"
    return f"{config['model']} solves {of}, so this says little of how it does the task. "


def warn_if_few(config: Mapping[str, Any], what: str = "both sides of", unit: str = "pairs") -> None:
    """Warn if the model solves few of the pairs in use."""
    if is_few(config):
        caution(
            f"{config['model']} solves {what + ' ' if what else ''}{config['solved']} of"
            f" {numbered(config['solved_of'], unit)},"
            f" fewer than {FEW:.0%}: what is measured on them says little of how it does the task"
        )
