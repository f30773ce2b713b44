"""The two baselines by hand and against sklearn's nearest neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from interp_kit.analysis.behaviour.baselines import majority, nearest


def test_majority_and_nearest_by_hand() -> None:
    assert majority(np.array([[3, 1], [2, 1], [3, 0], [2, 0]])).tolist() == [2, 0]  # ties: the smallest
    known, values = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0]]), np.array([[7], [8], [9]])
    asked = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0]])
    assert nearest(known, values, asked)[:, 0].tolist() == [7, 7, 8, 8, 7]
    with pytest.raises(ValueError, match="no inputs"):
        majority(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="lookup table of no inputs"):
        nearest(np.zeros((0, 2)), np.zeros((0, 1)), np.zeros((1, 2)))


@given(st.integers(0, 10_000))
def test_nearest_agrees_with_sklearn(seed: int) -> None:
    """With as many neighbours as stand at the smallest distance, sklearn finds the same majority (ties: smallest)."""
    rng = np.random.default_rng(seed)
    known, values = rng.integers(0, 3, (12, 4)), rng.integers(0, 4, (12, 2))
    asked = rng.integers(0, 3, (6, 4))
    found = nearest(known, values, asked)
    for row, answer in zip(asked, found, strict=True):
        distance = (known != row).sum(1)
        k = int((distance == distance.min()).sum())
        for column in range(2):
            oracle = KNeighborsClassifier(k, metric="hamming", algorithm="brute").fit(known, values[:, column])
            assert oracle.predict(row[None])[0] == answer[column]
