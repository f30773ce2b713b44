"""Quizzes of one A and B under two rules, and both at once: against the rules painted cell by cell."""

import numpy as np
import pytest

from interp_kit.tasks.culture import composed, grids
from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture.composed import AT_ONCE, PLAIN, TwoRules, two_rules
from interp_kit.tasks.culture.world import TASKS

ORDERED = [(a, b) for a in PLAIN for b in PLAIN if a != b]


@pytest.fixture(scope="module")
def drawn() -> TwoRules:
    return two_rules(41, ORDERED, np.random.default_rng(0))


def test_two_rules_differ_in_f_alone(drawn: TwoRules) -> None:
    one, two = (grids.split(worlds.quizzes()) for worlds in (drawn.first, drawn.second))
    np.testing.assert_array_equal(one[:, 0::2], two[:, 0::2])
    assert (one != two)[:, 1::2].any(2).all()
    assert drawn.first.accepted().all()
    assert drawn.second.accepted().all()


def test_every_ordered_pair_of_rules_has_its_share(drawn: TwoRules) -> None:
    kinds = [(TASKS[a], TASKS[b]) for a, b in zip(drawn.first.task, drawn.second.task, strict=True)]
    assert len(drawn) == 41
    assert [kinds.count(pair) for pair in ORDERED] == [3] + [2] * 19


def test_the_same_generator_gives_the_same() -> None:
    one, two = (two_rules(4, AT_ONCE, np.random.default_rng(3), apart=True).both() for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_both_rules_are_painted_cell_by_cell() -> None:
    drawn = two_rules(8, [("replace_color", "frame")], np.random.default_rng(1), apart=True)
    found = grids.split(drawn.both())
    bounds = rect.rectangles()
    for row in range(8):
        c = drawn.first.colours[row]
        for side in range(2):
            plain, after = np.zeros((2, 10, 10), int)
            for k in range(3):
                i1, j1, i2, j2 = bounds[drawn.first.rectangles[row, side, k]]
                plain[i1:i2, j1:j2] = c[k]
                after[i1:i2, j1:j2] = c[3] if k == 0 else c[k]
                if k == 2:
                    after[i1 + 1 : i2 - 1, j1 + 1 : j2 - 1] = 0
            np.testing.assert_array_equal(found[row, 2 * side], plain.ravel())
            np.testing.assert_array_equal(found[row, 2 * side + 1], after.ravel())


def test_rules_that_change_the_same_cells_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = two_rules(2, [("replace_color", "detect")], np.random.default_rng(0))
    assert not drawn.apart.any()
    with pytest.raises(ValueError, match="quiz 0: both rules change the same cells"):
        drawn.both()
    monkeypatch.setattr(composed, "ROUNDS", 2)
    with pytest.raises(ValueError, match="replace_color and detect: 0 of 1 quizzes found in 2 draws"):
        two_rules(1, [("replace_color", "detect")], np.random.default_rng(0), apart=True)


@pytest.mark.parametrize(
    ("n", "rules", "message"),
    [
        (2, [("frame", "frame")], "expected two different ones of replace_color"),
        (2, [("frame", "grow")], r"rules \('frame', 'grow'\)"),
        (1, ORDERED, "1 quizzes of 20 pairs of rules"),
        (1, [], "1 quizzes of 0 pairs of rules"),
    ],
)
def test_what_cannot_be_drawn_is_refused(n: int, rules: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_rules(n, rules, np.random.default_rng(0))
