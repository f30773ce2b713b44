"""Activation patching: which sites carry a variable from a clean run into a corrupt one (Meng et al. 2022; Zhang &
Nanda 2023), and path patching by sender position: which earlier token a prediction reads it from (Goldowsky-Dill et
al. 2023).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.metrics import Metric, logit_difference
from interp_kit.analysis.site_map import site_map
from interp_kit.analysis.sites import Copy, CopyAttended, Direction, Edit, check_by, everywhere
from interp_kit.analysis.sweep import SweepValues, sweep
from interp_kit.core.batch import PairBatch
from interp_kit.core.plotting import intervals
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats import counted, ratio_interval, scope
from interp_kit.core.types import HookedModel, model_name

ALL = "all"
MetricOf = Callable[[PairBatch], Metric]


@dataclass(frozen=True, kw_only=True)
class PatchingResult(AbstractResult):
    """Recovered metric by site: one entry an edit.

    site, layer, head (-1: none or all), position ("all", or a name) say where; all of length n_edits.
    recovered: (n_edits,) ratio of means, 0 = the run patched into, 1 = the run patched from; low, high: 95 %
    interval over units of pairs; values: (n_edits, pairs) the metric; start, goal: (pairs,) that of the two unpatched
    runs; unit: (pairs,) which independent unit each belongs to (PairBatch.units), all that share a text being one;
    dropped: pairs left out because the model does not solve both sides; sender patching has sender positions instead.
    """

    site: tuple[str, ...]
    layer: np.ndarray
    head: np.ndarray
    position: tuple[str, ...]
    recovered: np.ndarray
    low: np.ndarray
    high: np.ndarray
    values: np.ndarray
    start: np.ndarray
    goal: np.ndarray
    unit: np.ndarray
    dropped: int
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Independent units of pairs behind every figure."""
        return len(np.unique(self.unit))

    def to_frame(self) -> pd.DataFrame:
        """One row an edit: where, recovered with interval, mean metric, n units of pairs."""
        return pd.DataFrame(
            {
                "site": self.site,
                "layer": self.layer,
                "head": self.head,
                "position": self.position,
                "recovered": self.recovered,
                "low": self.low,
                "high": self.high,
                "metric": self.values.mean(1),
                "n": self.n,
            }
        )

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        sides = ("clean", "corrupt") if c["direction"] == "denoise" else ("corrupt", "clean")
        what = (
            f"{c['receiver']} reads keys and values of one position" if "receiver" in c else "one activation is copied"
        )
        by = f", by {' or '.join(c['inputs'])}" if c["inputs"] else ""
        return (
            f"{'Recovered' if sides[0] == 'clean' else 'Lost'} share of the {c['metric']} when {what} from the"
            f" {sides[0]} run into the {sides[1]} run of {c['model']} (0: as unpatched, 1: as the other run; n ="
            f" {counted(self.unit, 'pairs')} that differ in {c['variable']}{by}, {c['completion']}"
            f" completions, {self.dropped} unsolved pairs left out{scope(c)}; 95 % intervals in the"
            " table)."
        )

    def plot(self, ax: Axes | None = None, site: str | None = None) -> Axes:
        """Layers (or heads) by position, for one site, by default the first; senders as points with intervals."""
        site = site or self.site[0]
        title = (
            f"{site}: {self.config['variable']} → {self.config['target']} ({self.config['direction']}, n = {self.n})"
        )
        label = "recovered" if self.config["direction"] == "denoise" else "lost to the corrupt run"
        if site == "senders":
            series = {label: (self.recovered, self.low, self.high)}
            return intervals(self.position, series, ax=ax, title=title, x_label=label)
        return site_map(self.to_frame(), site, "recovered", ax=ax, title=title, label=label, signed=True)


def patch(
    model: HookedModel,
    pairs: PairBatch,
    *,
    sites: str | Sequence[str] = "resid_pre",
    by: Literal["position", "all"] = "position",
    positions: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    metric: MetricOf = logit_difference,
    direction: Direction = "denoise",
    only_solved: bool = False,
    progress: bool = False,
) -> PatchingResult:
    """Copy one activation at a time from one run of each pair into the other, and measure what follows it.

    sites: activation sites, every layer of each; those with heads (z, q, k, v) are patched head by head. by: one named
    position at a time (`positions`, default those that every row has; name -> positions patches groups of them, such as
    all cells of a grid), or all positions together. direction: "denoise"
    copies clean into corrupt, "noise" corrupt into clean; recovered is 1 where the run moved all the way to the one
    copied from. only_solved: keep the pairs of which the model solves both sides, and count the rest.

    Raises ValueError for unequal lengths, an unknown site, positions that are named with by="all", or where the two
    runs do not differ in the metric.
    """
    check_by(by, positions)
    pairs, dropped = _used(model, pairs, only_solved)
    into, source = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    shared = [name for name, index in into.positions.items() if bool((index >= 0).all())]
    groups = dict(positions) if isinstance(positions, Mapping) else {name: [name] for name in positions or shared}
    names = [None] if by == "all" else list(groups)
    marks = everywhere(model, sites, Copy(source), names)
    edits = [
        [mark] if mark.position is None else [replace(mark, position=name) for name in groups[str(mark.position)]]
        for mark in marks
    ]
    swept = sweep(model, into, edits, metric(pairs), other=source, progress=progress)
    return _result(model, pairs, marks, swept, metric, direction, dropped)


