"""Score of every node of a model: exactly, by patching each alone, or attributed by gradients, as AtP (Nanda 2023) and
AtP* (Kramár et al. 2024, arXiv:2403.00745) do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.analysis.circuits.carried import outputs_of, patched
from interp_kit.analysis.circuits.edge_gradients import Part, check_gradient, refuse_flat
from interp_kit.core.config import check_choice, check_count, check_flag
from interp_kit.core.pairs import PairBatch
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, bar, numbered
from interp_kit.core.stats.intervals import none_where, ratio_interval, scope
from interp_kit.engine.edits import Direction
from interp_kit.engine.graph import MEMORY, Graph
from interp_kit.engine.metrics import Metric, logit_difference
from interp_kit.engine.solved import both_sides, counted_solved, said, warn_if_few
from interp_kit.models.circuit import HEAD, Edge, stage
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import intervals

NodeMethod = Literal["exact", "atp", "atp-qk", "atp*"]
SHOWN = 40  # nodes, beyond which a picture says nothing
NEAR = 3.0  # times the largest score: a gap beyond it is told in words, not drawn


@dataclass(frozen=True, kw_only=True)
class NodeScores(AbstractResult):
    """Contribution of each node: the embedding, queries, keys and values of each head ("L0H1.q"), its output ("L0H1"),
    and MLPs.

    node: (node,); score: (node,) mean over pairs of the size of the change of the metric where all positions of the
    node alone have the other run's value, exactly or as attributed; low, high: 95 % interval over units of pairs;
    effect: (node,) the same with its sign, a fall being positive (of "atp*", without GradDrop); gap: mean difference of
    the two runs; n: independent units of pairs (PairBatch.units).
    """

    node: tuple[str, ...]
    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effect: np.ndarray
    gap: float
    n: int
    config: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row per node, the largest score first."""
        columns = {"node": self.node, "score": self.score, "low": self.low, "high": self.high, "effect": self.effect}
        order = np.argsort(-self.score, kind="stable")
        return pd.DataFrame(columns | {"n": self.n}).iloc[order]

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        names = {"exact": "each patched alone", "atp-qk": "attributed by AtP with the QK fix"}
        how = names.get(c["method"], "attributed by " + c["method"].replace("atp", "AtP"))
        return (
            f"Nodes of {c['model']}, {how}: by how much {c['metric']} changes where the node has the other run's value"
            f" ({c['direction']}; the runs differ by {self.gap:.2f}; n ="
            f" {numbered(self.n, 'independent pairs that differ')} in"
            f" {c['variable']}{scope(c)}, {said(c)}; 95 % intervals{none_where(self.low, self.n)})."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """The nodes of largest score, at most SHOWN, with intervals; the gap is marked if it is near enough for the
        scores to be told apart beside it."""
        best, c = np.argsort(-self.score, kind="stable")[:SHOWN], self.config
        gap = abs(self.gap)
        near = gap <= NEAR * float(np.nanmax(self.score))
        more = f", the {len(best)} largest of {len(self.node)}" if len(best) < len(self.node) else ""
        return intervals(
            [self.node[i] for i in best],
            {"change": (self.score[best], self.low[best], self.high[best])},
            ax=ax,
            title=f"{c['variable']} → {c['target']} in {c['model']} (n = {self.n}){more}",
            x_label=f"change of {c['metric']}" + ("" if near else f" (the whole gap: {gap:.2f})"),
            reference={"the whole gap": gap} if near else None,
        )


@on_model(gradients=True)
def score_nodes(
    model: HookedModel,
    pairs: PairBatch,
    *,
    method: NodeMethod = "atp*",
    metric: Callable[[PairBatch], Metric] = logit_difference,
    direction: Direction = "noise",
    memory: int = MEMORY,
    progress: bool = PROGRESS,
) -> NodeScores:
    """Every node of the model with its contribution on these pairs (Kramár et al. 2024).

    Args:
        model: A model that `Graph` computes.
        pairs: Clean and corrupt texts of equal length.
        method: "exact" runs the pairs once for each node. "atp" multiplies the node's change by one gradient; it misses
            queries and keys of heads that attend to one place for sure, and nodes whose direct and indirect effects
            cancel. "atp-qk" (AtP+QKfix) computes the attention that changed queries or keys give, and follows the
            gradient from the head's output on. "atp*" does so too, and averages sizes over gradients that leave out
            one other layer each (GradDrop), which takes a gradient per layer. In a model of two layers it sees no node
            that works through the other layer alone.
        metric: What is measured, as a function of the pairs.
        direction: "noise" runs clean and takes nodes from corrupt, "denoise" the other way round; then an effect says
            by how much the metric rises.
        memory: Bytes that runs may take, beside the model; pairs are split to fit.
        progress: Whether to show a bar.

    Returns:
        All nodes with their scores.

    Warns:
        UserWarning: The model solves both sides of fewer than half of the pairs.

    Raises:
        ValueError: The method is unknown, the two runs do not differ in the metric, or a gradient is asked for that the
            metric does not have (accuracy, exact_match, kl; any that is flat).
        Unsupported: The model has something that `Graph` does not compute.
    """
    check_meeting(model, pairs, PairBatch)
    check_choice("method", method, get_args(NodeMethod))
    check_choice("direction", direction, get_args(Direction))
    check_count("memory", memory)
    check_flag("progress", progress)
    measured = metric(pairs)
    if method != "exact":
        check_gradient(method, measured, at_the_run=True)
    graph = Graph(model)
    into, other = (pairs.clean, pairs.corrupt) if direction == "noise" else (pairs.corrupt, pairs.clean)
    sign = 1 if direction == "noise" else -1
    reference = outputs_of(graph, other)
    parts = [Part(graph, measured, into, reference, rows, other) for rows in graph.parts(into.tokens, memory)]
    start, goal = (torch.cat(values) for values in zip(*(part.ends() for part in parts), strict=True))
    if abs(float((goal - start).mean())) < 1e-6:
        raise ValueError(f"clean and corrupt do not differ in {measured.name}, so no node can carry a difference")
    nodes = _nodes(graph)
    if method == "exact":
        groups = list(nodes.values())
        effect = start - patched(graph, into, reference, groups, measured, memory=memory, progress=progress)
        size, forwards = effect.abs(), len(nodes) + 2
    else:
        layers = len(graph.executor.layers)
        dropped = range(layers) if method == "atp*" and layers > 1 else range(0)
        with bar(len(parts) * (1 + len(dropped)), "gradients", progress) as shown:
            found = [_attributed(part, method, dropped, shown.update) for part in parts]
        effect, size = (torch.cat(values, 1) for values in zip(*found, strict=True))
        refuse_flat(size, start - goal, method, measured)
        forwards = 2 + 3 * (1 + len(dropped))
    solved = both_sides(measured, pairs, lambda tokens, at: graph.logits(tokens, at)[0])
    groups = pairs.units()
    score, low, high = ratio_interval(size.cpu().numpy(), np.ones(len(pairs)), groups=groups)
    result = NodeScores(
        node=tuple(nodes),
        score=score,
        low=low,
        high=high,
        effect=sign * effect.mean(1).cpu().numpy(),
        gap=float(sign * (start - goal).mean()),
        n=len(np.unique(groups)),
        config={
            "analysis": "score_nodes",
            "model": model_name(model),
            "task": pairs.clean.task,
            "variable": pairs.variable,
            "target": pairs.target,
            "whole": pairs.whole,
            "method": method,
            "metric": measured.name,
            "direction": direction,
            "forwards": forwards,
            **counted_solved(solved),
        },
    )
    warn_if_few(result.config)
    return result


def _nodes(graph: Graph) -> dict[str, list[Edge]]:
    """Node -> the edges that carry its change: those that it sends, or that a head reads by q, k or v."""
    sent: dict[str, list[Edge]] = {node: [] for node in graph.senders}
    read: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        sent[edge.sender].append(edge)
        read.setdefault(f"{edge.receiver}.{edge.input}", []).append(edge)
    found: dict[str, list[Edge]] = {}
    for node in graph.senders:
        if HEAD.fullmatch(node):
            found |= {name: read[name] for name in (f"{node}.q", f"{node}.k", f"{node}.v")}
        found[node] = sent[node]
    return found


def _attributed(
    part: Part, method: NodeMethod, dropped: Sequence[int], done: Callable[[], Any]
) -> tuple[Tensor, Tensor]:
    """(node, row) effect, and its size: with `dropped` the mean over gradients that pass by one of these layers each, a
    node's own layer aside, as none of the gradient at it is then left."""
    graph, (outs, reference, before) = part.graph, part.runs()
    reads = torch.zeros(len(graph.senders), len(graph.receivers), device=outs.device, dtype=outs.dtype)
    for edge in graph.edges:
        reads[graph.place(edge)] = 1
    own = torch.tensor([(stage(node) - 1) // 2 for node in _nodes(graph) for node in [node.partition(".")[0]]])
    change = _change(graph, outs, reference)

    def effects(held: Mapping[int, Tensor]) -> Tensor:
        gradient = torch.einsum("sr,rbpd->sbpd", reads, part.gradient(before, held))
        done()
        linear = method == "atp"
        return _effects(graph, outs, reference, change, gradient, linear=linear)

    effect = effects({})
    if not dropped:
        return effect, effect.abs()
    total = torch.zeros_like(effect)
    for layer in dropped:
        senders = {s: outs[s] for s, node in enumerate(graph.senders) if (stage(node) - 1) // 2 == layer and s}
        total += effects(senders).abs() * (own != layer)[:, None].to(effect)
    count = len(dropped) - (own >= 0).to(effect)  # the embedding is in none of them
    return effect, total / count[:, None]


def _change(graph: Graph, outs: Tensor, reference: Tensor) -> list[Tensor]:
    """Of each layer: (3, head, row, pos, d_model) what its heads' outputs change by where all queries, all keys or all
    values are the other run's."""
    found = []
    for number, (here, there) in enumerate(zip(graph.heads(outs), graph.heads(reference), strict=True)):
        mixed = [[there[i] if i == which else here[i] for i in range(3)] for which in range(3)]
        start = graph.attended(number, *here)
        found.append(torch.stack([graph.attended(number, *one) - start for one in mixed]))
    return found


def _effects(
    graph: Graph, outs: Tensor, reference: Tensor, change: Sequence[Tensor], gradient: Tensor, *, linear: bool
) -> Tensor:
    """(node, row) by how much the metric falls. gradient: (sender, row, pos, d_model) of the metric by outputs; linear:
    whether the attention is followed by its gradient, too."""
    sent = ((outs - reference) * gradient).sum((-1, -2))
    heads = zip(graph.heads(outs), graph.heads(reference), strict=True) if linear else None
    found, sender = [sent[0]], 1
    for number, moved in enumerate(change):
        n = graph.executor.n_heads
        into = gradient[sender : sender + n]
        if heads is None:
            inner = -(moved * into).sum((-1, -2))
        else:
            here, there = next(heads)
            with torch.enable_grad():
                leaf = here.detach().requires_grad_()
                (slope,) = torch.autograd.grad(graph.attended(number, *leaf), leaf, into)
            inner = ((here - there) * slope).sum((-1, -2))
        for h in range(n):
            found += [*inner[:, h], sent[sender + h]]
        sender += n
        if sender < len(sent) and graph.senders[sender].endswith("MLP"):
            found.append(sent[sender])
            sender += 1
    return torch.stack(found)
