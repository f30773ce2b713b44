"""Does a circuit do alone what the whole model does? Curves over its size, and their areas CPR and CMD (Mueller et al.
2025, MIB: a Mechanistic Interpretability Benchmark, arXiv:2504.13151)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.analysis.circuit import Circuit
from interp_kit.analysis.edge_scores import patched
from interp_kit.analysis.graph import Graph
from interp_kit.analysis.metrics import Metric, logit_difference
from interp_kit.core.batch import PairBatch, TokenBatch
from interp_kit.core.plotting import COLOURS, new_axes
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats import ratio_interval, scope
from interp_kit.core.types import HookedModel, model_name

Ablation = Literal["counterfactual", "mean", "resample"]
SHARES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of all edges, as MIB has them


@dataclass(frozen=True, kw_only=True)
class FaithfulnessResult(AbstractResult):
    """Faithfulness by size: (m(circuit) - m(no edges)) / (m(model) - m(no edges)), a ratio of means over pairs.

    sizes: (size,) edges kept; total: edges of the model; value, low, high: (size,) with 95 % interval over units of
    pairs; random: (order, size) of edges in random orders, the control; cpr: area under the curve over the share of
    edges kept, 1 where the smallest circuit does all; cmd: area between the curve and 1, 0 at best; both nan where the
    circuit does not rank all edges. random_cpr, random_cmd: (order,) of the control; values: (size, pair) the metric;
    n: independent units of pairs (PairBatch.units).
    """

    sizes: np.ndarray
    total: int
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    random: np.ndarray
    cpr: float
    cmd: float
    random_cpr: np.ndarray
    random_cmd: np.ndarray
    values: np.ndarray
    n: int
    config: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row a size: faithfulness with interval, and the random orders' mean and range."""
        return pd.DataFrame(
            {
                "edges": self.sizes,
                "share": self.sizes / self.total,
                "faithfulness": self.value,
                "low": self.low,
                "high": self.high,
                "random": self.random.mean(0),
                "random_low": self.random.min(0),
                "random_high": self.random.max(0),
                "n": self.n,
            }
        )

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        areas = "" if np.isnan(self.cpr) else f" CPR {self.cpr:.2f}, CMD {self.cmd:.2f} (random orders"
        areas += "" if np.isnan(self.cpr) else f" {self.random_cpr.mean():.2f} and {self.random_cmd.mean():.2f})."
        return (
            f"Faithfulness of the best edges of {c['model']} by {c['method']}, all others under {c['ablation']}"
            f" ablation (1: as the whole model, 0: as with no edge; n = {self.n} independent"
            f" pairs{scope(c)}; 95 % intervals;"
            f" {len(self.random)} random orders of the same edges as control).{areas}"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curve over the number of edges, with the random orders behind it."""
        ax = ax or new_axes()
        ax.axhline(1, color="#555555", linewidth=1, linestyle="--")
        ax.axhline(0, color="#555555", linewidth=1)
        for i, curve in enumerate(self.random):
            ax.plot(self.sizes, curve, color="#999999", linewidth=0.9, label=None if i else "random orders")
        ax.fill_between(self.sizes, self.low, self.high, color=COLOURS[0], alpha=0.25, linewidth=0)
        ax.plot(
            self.sizes, self.value, "o-", ms=4, color=COLOURS[0], label=f"best by {str(self.config['method']).upper()}"
        )
        ax.set_xscale("symlog", linthresh=1)
        shown = [s for s in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if s <= 0.7 * self.total]
        shown.append(self.total)
        ax.set_xticks(shown, [f"{s:,}" if s < 1000 or s == self.total else f"{s // 1000}k" for s in shown])
        ax.set_xticks([], minor=True)
        title = f"{self.config['model']}, {self.config['ablation']} ablation (n = {self.n})"
        ax.set(xlabel=f"edges kept, of {self.total:,} (logarithmic)", ylabel="faithfulness", title=title)
        ax.legend(frameon=False)
        return ax


def faithfulness(
    model: HookedModel,
    pairs: PairBatch,
    circuit: Circuit,
    *,
    sizes: Sequence[int] | None = None,
    ablation: Ablation = "counterfactual",
    metric: Callable[[PairBatch], Metric] = logit_difference,
    signed: bool = False,
    controls: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> FaithfulnessResult:
    """Run clean prompts through the circuit's best edges alone, for each size, all other edges of the model ablated.

    sizes: edges kept, by default MIB's shares of all edges, and small numbers; ablation: what the others carry,
    "counterfactual" of the corrupt prompt, "mean" over all prompts of the pairs at the same position, "resample" of
    another pair's prompts; signed: best by signed score, not by absolute value; controls: how many random orders.

    Choose edges on other pairs than those that are measured here. Raises ValueError for a circuit of another model,
    an edge that the model has not, edges with and without position, a size that the circuit has not, texts of different
    form for mean and resample, and
    where the whole model does no better than no edge.
    """
    graph, measured, into = Graph(model), metric(pairs), pairs.clean
    if tuple(circuit.nodes) != graph.nodes:
        raise ValueError(
            f"a circuit of {circuit.config['model']}, with {len(circuit.nodes)} nodes, on {model_name(model)}, with"
            f" {len(graph.nodes)}"
        )
    edges, kinds = circuit.edges, {edge.position is None for edge in circuit.edges}
    if len(kinds) > 1:
        raise ValueError("some edges of the circuit have a position and some have none")
    total = len(graph.edges) * (len(circuit.positions) if kinds == {False} else 1)
    for edge in edges:
        graph.place(edge)
    whole = len(set(edges)) == total
    if sizes is None:
        wanted = {round(share * total) for share in SHARES} | {1, 2, 3, 5, 8, 12, 20}
        sizes = [0, *sorted(size for size in wanted if 0 < size <= len(edges))]
    if not sizes or min(sizes) < 0 or max(sizes) > len(edges):
        raise ValueError(f"sizes {list(sizes)} of a circuit of {len(edges)} edges")
    reference = _reference(graph, pairs, ablation, seed)
    best = [edges[i] for i in circuit.order(signed=signed)]
    orders = [best]
    generator = np.random.default_rng(seed)
    orders += [[edges[i] for i in generator.permutation(len(edges))] for _ in range(controls)]
    groups = [order[:size] for order in orders for size in sizes]
    groups += [[], list(graph.edges)]
    values = patched(graph, into, reference, groups, measured, inverted=True, progress=progress).cpu().numpy()
    nothing, everything = values[-2:]
    gap = everything - nothing
    if abs(gap.mean()) < 1e-6:
        raise ValueError(
            f"{measured.name} is the same with all edges and with none: there is nothing to be faithful to"
        )
    unit = pairs.units()
    found, low, high = ratio_interval(values[:-2] - nothing, gap, groups=unit)
    curves = found.reshape(len(orders), len(sizes))
    areas = [_areas(np.asarray(sizes) / total, curve) if whole else (np.nan, np.nan) for curve in curves]
    return FaithfulnessResult(
        sizes=np.asarray(sizes),
        total=total,
        value=curves[0],
        low=low[: len(sizes)],
        high=high[: len(sizes)],
        random=curves[1:],
        cpr=float(areas[0][0]),
        cmd=float(areas[0][1]),
        random_cpr=np.array([a for a, _ in areas[1:]]),
        random_cmd=np.array([b for _, b in areas[1:]]),
        values=values[: len(sizes)],
        n=len(np.unique(unit)),
        config={
            "analysis": "faithfulness",
            "model": model_name(model),
            "task": into.task,
            "variable": pairs.variable,
            "target": pairs.target,
            "whole": pairs.whole,
            "method": circuit.config["method"],
            "ablation": ablation,
            "metric": measured.name,
            "gap": float(gap.mean()),
        },
    )


def _areas(share: np.ndarray, curve: np.ndarray) -> tuple[float, float]:
    """CPR and CMD: by trapezoids over the share of edges, to all of them."""
    share, curve = np.append(share, 1.0), np.append(curve, 1.0)
    return float(np.trapezoid(curve, share)), float(np.trapezoid(np.abs(1 - curve), share))


def _reference(graph: Graph, pairs: PairBatch, ablation: Ablation, seed: int) -> Tensor:
    """(sender, batch, pos, d_model) what edges outside a circuit carry."""
    corrupt = graph.outputs(pairs.corrupt.tokens)
    if ablation == "counterfactual":
        return corrupt
    if ablation not in ("mean", "resample"):
        raise ValueError(f"no ablation {ablation!r}; there are counterfactual, mean, resample")
    if not _of_one_form(pairs.clean):
        raise ValueError(f"{ablation} ablation needs texts of one form: here positions stand at different places")
    both = torch.cat([graph.outputs(pairs.clean.tokens), corrupt], dim=1)
    if ablation == "mean":
        return both.mean(1, keepdim=True).expand_as(corrupt)
    n = len(pairs)
    if n < 2:
        raise ValueError("resample ablation needs at least two pairs")
    generator = np.random.default_rng(seed)
    donor = (np.arange(n) + generator.integers(1, n, size=n)) % n + n * generator.integers(0, 2, size=n)
    return both[:, torch.as_tensor(donor, device=both.device)]


def _of_one_form(batch: TokenBatch) -> bool:
    return bool(batch.mask.all()) and all(bool((at == at[0]).all()) for at in batch.positions.values())
