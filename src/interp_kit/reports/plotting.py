"""Figures that a colour-blind reader can read: viridis for amounts, an orange-purple map centred on 0 for signed
values.

Nothing is drawn larger than it is: colours span at least FLOOR, axes that leave out 0 say so, and no power of ten
stands apart from its numbers.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

SEQUENTIAL = "viridis"
DIVERGING = "PuOr"
# Okabe & Ito (2008): eight colours told apart under every common colour vision deficiency.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
# Greys, which pages replace in the dark: see svg.py. Ink on coloured cells is not replaced, as the cells are not.
SOFT, FAINT, GRID = "#555555", "#999999", "#dddddd"
OVER_DARK, OVER_LIGHT = "#fefefe", "#010101"
EMPTY = "no value: nothing could be measured"
FLOOR = 0.05  # least span of colours, in shares or in logits: what is smaller is drawn as the little that it is


def new_axes(width: float = 6.4, height: float = 4.0) -> "Axes":
    """An Axes on a figure of its own that no global state keeps alive."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.add_subplot()
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(plain())
    return ax


def plain() -> "ScalarFormatter":
    """Numbers in full, with no offset or power of ten that would stand over a title."""
    from matplotlib.ticker import ScalarFormatter

    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    return formatter


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
    floor: float = FLOOR,
    mark: np.ndarray | None = None,
) -> "Axes":
    """A labelled heat map; row 0 at the bottom, as layers are drawn.

    values: (rows, columns), nan cells are hatched; signed: diverging colours centred on 0; limits: of the colour scale
    (symmetric where signed), which is pointed where values lie beyond; floor: least span of the colours on each side of
    0 (of all, if not signed), where no limits are given; the colour bar says so where it is used; mark: (rows, columns)
    True cells get a dot. Raises ValueError if the names do not fit.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values of shape {values.shape} with {len(rows)} row and {len(columns)} column names")
    ax = ax or new_axes(max(4.5, 2.2 + 0.42 * len(columns)), max(3.0, 1.6 + 0.3 * len(rows)))
    finite = values[np.isfinite(values)]
    if limits is None:
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        low, high, zero = (min(low, -high), max(high, -low), 0.0) if signed else (low, high, low)
        limits = (min(low, -floor) if signed else low, max(high, zero + floor))
        if limits[1] > high:
            label += f"\n(colours span {'±' if signed else ''}{floor:g}: all is smaller)"
    ax.set_facecolor(GRID)
    image = ax.imshow(
        np.ma.masked_invalid(values),
        aspect="auto",
        origin="lower",
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=limits[0],
        vmax=limits[1] if limits[1] > limits[0] else limits[0] + 1,
        interpolation="none",  # one pixel per cell inside an SVG
    )
    for y, x in np.argwhere(~np.isfinite(values)):
        ax.add_patch(_hatched(int(x), int(y)))
    if mark is not None:
        ys, xs = np.nonzero(mark)
        ax.scatter(xs, ys, s=16, color=OVER_DARK, edgecolor=OVER_LIGHT, linewidth=0.8)
    ax.set_xticks(
        range(len(columns)),
        columns,
        rotation=55 if max(map(len, columns), default=0) > 2 else 0,
        ha="right" if max(map(len, columns), default=0) > 2 else "center",
    )
    ax.set_yticks(range(len(rows)), rows)
    ax.set(title=_wrapped(title, ax), xlabel=x_label, ylabel=y_label)
    beyond = (finite < limits[0]).any(), (finite > limits[1]).any()
    ends = {(True, True): "both", (True, False): "min", (False, True): "max"}
    extend = ends.get((bool(beyond[0]), bool(beyond[1])), "neither")
    ax.figure.colorbar(image, ax=ax, label=label, extend=extend, format=plain())
    return ax


def _wrapped(title: str, ax: "Axes") -> str:
    """A title in lines that end before the numbers of the colour bar."""
    from textwrap import TextWrapper

    inches = figure_of(ax).get_figwidth() - 2.2
    whole = re.sub(
        r"\(n = [^()]*\)", lambda found: found[0].replace(" ", "\u00a0"), title
    )  # neither this nor a name is broken
    wrapper = TextWrapper(max(28, int(11 * inches)), break_on_hyphens=False, break_long_words=False)
    lines = [wrapper.wrap(part) for part in whole.split("\n")]
    return "\n".join(line for part in lines for line in part).replace("\u00a0", " ")


def _hatched(x: int, y: int):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, hatch="///", edgecolor=FAINT, linewidth=0)


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
    """Points with 95 % intervals, one line per name, one colour per series. An axis that leaves out 0 says so, and axes
    without any value say that.

    series: name -> (value, low, high), each (names,); reference: labelled vertical lines (chance, baseline).
    """
    legend = [*series, *(reference or {})] if len(series) > 1 or reference else []
    # room for the names on the left and the legend on the right, so that the data keep their width
    width = 4.0 + 0.075 * max(map(len, names), default=0) + (0.6 + 0.075 * max(map(len, legend)) if legend else 0)
    ax = ax or new_axes(width, 1.2 + len(names) * (0.14 + 0.14 * max(1, len(series))))
    # the lines of a name stand closer to each other than to those of the next name, however many series there are
    offsets = (np.arange(len(series)) - (len(series) - 1) / 2) / (len(series) + 1.5)
    for i, ((name, (value, low, high)), offset) in enumerate(zip(series.items(), offsets, strict=True)):
        colour, marker = COLOURS[i % len(COLOURS)], "os^D"[i // len(COLOURS) % 4]
        value, low, high = (np.asarray(v, dtype=float) for v in (value, low, high))
        bars = np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))
        ax.errorbar(
            value, np.arange(len(names)) + offset, xerr=bars, fmt=marker, ms=4, color=colour, capsize=2, label=name
        )
    for i, (name, where) in enumerate((reference or {}).items()):
        ax.axvline(where, color=SOFT, linestyle=("--", ":", "-.")[i % 3], linewidth=1, label=name)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    if limits:
        ax.set_xlim(*limits)
    ax.set(title=title, xlabel=x_label)
    ax.xaxis.set_major_formatter(plain())
    if not any(np.isfinite(np.asarray(value, dtype=float)).any() for value, _, _ in series.values()):
        ax.set_xticks([])  # numbers along an empty axis would mean nothing
        ax.text(0.5, 0.5, EMPTY, transform=ax.transAxes, ha="center", va="center", color=SOFT)
    say_start(ax, "x")
    ax.grid(axis="x", color=GRID)
    ax.set_axisbelow(True)
    if len(series) > 1 or reference:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return ax


def say_start(ax: "Axes", which: Literal["x", "y"], floor: float = 0.0) -> None:
    """Add to the label of an axis where it starts, or ends, if it leaves out its floor."""
    low, high = sorted(ax.get_xlim() if which == "x" else ax.get_ylim())
    label = ax.get_xlabel() if which == "x" else ax.get_ylabel()
    if low <= floor <= high:
        return
    places = max(0, int(np.ceil(-np.log10(0.05 * (high - low)))))  # no more digits than the axis tells apart
    at = low if low > floor else high
    at = at if round(at, places) == floor else round(at, places)
    end = f"{'starts' if low > floor else 'ends'} at {at:.3g}"
    ax.set(**{f"{which}label": f"{label} (axis {end}, not {floor:g})".strip()})


def bend(x: np.ndarray, y: np.ndarray) -> int | None:
    """Number of the point at which a curve bends most: the farthest from the straight line between its ends (Satopää et
    al. 2011), in units of its width and height; None if it is nearly straight, has fewer than three points or a nan."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()) or not np.ptp(x) or not np.ptp(y):
        return None
    across, up = (x - x[0]) / np.ptp(x), (y - y[0]) / np.ptp(y)
    away = np.abs(up - across * up[-1] / across[-1]) if across[-1] else np.zeros(len(x))
    at = int(away.argmax())
    return at if away[at] > 0.15 else None


