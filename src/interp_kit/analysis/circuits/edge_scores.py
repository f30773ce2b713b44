"""Score of every edge of a model: exactly, by patching each alone, or attributed by gradients, as EAP (Syed et al.
2023, arXiv:2310.10348) and EAP-IG (Hanna et al. 2024, arXiv:2403.17806) do.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, check_count, check_flag
from interp_kit.core.pairs import PairBatch
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.engine.edits import Direction
from interp_kit.engine.graph import MEMORY, Graph
from interp_kit.engine.metrics import Metric, logit_difference
from interp_kit.engine.solved import both_sides, counted_solved, warn_if_few
from interp_kit.models.circuit import EMBED, Edge
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting

Method = Literal["exact", "eap", "eap-ig"]
FIRST, LAST = 16, 1024  # steps of integrated gradients, where none are asked for
COMPLETE = 0.02
FLAT = 1e-6  # of the difference of the two runs: gradients up to there are rounding


@on_model(gradients=True)
def score_edges(
    model: HookedModel,
    pairs: PairBatch,
    *,
    method: Method = "eap-ig",
    steps: int | None = None,
    by: Literal["all", "position"] = "all",
    metric: Callable[[PairBatch], Metric] = logit_difference,
    direction: Direction = "noise",
    memory: int = MEMORY,
    progress: bool = PROGRESS,
) -> Circuit:
    """Every edge of the model with its score on these pairs.

    Args:
        model: A model that `Graph` computes.
        pairs: Clean and corrupt texts of equal length.
        method: "exact" runs the pairs once for each edge; "eap" takes one gradient; "eap-ig" averages gradients at
            `steps` midpoints between the embeddings of the two runs, so that the scores of the edges that leave the
            embedding sum up to the difference of the two runs.
        steps: Of "eap-ig". None: doubled until that sum holds within COMPLETE twice running; config["incomplete"] says
            by how much it does not, as a share.
        by: "position" gives every edge one score for each named position, whose sum (for the gradients) is that of
            "all".
        metric: What is measured, as a function of the pairs.
        direction: "noise" runs clean and takes edges from corrupt, "denoise" the other way round; then a score says by
            how much the metric rises.
        memory: Bytes that runs may take, beside the model and the scores; pairs are split to fit.
        progress: Whether to show a bar.

    Returns:
        All edges with their scores.

    Warns:
        UserWarning: The model solves both sides of fewer than half of the pairs.

    Raises:
        ValueError: The method is unknown, there is no step, the two runs do not differ in the metric, or the method
            takes a gradient that the metric does not have (accuracy and exact_match; kl for "eap"; any that is flat).
        Unsupported: The model has something that `Graph` does not compute.
    """
    check_meeting(model, pairs, PairBatch)
    check_choice("method", method, get_args(Method))
    check_choice("by", by, ("all", "position"))
    check_choice("direction", direction, get_args(Direction))
    if steps is not None:
        check_count("steps", steps)
        if method != "eap-ig":
            raise ValueError(f"steps is {steps}, and method {method!r} takes none; only eap-ig does")
    check_count("memory", memory)
    check_flag("progress", progress)
    measured = metric(pairs)
    _check_gradient(method, measured)
    graph = Graph(model)
    into, other = (pairs.clean, pairs.corrupt) if direction == "noise" else (pairs.corrupt, pairs.clean)
    sign = 1 if direction == "noise" else -1
    names = list(into.positions) if by == "position" else [None]
    edges = [replace(edge, position=name) for edge in graph.edges for name in names]
    parts = [_Part(graph, measured, into, other, rows) for rows in graph.parts(into.tokens, memory)]
    start, goal = (torch.cat(values) for values in zip(*(part.ends() for part in parts), strict=True))
    if abs(float((goal - start).mean())) < 1e-6:
        raise ValueError(f"clean and corrupt do not differ in {measured.name}, so no edge can carry a difference")
    steps_taken, incomplete = 0, float("nan")
    if method == "exact":
        groups = [[edge] for edge in edges]
        after = patched(graph, into, outputs_of(graph, other), groups, measured, memory=memory, progress=progress)
        values, forwards = start - after, len(edges) + 2
    else:
        values, steps_taken, incomplete, runs = _by_gradients(
            parts, edges, start - goal, method, steps, measured, progress
        )
        forwards = 2 + 3 * runs
    scores = dict(zip(edges, sign * values.cpu().numpy(), strict=True))
    solved = both_sides(measured, pairs, lambda tokens, at: graph.logits(tokens, at)[0])
    found = Circuit.scored(
        model, pairs, graph.nodes, scores, analysis="score_edges", method=method, steps=steps_taken,
        incomplete=incomplete, metric=measured.name, direction=direction, gap=float(sign * (start - goal).mean()),
        forwards=forwards, **counted_solved(solved),
    )  # fmt: skip
    warn_if_few(found.config)
    return found


def _by_gradients(
    parts: "Sequence[_Part]",
    edges: Sequence[Edge],
    gap: Tensor,
    method: Method,
    steps: int | None,
    metric: Metric,
    progress: bool,
) -> tuple[Tensor, int, float, int]:
    """(edge, pair) scores; at how many points, and how far they are from complete; gradients taken of every pair.

    gap: (pair,) difference of the two runs.
    """
    from_embedding = torch.tensor([edge.sender == EMBED for edge in edges], device=gap.device)
    taken, runs, before_last = 1 if method == "eap" else steps or FIRST, 0, float("inf")
    with bar(taken * len(parts), "gradients", progress) as shown:
        while True:
            points = [0.0] if method == "eap" else [(i + 0.5) / taken for i in range(taken)]
            values = torch.cat([part.attributed(edges, points, shown.update) for part in parts], 1)
            runs += len(points)
            _refuse_flat(values, gap, method, metric)
            incomplete = float((values[from_embedding].mean(1).sum() / gap.mean() - 1).abs())
            enough = max(incomplete, before_last) <= COMPLETE  # twice, as once can be luck
            if method == "eap" or steps is not None or enough or taken >= LAST:
                return values, taken, incomplete, runs
            taken, before_last = 2 * taken, incomplete
            shown.total += taken * len(parts)  # as many more as turn out to be needed


Carried = Callable[[Tensor], Tensor]  # rows of a batch -> (sender, row, pos, d_model) what senders give in another run


def outputs_of(graph: Graph, other: TokenBatch) -> Carried:
    """Output of senders on the same rows of another batch."""
    return lambda rows: graph.outputs(other.tokens[rows])


def patched(
    graph: Graph,
    into: TokenBatch,
    reference: Carried,
    groups: Sequence[Sequence[Edge]],
    metric: Metric,
    *,
    inverted: bool = False,
    memory: int = MEMORY,
    progress: bool = PROGRESS,
) -> Tensor:
    """(group, batch) the metric of `into` where the edges of a group, or with `inverted` all others, carry what they do
    in the reference run; as many rows and groups together as `memory` bytes take."""
    parts, found = graph.parts(into.tokens, memory), []
    with torch.no_grad(), bar(len(groups) * len(parts), "edges", progress) as shown:
        for rows in parts:
            part, measured, carried, values = into.take(rows), metric.take(rows), reference(rows), []
            reads, size = measured.reads(part), graph.chunk(part.tokens, memory)
            before = graph.logits(part.tokens, reads)[0]
            for first in range(0, len(groups), size):
                masks = [graph.mask(part, group) for group in groups[first : first + size]]
                if any(mask.ndim > 2 for mask in masks):  # some have positions
                    shape = (*masks[0].shape[:2], *part.tokens.shape)
                    masks = [mask if mask.ndim > 2 else mask[..., None, None].expand(shape) for mask in masks]
                swapped = torch.stack([1 - mask for mask in masks] if inverted else masks)
                values.append(measured.measure(graph.logits(part.tokens, reads, swapped, carried), part, before))
                shown.update(len(masks))
            found.append(torch.cat(values))
    return torch.cat(found, 1)


def _check_gradient(method: Method, metric: Metric) -> None:
    """Raise ValueError for a metric that has no gradient if a method takes one."""
    instead = "use logit_difference, first_difference or probability, or method='exact'"
    if method != "exact" and not metric.differentiable:
        raise ValueError(f"{method} follows gradients, and {metric.name} is a step, which has none: {instead}")
    if method == "eap" and metric.is_distance:
        raise ValueError(
            f"eap takes the gradient at the unedited run, where {metric.name} is least and its gradient zero:"
            f" {instead}, or method='eap-ig'"
        )


def _refuse_flat(values: Tensor, gap: Tensor, method: Method, metric: Metric) -> None:
    """Raise ValueError if no edge of any pair has a gradient above rounding, though the two runs differ."""
    largest, difference = float(values.abs().max()), float(gap.abs().mean())
    if largest <= FLAT * difference:
        raise ValueError(
            f"{method}: {metric.name} is flat where its gradient is taken: the largest score is {largest:.1e}, and the"
            f" two runs differ by {difference:.1e}, so the order of the edges would be rounding. Use method='exact', or"
            " logit_difference"
        )


class _Part:
    """Some rows of the pairs, as many as are in memory at once, and what their edges are worth by gradients."""

    def __init__(self, graph: Graph, metric: Metric, into: TokenBatch, other: TokenBatch, rows: Tensor) -> None:
        self.graph, self.metric = graph, metric.take(rows)
        self.into, self.other = into.take(rows), other.take(rows)
        self.reads = self.metric.reads(self.into)
        self.kept = None if len(rows) < len(into) else self._runs()  # where there is room for all of them

    def ends(self) -> tuple[Tensor, Tensor]:
        """(row,) the metric of the two runs."""
        with torch.no_grad():
            before, after = (self.graph.logits(side.tokens, self.reads)[0] for side in (self.into, self.other))
            start, goal = self.metric.measure(torch.stack([before, after]), self.into, before)
        return start, goal

    def _runs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of all senders in both runs, and logits of the first."""
        with torch.no_grad():
            before = self.graph.logits(self.into.tokens, self.reads)[0]
        return self.graph.outputs(self.into.tokens), self.graph.outputs(self.other.tokens), before

    def attributed(self, edges: Sequence[Edge], points: Sequence[float], done: Callable[[], Any]) -> Tensor:
        """(edge, row) change of the sender's output times gradient at the receiver, averaged over points on the way
        from one embedding to the other, and summed over positions, or at the edge's own; `done` is called after each
        point."""
        outs, reference, before = self.kept or self._runs()
        total = torch.zeros(len(self.graph.receivers), *reference.shape[1:], device=outs.device, dtype=outs.dtype)
        for point in points:
            total += self._gradient(torch.lerp(outs[0], reference[0], point), before)
            done()
        return _attributed(self.graph, edges, self.into, outs - reference, total.div_(len(points)))

    def _gradient(self, embedding: Tensor, before: Tensor) -> Tensor:
        """(receiver, row, pos, d_model) of every row's metric by what each node reads."""
        shape = (len(self.graph.receivers), *embedding.shape)
        with torch.enable_grad():
            probes = torch.zeros(shape, device=embedding.device, dtype=embedding.dtype, requires_grad=True)
            logits = self.graph.logits(self.into.tokens, self.reads, embedding=embedding, probes=probes)
            (gradient,) = torch.autograd.grad(self.metric.measure(logits, self.into, before).sum(), probes)
        return gradient


def _attributed(graph: Graph, edges: Sequence[Edge], into: TokenBatch, change: Tensor, gradient: Tensor) -> Tensor:
    """(edge, batch) change of the sender's output times gradient at the receiver, summed over positions, or at the
    edge's own."""
    by_name = {name: (at >= 0, at.clamp(min=0)) for name, at in into.positions.items()}
    rows = torch.arange(len(into), device=change.device)
    products: dict[tuple[int, int], Tensor] = {}
    values = []
    for edge in edges:
        place = graph.place(edge)
        if place not in products:
            products = {place: (change[place[0]] * gradient[place[1]]).sum(-1)}  # edges of one place follow each other
        if edge.position is None:
            values.append(products[place].sum(-1))
        else:
            has, at = by_name[edge.position]
            values.append(products[place][rows, at] * has)
    return torch.stack(values)
