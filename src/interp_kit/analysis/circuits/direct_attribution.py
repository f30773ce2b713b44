"""Direct effect of each part of a model on an answer's logit, and the answer of the residual stream at each layer:
direct logit attribution (Elhage et al. 2021) and the logit lens (nostalgebraist 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_names, expect, listed
from interp_kit.core.own_tokens import position_names
from interp_kit.core.pairs import PairBatch
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats.intervals import Estimate, mean_interval, ratio_interval, scope, wilson_share
from interp_kit.core.stats.told import most, out_of, told
from interp_kit.engine.graph import Graph
from interp_kit.engine.metrics import AtField, LogitDifference, Metric, logit_difference
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import heatmap, intervals

BIAS = "biases"


@dataclass(frozen=True, kw_only=True)
class LogitAttributionResult(AbstractResult):
    """Direct contributions to a logit difference.

    component: nodes in order, and "biases" last; values: (component, example) in logits, which sum up over components
    to the model's own logit difference; mean, low, high: (component,) with 95 % interval over independent examples.
    """

    leading: ClassVar[str] = "logits"
    component: tuple[str, ...]
    values: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Independent examples: pairs that share a text are one."""
        return _by_unit(self.values, self.config).shape[-1]

    def to_frame(self) -> pd.DataFrame:
        """One row per component."""
        columns = {"component": self.component, "logits": self.mean, "low": self.low, "high": self.high}
        return pd.DataFrame(columns | {"n": self.n})

    def caption(self) -> str:
        """See AbstractResult."""
        return (
            f"What each component of {self.config['model']} adds directly to the {self.config['metric']}, the final"
            f" norm's scale held as it is (n = {self.n}"
            f"{scope(self.config)}; 95 % intervals; together"
            f" {self.mean.sum():.2f}, the model's own)."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the component that adds most by itself."""
        clear, best, n = told(_by_unit(self.values, self.config)), int(np.abs(self.mean).argmax()), self.n
        share = Estimate(self.mean[best], self.low[best], self.high[best], n, "examples").short()
        text = f"{self.component[best]} adds {share} to the {self.config['metric']}, of {self.mean.sum():.2f} in all"
        if not clear[best]:
            return (f"No component adds what can be told from 0 directly; the most, {text} (n = {n}).",)
        counts = out_of(int(clear.sum()), len(self.component), "components")
        return (f"Directly, {text}, the most (n = {n}); told from 0: {counts} (Holm's correction).",)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Components as points with intervals, 0 marked."""
        title = f"direct logit attribution, {self.config['model']} (n = {self.n})"
        series = {"logits": (self.mean, self.low, self.high)}
        return intervals(self.component, series, ax=ax, title=title, x_label="logits", reference={"nothing": 0.0})


@dataclass(frozen=True, kw_only=True)
class LensResult(AbstractResult):
    """The answer read out of the residual stream at each layer and named position.

    layer: names, "embed" and "L0" to the last, after each block; position: names; values: (layer, position, example)
    the metric of the logits read out there; mean, low, high: (layer, position) with 95 % interval over independent
    examples.
    """

    leading: ClassVar[str] = "value"
    layer: tuple[str, ...]
    position: tuple[str, ...]
    values: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Independent examples: pairs that share a text are one."""
        return _by_unit(self.values, self.config).shape[-1]

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and position."""
        index = [(la, p) for la in self.layer for p in self.position]
        return pd.DataFrame(
            {
                "layer": [la for la, _ in index],
                "position": [p for _, p in index],
                "value": self.mean.ravel(),
                "low": self.low.ravel(),
                "high": self.high.ravel(),
                "n": self.n,
            }
        )

    def caption(self) -> str:
        """See AbstractResult."""
        return (
            f"Logit lens on {self.config['model']}: {self.config['metric']} read out of the residual stream through"
            f" the final norm and unembedding (n = {self.n}{scope(self.config)}; 95 %"
            " intervals in the table)."
            " What can be read there need not be used."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the layer from which the answer can be read, at the position that shows it best.

        It "can be read" from the layer on from which the logit difference is above 0 in more than half of the examples,
        by the lower end of Wilson's interval, and its mean can be told from 0.
        """
        if "logit difference" not in str(self.config["metric"]):
            return ()
        n, at = self.n, int(self.mean[-1].argmax())
        by_unit = _by_unit(self.values[:, at], self.config)
        right = [wilson_share((row > 0).mean(), n) for row in by_unit]
        clear = told(by_unit) & (self.mean[:, at] > 0) & np.array([most(share.low, share.value) for share in right])
        first = len(clear) - int(np.append(~clear[::-1], True).argmax())
        last, here = (
            Estimate(self.mean[i, at], self.low[i, at], self.high[i, at], n, "examples").short()
            for i in (-1, min(first, len(clear) - 1))
        )
        ends = f"the {self.config['metric']} is {last} after the last block (n = {n})"
        if first == len(clear):
            return (f"The answer cannot be read at {self.position[at]} after the last block: {ends}.",)
        name = "the embedding" if first == 0 else self.layer[first]
        ahead = f"where it is ahead in {right[first].short()} of examples"
        return (f"The answer can be read at {self.position[at]} from {name} on, {ahead}, with {here}; {ends}.",)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Layers by position, centred on 0."""
        title = f"logit lens, {self.config['model']} (n = {self.n})"
        return heatmap(
            self.mean, self.layer, self.position, ax=ax, title=title, label=self.config["metric"], signed=True,
            x_label="position", y_label="after block",
        )  # fmt: skip


@on_model(gradients=True)
def direct_logit_attribution(
    model: HookedModel,
    batch: TokenBatch | PairBatch,
    target: str | None = None,
    *,
    metric: Metric | None = None,
) -> LogitAttributionResult:
    """The logit difference of a field's answer (of pairs: clean minus corrupt answer, on the clean side) as a sum over
    nodes of what each one's output adds to it, the scale of a final LayerNorm held fixed.

    target: name of the field, of a TokenBatch; None if it has a single one. Raises ValueError for another metric than
    a logit difference at one position; Unsupported where the model has something that `Graph` does not compute.
    """
    check_meeting(model, batch, TokenBatch, PairBatch)
    side, measured, units = _measured(batch, target, metric)
    graph = Graph(model)
    rows, at = torch.arange(len(side), device=side.tokens.device), measured.position(side)
    with torch.no_grad():
        outs = graph.outputs(side.tokens)[:, rows, at]
        total = graph.residual(side.tokens)[rows, at]
        ex = graph.executor
        # the metric is linear in the logits, so this is the direction that it reads in the residual stream
        logits = ex.read_out(total)[:, None, :].requires_grad_()
        with torch.enable_grad():
            (weights,) = torch.autograd.grad(measured.measure(logits, side).sum(), logits)
        parts = torch.cat([outs, (total - outs.sum(0))[None]])
        direction = weights[:, 0] @ ex.unembed[0]
        values = (ex.norm.held(parts, total) * direction).sum(-1)
        values[-1] += weights[:, 0] @ ex.unembed[1]
        if ex.norm.bias is not None:
            values[-1] += direction @ ex.norm.bias
    found = values.cpu().numpy()
    mean, low, high = _over(found, units)
    return LogitAttributionResult(
        component=(*graph.senders, BIAS),
        values=found,
        mean=mean,
        low=low,
        high=high,
        config=_config(model, side, measured, units, "direct_logit_attribution"),
    )


@on_model()
def logit_lens(
    model: HookedModel,
    batch: TokenBatch | PairBatch,
    target: str | None = None,
    *,
    positions: Sequence[str | int] | None = None,
    metric: Metric | None = None,
) -> LensResult:
    """The metric of a field's answer, by default its logit difference, from logits that the final norm and the
    unembedding give of the residual stream after every block, at named positions (default: where the field is
    predicted). target: as for `direct_logit_attribution`.

    Raises ValueError for a metric over the whole completion, and an unknown position; Unsupported as above.
    """
    check_meeting(model, batch, TokenBatch, PairBatch)
    side, measured, units = _measured(batch, target, metric, linear=False)
    graph = Graph(model)
    names = (
        [side.field(measured.field).predict]
        if positions is None
        else list(check_names("positions", position_names("positions", positions, side.positions)))
    )
    at = torch.stack([side.position(name) for name in names], 1)
    rows = torch.arange(len(side), device=side.tokens.device)[:, None]
    stream: list[Tensor] = []
    ex = graph.executor

    def visit(site: str, layer: int, value: Tensor) -> None:
        if site == "resid_post" or (site == "resid_pre" and layer == 0):
            stream.append(value[rows, at].clone())

    ex.run(side.tokens, visit)
    with torch.no_grad():
        final = graph.logits(side.tokens, measured.reads(side))[0]
        values = torch.stack(
            [
                torch.stack([measured.measure(ex.read_out(x[:, i])[:, None], side, final) for i in range(len(names))])
                for x in stream
            ]
        )
    found = values.cpu().numpy()
    mean, low, high = _over(found, units)
    return LensResult(
        layer=("embed", *(f"L{i}" for i in range(len(ex.layers)))),
        position=tuple(names),
        values=found,
        mean=mean,
        low=low,
        high=high,
        config=_config(model, side, measured, units, "logit_lens"),
    )


def _measured(
    batch: TokenBatch | PairBatch, target: str | None, metric: Metric | None, *, linear: bool = True
) -> tuple[TokenBatch, AtField, np.ndarray]:
    """The side that is read, the metric, and (example,) the number of the independent unit that each belongs to."""
    side, units = batch.clean if isinstance(batch, PairBatch) else batch, batch.units()
    if metric is not None:
        expect("metric", metric, Metric, "as interp_kit.logit_difference(pairs) gives")
    if metric is None and target is None and not isinstance(batch, PairBatch) and len(side.fields) == 1:
        target = side.fields[0].name
    named = metric.field if metric is not None else batch.target if isinstance(batch, PairBatch) else target
    if target not in (None, named):
        raise ValueError(f"target is {target!r}, and {named!r} is what the metric or the pairs name")
    if metric is None:
        if target is None and not isinstance(batch, PairBatch):
            raise ValueError(f"which field? There are {listed([field.name for field in side.fields])}")
        metric = logit_difference(batch if isinstance(batch, PairBatch) else side.field(target or "").name)
    if not isinstance(metric, LogitDifference if linear else AtField):
        raise ValueError(f"{metric.name} is not a {'logit difference' if linear else 'metric'} at one position")
    return side, metric, units


def _by_unit(values: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """(..., unit) means over the examples of each independent unit."""
    if "units" not in config:
        return values
    units = np.array(config["units"])
    return np.stack([values[..., units == unit].mean(-1) for unit in np.unique(units)], -1)


def _over(values: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over examples with its interval over their units."""
    if len(np.unique(units)) == len(units):
        return mean_interval(values, "examples")
    return ratio_interval(values, np.ones(len(units)), groups=units)


def _config(model: HookedModel, side: TokenBatch, metric: Metric, units: np.ndarray, analysis: str) -> dict[str, Any]:
    return {
        "analysis": analysis,
        "model": model_name(model),
        "task": side.task,
        "whole": side.whole,
        "metric": metric.name,
    } | ({} if len(np.unique(units)) == len(units) else {"units": units.tolist()})