def note_bend(ax: "Axes", x: np.ndarray, y: np.ndarray, text: str, at: int | None = None) -> None:
    """Write at the bend of a curve what it has reached there; nothing if it has no bend.

    text: with {x} and {y}, such as "{y:.2f} at {x:g} edges"; at: the number of another point. Call it after the scales
    are set: a bend is what is seen.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    seen = ax.transData.transform(np.column_stack([x, y]))
    at = bend(*seen.T) if at is None else at
    if at is None:
        return
    straight = np.interp(seen[at, 0], seen[[0, -1], 0], seen[[0, -1], 1])
    above = bool(seen[at, 1] > straight)
    said = text.format(x=x[at], y=y[at])
    # what would reach beyond the frame gets room inside of it, on any scale
    room = (8 + 5.5 * len(said)) * figure_of(ax).dpi / 72 / ax.bbox.width
    stands = (seen[at, 0] - ax.bbox.x0) / ax.bbox.width
    if stands + room > 1:
        edge = ax.bbox.x0 + ax.bbox.width * stands / max(1 - room, 0.4)
        ax.set_xlim(right=float(ax.transData.inverted().transform((edge, ax.bbox.y0))[0]))
    ax.scatter([x[at]], [y[at]], s=80, facecolors="none", edgecolors=SOFT)
    ax.annotate(
        said, (x[at], y[at]), xytext=(8, -12 if above else 10), textcoords="offset points",
        ha="left", va="top" if above else "bottom", fontsize=9, color=SOFT, zorder=5,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "#ffffff", "edgecolor": "none", "alpha": 0.8},
    )  # fmt: skip


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