def patch_senders(
    model: HookedModel,
    pairs: PairBatch,
    *,
    receiver: str | None = None,
    senders: Sequence[str | Sequence[str]] | None = None,
    metric: MetricOf = logit_difference,
    direction: Direction = "denoise",
    only_solved: bool = False,
    progress: bool = False,
) -> PatchingResult:
    """Path patching by sender position: the receiver alone reads each sender's keys and values from the other run.

    receiver: a prediction position, by default that of the target; senders: named positions, or groups of them patched
    together, by default each one before the receiver that every row has. Every layer's attention of the receiver is
    changed and no position before it is, so what is recovered at the receiver travels straight from the sender.

    Raises ValueError as `patch` does, and for a sender behind the receiver.
    """
    pairs, dropped = _used(model, pairs, only_solved)
    into, source = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    receiver = receiver or into.field(pairs.target).predict
    at = into.position(receiver)
    if senders is None:
        senders = [name for name, index in into.positions.items() if bool(((index >= 0) & (index < at)).all())]
    groups = [(s,) if isinstance(s, str) else tuple(s) for s in senders]
    edits = [
        [Edit("z", layer, CopyAttended(source, group), position=receiver) for layer in range(model.cfg.n_layers)]
        for group in groups
    ]
    swept = sweep(model, into, edits, metric(pairs), other=source, progress=progress)
    marks = [Edit("senders", None, CopyAttended(source, group), position=" + ".join(group)) for group in groups]
    return _result(model, pairs, marks, swept, metric, direction, dropped, receiver=receiver)


def _used(model: HookedModel, pairs: PairBatch, only_solved: bool) -> tuple[PairBatch, int]:
    """The pairs, or those of which the model gives both answers by argmax, and how many are left out. Raises TypeError
    for what are no pairs."""
    if not isinstance(pairs, PairBatch):
        raise TypeError(f"patching needs the pairs of task.pairs(variable, target), not a {type(pairs).__name__}")
    if not only_solved:
        return pairs, 0
    right = [
        sweep(model, side, [], Metric("accuracy", pairs.target)).baseline[0] == 1
        for side in (pairs.clean, pairs.corrupt)
    ]
    kept = np.flatnonzero(right[0] & right[1])
    if len(kept) == 0:
        raise ValueError(f"the model solves both sides of none of the {len(pairs)} pairs")
    return pairs.take(kept.tolist()), len(pairs) - len(kept)


def _result(
    model: HookedModel,
    pairs: PairBatch,
    edits: Sequence[Edit],
    swept: SweepValues,
    metric: MetricOf,
    direction: Direction,
    dropped: int,
    **config: object,
) -> PatchingResult:
    assert swept.other is not None
    values, start, goal = swept.values[:, 0], swept.baseline[0], swept.other[0]
    if abs((goal - start).mean()) < 1e-6:
        raise ValueError(
            f"clean and corrupt do not differ in {metric(pairs).name} (mean gap {(goal - start).mean():.1e} over"
            f" {len(pairs)} pairs), so there is nothing to recover"
        )
    unit = pairs.units()
    recovered, low, high = ratio_interval(values - start, goal - start, groups=unit)
    return PatchingResult(
        site=tuple(edit.site for edit in edits),
        layer=np.array([-1 if edit.layer is None else edit.layer for edit in edits]),
        head=np.array([-1 if edit.head is None else edit.head for edit in edits]),
        position=tuple(ALL if edit.position is None else str(edit.position) for edit in edits),
        recovered=recovered,
        low=low,
        high=high,
        values=values,
        start=start,
        goal=goal,
        unit=unit,
        dropped=dropped,
        config={
            "analysis": "patch",
            "model": model_name(model),
            "task": pairs.clean.task,
            "variable": pairs.variable,
            "target": pairs.target,
            "inputs": tuple(name for name in pairs.clean.inputs if any(name in differs for differs in pairs.differs)),
            "completion": pairs.completion,
            "whole": pairs.whole,
            "metric": metric(pairs).name,
            "direction": direction,
            **config,
        },
    )
