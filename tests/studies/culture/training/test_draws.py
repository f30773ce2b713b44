"""Quizzes of a run: noisy where they should be, drawn by what is wrong, and what of them counts."""

import numpy as np
import pytest

from interp_kit.studies.culture.training.draws import by_what_is_wrong, loss_weights, quiz_batch
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS


def test_batches_are_noisy_where_the_structure_says_and_true_elsewhere() -> None:
    structure = np.arange(200) % len(grids.STRUCTURES)
    noisy, clean = quiz_batch(np.arange(200) % 8, structure, np.random.default_rng(0), 0.5)
    differs = noisy != clean
    assert not differs[~grids.noisy_cells(structure)].any()
    assert 0.4 < differs[grids.noisy_cells(structure)].mean() < 0.5  # half are drawn anew, one in eleven as it was
    assert grids.structure_of(clean).tolist() == structure.tolist()


def test_the_first_grid_is_smudged_where_quizzes_are_made_and_nowhere_else() -> None:
    structure = np.arange(200) % len(grids.STRUCTURES)
    noisy, clean = quiz_batch(np.arange(200) % 8, structure, np.random.default_rng(0), 0.0, 0.5)
    makes, first = ~np.isin(structure, grids.EVALUATED), slice(1, grids.QUARTER)
    differs = noisy != clean
    assert 0.4 < differs[makes, first].mean() < 0.5
    differs[makes, first] = False
    assert not differs.any()


def test_draws_follow_what_is_still_wrong() -> None:
    right = np.ones((len(TASKS), len(grids.STRUCTURES)))
    right[3, 1] = 0.0
    task, structure = by_what_is_wrong(20_000, right, 0.8, 0.0, np.random.default_rng(0))
    share = ((task == 3) & (structure == 1)).mean()
    assert share == pytest.approx(0.8 + 0.2 / 32, abs=0.01)
    assert set(structure) == set(grids.EVALUATED)
    _, structure = by_what_is_wrong(20_000, right, 0.0, 0.3, np.random.default_rng(0))
    assert (~np.isin(structure, grids.EVALUATED)).mean() == pytest.approx(0.3, abs=0.01)


def test_weights_of_the_loss() -> None:
    weight = loss_weights(np.array([0, 4]), 0.1)
    assert (weight[0, 1:101] == np.float32(0.1)).all()
    assert (weight[0, 102:202] == 1).all()
    assert (weight[0, 203:303] == np.float32(0.1)).all()
    assert (weight[0, 304:] == 1).all()
    assert (weight[1, 203:303] == 1).all()  # the structure that makes quizzes writes three grids
    last = loss_weights(np.array([0, 4]), 0.0, 0.0)
    assert last[0].nonzero()[0].tolist() == list(range(304, 404))
    assert last[1].sum() == 300
    assert set(weight[0, ::101]) == {np.float32(0.1)}
