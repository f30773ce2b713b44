"""Result of probes: held-out scores per label and cell beside their baselines, findings and pictures."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.probing.labels import (
    TOO_FEW,
)
from interp_kit.core.config import listed
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.told import CHANCE, HALF
from interp_kit.reports.plotting import heatmap

PICTURES = 8  # of a report, at most
MARGIN = 0.05  # of balanced accuracy or R²: a smaller gain over the baselines is not worth a word
LESS = 100.0  # times less regularisation, under which the reported cell is scored once more


@dataclass(frozen=True, kw_only=True)
class ProbeResult(AbstractResult):
    """Held-out probe scores by label, cell row (site and layer) and named position.

    score: (label, row, position), balanced accuracy of class labels, R^2 of numeric ones; nan where not measured.
    untrained: the same on a network of the same shape that never learned; raw: (label, position) a probe on the visible
    tokens; control, control_high: (label, row, position) mean and 95th percentile over two-input Boolean functions of
    the same kind that the task does not ask for, nan where there is none or the label is already written; null_high:
    (label, row, position) what a score must pass to stand out among all unwritten cells of its label, from the
    studentised maximum under label permutation (Westfall & Young 1993), nan where not asked for; chance: (label,) of a
    guess. status: (label, position) 0 measured, 1 the label is not determined by what is visible there, 2 too few
    units; written: (label, position) the value stands as a token in the prefix; units: (position,) distinct visible
    prefixes.
    """

    labels: tuple[str, ...]
    rows: tuple[str, ...]
    positions: tuple[str, ...]
    numeric: tuple[str, ...]
    score: np.ndarray
    untrained: np.ndarray
    raw: np.ndarray
    control: np.ndarray
    control_high: np.ndarray
    null_high: np.ndarray
    chance: np.ndarray
    status: np.ndarray
    written: np.ndarray
    units: np.ndarray
    config: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row per label, cell and position."""
        rows = []
        for (i, label), (j, row), (k, position) in itertools.product(
            *map(enumerate, (self.labels, self.rows, self.positions))
        ):
            rows.append(
                {
                    "label": label,
                    "cell": row,
                    "position": position,
                    "score": self.score[i, j, k],
                    "raw_tokens": self.raw[i, k],
                    "untrained": self.untrained[i, j, k],
                    "control": self.control[i, j, k],
                    "control_high": self.control_high[i, j, k],
                    "null_high": self.null_high[i, j, k],
                    "written": bool(self.written[i, k]),
                    "status": ("measured", "undetermined", "too few")[self.status[i, k]],
                    "n": int(self.units[k]),
                }
            )
        return pd.DataFrame(rows)

    def baseline(self) -> np.ndarray:
        """(label, row, position) the highest of chance, raw tokens, untrained network and control functions. Chance is
        among them because a held-out exclusive-or is predicted below chance by any linear model of its inputs."""
        raw = np.broadcast_to(self.raw[:, None], self.score.shape)
        floor = np.broadcast_to(self.chance[:, None, None], self.score.shape)
        return np.fmax(np.fmax(np.fmax(raw, self.untrained), self.control_high), floor)

    def _prefixes(self, values: np.ndarray) -> str:
        """From how many to how many prefixes there are at the positions (its last axis) where something is measured."""
        measured = np.isfinite(values).any(axis=tuple(range(values.ndim - 1)))
        n = sorted({int(n) for n in self.units[measured]}) or [0]
        return f"{n[0]} to {n[-1]}" if len(n) > 1 else f"{n[0]}"

    def _drawn(self, label: str | None, excess: bool) -> tuple[int, np.ndarray, str]:
        """Number of a label (None: the first), what its picture shows, (row, position), and its quantity."""
        label = self.labels[0] if label is None else label
        if label not in self.labels:
            raise ValueError(f"no label {label!r}; there are {listed(self.labels, label)}")
        i = self.labels.index(label)
        scale = "R²" if label in self.numeric else "balanced accuracy"
        return i, (self.score - self.baseline())[i] if excess else self.score[i], scale

    def caption(self, label: str | None = None, excess: bool = False) -> str:
        """See AbstractResult: of the picture that `plot` draws with the same arguments."""
        c, (i, values, scale) = self.config, self._drawn(label, excess)
        colour = f"held-out {scale} above the best baseline" if excess else f"held-out {scale}"
        controls = " and an untrained network"
        if np.isfinite(self.control_high).any():
            controls = ", an untrained network, and functions that the task does not ask for"
        elif np.isfinite(self.null_high).any():
            controls += " (no control function fits these labels; shuffled labels are the control)"
        else:
            controls += " (no control function fits these labels; permutations=200 compares with shuffled ones)"
        return (
            f"{self.labels[i]}: {colour} of a probe on {c['model']} (n ="
            f" {numbered(self._prefixes(values), 'distinct visible prefixes')}, by position, {c['folds']}-fold,"
            f" {numbered(c['repeats'], 'repeats')}). The best baseline is the highest of"
            f" chance, a probe on the visible tokens{controls}. Hatched: the label is not determined there, or there"
            " are too few prefixes; dotted: it already stands in the text."
        )

    def figures(self) -> tuple[tuple[dict[str, Any], str], ...]:
        """See AbstractResult: a picture per label, of the first PICTURES."""
        shown = [({"label": label}, self.caption(label)) for label in self.labels[:PICTURES]]
        if (more := len(self.labels) - PICTURES) > 0:
            shown[-1] = (shown[-1][0], f"{shown[-1][1]} Of {more} more labels the table has the scores.")
        return tuple(shown)

    def _best(self, label: int) -> tuple[int, int] | None:
        """(row, position) of the largest excess over the best baseline, where the value does not stand in the text; of
        equal ones that of the most prefixes. None if nothing is measured there."""
        excess = np.where(self.written[label], np.nan, (self.score - self.baseline())[label]).round(9)
        if np.isnan(excess).all():
            return None
        units = np.where(excess == np.nanmax(excess), self.units, -1)
        row, position = np.unravel_index(np.argmax(units), units.shape)
        return int(row), int(position)

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: per label the cell that exceeds the baselines most, and whether that says anything. What
        can be read comes first, the strongest before all; then what cannot be told; last what cannot be probed.

        A label "can be read" if its score is more than half of the way from the best baseline to 1, and "can be read in
        part" if it exceeds the baseline by more than MARGIN.
        """
        order = sorted(range(len(self.labels)), key=self._rank)  # stable: equal ones in the order of the labels
        found = [self._finding(i, self.labels[i]) for i in order]
        if any("best of the" in text for text in found):
            found.append(
                "Each is the best of many cells of one network, so it has no interval here: readability() chooses the"
                " cell on some networks and reports it on others."
            )
        return tuple(found)

    def _rank(self, i: int) -> tuple[int, float]:
        """Place of a label among the findings: by its verdict, then by how much of the way from the best baseline to 1
        its score is."""
        at = self._best(i)
        if at is None:
            return 2, 0.0
        score, base, null = (float(values[i][at]) for values in (self.score, self.baseline(), self.null_high))
        read = score - base > MARGIN and not score <= null  # null is nan if it was not asked for
        return int(not read), -(score - base) / max(1 - base, MARGIN)

    def _finding(self, i: int, label: str) -> str:
        at = self._best(i)
        if at is None:
            few = (self.status[i] == TOO_FEW).any()
            why = "too few distinct texts have each of its values" if few else "nowhere is it determined by the text"
            return f"{label} cannot be probed: {why} before it stands there."
        score, base, null = (float(values[i][at]) for values in (self.score, self.baseline(), self.null_high))
        cells = int(np.isfinite(self.score[i][:, ~self.written[i]]).sum())
        of = f"best of the {cells} cells where it follows from the text and is not yet written, of {self.score[i].size}"
        where = f"{self.rows[at[0]]} at {self.positions[at[1]]}, n = {numbered(self.units[at[1]], 'prefixes')}"
        beside = f"{score:.2f} held out, beside {base:.2f} for the best baseline ({where}; {of})"
        beside += self._less_regularised(label, score - base > MARGIN)
        if score - base <= MARGIN:
            return f"{label} cannot be told from the baselines by a probe: {beside}."
        read = "can be read" if score > base + HALF * (1 - base) else "can be read in part"
        if np.isnan(null):
            return f"{label} {read}: {beside}. Chance among so many cells was not tested (permutations=200 does)."
        if score > null:
            return f"{label} {read}: {beside}. Shuffled labels reach {null:.2f} anywhere in 5 % of draws."
        return f"{label} {CHANCE}: {beside}, and shuffled labels reach {null:.2f} in 5 % of draws."

    def _less_regularised(self, label: str, exceeds: bool) -> str:
        """Words for a verdict that hangs on the regularisation; none if it does not, or that was not measured."""
        score, base = self.config.get("less_regularised", {}).get(label, (np.nan, np.nan))
        if np.isnan(score - base) or (score - base > MARGIN) == exceeds:
            return ""
        numeric, less = label in self.numeric, self.config["alpha"] / LESS
        option = f"alpha = {less:g}" if numeric else f"c = {LESS * self.config['c']:g}"
        return f"; with {option} it is {score:.2f}, beside {base:.2f}, so the verdict hangs on the regularisation"

    def highlights(self) -> pd.DataFrame:
        """See AbstractResult: per label the cell that the finding names, and its baselines."""
        frame, (_, rows, positions) = self.to_frame(), self.score.shape
        best = [self._best(i) for i in range(len(self.labels))]
        numbers = [(i * rows + at[0]) * positions + at[1] for i, at in enumerate(best) if at is not None]
        columns = ["label", "cell", "position", "score", "raw_tokens", "untrained", "control_high", "null_high", "n"]
        return pd.DataFrame(frame.iloc[numbers][columns]).dropna(axis=1, how="all")

    def plot(self, ax: Axes | None = None, label: str | None = None, excess: bool = False) -> Axes:
        """Cells by positions for one label: the score, or its excess over the best baseline. Hatched: not measured; a
        dot: the value already stands in the text."""
        i, values, scale = self._drawn(label, excess)
        return heatmap(
            values,
            self.rows,
            self.positions,
            ax=ax,
            title=f"{self.labels[i]}, {self.config['model']} (n = {numbered(self._prefixes(values), 'prefixes')})",
            label=f"{scale}\nabove the best baseline" if excess else scale,
            signed=excess,
            limits=None if excess else (0.0, 1.0),
            mark=np.broadcast_to(self.written[i], values.shape) & np.isfinite(values),
            x_label="position",
        )
