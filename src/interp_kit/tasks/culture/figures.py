"""Quizzes for people: coloured cells in a terminal, letters where there is no colour, and figures.

One palette everywhere. Its colours exist in every terminal of 256 colours and were searched for so that any two of them
differ by 15 or more (CIEDE2000) in common vision, protanopia, deuteranopia and tritanopia alike (Machado et al. 2009).
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp_kit.tasks.culture.grids import COLOURS, GRIDS, MARKERS, QUARTER, VOCABULARY
from interp_kit.tasks.culture.rectangles import CELLS, SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Colour(NamedTuple):
    """terminal: its number among the 256 of a terminal; rgb: the same for figures; ink: of what is written on it."""

    terminal: int
    rgb: str
    ink: str


# white, blue, red, mint, olive, pink, orange, teal, purple, grey, black
PALETTE = (
    Colour(231, "#ffffff", "black"),
    Colour(26, "#005fd7", "white"),
    Colour(88, "#870000", "white"),
    Colour(121, "#87ffaf", "black"),
    Colour(142, "#afaf00", "black"),
    Colour(219, "#ffafff", "black"),
    Colour(130, "#af5f00", "white"),
    Colour(37, "#00afaf", "black"),
    Colour(53, "#5f005f", "white"),
    Colour(243, "#767676", "white"),
    Colour(235, "#262626", "white"),
)
_NO_COLOUR = Colour(255, "#eeeeee", "black")  # a cell that is missing or holds a marker
_INKS = {"black": 16, "white": 231}
_LETTERS = {-1: " ", 0: ".", 10: "a", 11: "A", 12: "F", 13: "B", 14: "G"}
_SHORT = {11: "A", 12: "fA", 13: "B", 14: "fB"}
# what is marked -> how: two characters on a coloured cell, and one after a letter
MARKS = {"wrong": ("><", "!"), "changed": ("[]", "*"), "fires": ("()", "o")}
_GAP = "  "

Marks = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """One grid to be drawn. cells: (10, 10) colours, -1 where there is none, 11..14 where a marker stands in a cell;
    marks: kind -> (10, 10) True on the marked cells."""

    name: str
    cells: NDArray[np.int64]
    marks: Mapping[str, NDArray[np.bool_]]

    @property
    def kinds(self) -> NDArray[np.object_]:
        """(10, 10) the mark of each cell, "" for none; where it has several, the first in MARKS."""
        found = np.full(self.cells.shape, "", object)
        for kind in reversed(MARKS):
            if kind in self.marks:
                found[self.marks[kind]] = kind
        return found


def panels(quizzes: Any, marks: Marks | None = None, names: Sequence[str] | None = None) -> list[list[Panel]]:
    """The grids of each quiz, whatever form they come in.

    quizzes: texts, one (pos,) or several (n, pos), with or without the 0 before them, cut off anywhere, in any order of
    the grids; or bare cells: a grid (100,) or (10, 10), grids (k, …) of one row, or rows (n, k, …) of them. -1 is an
    unknown cell. marks: "wrong", "changed" or "fires" -> True on such cells, in the shape of `quizzes`. names: of the
    grids in a row, in place of their own.

    Raises ValueError for anything but tokens, an unknown kind of mark, and shapes that do not fit.
    """
    tokens = np.asarray(quizzes)
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"quizzes are integers, not {tokens.dtype}")
    outside = (tokens < -1) | (tokens >= VOCABULARY)
    if outside.any():
        at = tuple(np.argwhere(outside)[0].tolist())
        raise ValueError(f"quizzes{list(at)} is {tokens[at]}, outside 0..{VOCABULARY - 1}")
    flags = {kind: np.asarray(mask).astype(bool) for kind, mask in (marks or {}).items()}
    for kind, mask in flags.items():
        if kind not in MARKS:
            raise ValueError(f"no mark {kind!r}; there are {', '.join(MARKS)}")
        if mask.shape != tokens.shape:
            raise ValueError(f"marks {kind!r} of shape {mask.shape} for quizzes of shape {tokens.shape}")
    rows = []
    for shape in _layout(tokens):
        row = []
        for n, (name, at) in enumerate(shape):
            if names is not None and len(names) != len(shape):
                raise ValueError(f"{len(names)} names for a row of {len(shape)} grids")
            here = at >= 0
            cells = np.where(here, tokens.ravel()[at], -1).astype(np.int64)
            marked = {kind: here & mask.ravel()[at] for kind, mask in flags.items()}
            row.append(Panel(names[n] if names is not None else name, cells, marked))
        rows.append(row)
    return rows


def _layout(tokens: NDArray) -> list[list[tuple[str, NDArray[np.int64]]]]:
    """For each row, the name of each grid and the (10, 10) indices of its cells in the flattened array, -1 for none."""
    shape = tuple(tokens.shape)
    if shape[-2:] == (SIDE, SIDE):
        shape = (*shape[:-2], CELLS)
    index, flat = np.arange(tokens.size), tokens.ravel()
    if len(shape) in (1, 2) and tokens.size and _is_text(flat):
        return [_text_layout(row, flat[row]) for row in index.reshape(-1, shape[-1])]
    if len(shape) not in (1, 2, 3) or shape[-1] != CELLS:
        raise ValueError(f"quizzes of shape {tokens.shape} are neither texts that begin with a marker nor grids")
    rows = index.reshape(shape[0] if len(shape) == 3 else 1, -1, SIDE, SIDE)
    own = GRIDS if rows.shape[1] == len(GRIDS) else ("",) * rows.shape[1]
    return [list(zip(own, row, strict=True)) for row in rows]


def _is_text(flat: NDArray) -> bool:
    return bool(flat[0] >= COLOURS or (len(flat) > 1 and flat[0] == 0 and flat[1] >= COLOURS))


def _text_layout(index: NDArray[np.int64], text: NDArray) -> list[tuple[str, NDArray[np.int64]]]:
    start = int(text[0] < COLOURS)  # the 0 before a quiz
    found = []
    for at in range(start, len(text), QUARTER):
        cells = np.full(CELLS, -1)
        part = index[at + 1 : at + QUARTER]
        cells[: len(part)] = part
        found.append((_marker_name(int(text[at])), cells.reshape(SIDE, SIDE)))
    return found


def _marker_name(token: int) -> str:
    return next((name for name, marker in MARKERS.items() if marker == token), "?")


# Terminal -------------------------------------------------------------------------------------------------------------


def repr_grid(
    quizzes: Any,
    marks: Marks | None = None,
    *,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    colour: bool | None = None,
    digits: bool = False,
    width: int | None = None,
) -> str:
    """Quizzes as text for a terminal, the grids of each side by side. quizzes, marks, names: see `panels`.

    titles: a line above each quiz. colour: None for colours where standard output is a terminal and NO_COLOR is not
    set; without colours a cell is ".", "1" to "9", "a" for 10. digits: write that letter in coloured cells, too. width:
    columns to fit into; None for those of the terminal, and any number where there is none.
    """
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") if colour is None else colour
    if width is None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    rows = panels(quizzes, marks, names)
    _check_titles(titles, rows)
    per_line = max(1, (width + len(_GAP)) // (2 * SIDE + len(_GAP)))
    blocks = []
    for n, row in enumerate(rows):
        parts = [_side_by_side(row[i : i + per_line], coloured, digits) for i in range(0, len(row), per_line)]
        blocks.append((f"{titles[n]}\n" if titles is not None else "") + "\n\n".join(parts))
    if legend := _legend(rows, coloured and not digits):
        blocks.append(legend)
    return "\n\n".join(blocks)


def _side_by_side(row: Sequence[Panel], colour: bool, digits: bool) -> str:
    head = _GAP.join(f"{panel.name[: 2 * SIDE]:<{2 * SIDE}}" for panel in row).rstrip()
    drawn = [_lines(panel, colour, digits) for panel in row]
    lines = [_GAP.join(parts).rstrip() for parts in zip(*drawn, strict=True)]
    return "\n".join([head, *lines] if head else lines)


def _lines(panel: Panel, colour: bool, digits: bool) -> list[str]:
    """Ten lines of ten cells, each two columns wide."""
    lines = []
    for values, kinds in zip(panel.cells.tolist(), panel.kinds.tolist(), strict=True):
        cells = [(value, _cell(value, kind, digits or not colour)) for value, kind in zip(values, kinds, strict=True)]
        if not colour:
            lines.append("".join(text for _, text in cells))
            continue
        runs = [(value, "".join(text for _, text in run)) for value, run in groupby(cells, lambda cell: cell[0])]
        lines.append("".join(_painted(text, value) for value, text in runs))
    return lines


def _cell(value: int, kind: str, letters: bool) -> str:
    if letters:
        return _LETTERS.get(value, str(value)) + (MARKS[kind][1] if kind else " ")
    return MARKS[kind][0] if kind else f"{_SHORT.get(value, ''):<2}"


def _painted(text: str, value: int) -> str:
    if value < 0:
        return text
    back = _colour(value)
    return f"\033[48;5;{back.terminal}m\033[38;5;{_INKS[back.ink]}m{text}\033[0m"


def _colour(value: int) -> Colour:
    return PALETTE[value] if 0 <= value < COLOURS else _NO_COLOUR


def _kinds(rows: Sequence[Sequence[Panel]]) -> list[str]:
    def marked(panel: Panel, kind: str) -> bool:
        return kind in panel.marks and bool(panel.marks[kind].any())

    return [kind for kind in MARKS if any(marked(panel, kind) for row in rows for panel in row)]


def _legend(rows: Sequence[Sequence[Panel]], coloured: bool) -> str:
    return ", ".join(f"{MARKS[kind][0 if coloured else 1]} {kind}" for kind in _kinds(rows))


def _check_titles(titles: Sequence[str] | None, rows: Sequence) -> None:
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f"{len(titles)} titles for {len(rows)} quizzes")


# Figures --------------------------------------------------------------------------------------------------------------

_APART = 1.4  # between two grids, in cells
_INCHES = 0.16  # of a cell


def plot_quizzes(
    quizzes: Any,
    marks: Marks | None = None,
    *,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    digits: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Quizzes as a figure, one a row. quizzes, marks, names: see `panels`.

    titles: above each quiz (its task, its structure). digits: write the number of the colour into each cell. Cells that
    are wrong carry a cross, changed ones a frame, those where a feature fires a diamond; cells not known are grey.
    """
    from interp_kit.reports.plotting import new_axes

    rows = panels(quizzes, marks, names)
    _check_titles(titles, rows)
    columns, above = max(map(len, rows), default=0), 2.6 if titles is not None else 1.4
    down = SIDE + above + 0.8
    kinds = _kinds(rows)
    across, high = columns * (SIDE + _APART) - _APART, len(rows) * down + (1.6 if kinds else 0)
    ax = ax or new_axes(max(1.6, across * _INCHES + 0.2), max(1.2, high * _INCHES + 0.2))
    for r, row in enumerate(rows):
        top = r * down + above
        if titles is not None:
            ax.text(0, top - 1.5, titles[r], fontsize=9, fontweight="bold", va="bottom")
        for c, panel in enumerate(row):
            _draw(ax, panel, c * (SIDE + _APART), top, digits)
    _draw_legend(ax, kinds, len(rows) * down + 0.4)
    ax.set_xlim(-0.2, across + 0.2)
    ax.set_ylim(high, 0)
    ax.set_aspect("equal")
    ax.axis("off")
    return ax


