"""The text of a quiz: colours and markers, the order of its four grids, noise on the prompt.

A quiz is four times a marker and the 100 cells of a 10x10 grid, row by row: 404 tokens. Its canonical order is
A f_A B f_B. Models see a 0 before it, so that position t of the quiz is position t + 1 of the model.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture.rectangles import CELLS, SIDE

COLOURS = 11
GRIDS = ("A", "f_A", "B", "f_B")
MARKERS = {name: COLOURS + n for n, name in enumerate(GRIDS)}
VOCABULARY = COLOURS + len(GRIDS)
QUARTER = CELLS + 1
LENGTH = QUARTER * len(GRIDS)
NOISE = 0.05

Tokens = NDArray[np.integer]
Integer = TypeVar("Integer", bound=np.integer)


@dataclass(frozen=True)
class Structure:
    """An order of the four grids; which of them, as they stand, are predicted, and which prompt grids may be noisy."""

    order: tuple[str, str, str, str]
    predicted: tuple[bool, bool, bool, bool]
    noisy: tuple[bool, bool, bool, bool]

    @property
    def name(self) -> str:
        return " ".join(self.order)

    @property
    def inverse(self) -> bool:
        """True if its last grid is the A or B of a rule whose inverse is asked for."""
        return not self.order[-1].startswith("f_")

    @property
    def evaluated(self) -> bool:
        """True if one grid, the last, is asked for; the other structure is for making quizzes."""
        return sum(self.predicted) == 1


def _structure(order: str, predicted: str, noisy: str) -> Structure:
    a, b, c, d = order.split()
    return Structure((a, b, c, d), _bits(predicted), _bits(noisy))


def _bits(text: str) -> tuple[bool, bool, bool, bool]:
    a, b, c, d = (digit == "1" for digit in text)
    return a, b, c, d


STRUCTURES = (
    _structure("A f_A B f_B", "0001", "0010"),
    _structure("f_A A f_B B", "0001", "0010"),
    _structure("B f_B A f_A", "0001", "0000"),
    _structure("f_B B f_A A", "0001", "0000"),
    _structure("f_B f_A A B", "0111", "0000"),
)
EVALUATED = tuple(n for n, structure in enumerate(STRUCTURES) if structure.evaluated)


def structure(name: str) -> int:
    """The index in STRUCTURES of an order such as "A f_A B f_B". Raises ValueError listing them."""
    for n, candidate in enumerate(STRUCTURES):
        if candidate.name == name:
            return n
    raise ValueError(f"no structure {name!r}; there are {', '.join(s.name for s in STRUCTURES)}")


def check(quizzes: np.ndarray, where: str = "quizzes") -> Tokens:
    """The quizzes as they are, if each is four grids of colours after the four markers in any order.

    Raises ValueError that names the first row and position that is not so.
    """
    if quizzes.ndim != 2 or quizzes.shape[1] != LENGTH:
        raise ValueError(f"{where}: shape {quizzes.shape}, expected (n, {LENGTH})")
    if not np.issubdtype(quizzes.dtype, np.integer):
        raise ValueError(f"{where}: {quizzes.dtype} tokens, expected integers")
    outside = (quizzes < 0) | (quizzes >= VOCABULARY)
    if outside.any():
        row, at = np.argwhere(outside)[0]
        raise ValueError(f"{where}: row {row}, position {at}: {quizzes[row, at]} is outside 0..{VOCABULARY - 1}")
    quarters = quizzes.reshape(-1, len(GRIDS), QUARTER)
    marked = quarters[:, :, 0]
    wrong = (np.sort(marked, axis=1) != list(MARKERS.values())).any(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{where}: row {row} has {marked[row].tolist()} at positions 0, {QUARTER}, {2 * QUARTER}, {3 * QUARTER},"
            f" where the markers {list(MARKERS.values())} must stand"
        )
    misplaced = quarters[:, :, 1:] >= COLOURS
    if misplaced.any():
        row, quarter, cell = np.argwhere(misplaced)[0]
        at = quarter * QUARTER + 1 + cell
        raise ValueError(f"{where}: row {row}, position {at}: marker {quizzes[row, at]} stands inside a grid")
    return quizzes


def compose(grids: NDArray[Integer]) -> NDArray[Integer]:
    """(n, 404) quizzes in canonical order from (n, 4, 100) colours of A, f_A, B, f_B."""
    quarters = np.empty((len(grids), len(GRIDS), QUARTER), grids.dtype)
    quarters[:, :, 0] = list(MARKERS.values())
    quarters[:, :, 1:] = grids
    return quarters.reshape(-1, LENGTH)


def split(quizzes: NDArray[Integer]) -> NDArray[Integer]:
    """(n, 4, 100) colours of A, f_A, B, f_B, whatever the order in which each quiz has them."""
    quarters = quizzes.reshape(-1, len(GRIDS), QUARTER)
    order = np.argsort(quarters[:, :, 0], axis=1)
    return np.take_along_axis(quarters, order[:, :, None], axis=1)[:, :, 1:]


def reconfigure(quizzes: NDArray[Integer], structure: int | NDArray[np.integer]) -> NDArray[Integer]:
    """The quizzes with their grids in the order of a structure (an index in STRUCTURES, one for all or one a row).

    Grids are found by their markers, row by row, so the quizzes may come in any mixture of orders.
    """
    order = np.array([[GRIDS.index(name) for name in s.order] for s in STRUCTURES])
    quarters = quizzes.reshape(-1, len(GRIDS), QUARTER)
    canonical = np.take_along_axis(quarters, np.argsort(quarters[:, :, 0], axis=1)[:, :, None], axis=1)
    wanted = order[np.broadcast_to(structure, len(quizzes))]
    return np.take_along_axis(canonical, wanted[:, :, None], axis=1).reshape(-1, LENGTH)


def structure_of(quizzes: Tokens) -> NDArray[np.int64]:
    """(n,) the index in STRUCTURES of the order that each quiz is in, -1 where it is none of them."""
    marked = quizzes.reshape(-1, len(GRIDS), QUARTER)[:, :, 0]
    orders = np.array([[MARKERS[name] for name in s.order] for s in STRUCTURES])
    same = (marked[:, None] == orders[None]).all(-1)
    return np.where(same.any(1), same.argmax(1), -1)


def cells_of(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(..., 404) True on the cells, not the markers, of the quarters flagged in (..., 4)."""
    cells = np.repeat(flags, QUARTER, axis=-1)
    cells[..., ::QUARTER] = False
    return cells


