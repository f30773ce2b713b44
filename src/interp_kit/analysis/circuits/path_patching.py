"""Path patching between any nodes: what travels straight from a sender into one input of a receiver (Wang et al. 2022,
arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.circuits.carried import outputs_of, patched
from interp_kit.core.config import check_choice, check_flag
from interp_kit.core.pairs import PairBatch
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, numbered
from interp_kit.core.stats.intervals import Estimate, counted, no_interval, ratio_interval, scope, why_none
from interp_kit.core.stats.told import CHANCE
from interp_kit.engine.edits import Direction
from interp_kit.engine.graph import Graph
from interp_kit.engine.metrics import Metric, logit_difference
from interp_kit.engine.solved import both_sides, caveat, counted_solved, said, warn_if_few
from interp_kit.models.circuit import Edge
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import intervals


@dataclass(frozen=True, kw_only=True)
class PathPatchingResult(AbstractResult):
    """Recovered metric by path: one entry per group of edges.

    path: (path,) names; recovered, low, high: (path,) ratio of means, 0 = the run patched into, 1 = the other run, with
    95 % intervals over units of pairs; values: (path, pairs) the metric; start, goal: (pairs,) of the two unpatched
    runs; unit: (pairs,) which independent unit each belongs to (PairBatch.units); config["solved"]: of how many pairs
    the model solves both sides.
    """

    leading: ClassVar[str] = "recovered"
    path: tuple[str, ...]
    recovered: np.ndarray
    low: np.ndarray
    high: np.ndarray
    values: np.ndarray
    start: np.ndarray
    goal: np.ndarray
    unit: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Independent units of pairs behind every figure."""
        return len(np.unique(self.unit))

    def to_frame(self) -> pd.DataFrame:
        """One row per path."""
        columns = {"path": self.path, "recovered": self.recovered, "low": self.low, "high": self.high}
        return pd.DataFrame(columns | {"metric": self.values.mean(1), "n": self.n})

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        differ = "differs" if len(self.unit) == 1 else "differ"
        return (
            f"Path patching on {c['model']}: recovered {c['metric']} where single edges carry the other run's value"
            f" ({c['direction']}; 0: as unpatched, 1: as the other run; n = {counted(self.unit, 'pairs')} that"
            f" {differ} in {c['variable']}{scope(c)}, {said(c)}; 95 % intervals"
            f"{no_interval(self.low, self.unit, self.goal - self.start)})."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the path that carries most."""
        if np.isnan(self.recovered).all():
            return ()
        c, best = self.config, int(np.nanargmax(self.recovered))
        share = Estimate(self.recovered[best], self.low[best], self.high[best], self.n, "pairs").short()
        text = (
            f"{self.path[best]} recovers {share} of the {c['metric']} in {c['model']} (n = {numbered(self.n, 'pairs')})"
        )
        if self.low[best] <= 0:
            return (f"{caveat(c)}No path is shown to carry {c['variable']}: the best, {text}, {CHANCE}.",)
        if np.isnan(self.low[best]):
            text += f"; no interval, as {why_none(self.unit, self.goal - self.start)}"
        return (f"{caveat(c)}{text}{', the most of the paths' if len(self.path) > 1 else ''}.",)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Paths as points with intervals."""
        title = f"path patching, {self.config['model']} (n = {self.n})"
        series = {"recovered": (self.recovered, self.low, self.high)}
        return intervals(self.path, series, ax=ax, title=title, x_label=f"recovered {self.config['metric']}")


@on_model()
def path_patch(
    model: HookedModel,
    pairs: PairBatch,
    paths: Sequence[Edge | Sequence[Edge]] | Mapping[str, Sequence[Edge]],
    *,
    metric: Callable[[PairBatch], Metric] = logit_difference,
    direction: Direction = "denoise",
    progress: bool = PROGRESS,
) -> PathPatchingResult:
    """Patch single edges, or groups of edges together, and measure what follows.

    What a sender gave in the other run reaches that input of the receiver alone; everything after the receiver runs on
    from there.

    Args:
        model: A model that `Graph` computes.
        pairs: Clean and corrupt texts of equal length.
        paths: Edges, from any node to q, k or v of any later head, a later MLP, or the logits, at a named position or
            all; or groups of edges, which may have names.
        metric: What is measured, as a function of the pairs.
        direction: "denoise" carries clean into corrupt, "noise" corrupt into clean.
        progress: Whether to show a bar.

    Returns:
        One entry per group: 1 if the run moved all the way to the other one.

    Warns:
        UserWarning: The model solves both sides of fewer than half of the pairs.

    Raises:
        ValueError: There is no path, the model has no such edge, or the two runs do not differ in the metric.
        Unsupported: The model has something that `Graph` does not compute.
    """
    check_meeting(model, pairs, PairBatch)
    check_choice("direction", direction, get_args(Direction))
    check_flag("progress", progress)
    listed: Mapping[str, Sequence[Edge]]
    if isinstance(paths, Mapping):
        listed = paths
    else:
        groups = [(path,) if isinstance(path, Edge) else tuple(path) for path in paths]
        listed = {" + ".join(map(str, group)): group for group in groups}
    if not listed:
        raise ValueError("paths is empty: there is no path to patch")
    graph, measured = Graph(model), metric(pairs)
    into, other = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    for group in listed.values():
        graph.mask(into, group)  # says what is wrong before anything runs
    reference = outputs_of(graph, other)
    found = patched(graph, into, reference, [[], graph.edges, *listed.values()], measured, progress=progress)
    start, goal, *_ = values = found.cpu().numpy()
    if abs((goal - start).mean()) < 1e-6:
        raise ValueError(f"clean and corrupt do not differ in {measured.name}, so there is nothing to recover")
    unit = pairs.units()
    recovered, low, high = ratio_interval(values[2:] - start, goal - start, groups=unit)
    solved = both_sides(measured, pairs, lambda tokens, reads: graph.logits(tokens, reads)[0])
    result = PathPatchingResult(
        path=tuple(listed),
        recovered=recovered,
        low=low,
        high=high,
        values=values[2:],
        start=start,
        goal=goal,
        unit=unit,
        config={
            "analysis": "path_patch",
            "model": model_name(model),
            "task": into.task,
            "variable": pairs.variable,
            "target": pairs.target,
            "whole": pairs.whole,
            "metric": measured.name,
            "direction": direction,
            **counted_solved(solved),
        },
    )
    warn_if_few(result.config)
    return result
