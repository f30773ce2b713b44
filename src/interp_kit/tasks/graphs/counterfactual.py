"""Counterfactuals on the twin network (Balke & Pearl 1994), exact without enumerating noise.

Tables alone do not identify counterfactuals, so the mechanism behind them is stated. Both are summed analytically into
one *twin factor* T[pa, v, pa', v'] per variable: the probability that it is v under pa and v' under pa'.
"""

from collections.abc import Mapping

import numpy as np

from interp_kit.tasks.graphs.elimination import Factor
from interp_kit.tasks.graphs.models import DiscreteModel, topological

MECHANISMS = ("selectors", "uniform")


def twin_factor(table: np.ndarray, mechanism: str) -> np.ndarray:
    """(pa 1, …, v, pa 1', …, v') from a table (pa 1, …, v).

    selectors: one independent draw per assignment of the parents, so v' is v if the assignments agree and independent
    of it if not. uniform: one uniform number per variable, read by inverse CDF in the order of the values, so the
    probability is the overlap of two intervals. Raises ValueError for another mechanism.
    """
    if mechanism not in MECHANISMS:
        raise ValueError(f"no mechanism {mechanism!r}: expected one of {', '.join(MECHANISMS)}")
    values = table.shape[-1]
    rows = table.reshape(-1, values)
    if mechanism == "selectors":
        twin = rows[:, :, None, None] * rows
        same = np.arange(len(rows))
        twin[same, :, same, :] = rows[:, :, None] * np.eye(values)
    else:
        high = rows.cumsum(1)
        high[:, -1] = 1
        low = np.concatenate([np.zeros((len(rows), 1)), high[:, :-1]], axis=1)
        twin = np.minimum(high[:, :, None, None], high) - np.maximum(low[:, :, None, None], low)
        twin = np.maximum(twin, 0)
    return twin.reshape(*table.shape, *table.shape)


def descendants(model: DiscreteModel, of: Mapping[int, int]) -> set[int]:
    """Variables that are in `of` or have an ancestor in it."""
    found = set(of)
    for v in topological(model.parents):
        if found & set(model.parents[v]):
            found.add(v)
    return found


def twin_families(
    model: DiscreteModel, copies: Mapping[int, int], changed: Mapping[int, int], relevant: set[int], mechanism: str
) -> list[Factor]:
    """The factors of the twin network over its relevant variables.

    copies: variable -> number of its copy in the other world, for the descendants of `changed` (variable -> value
    there); other variables are the same in both worlds. The copies of changed variables are sure.
    """
    factors = []
    for v, parents in enumerate(model.parents):
        table, here = model.tables[v], (*parents, v)
        there = tuple(copies.get(u, u) for u in here)
        if v in copies and v not in changed and {v, copies[v]} <= relevant:
            factors.append(_shared((*here, *there), twin_factor(table, mechanism)))
        else:
            if v in relevant:
                factors.append(Factor(here, table))
            if v in copies and copies[v] in relevant:
                sure = v in changed
                factors.append(
                    Factor((copies[v],), np.eye(table.shape[-1])[changed[v]]) if sure else Factor(there, table)
                )
    return factors


def _shared(scope: tuple[int, ...], values: np.ndarray) -> Factor:
    """The factor with the diagonal taken over axes of the same variable."""
    for v in scope:
        while (places := [i for i, u in enumerate(scope) if u == v])[1:]:
            values = np.diagonal(values, axis1=places[0], axis2=places[1])
            scope = (*(u for i, u in enumerate(scope) if i not in places[:2]), v)
    return Factor(scope, values)
