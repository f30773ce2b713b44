"""Does a circuit do alone what the whole model does? Curves over its size, and their areas CPR and CMD (Mueller et al.
2025, MIB: a Mechanistic Interpretability Benchmark, arXiv:2504.13151)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.circuits.carried import CONSTANT, Ablation, carried, patched
from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.core.config import check_choice, check_count, check_flag, check_seed, expect
from interp_kit.core.pairs import PairBatch
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, counted, numbered
from interp_kit.core.stats.intervals import Estimate, none_where, ratio_interval, scope
from interp_kit.core.stats.told import CHANCE
from interp_kit.engine.graph import MEMORY, Graph
from interp_kit.engine.metrics import Metric, logit_difference
from interp_kit.engine.solved import both_sides, caveat, counted_solved, said, warn_if_few
from interp_kit.models.circuit import on_the_way
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import COLOURS, FAINT, SOFT, new_axes, note_bend

METHODS = {"exact": "exact patching", "acdc": "ACDC"}
ENOUGH = 0.9  # of the whole model: what a sentence calls enough
GRIDS = ("mib", "fine")
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # MIB's, of all edges
SMALL = (0, 1, 2, 3, 5, 8, 12, 20)  # edges that the finer grid has besides


@dataclass(frozen=True, kw_only=True)
class FaithfulnessResult(AbstractResult):
    """Faithfulness by size: (m(circuit) - m(no edges)) / (m(model) - m(no edges)), a ratio of means over pairs.

    sizes: (size,) edges kept; share: (size,) of all edges, which is what areas are taken over: on MIB's grid the share
    that was asked for, not the one that rounding leaves; total: edges of the model; value, low, high: (size,) with
    95 % intervals over units of pairs; random: (order, size) of edges in random orders, the control; cpr: area under
    the curve over the share of edges; cmd: area between the curve and 1, 0 at best; both nan where the circuit does not
    rank all edges, or the sizes lack some of MIB's: they are MIB's figures (`areas`), and no others go by that name.
    random_cpr, random_cmd: (order,) of the control; values: (size, pair) the metric;
    n: independent units of pairs (PairBatch.units).
    """

    sizes: np.ndarray
    share: np.ndarray
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
        """One row per size: faithfulness with interval, and the random orders' mean and range (nan without any)."""
        random = self.random if len(self.random) else np.full((1, len(self.sizes)), np.nan)
        return pd.DataFrame(
            {
                "edges": self.sizes,
                "share": self.share,
                "faithfulness": self.value,
                "low": self.low,
                "high": self.high,
                "random": random.mean(0),
                "random_low": random.min(0),
                "random_high": random.max(0),
                "n": self.n,
            }
        )

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        method = METHODS.get(c["method"], c["method"].upper())
        areas = "" if np.isnan(self.cpr) else f" MIB's CPR {self.cpr:.2f}, CMD {self.cmd:.2f}"
        if areas and len(self.random):
            areas += f" (random orders {self.random_cpr.mean():.2f} and {self.random_cmd.mean():.2f})"
        areas += "." if areas else ""
        return (
            f"Faithfulness of the best edges of {c['model']} by {method}, all others under {c['ablation']}"
            " ablation (1: as the whole model, 0: as with no edge; n ="
            f" {numbered(self.n, 'independent pairs')}{scope(c)},"
            f" {said(c)}; 95 % intervals{none_where(self.low, self.n)};"
            f" {numbered(len(self.random), 'random orders')} of the same edges as control).{areas}"
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the smallest part of the edges that does what the whole does, beside random ones."""
        c, part = self.config, self.sizes < self.total
        reached = np.flatnonzero(part & (self.value >= ENOUGH))
        smaller = np.flatnonzero(part)
        if not len(smaller):
            return ()
        at = int(reached[0]) if len(reached) else int(smaller[self.value[smaller].argmax()])
        share = Estimate(self.value[at], self.low[at], self.high[at], self.n, "pairs").short()
        numbers = f"{share} of what all {self.total} do (n = {numbered(self.n, 'pairs')})"
        keep = "keeps" if self.sizes[at] == 1 else "keep"
        method = METHODS.get(c["method"], c["method"].upper())
        text = f"The best {numbered(self.sizes[at], 'edges')} of {c['model']} by {method} {keep} {numbers}"
        if not len(reached):
            text = f"No smaller set keeps {ENOUGH:.0%} of what the whole model does. {text}"
        text = caveat(c) + text
        if not len(self.random):
            return (f"{text}; no random orders were run beside them.",)
        random, low = self.random[:, at], self.value[at] if np.isnan(self.low[at]) else self.low[at]
        mean, most = (f"{value:z.2f}" for value in (random.mean(), random.max()))
        beside = f"as many random edges {mean}, at most {most} in {counted(len(random), 'order')}"
        if random.max() >= low:
            return (f"{text}, which {CHANCE}: {beside}.",)
        return (f"{text}, {beside}.",)

    def highlights(self) -> pd.DataFrame:
        """See AbstractResult: one row per size, as a curve is read."""
        frame = self.to_frame().drop_duplicates("edges")
        return pd.DataFrame(frame[["edges", "faithfulness", "low", "high", "random", "random_high", "n"]])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curve over the number of edges, with the random orders behind it."""
        ax = ax or new_axes()
        ax.axhline(1, color=SOFT, linewidth=1, linestyle="--")
        ax.axhline(0, color=SOFT, linewidth=1)
        for i, curve in enumerate(self.random):
            ax.plot(self.sizes, curve, color=FAINT, linewidth=0.9, label=None if i else "random orders")
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
        reached = np.flatnonzero((self.sizes < self.total) & (self.value >= ENOUGH))
        at = int(reached[0]) if len(reached) else None
        note_bend(ax, self.sizes, self.value, "{y:.2f} with {x:g} edges", at)
        ax.legend(frameon=False)
        return ax


@on_model()
def faithfulness(
    model: HookedModel,
    pairs: PairBatch,
    circuit: Circuit,
    *,
    sizes: Sequence[int] | str = "mib",
    ablation: Ablation = "counterfactual",
    metric: Callable[[PairBatch], Metric] = logit_difference,
    signed: bool = False,
    controls: int = 10,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = PROGRESS,
) -> FaithfulnessResult:
    """Run clean prompts through the circuit's best edges alone, for each size, all other edges of the model ablated.

    Choose edges on other pairs than those that are measured here.

    Args:
        model: The model whose circuit it is.
        pairs: Clean and corrupt texts of equal length.
        circuit: Edges with scores.
        sizes: Edges kept. "mib" is MIB's grid: 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50 and 100 % of all edges, rounded down,
            so that small models have several sizes of 0; "fine" has 0 and small numbers of edges besides; or numbers of
            edges. CPR and CMD are computed on MIB's grid alone, as its code does, so that they compare with its
            published figures for the same edges, ablation and ranking.
        ablation: What the other edges carry: "counterfactual" of the corrupt prompt, "mean" over all prompts of the
            pairs at the same position, "mean-pooled" over all their positions, too, "zero" nothing, "resample" of
            another pair's prompts. With the means and zero, edges that lie on no way from the embedding to the logits
            count as ablated, as in MIB's code; with the others this makes no difference.
        metric: What is measured, as a function of the pairs.
        signed: Best by signed score, as MIB's command ranks unless it is told --absolute, not by absolute value.
        controls: Number of random orders of the edges.
        seed: Of these orders, and of resampling.
        memory: Bytes that runs may take, beside the model; pairs and sizes are split to fit.
        progress: Whether to show a bar.

    Returns:
        Faithfulness per size with interval, beside that of the random orders.

    Warns:
        UserWarning: The model solves both sides of fewer than half of the pairs.

    Raises:
        ValueError: The circuit is another model's, has an edge that the model has not, or edges with and without
            position; the grid is unknown; the circuit has no such size; texts differ in form (mean, resample); or the
            whole model does no better than no edge.
    """
    check_meeting(model, pairs, PairBatch)
    expect("circuit", circuit, Circuit, "as interp_kit.score_edges(model, pairs) gives")
    check_choice("ablation", ablation, get_args(Ablation))
    check_count("controls", controls, least=0)
    check_seed(seed)
    check_count("memory", memory)
    check_flag("progress", progress)
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
    numbers, shares = _sizes(sizes, len(edges), total)
    reference = carried(graph, pairs, ablation, seed=seed, memory=memory)
    best = [edges[i] for i in circuit.order(signed=signed)]
    orders = [best]
    generator = np.random.default_rng(seed)
    orders += [[edges[i] for i in generator.permutation(len(edges))] for _ in range(controls)]
    distinct, at = np.unique(numbers, return_inverse=True)  # MIB's grid has sizes twice
    groups = [order[:size] for order in orders for size in distinct.tolist()]
    groups += [[], list(graph.edges)]
    if ablation in CONSTANT and kinds != {False}:
        groups = [on_the_way(group) for group in groups]
    values = (
        patched(graph, into, reference, groups, measured, inverted=True, memory=memory, progress=progress).cpu().numpy()
    )
    nothing, everything = values[-2:]
    values = values[:-2].reshape(len(orders), len(distinct), -1)[:, at].reshape(len(orders) * len(at), -1)
    gap = everything - nothing
    if abs(gap.mean()) < 1e-6:
        raise ValueError(
            f"{measured.name} is the same with all edges and with none: there is nothing to be faithful to"
        )
    unit = pairs.units()
    found, low, high = ratio_interval(values - nothing, gap, groups=unit)
    curves = found.reshape(len(orders), len(numbers))
    grid = _on_grid(shares) if whole else None
    cprs, cmds = np.array([(np.nan, np.nan) if grid is None else areas(curve[grid]) for curve in curves]).T
    solved = both_sides(measured, pairs, lambda tokens, at: graph.logits(tokens, at)[0])
    result = FaithfulnessResult(
        sizes=numbers,
        share=shares,
        total=total,
        value=curves[0],
        low=low[: len(numbers)],
        high=high[: len(numbers)],
        random=curves[1:],
        cpr=float(cprs[0]),
        cmd=float(cmds[0]),
        random_cpr=cprs[1:],
        random_cmd=cmds[1:],
        values=values[: len(numbers)],
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
            "grid": sizes if isinstance(sizes, str) else "given",
            "metric": measured.name,
            "gap": float(gap.mean()),
            **counted_solved(solved),
        },
    )
    warn_if_few(result.config)
    return result


