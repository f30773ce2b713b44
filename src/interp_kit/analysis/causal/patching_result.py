"""Result of activation patching: the share of the metric that each site carries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered, some
from interp_kit.core.stats.intervals import Estimate, counted, no_interval, scope, why_none
from interp_kit.core.stats.told import CHANCE, most
from interp_kit.engine.solved import caveat, said
from interp_kit.reports.plotting import intervals
from interp_kit.reports.site_heatmap import site_map

RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
NOTICED = 0.05  # recovered share below which a finding names no edit beside the best


@dataclass(frozen=True, kw_only=True)
class PatchingResult(AbstractResult):
    """Recovered metric by site: one entry per edit.

    site, layer, head (-1: none or all), position ("all", or a name) say where; all of length n_edits.
    recovered: (n_edits,) ratio of means, 0 = the run patched into, 1 = the run patched from; low, high: 95 %
    interval over units of pairs; values: (n_edits, pairs) the metric; start, goal: (pairs,) that of the two unpatched
    runs; unit: (pairs,) which independent unit each belongs to (PairBatch.units), all that share a text being one;
    dropped: pairs left out because the model does not solve both sides (config["solved"] says of how many it does);
    sender patching has sender positions instead.
    """

    leading: ClassVar[str] = "recovered"
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
        """One row per edit: where, recovered with interval, mean metric, n units of pairs."""
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
        differ = "differs" if len(self.unit) == 1 else "differ"
        by = f", by {' or '.join(c['inputs'])}" if c["inputs"] else ""
        return (
            f"{'Recovered' if sides[0] == 'clean' else 'Lost'} share of the {c['metric']} when {what} from the"
            f" {sides[0]} run into the {sides[1]} run of {c['model']} (0: as unpatched, 1: as the other run; n ="
            f" {counted(self.unit, 'pairs')} that {differ} in {c['variable']}{by}, {c['completion']}"
            f" completions{scope(c)}, {said(c, self.dropped)}; 95 % intervals in the table"
            f"{no_interval(self.low, self.unit, self.goal - self.start)})."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the edit that recovers most, and if it does so by construction, the most elsewhere."""
        if np.isnan(self.recovered).all():
            return ()
        c, best = self.config, int(np.nanargmax(self.recovered))
        where = f"Copying {self._place(best)}"
        if self.site[best] == "senders":
            where = f"Reading {self.position[best]} from the other run"
        share = self._share(best)
        does = "recovers" if c["direction"] == "denoise" else "loses"
        if self.low[best] <= 0:
            what = f"{where} {does} {share} of the {c['metric']}, the most of all (n = {self.n})"
            return (f"{caveat(c)}That a site of {c['model']} carries {c['variable']} {CHANCE}: {what}.",)
        none = np.isnan(self.low[best])
        without = f"; no interval, as {why_none(self.unit, self.goal - self.start)}" if none else ""
        said_most = (
            f"{where} {does} {share} of the {c['metric']} in {c['model']}, the most of all (n = {self.n}{without})."
        )
        return (caveat(c) + said_most + self._elsewhere(best),)

    def _place(self, i: int) -> str:
        layer = f", layer {self.layer[i]}" if self.layer[i] >= 0 else ""
        head = f", head {self.head[i]}" if self.head[i] >= 0 else ""
        return f"{self.site[i]} at {self.position[i]}{layer}{head}"

    def _share(self, i: int) -> str:
        return Estimate(self.recovered[i], self.low[i], self.high[i], self.n, "pairs").short()

    def _elsewhere(self, best: int) -> str:
        """A sentence for a best edit that could not fail to recover much: at a token that differs, or in the residual
        stream at the position whose logits are read. It names the best of all other edits, if its interval is above
        NOTICED; else the first layer whose residual stream at the position read has more than half (`told.most`)."""
        differ, predict = self.config.get("differ", ()), self.config.get("predict", ())
        at, residual = np.array(self.position), np.isin(self.site, RESIDUAL)
        differs, reads = np.isin(at, differ), np.isin(at, predict) & residual
        if not (differs | reads)[best]:
            return ""
        left = np.flatnonzero(~(differs | reads) & (self.low > NOTICED))
        if len(left):
            top = int(left[self.recovered[left].argmax()])
            apart = [f"the tokens that differ ({some(differ)})"] if differs.any() else []
            apart += [f"the residual stream at {some(predict)}"] if reads.any() else []
            others = numbered(int((~(differs | reads)).sum()), "places")
            where = f"{self._place(top)}: {self._share(top)}"
            return f" Apart from {' and '.join(apart)}, the most of {others} is {where}."
        there = [i for i in np.flatnonzero(reads & ~differs).tolist() if most(self.low[i], self.recovered[i])]
        if there:
            first = min(there, key=lambda i: (self.layer[i], RESIDUAL.index(self.site[i])))
            return (
                f" Where logits are read, {self._place(first)} is the first with more than half: {self._share(first)}."
            )
        return ""

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
