"""A circuit as a picture: nodes from left to right in the order in which they are computed, edges coloured by score."""

from collections.abc import Sequence
from itertools import pairwise
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import FancyArrowPatch

from interp_kit.models.circuit import Edge, stage
from interp_kit.reports.plotting import DIVERGING, new_axes


def draw(
    edges: Sequence[Edge],
    scores: np.ndarray,
    positions: Sequence[str],
    *,
    title: str,
    label: str,
    ax: Axes | None = None,
) -> Axes:
    """Columns are stages of the model; rows named positions where edges have them, else the nodes of a stage.

    Only nodes that an edge touches are drawn.

    Args:
        edges: The edges to draw.
        scores: (edge,) Score of each, for its colour and width.
        positions: Named positions in the order of the text.
        title: Title of the axes.
        label: Label of the colour bar.
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
    ax = ax or new_axes(1.6 + 1.5 * len(columns), 1.4 + 0.62 * tops[-1])
    limit = float(abs(scores).max()) or 1.0
    norm, colours = Normalize(-limit, limit), matplotlib.colormaps[DIVERGING]
    letters = []
    for edge, score in sorted(zip(edges, scores, strict=True), key=lambda pair: abs(pair[1])):
        ends = [at[node, edge.position or ""] for node in (edge.sender, edge.receiver)]
        way = {"q": 0.22, "k": 0.08, "v": -0.15}.get(edge.input, 0.0) + (0.12 if ends[0][1] == ends[1][1] else 0)
        arrow = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 16, "shrinkB": 16, "zorder": 1}
        width, colour = 0.8 + 2.6 * abs(score) / limit, colours(norm(score))
        ax.add_patch(FancyArrowPatch(*ends, connectionstyle=f"arc3,rad={way}", linewidth=width, color=colour, **arrow))
        if edge.input in ("q", "k", "v"):
            letters.append((edge.input, *ends, way))
    for (node, _), (x, y) in at.items():
        ax.annotate(node, (x, y), fontsize=8, ha="center", va="center", zorder=3,
                    bbox={"boxstyle": "round,pad=0.3", "facecolor": "#f4f4f4", "edgecolor": "#555555"})  # fmt: skip
    ax.set_xlim(-0.6, len(columns) - 0.4)
    ax.set_ylim(tops[-1] + 0.2, -0.2)
    ax.set_xticks([])
    ax.set_yticks([(a + b) / 2 for a, b in pairwise(tops)] if rows else [], rows)
    for top in tops[1:-1]:
        ax.axhline(top, color="#dddddd", linewidth=0.8, zorder=0)
    ax.set_ylabel("position" if rows else "")
    ax.set_title(title, fontsize=10)
    ax.figure.colorbar(ScalarMappable(norm, colours), ax=ax, label=fill(label, 30), shrink=0.8)
    whole = ax.get_figure(root=True)
    assert whole is not None
    whole.draw_without_rendering()  # how an arrow bends follows from the shape of the axes, which is settled now
    for letter, *bent in letters:
        ax.annotate(letter, _on_curve(ax, *bent), fontsize=7, ha="center", va="center", zorder=2,
                    bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"})  # fmt: skip
    return ax


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
