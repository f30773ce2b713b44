"""A circuit as a picture: nodes from left to right in the order in which they are computed. Edges that matter are
coloured, as wide as their score is large; all others are grey, so that the path is seen."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from interp_kit.models.circuit import Edge, stage
from interp_kit.reports.plotting import COLOURS, FAINT, GRID, new_axes

LEAST = 0.1  # of the largest score: an edge below it is grey
POSITIVE, NEGATIVE, GREY, BOX, INK = COLOURS[0], COLOURS[5], "#bbbbbb", "#f4f4f4", "#000000"


def draw(
    edges: Sequence[Edge],
    scores: np.ndarray,
    positions: Sequence[str],
    *,
    clear: np.ndarray,
    title: str,
    label: str,
    words: tuple[str, str] = ("falls", "rises"),
    ax: Axes | None = None,
) -> Axes:
    """Columns are stages of the model; rows named positions where edges have them, else the nodes of a stage.

    Only nodes that an edge touches are drawn.

    Args:
        edges: The edges to draw.
        scores: (edge,) What each is worth: blue if it is positive, vermilion if negative.
        positions: Named positions in the order of the text.
        clear: (edge,) True if the score can be told from 0. Other edges are grey, and those below LEAST of the largest.
        title: Title of the axes.
        label: What is measured.
        words: What it does without an edge of positive score, and of negative score.
        ax: Axes to draw on; new ones by default.
    """
    by_position = any(edge.position for edge in edges)
    places = sorted({(n, e.position or "") for e in edges for n in (e.sender, e.receiver)}, key=lambda p: stage(p[0]))
    columns = sorted({stage(node) for node, _ in places})
    rows = [name for name in positions if any(name == p for _, p in places)] if by_position else []
    cells: dict[tuple[int, str], list[str]] = {}
    for node, position in places:
        cells.setdefault((stage(node), position), []).append(node)
    # a row is as high as the fullest cell in it, and nodes of one cell stand above each other
    heights = [max(len(cells.get((c, row), [])) for c in columns) for row in rows or [""]]
    tops = [sum(heights[:i]) for i in range(len(heights) + 1)]
    at: dict[tuple[str, str], tuple[float, float]] = {}
    for (level, position), nodes in cells.items():
        row = rows.index(position) if rows else 0
        for i, node in enumerate(sorted(nodes)):
            gap = heights[row] / len(nodes)
            at[node, position] = (columns.index(level), tops[row] + (i + 0.5) * gap)
    ax = ax or new_axes(1.2 + 1.15 * len(columns), 1.4 + 0.62 * tops[-1])
    limit = float(abs(scores).max()) or 1.0
    matters = matter(scores, clear)
    on_path = {(n, e.position or "") for e, m in zip(edges, matters, strict=True) if m for n in (e.sender, e.receiver)}
    letters = []
    for edge, score, counts in sorted(zip(edges, scores, matters, strict=True), key=lambda row: (row[2], abs(row[1]))):
        ends = [at[node, edge.position or ""] for node in (edge.sender, edge.receiver)]
        way = {"q": 0.22, "k": 0.08, "v": -0.15}.get(edge.input, 0.0) + (0.12 if ends[0][1] == ends[1][1] else 0)
        arrow = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 16, "shrinkB": 16, "zorder": 2 if counts else 1}
        width = 0.8 + 3.2 * abs(score) / limit if counts else 0.7
        colour = (POSITIVE if score > 0 else NEGATIVE) if counts else GREY
        ax.add_patch(FancyArrowPatch(*ends, connectionstyle=f"arc3,rad={way}", linewidth=width, color=colour, **arrow))
        if edge.input in ("q", "k", "v") and counts:
            letters.append((edge.input, *ends, way))
    for place, (x, y) in at.items():
        ink, edge_colour = (INK, INK) if place in on_path else (FAINT, GREY)
        ax.annotate(place[0], (x, y), fontsize=9, ha="center", va="center", zorder=4, color=ink,
                    bbox={"boxstyle": "round,pad=0.3", "facecolor": BOX, "edgecolor": edge_colour})  # fmt: skip
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.set_ylim(tops[-1] + 0.2, -0.2)
    ax.set_xticks([])
    ax.set_yticks([(a + b) / 2 for a, b in pairwise(tops)] if rows else [], rows)
    for top in tops[1:-1]:
        ax.axhline(top, color=GRID, linewidth=0.8, zorder=0)
    ax.set_ylabel("position" if rows else "")
    ax.set_title(title, fontsize=10)
    for side in ax.spines.values():
        side.set_visible(bool(rows))
    _legend(ax, scores, matters, label, words)
    whole = ax.get_figure(root=True)
    assert whole is not None
    whole.draw_without_rendering()  # how an arrow bends follows from the shape of the axes, which is settled now
    for letter, *bent in letters:
        ax.annotate(letter, _on_curve(ax, *bent), fontsize=8, ha="center", va="center", zorder=3,
                    bbox={"boxstyle": "round,pad=0.1", "facecolor": "#ffffff", "edgecolor": "none"})  # fmt: skip
    return ax


def matter(scores: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """(edge,) True if a score can be told from 0 and is at least LEAST of the largest; of all if none can."""
    largest = np.abs(scores).max() if len(scores) else 0.0
    return (np.abs(scores) >= LEAST * largest) & (clear if clear.any() else np.ones(len(scores), dtype=bool))


def _legend(ax: Axes, scores: np.ndarray, matters: np.ndarray, label: str, words: tuple[str, str]) -> None:
    """Below the picture: what the colours mean, with the largest score of each."""
    signs = (
        (POSITIVE, scores[matters & (scores > 0)], words[0]),
        (NEGATIVE, -scores[matters & (scores < 0)], words[1]),
    )
    lines = [
        Line2D([], [], color=colour, linewidth=3, label=f"{label} {does} without it, by up to {found.max():.2g}")
        for colour, found, does in signs
        if len(found)
    ]
    if not matters.all():
        why = f"under {LEAST:.0%} of the largest, or not told from 0"
        lines.append(Line2D([], [], color=GREY, linewidth=1, label=why))
    ax.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False, fontsize=9)


def _on_curve(
    ax: Axes, start: tuple[float | int, ...], end: tuple[float | int, ...], way: float | int, t: float = 0.7
) -> tuple[float, float]:
    """The point (x, y) of matplotlib's arc3 from start to end, a quadratic Bezier curve in pixels, at t of its way."""
    (x1, y1), (x2, y2) = ax.transData.transform([start, end])
    control = (x1 + x2) / 2 + way * (y2 - y1), (y1 + y2) / 2 - way * (x2 - x1)
    first, middle, last = (1 - t) ** 2, 2 * t * (1 - t), t**2
    pixel = first * x1 + middle * control[0] + last * x2, first * y1 + middle * control[1] + last * y2
    x, y = ax.transData.inverted().transform(pixel)
    return float(x), float(y)
