"""Two predictors that know no rule, fitted on seen inputs alone: the majority, and a lookup table with nearest
neighbour."""

import numpy as np


def majority(values: np.ndarray) -> np.ndarray:
    """(field,) the most frequent value of each column of (input, field); the smallest where several are.

    Raises ValueError for no inputs.
    """
    if len(values) == 0:
        raise ValueError("no inputs have no majority")
    found = []
    for column in values.T:
        value, count = np.unique(column, return_counts=True)  # rising, so argmax takes the smallest
        found.append(value[count.argmax()])
    return np.array(found)


def nearest(known: np.ndarray, values: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """(input, field) by field the majority among the known inputs nearest in Hamming distance.

    known: (seen, variable) and values: (seen, field), the lookup table; inputs: (input, variable), what is asked.
    A known input is its own nearest. Raises ValueError if nothing is known.
    """
    if len(known) == 0:
        raise ValueError("a lookup table of no inputs has no nearest one")
    groups: dict[tuple, list[int]] = {}
    for row, key in enumerate(map(tuple, known.tolist())):
        groups.setdefault(key, []).append(row)
    found: dict[tuple, np.ndarray] = {}
    for row, key in zip(inputs, map(tuple, inputs.tolist()), strict=True):
        if key not in found:
            near = groups.get(key)  # itself: no search
            if near is None:
                distance = (known != row).sum(1)
                near = np.flatnonzero(distance == distance.min()).tolist()
            found[key] = values[near[0]] if len(near) == 1 else majority(values[near])
    return np.array([found[key] for key in map(tuple, inputs.tolist())])
