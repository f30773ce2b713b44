"""Figures that a colour-blind reader can read: viridis for amounts, a blue-orange map centred on 0 for signed
values."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEQUENTIAL = "viridis"
DIVERGING = "PuOr"
# Okabe & Ito (2008): eight colours told apart under every common colour vision deficiency.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def new_axes(width: float = 6.4, height: float = 4.0) -> "Axes":
    """An Axes on a figure of its own that no global state keeps alive."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    ax: "Axes | None" = None,
    title: str = "",
    label: str = "",
    x_label: str = "",
    y_label: str = "",
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    mark: np.ndarray | None = None,
) -> "Axes":
    """A labelled heat map; row 0 at the bottom, as layers are drawn.

    values: (rows, columns), nan cells are hatched; signed: diverging colours centred on 0; limits: of the colour scale
    (symmetric where signed), which is pointed where values lie beyond; mark: (rows, columns) True cells get a dot.
    Raises ValueError if the names do not fit.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values of shape {values.shape} with {len(rows)} row and {len(columns)} column names")
    ax = ax or new_axes(max(4.5, 2.2 + 0.42 * len(columns)), max(3.0, 1.6 + 0.3 * len(rows)))
    finite = values[np.isfinite(values)]
    if limits is None:
        top = (float(np.abs(finite).max()) if len(finite) else 0.0) or 1.0
        low = float(finite.min()) if len(finite) else 0.0
        limits = (-top, top) if signed else (low, float(finite.max()) if len(finite) else 1.0)
    ax.set_facecolor("#dddddd")
    image = ax.imshow(
        np.ma.masked_invalid(values),
        aspect="auto",
        origin="lower",
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=limits[0],
        vmax=limits[1] if limits[1] > limits[0] else limits[0] + 1,
    )
    for y, x in np.argwhere(~np.isfinite(values)):
        ax.add_patch(_hatched(int(x), int(y)))
    if mark is not None:
        ys, xs = np.nonzero(mark)
        ax.scatter(xs, ys, s=16, color="white", edgecolor="black", linewidth=0.8)
    ax.set_xticks(
        range(len(columns)),
        columns,
        rotation=55 if max(map(len, columns), default=0) > 2 else 0,
        ha="right" if max(map(len, columns), default=0) > 2 else "center",
    )
    ax.set_yticks(range(len(rows)), rows)
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    beyond = (finite < limits[0]).any(), (finite > limits[1]).any()
    ends = {(True, True): "both", (True, False): "min", (False, True): "max"}
    ax.figure.colorbar(image, ax=ax, label=label, extend=ends.get((bool(beyond[0]), bool(beyond[1])), "neither"))
    return ax


def _hatched(x: int, y: int):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="///", edgecolor="#999999", linewidth=0)


def intervals(
    names: Sequence[str],
    series: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    ax: "Axes | None" = None,
    title: str = "",
    x_label: str = "",
    reference: dict[str, float] | None = None,
    limits: tuple[float, float] | None = None,
) -> "Axes":
    """Points with 95 % intervals, one line per name, one colour a series.

    series: name -> (value, low, high), each (names,); reference: labelled vertical lines (chance, baseline).
    """
    legend = [*series, *(reference or {})] if len(series) > 1 or reference else []
    # room for the names on the left and the legend on the right, so that the data keep their width
    width = 4.0 + 0.075 * max(map(len, names), default=0) + (0.6 + 0.075 * max(map(len, legend)) if legend else 0)
    ax = ax or new_axes(width, 1.2 + len(names) * (0.14 + 0.14 * max(1, len(series))))
    offsets = np.linspace(-0.25, 0.25, len(series)) if len(series) > 1 else [0.0]
    for i, ((name, (value, low, high)), offset) in enumerate(zip(series.items(), offsets, strict=True)):
        colour, marker = COLOURS[i % len(COLOURS)], "os^D"[i // len(COLOURS) % 4]
        value, low, high = (np.asarray(v, dtype=float) for v in (value, low, high))
        bars = np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))
        ax.errorbar(
            value, np.arange(len(names)) + offset, xerr=bars, fmt=marker, ms=4, color=colour, capsize=2, label=name
        )
    for i, (name, where) in enumerate((reference or {}).items()):
        ax.axvline(where, color="#555555", linestyle=("--", ":", "-.")[i % 3], linewidth=1, label=name)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    if limits:
        ax.set_xlim(*limits)
    ax.set(title=title, xlabel=x_label)
    ax.grid(axis="x", color="#dddddd")
    ax.set_axisbelow(True)
    if len(series) > 1 or reference:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return ax


def png(ax: "Axes", dpi: int = 160) -> bytes:
    """The figure of an Axes as a PNG file on white."""
    buffer = io.BytesIO()
    figure_of(ax).savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def figure_of(ax: "Axes") -> "Figure":
    """The figure that an Axes stands on."""
    figure = ax.figure
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    return figure
