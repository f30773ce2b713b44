"""One figure of many edits of a site: layers, or heads, by position."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.reports.plotting import heatmap


def site_map(frame: pd.DataFrame, site: str, value: str, *, mark: str | None = None, **options: Any) -> Axes:
    """A heat map of the column `value`. frame: one row per edit, with columns site, layer, head (-1: none) and
    position, of which those of `site` are drawn; mark: column that is True where a cell gets a dot; options: as for
    `heatmap`. Raises ValueError, listing those there are, for a site that no edit is of."""
    if site not in set(frame["site"]):
        raise ValueError(f"no edit of site {site!r}; there are {', '.join(dict.fromkeys(frame['site']))}")
    frame = frame[frame["site"] == site].reset_index()  # pyright: ignore[reportAssignmentType]
    rows = [
        name if layer < 0 else f"L{layer}" if head < 0 else f"L{layer}H{head}"
        for name, layer, head in zip(frame["site"], frame["layer"], frame["head"], strict=True)
    ]
    names, columns = list(dict.fromkeys(rows)), list(dict.fromkeys(frame["position"]))
    at = [names.index(row) for row in rows], [columns.index(position) for position in frame["position"]]
    grid, marked = np.full((len(names), len(columns)), np.nan), np.zeros((len(names), len(columns)), dtype=bool)
    grid[at], marked[at] = frame[value], False if mark is None else frame[mark]
    return heatmap(grid, names, columns, mark=marked, x_label="position", y_label="layer", **options)
