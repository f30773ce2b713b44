"""The text of a quiz: markers, orders, noise, names, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.grids import EVALUATED, STRUCTURES
from interp_kit.tasks.culture.world import sample_worlds

FIXTURES = Path(__file__).parents[2] / "fixtures" / "culture"
MARKER_OF = {"A": 11, "f_A": 12, "B": 13, "f_B": 14}
ORDERS = ["A f_A B f_B", "f_A A f_B B", "B f_B A f_A", "f_B B f_A A", "f_B f_A A B"]
PREDICTED = ["0001", "0001", "0001", "0001", "0111"]
NOISY = ["0010", "0010", "0000", "0000", "0000"]


@pytest.fixture(scope="module")
def quizzes() -> np.ndarray:
    """200 quizzes in canonical order."""
    return sample_worlds(200, np.random.default_rng(8)).quizzes()


def rearranged(quiz: list[int], order: str) -> list[int]:
    """One quiz in another order, by hand."""
    quarter = {quiz[at]: quiz[at : at + 101] for at in (0, 101, 202, 303)}
    return [token for name in order.split() for token in quarter[MARKER_OF[name]]]


def test_structures_are_the_documented_ones() -> None:
    assert [s.name for s in STRUCTURES] == ORDERS
    assert EVALUATED == (0, 1, 2, 3)
    assert [s.inverse for s in STRUCTURES] == [False, True, False, True, True]
    for k, s in enumerate(STRUCTURES):
        assert grids.structure(s.name) == k
        for flags, digits, cells in (
            (s.predicted, PREDICTED[k], grids.predicted_cells(k)),
            (s.noisy, NOISY[k], grids.noisy_cells(k)),
        ):
            assert "".join(str(int(flag)) for flag in flags) == digits
            assert cells.tolist() == [digit == "1" and at > 0 for digit in digits for at in range(101)]
    np.testing.assert_array_equal(grids.noisy_cells(np.array([2, 0]))[1], grids.noisy_cells(0))
    with pytest.raises(ValueError, match="no structure 'A B'; there are A f_A B f_B, f_A A"):
        grids.structure("A B")


def test_a_quiz_is_four_marked_grids(quizzes: np.ndarray) -> None:
    assert (grids.LENGTH, grids.VOCABULARY, quizzes.shape[1]) == (404, 15, 404)
    worlds = sample_worlds(200, np.random.default_rng(8))
    for quiz, four in zip(quizzes.tolist(), worlds.grids().tolist(), strict=True):
        assert quiz == [11, *four[0], 12, *four[1], 13, *four[2], 14, *four[3]]
    np.testing.assert_array_equal(grids.split(quizzes), worlds.grids())
    assert grids.check(quizzes) is quizzes


@pytest.mark.parametrize("k", range(5))
def test_reconfigure(quizzes: np.ndarray, k: int) -> None:
    moved = grids.reconfigure(quizzes, k)
    assert moved.tolist() == [rearranged(quiz, ORDERS[k]) for quiz in quizzes.tolist()]
    assert (grids.structure_of(moved) == k).all()
    np.testing.assert_array_equal(grids.split(moved), grids.split(quizzes))
    assert grids.check(moved).dtype == quizzes.dtype


@given(
    st.lists(st.tuples(st.permutations(range(4)), st.integers(0, 4), st.integers(0, 4)), max_size=12),
    st.integers(0, 2**32),
)
def test_reconfigure_finds_grids_by_their_markers(rows: list, seed: int) -> None:
    """Rows in any order of their quarters, each to a structure of its own, then to another, and back."""
    rng = np.random.default_rng(seed)
    canonical = grids.compose(rng.integers(11, size=(len(rows), 4, 100)))
    mixed = canonical.copy()
    for row, (order, _, _) in enumerate(rows):
        mixed[row] = canonical[row].reshape(4, 101)[list(order)].ravel()
    first, second = (np.array([row[at] for row in rows], np.int64) for at in (1, 2))
    direct = grids.reconfigure(canonical, second)
    np.testing.assert_array_equal(grids.reconfigure(mixed, second), direct)
    np.testing.assert_array_equal(grids.reconfigure(grids.reconfigure(mixed, first), second), direct)
    np.testing.assert_array_equal(grids.reconfigure(direct, 0), canonical)
    np.testing.assert_array_equal(grids.structure_of(direct), second)
    for row, k in enumerate(second):
        assert direct[row].tolist() == rearranged(canonical[row].tolist(), ORDERS[k])


def test_an_order_that_is_no_structure(quizzes: np.ndarray) -> None:
    assert grids.structure_of(quizzes[:1].reshape(1, 4, 101)[:, [1, 0, 2, 3]].reshape(1, 404)).tolist() == [-1]


# Noise ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(5))
def test_noise_hits_only_cells_that_may_be_noisy(quizzes: np.ndarray, k: int) -> None:
    clean = grids.reconfigure(quizzes, k)
    noisy = grids.add_noise(clean, grids.noisy_cells(k), np.random.default_rng(0), p=1.0)
    touched = [at for at in range(404) if NOISY[k][at // 101] == "1" and at % 101 > 0]
    assert np.flatnonzero((noisy != clean).any(0)).tolist() == touched
    assert noisy.dtype == clean.dtype
    grids.check(noisy)


def test_noise_changes_one_cell_in_22(quizzes: np.ndarray) -> None:
    """p = 0.05, uniform over 11 colours: 10 of 11 hits are visible."""
    clean = np.tile(quizzes, (50, 1))
    noisy = grids.add_noise(clean, grids.noisy_cells(0), np.random.default_rng(1))
    cells = grids.noisy_cells(0)
    changed = (noisy != clean)[:, cells]
    assert binomtest(int(changed.sum()), changed.size, 0.05 * 10 / 11).pvalue > 1e-3
    counts = np.bincount(noisy[:, cells][changed & (clean[:, cells] == 0)], minlength=11)
    assert counts[0] == 0
    assert np.ptp(counts[1:]) < 6 * np.sqrt(counts[1:].mean())
    per_row = changed.sum(1)
    assert abs(per_row.var() / (100 * 1 / 22 * 21 / 22) - 1) < 0.1  # Cells are hit independently.


def test_no_noise_and_impossible_noise(quizzes: np.ndarray) -> None:
    rng, cells = np.random.default_rng(0), grids.noisy_cells(0)
    np.testing.assert_array_equal(grids.add_noise(quizzes, cells, rng, p=0.0), quizzes)
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=rf"noise {p}: expected a probability"):
            grids.add_noise(quizzes, cells, rng, p=p)


# Names and errors ----------------------------------------------------------------------------------------------------


def test_cell_names() -> None:
    assert [grids.cell_name("f_B", cell) for cell in (0, 9, 10, 37, 99)] == [
        "f_B[0,0]", "f_B[0,9]", "f_B[1,0]", "f_B[3,7]", "f_B[9,9]",
    ]  # fmt: skip


def broken(quizzes: np.ndarray, row: int, at: int, value: int) -> np.ndarray:
    bad = quizzes.astype(np.int64)
    bad[row, at] = value
    return bad


def test_what_is_no_quiz_is_named(quizzes: np.ndarray) -> None:
    for bad, message in (
        (broken(quizzes, 7, 5, 15), r"data: row 7, position 5: 15 is outside 0\.\.14"),
        (broken(quizzes, 2, 403, -1), r"data: row 2, position 403: -1 is outside 0\.\.14"),
        (broken(quizzes, 3, 101, 0), r"row 3 has \[11, 0, 13, 14\] at positions 0, 101, 202, 303"),
        (broken(quizzes, 3, 101, 11), r"row 3 has \[11, 11, 13, 14\]"),
        (broken(quizzes, 4, 150, 13), "row 4, position 150: marker 13 stands inside a grid"),
        (quizzes[:, :403], r"shape \(200, 403\), expected \(n, 404\)"),
        (quizzes[0], r"shape \(404,\)"),
        (quizzes.astype(float), "float64 tokens, expected integers"),
    ):
        with pytest.raises(ValueError, match=message):
            grids.check(bad, "data")
    assert grids.check(quizzes[:0]).shape == (0, 404)


# Quizzes made by the original program ------------------------------------------------------------------------------


def test_original_quizzes_are_in_the_orders_that_they_say() -> None:
    tokens = torch.load(FIXTURES / "tokens.pt", weights_only=True).numpy()
    said = [" ".join(row["struct"]) for row in json.loads((FIXTURES / "tokens_meta.json").read_text())]
    found = grids.structure_of(grids.check(tokens))
    assert [STRUCTURES[k].name for k in found] == said
    canonical = grids.reconfigure(tokens, 0)
    assert (canonical[:, ::101] == [11, 12, 13, 14]).all()
    assert canonical.tolist() == [rearranged(quiz, ORDERS[0]) for quiz in tokens.tolist()]
    np.testing.assert_array_equal(grids.reconfigure(canonical, found), tokens)
