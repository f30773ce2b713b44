"""Counterfactuals on the twin network (Balke & Pearl 1994), exact without enumerating noise.

Tables alone do not identify counterfactuals, so the mechanism behind them is stated. Both are summed analytically into
one *twin factor* T[pa, v, pa', v'] per variable: the probability that it is v under pa and v' under pa'.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp_kit.core.config import check_choice, check_number
from interp_kit.tasks.graphs.elimination import Factor
from interp_kit.tasks.graphs.models import DiscreteModel

MECHANISMS = ("selectors", "uniform")


def twin_factor(table: np.ndarray, mechanism: str) -> np.ndarray:
    """(pa 1, …, v, pa 1', …, v') from a table (pa 1, …, v).

    selectors: one independent draw per assignment of the parents, so v' is v if the assignments agree and independent
    of it if not. uniform: one uniform number per variable, read by inverse CDF in the order of the values, so the
    probability is the overlap of two intervals. A table of integers whose rows have one sum gives integers, a constant
    times the probabilities. Raises ValueError for another mechanism.
    """
    if mechanism not in MECHANISMS:
        raise ValueError(f"no mechanism {mechanism!r}: expected one of {', '.join(MECHANISMS)}")
    values = table.shape[-1]
    rows = table.reshape(-1, values)
    if mechanism == "selectors":
        twin = rows[:, :, None, None] * rows
        same, one = np.arange(len(rows)), rows[0].sum()
        twin[same, :, same, :] = one * rows[:, :, None] * np.eye(values, dtype=rows.dtype)
    else:
        high = rows.cumsum(1)
        if high.dtype == float:
            high[:, -1] = 1
        low = np.concatenate([np.zeros((len(rows), 1), high.dtype), high[:, :-1]], axis=1)
        twin = np.minimum(high[:, :, None, None], high) - np.maximum(low[:, :, None, None], low)
        twin = np.maximum(twin, 0)
    return twin.reshape(*table.shape, *table.shape)


def clamped(model: DiscreteModel, noise: Mapping[str, Any], mechanism: str) -> DiscreteModel:
    """The model with the noise of some variables held, so that their parents decide them.

    Args:
        model: A discrete model.
        noise: Of each such variable: for "uniform" a number from 0 to below 1; for "selectors" the value that was drawn
            for each assignment of its parents, as an array with their axes (a number if it has none).
        mechanism: "selectors" or "uniform".

    Raises:
        ValueError: for unknown names, another mechanism, a number out of range, and draws of another shape, or of
            values that the variable has not or that have probability 0.
    """
    check_choice("mechanism", mechanism, MECHANISMS)
    tables = list(model.tables)
    for name, held in noise.items():
        v = model.number(name)
        table = model.tables[v]
        if mechanism == "uniform":
            check_number(f"the noise of {name}", held, least=0, below=1)
            drawn = np.minimum((table.cumsum(-1) <= held).sum(-1), table.shape[-1] - 1)
        else:
            drawn = np.asarray(held)
            if drawn.shape != table.shape[:-1] or drawn.dtype.kind not in "iu":
                raise ValueError(
                    f"the noise of {name} has shape {drawn.shape} and type {drawn.dtype}: expected integers of shape"
                    f" {table.shape[:-1]}, one per assignment of its parents"
                )
            if drawn.min() < 0 or drawn.max() >= table.shape[-1]:
                raise ValueError(f"the noise of {name} holds values other than 0 to {table.shape[-1] - 1}")
            if not np.take_along_axis(table, drawn[..., None], -1).all():
                raise ValueError(f"the noise of {name} holds a value that has probability 0 in its row")
        tables[v] = np.eye(table.shape[-1])[drawn]
    return DiscreteModel(model.names, model.parents, tuple(tables))


def merged(scope: tuple[int, ...], values: np.ndarray) -> Factor:
    """The factor with the diagonal taken over axes of the same variable."""
    for v in scope:
        while (places := [i for i, u in enumerate(scope) if u == v])[1:]:
            values = np.diagonal(values, axis1=places[0], axis2=places[1])
            scope = (*(u for i, u in enumerate(scope) if i not in places[:2]), v)
    return Factor(scope, values)