def _draw(ax: "Axes", panel: Panel, left: float, top: float, digits: bool) -> None:
    from matplotlib.colors import to_rgb

    image = np.array([[to_rgb(_colour(value).rgb) for value in line] for line in panel.cells.tolist()])
    ax.imshow(image, extent=(left, left + SIDE, top + SIDE, top), interpolation="none", zorder=1)
    ends = np.arange(1, SIDE)
    ax.hlines(top + ends, left, left + SIDE, color="#bbbbbb", linewidth=0.3, zorder=2)
    ax.vlines(left + ends, top, top + SIDE, color="#bbbbbb", linewidth=0.3, zorder=2)
    edge_x, edge_y = np.array([0, 1, 1, 0, 0]) * SIDE, np.array([0, 0, 1, 1, 0]) * SIDE
    ax.plot(left + edge_x, top + edge_y, color="#555555", linewidth=0.8, zorder=3, solid_joinstyle="miter")
    ax.text(left + SIDE / 2, top - 0.25, panel.name, ha="center", va="bottom", fontsize=9)
    for (y, x), value in np.ndenumerate(panel.cells):
        text = _SHORT.get(int(value), str(value) if digits and value >= 0 else "")
        if text:
            ink = _colour(int(value)).ink
            ax.text(left + x + 0.5, top + y + 0.53, text, ha="center", va="center", fontsize=5, color=ink, zorder=4)
    for kind in MARKS:
        if kind in panel.marks and panel.marks[kind].any():
            ys, xs = np.nonzero(panel.marks[kind])
            _draw_marks(ax, kind, left + xs, top + ys)


def _draw_marks(ax: "Axes", kind: str, x: NDArray, y: NDArray) -> None:
    """A mark on the cells whose upper left corners are at x, y: black between white, so that it shows on any colour."""
    from matplotlib.collections import LineCollection

    strokes = {
        "wrong": ([(0.25, 0.25), (0.75, 0.75)], [(0.25, 0.75), (0.75, 0.25)]),
        "changed": ([(0.12, 0.12), (0.88, 0.12), (0.88, 0.88), (0.12, 0.88), (0.12, 0.12)],),
        "fires": ([(0.5, 0.2), (0.8, 0.5), (0.5, 0.8), (0.2, 0.5), (0.5, 0.2)],),
    }[kind]
    corners = np.stack([x, y], axis=-1)
    lines = [corner + np.array(stroke) for corner in corners for stroke in strokes]
    for colour, width in (("white", 2.8), ("black", 1.2)):
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=width, capstyle="projecting", zorder=5))


def _draw_legend(ax: "Axes", kinds: Sequence[str], y: float) -> None:
    for n, kind in enumerate(kinds):
        x = n * 7.0
        _draw_marks(ax, kind, np.array([x]), np.array([y]))
        ax.text(x + 1.5, y + 0.5, kind, va="center", fontsize=8)
