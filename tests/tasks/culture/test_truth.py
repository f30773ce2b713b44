"""Which cells change and why, against the rules cell by cell."""

import numpy as np
import pytest

from interp_kit.tasks.culture.rectangles import STEPS, rectangles
from interp_kit.tasks.culture.truth import REASONS, changed, owners, reasons
from interp_kit.tasks.culture.world import TASKS, Worlds, draw_worlds


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    """480 quizzes, 60 of each task."""
    return draw_worlds(np.repeat(np.arange(8), 60), np.random.default_rng(14))


def inside(r: np.ndarray, cell: int) -> bool:
    i, j = divmod(cell, 10)
    return r[0] <= i < r[2] and r[1] <= j < r[3]


def test_owners(worlds: Worlds) -> None:
    found, grids = owners(worlds), worlds.grids()
    for row in range(0, 480, 3):
        for grid in range(4):
            r = rectangles()[worlds.rectangles[row, grid // 2]]
            if grid % 2 and TASKS[worlds.task[row]] == "translate":
                di, dj = STEPS[worlds.direction[row]]
                r[2] += [di, dj, di, dj]
            for cell in range(100):
                over = [k for k in range(3) if inside(r[k], cell)]
                assert found[row, grid, cell] == (max(over) if over and grids[row, grid, cell] else -1)
    hidden = (owners(worlds)[:, 0] >= 0) & (found[:, 1] == 2) & (found[:, 0] != 2) & (found[:, 0] >= 0)
    assert hidden.any()  # Some r2 was moved over another.


def test_reasons(worlds: Worlds) -> None:
    why, differs, owner, grids = reasons(worlds), changed(worlds), owners(worlds), worlds.grids()
    np.testing.assert_array_equal(why > 0, differs)
    np.testing.assert_array_equal(differs[:, 1], grids[:, 2] != grids[:, 3])
    of_task = {
        "replace_color": {"recoloured"},
        "translate": {"moved away", "moved in", "moved over"},
        "half_fill": {"filled"},
        "frame": {"hollowed"},
        "detect": {"marked"},
        "corners": {"completed"},
        "contact": {"framed"},
    }
    for t, task in enumerate(TASKS):
        rows = worlds.task == t
        if task == "grow":
            for direction, reason in enumerate(("grown", "shrunk")):
                these = why[rows & (worlds.direction == direction)]
                assert {REASONS[k] for k in np.unique(these)} == {"unchanged", reason}
        else:
            assert {REASONS[k] for k in np.unique(why[rows])} - {"unchanged"} == of_task[task]
    for side in range(2):
        before, after = owner[:, 2 * side], owner[:, 2 * side + 1]
        for reason, a, b in (("moved away", (2,), (-1,)), ("moved in", (-1,), (2,)), ("moved over", (0, 1), (2,))):
            at = why[:, side] == REASONS.index(reason)
            assert np.isin(before[at], a).all()
            assert np.isin(after[at], b).all()
        for reason in ("recoloured", "filled", "marked", "framed"):
            at = why[:, side] == REASONS.index(reason)
            np.testing.assert_array_equal(before[at], after[at])
