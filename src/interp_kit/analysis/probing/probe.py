"""Linear probes (Alain & Bengio 2016) that say what they show: every score stands beside what the visible tokens alone
give, what an untrained network gives, and what labels nobody asked for give (control tasks, Hewitt & Liang 2019).

The unit is a distinct visible prefix: in a causal model equal prefixes have equal activations, so a row that repeats
one is no new evidence. Splits leave units out, repeatedly and stratified; scores are of left-out units only.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.probing.features import features_of
from interp_kit.analysis.probing.held_out import ProbeOptions, Scorer, threshold
from interp_kit.analysis.probing.labels import (
    MEASURED,
    TOO_FEW,
    control_labels,
    determined,
    distinct_prefixes,
    is_written,
    nothing_to_probe,
    one_class,
    raw_tokens,
)
from interp_kit.analysis.probing.linear import rotate
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, check_names, check_number, check_seed, listed, one_or_more
from interp_kit.core.identity import derive_seed
from interp_kit.core.own_tokens import position_names
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.core.stats.told import CHANCE, HALF
from interp_kit.engine.sites import layers_of
from interp_kit.models.convert import untrained
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting, check_model
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
            f"{self.labels[i]}: {colour} of a probe on {c['model']} (n = {self._prefixes(values)} distinct visible"
            f" prefixes, by position, {c['folds']}-fold, {c['repeats']} repeats). The best baseline is the highest of"
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
        """See AbstractResult: per label the cell that exceeds the baselines most, and whether that says anything.

        A label "can be read" if its score is more than half of the way from the best baseline to 1, and "can be read in
        part" if it exceeds the baseline by more than MARGIN.
        """
        found = [self._finding(i, label) for i, label in enumerate(self.labels)]
        if any("best of the" in text for text in found):
            found.append(
                "Each is the best of many cells of one network, so it has no interval here: readability() chooses the"
                " cell on some networks and reports it on others."
            )
        return tuple(found)

    def _finding(self, i: int, label: str) -> str:
        at = self._best(i)
        if at is None:
            few = (self.status[i] == TOO_FEW).any()
            why = "too few distinct texts have each of its values" if few else "nowhere is it determined by the text"
            return f"{label} cannot be probed: {why} before it stands there."
        score, base, null = (float(values[i][at]) for values in (self.score, self.baseline(), self.null_high))
        cells = int(np.isfinite(self.score[i][:, ~self.written[i]]).sum())
        of = f"best of the {cells} cells where it follows from the text and is not yet written, of {self.score[i].size}"
        where = f"{self.rows[at[0]]} at {self.positions[at[1]]}, n = {self.units[at[1]]} prefixes"
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
            title=f"{self.labels[i]}, {self.config['model']} (n = {self._prefixes(values)} prefixes)",
            label=f"{scale}\nabove the best baseline" if excess else scale,
            signed=excess,
            limits=None if excess else (0.0, 1.0),
            mark=np.broadcast_to(self.written[i], values.shape) & np.isfinite(values),
            x_label="position",
        )


@on_model("model", "control_model")
def probe(
    model: HookedModel,
    batch: TokenBatch,
    labels: str | Sequence[str],
    *,
    sites: str | Sequence[str] = "resid_post",
    positions: Sequence[str | int] | None = None,
    folds: int = 8,
    repeats: int = 4,
    control_repeats: int = 1,
    permutations: int = 0,
    c: float = 1.0,
    alpha: float = 1.0,
    control_model: HookedModel | None = None,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> ProbeResult:
    """Fit a probe for every label at every layer of the sites (and the embedding), at every named position.

    Features are centred by the mean of the training rows and divided by one number, the root of their mean squared
    entry: not each by its own deviation. Directions of large variance are therefore regularised less than small ones,
    and a variable that is written in a small direction needs a larger `c`. The untrained network, the visible tokens
    and the control functions are scaled and regularised by the same rule. The score hangs on `c`, and so may the
    comparison with the baselines: the cell that the findings name is scored again, with its baselines, under 100 times
    less regularisation (`config["less_regularised"]`: label -> score, best baseline), and the finding says if its
    verdict is then another.

    Args:
        model: Any model.
        batch: Examples with labels.
        labels: Variables to read.
        sites: Sites with a (batch, pos, d) activation per layer; "mlp_out.2" or "blocks.2.hook_mlp_out" is one layer.
        positions: Names, or indices of named tokens; None: all.
        folds: Parts into which units are split; fewer if a class has fewer units.
        repeats: Times that the split is drawn anew.
        control_repeats: Repeats of the control functions; 0 leaves them out.
        permutations: Permutations of the labels, for the max-statistic over cells; 0 leaves it out.
        c: Inverse regularisation of classification, as scikit-learn's LogisticRegression(C=c), one probe per class
            against the rest, on features centred and divided by one number (see above).
        alpha: Regularisation of regression, as scikit-learn's Ridge(alpha), on the same features.
        control_model: None: the same architecture with fresh weights.
        seed: Of splits, controls and permutations.
        progress: Whether to show a bar.

    Returns:
        One held-out score per label, cell and position, beside its baselines.

    Raises:
        ValueError: A label, position or site is unknown, or no cell can be measured.
    """
    check_meeting(model, batch, TokenBatch)
    if control_model is not None:
        check_model(control_model, "control_model")
    sites = list(check_names("sites", one_or_more(sites)))
    for site in sites:
        if None in layers_of(model, site)[1]:
            raise ValueError(f"site {site!r} has no layers; probes read the embedding beside every site")
    if positions is None:
        positions = [name for name, index in batch.positions.items() if bool((index >= 0).all())]
    names = list(check_names("positions", position_names("positions", positions, batch.positions)))
    check_count("folds", folds, least=2)
    check_count("repeats", repeats)
    check_count("control_repeats", control_repeats, least=0)
    check_count("permutations", permutations, least=0)
    for option, value in (("c", c), ("alpha", alpha)):
        check_number(option, value, above=0)
    check_seed(seed)
    check_flag("progress", progress)
    labels = check_names("labels", one_or_more(labels))
    constant = [told for label in labels if (told := one_class(batch, label))]
    if len(constant) == len(labels):
        raise ValueError("; ".join(constant))
    for label in labels:
        batch.label(label)
    for name in names:
        batch.position(name)
    unit_rows = [distinct_prefixes(batch, name) for name in names]
    values = {label: batch.label(label).cpu().numpy() for label in labels}
    truths = {
        (i, k): determined(values[label], group, units, label in batch.numeric)
        for i, label in enumerate(labels)
        for k, (units, group) in enumerate(unit_rows)
    }
    if all(status != MEASURED for _, status in truths.values()):
        raise ValueError(nothing_to_probe(labels, names, truths, unit_rows))
    options = ProbeOptions(folds, repeats, c, alpha, seed)
    rows, trained = features_of(model, batch, sites, names)
    _, fresh = features_of(control_model or untrained(model, derive_seed(seed, "untrained")), batch, sites, names)
    shape = (len(labels), len(rows), len(names))
    table = {key: np.full(shape, np.nan) for key in ("score", "untrained", "control", "control_high")}
    raw, status = np.full((len(labels), len(names)), np.nan), np.zeros((len(labels), len(names)), dtype=np.int64)
    null = np.full((len(labels), permutations, len(rows), len(names)), np.nan)
    written = np.array([[is_written(batch, label, name) for name in names] for label in labels])
    with bar(len(names) * len(labels), "probes", progress) as shown:
        for k, name in enumerate(names):
            units, group = unit_rows[k]
            tokens = rotate(raw_tokens(batch, name, units))
            cells, fresh_cells = ([rotate(row[k][units]) for row in f] for f in (trained, fresh))
            for i, label in enumerate(labels):
                shown.update()
                truth, status[i, k] = truths[i, k]
                if status[i, k] != MEASURED:
                    continue
                key = (label, name)
                score = Scorer(truth, label in batch.numeric, options, key)
                table["score"][i, :, k] = score(cells)
                table["untrained"][i, :, k] = score(fresh_cells)
                raw[i, k] = score([tokens])[0]
                if control_repeats and label not in batch.numeric and not written[i, k]:
                    others = control_labels(batch, values[label], units, group)
                    found = [Scorer(o, False, options.short(control_repeats), key)(cells) for o in others]
                    if found:
                        table["control"][i, :, k] = np.mean(found, axis=0)
                        table["control_high"][i, :, k] = np.percentile(found, 95, axis=0)
                if not written[i, k]:
                    for r in range(permutations):
                        rng = np.random.default_rng(derive_seed(seed, "permutation", *key, r))
                        shuffled = Scorer(rng.permutation(truth), label in batch.numeric, options.short(1), key)
                        null[i, r, :, k] = shuffled(cells)
    result = ProbeResult(
        labels=tuple(labels),
        rows=tuple(rows),
        positions=tuple(names),
        numeric=tuple(label for label in labels if label in batch.numeric),
        **table,
        raw=raw,
        null_high=np.stack([threshold(n) for n in null]),
        chance=np.array([0.0 if label in batch.numeric else 1 / len(batch.label(label).unique()) for label in labels]),
        status=status,
        written=written,
        units=np.array([len(units) for units, _ in unit_rows]),
        config={
            "analysis": "probe",
            "model": model_name(model),
            "task": batch.task,
            "folds": folds,
            "repeats": repeats,
            "control_repeats": control_repeats,
            "permutations": permutations,
            "c": c,
            "alpha": alpha,
            "seed": seed,
        },
    )
    again = {}
    for i, label in enumerate(labels):
        if (best := result._best(i)) is not None:
            units, group = unit_rows[best[1]]
            sets = [rotate(rows[best[1]][units]) for rows in (trained[best[0]], fresh[best[0]])]
            sets.append(rotate(raw_tokens(batch, names[best[1]], units)))
            found = _scored_again(batch, label, names[best[1]], sets, units, group, options, control_repeats)
            again |= {label: found} if found else {}
    return replace(result, config={**result.config, "less_regularised": again})


def _scored_again(
    batch: TokenBatch,
    label: str,
    position: str,
    sets: Sequence[np.ndarray],
    units: np.ndarray,
    group: np.ndarray,
    options: ProbeOptions,
    control_repeats: int,
) -> tuple[float, ...]:
    """Score and best baseline of one cell under LESS times less regularisation; none if a probe then does not converge.
    sets: the cell in the model, in the untrained one, and the visible tokens."""
    numeric, key = label in batch.numeric, (label, position)
    values = batch.label(label).cpu().numpy()
    truth, _ = determined(values, group, units, numeric)
    less = replace(options, c=LESS * options.c, alpha=options.alpha / LESS)
    try:
        score, *rivals = (float(Scorer(truth, numeric, less, key)([one])[0]) for one in sets)
        if control_repeats and not numeric:
            others = control_labels(batch, values, units, group)
            found = [Scorer(o, False, less.short(control_repeats), key)(sets[:1])[0] for o in others]
            rivals += [float(np.percentile(found, 95))] if found else []
    except FloatingPointError:
        return ()
    return score, max(*rivals, 0.0 if numeric else 1 / len(batch.label(label).unique()))