def areas(curve: np.ndarray) -> tuple[float, float]:
    """MIB's CPR and CMD of the faithfulness at each of SHARES, by trapezoids over these shares, from 0.001 to 1.

    Its code (`evaluate_area_under_curve`) takes the shares as they are asked for, though int(share * edges) are kept,
    adds nothing below the smallest, and measures the end, all edges, as any other size.

    Raises ValueError if there is not one value for each share.
    """
    if curve.shape != (len(SHARES),):
        raise ValueError(f"areas need faithfulness at {len(SHARES)} shares, got values of shape {curve.shape}")
    return float(np.trapezoid(curve, SHARES)), float(np.trapezoid(np.abs(1 - curve), SHARES))


def _sizes(wanted: Sequence[int] | str, edges: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of edges and their shares: of a grid, those that the circuit has. Raises ValueError for others."""
    if isinstance(wanted, str):
        if wanted not in GRIDS:
            raise ValueError(f"sizes: got {wanted!r}, expected 'mib', 'fine', or numbers of edges")
        # a size of the finer grid beside one of MIB's keeps its own share, so that both are there
        grid = [(int(share * total), share) for share in SHARES]
        grid += [(size, size / total) for size in (SMALL if wanted == "fine" else ())]
        found = sorted({(size, share) for size, share in grid if size <= edges}, key=lambda one: one[::-1])
        sizes, shares = (np.array(part) for part in zip(*found, strict=True))
        return sizes, shares
    if not len(wanted) or len(set(wanted)) < len(wanted):
        raise ValueError(f"sizes {list(wanted)} of a circuit of {edges} edges: name at least one, and each once")
    for size in wanted:
        check_count("sizes", size, least=0, most=edges)
    return np.asarray(wanted), np.asarray(wanted) / total


def _on_grid(shares: np.ndarray) -> np.ndarray | None:
    """Index of each of MIB's shares among these; None where one does not."""
    at = [np.flatnonzero(shares == share) for share in SHARES]
    return np.array([found[0] for found in at]) if all(map(len, at)) else None
