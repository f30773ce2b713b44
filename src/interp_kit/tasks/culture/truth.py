"""Cells that change, and the reason: the ground truth behind the cells of sampled quizzes."""

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture.world import TASKS, Worlds

REASONS = (
    "unchanged",
    "recoloured",
    "moved away",
    "moved in",
    "moved over",
    "grown",
    "shrunk",
    "filled",
    "hollowed",
    "marked",
    "completed",
    "framed",
)
_OF_TASK = {
    "replace_color": "recoloured",
    "half_fill": "filled",
    "frame": "hollowed",
    "detect": "marked",
    "corners": "completed",
    "contact": "framed",
}


def owners(worlds: Worlds) -> NDArray[np.int64]:
    """(n, 4, 100) which rectangle each cell of A, f_A, B, f_B shows: 0, 1, 2 for r0, r1, r2, -1 for white.

    It is the one painted last: a cell that r2 was moved over is r2's, a border cell of contact is the framed one's.
    """
    shown = worlds.grids() > 0
    found = np.full(shown.shape, -1)
    for grid in range(4):
        r = worlds.rectangles[:, grid // 2].copy()
        if grid % 2:
            rows = np.flatnonzero(worlds.task == TASKS.index("translate"))
            r[rows, 2] = rect.moved()[worlds.direction[rows], r[rows, 2]]
        for k in range(3):
            found[:, grid][rect.full()[r[:, k]] & shown[:, grid]] = k
    return found


def changed(worlds: Worlds) -> NDArray[np.bool_]:
    """(n, 2, 100) True on the cells that differ between A and f_A, and between B and f_B."""
    grids = worlds.grids()
    return grids[:, 0::2] != grids[:, 1::2]


def reasons(worlds: Worlds) -> NDArray[np.int64]:
    """(n, 2, 100) index in REASONS of why a cell of f_A differs from that of A, and f_B's from B's.

    translate distinguishes cells that r2 left ("moved away"), entered on white ("moved in") or on another rectangle
    ("moved over").
    """
    grids, found = worlds.grids(), np.zeros((len(worlds), 2, rect.CELLS), np.int64)
    before, after = grids[:, 0::2], grids[:, 1::2]
    for t, task in enumerate(TASKS):
        here = (worlds.task == t)[:, None, None] & (before != after)
        if task == "translate":
            found[here & (after == 0)] = REASONS.index("moved away")
            found[here & (after > 0) & (before == 0)] = REASONS.index("moved in")
            found[here & (after > 0) & (before > 0)] = REASONS.index("moved over")
        elif task == "grow":
            found[here & (after > 0)] = REASONS.index("grown")
            found[here & (after == 0)] = REASONS.index("shrunk")
        else:
            found[here] = REASONS.index(_OF_TASK[task])
    return found