def predicted_cells(structure: int | NDArray[np.integer]) -> NDArray[np.bool_]:
    """(404,) or (n, 404) True on the cells that the structure asks for."""
    return cells_of(np.array([s.predicted for s in STRUCTURES])[structure])


def noisy_cells(structure: int | NDArray[np.integer]) -> NDArray[np.bool_]:
    """(404,) or (n, 404) True on the prompt cells that may be noisy in that structure."""
    return cells_of(np.array([s.noisy for s in STRUCTURES])[structure])


def quiz_diff_mask(quizzes: Tokens) -> NDArray[np.bool_]:
    """True on the cells whose colour differs from that of the same cell in the grid before, as the quiz has them.

    Args:
        quizzes: (n, 404) quizzes in any structure, or (n, 405) with the 0 before them; or one row.

    Returns:
        The mask, of the same shape. Markers and the first grid have nothing before them and are False.

    Raises:
        ValueError: They are not quizzes.
    """
    tokens = np.asarray(quizzes)
    rows = np.atleast_2d(tokens)
    shift = int(rows.shape[-1] == LENGTH + 1 and not rows[:, 0].any())
    quarters = check(rows[:, shift:]).reshape(-1, len(GRIDS), QUARTER)
    mask = np.zeros(quarters.shape, bool)
    mask[:, 1:, 1:] = quarters[:, 1:, 1:] != quarters[:, :-1, 1:]
    return np.pad(mask.reshape(-1, LENGTH), ((0, 0), (shift, 0))).reshape(tokens.shape)


def add_noise(
    quizzes: NDArray[Integer], where: NDArray[np.bool_], rng: np.random.Generator, p: float = NOISE
) -> NDArray[Integer]:
    """The quizzes with each cell of `where` (broadcast to (n, 404)) replaced, with probability p, by a colour uniform
    over 0..10; it may be the colour that it was. Raises ValueError if p is not a probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"noise {p}: expected a probability, 0 to 1")
    hit = where & (rng.random(quizzes.shape) < p)
    return np.where(hit, rng.integers(COLOURS, size=quizzes.shape), quizzes).astype(quizzes.dtype)


def cell_name(grid: str, cell: int) -> str:
    """The name of a cell's position, such as "f_B[3,7]": grid, row, column."""
    return f"{grid}[{cell // SIDE},{cell % SIDE}]"
