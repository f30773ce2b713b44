"""Counterfactuals on the twin network (Balke & Pearl 1994), exact without enumerating noise.

Tables alone do not identify counterfactuals, so the mechanism behind them is stated. Both are summed analytically into
one *twin factor* T[pa, v, pa', v'] per variable: the probability that it is v under pa and v' under pa'.
"""

import numpy as np

from interp_kit.tasks.graphs.elimination import Factor

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


def merged(scope: tuple[int, ...], values: np.ndarray) -> Factor:
    """The factor with the diagonal taken over axes of the same variable."""
    for v in scope:
        while (places := [i for i, u in enumerate(scope) if u == v])[1:]:
            values = np.diagonal(values, axis1=places[0], axis2=places[1])
            scope = (*(u for i, u in enumerate(scope) if i not in places[:2]), v)
    return Factor(scope, values)
