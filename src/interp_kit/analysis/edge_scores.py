"""What every edge of a model is worth: exactly, by patching each alone, or attributed by gradients, as EAP (Syed et al.
2023, arXiv:2310.10348) and EAP-IG (Hanna et al. 2024, arXiv:2403.17806) do.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm

from interp_kit.analysis.circuit import Circuit
from interp_kit.analysis.graph import Graph
from interp_kit.analysis.metrics import Metric, logit_difference
from interp_kit.analysis.sites import Direction
from interp_kit.analysis.solved import both_sides, counted_solved, warn_if_few
from interp_kit.core.batch import PairBatch, TokenBatch
from interp_kit.core.circuit import EMBED, Edge
from interp_kit.core.config import check_choice, check_count, check_flag
from interp_kit.core.meeting import check_meeting
from interp_kit.core.types import HookedModel

Method = Literal["exact", "eap", "eap-ig"]
FIRST, LAST = 16, 1024  # steps of integrated gradients, where none are asked for
COMPLETE = 0.02


def score_edges(
    model: HookedModel,
    pairs: PairBatch,
    *,
    method: Method = "eap-ig",
    steps: int | None = None,
    by: Literal["all", "position"] = "all",
    metric: Callable[[PairBatch], Metric] = logit_difference,
    direction: Direction = "noise",
    progress: bool = False,
) -> Circuit:
    """Every edge of the model with its score on these pairs.

    method: "exact" runs the pairs once for each edge; "eap" takes one gradient; "eap-ig" averages gradients at `steps`
    midpoints between the embeddings of the two runs, so that the scores of the edges that leave the embedding sum up
    to the difference of the two runs; where no steps are given they are doubled until that holds within COMPLETE of it
    twice running (config["incomplete"] says by how much it does not, as a share). by: "position" gives every edge one
    score for each named position, whose sum (for the gradients) is that of "all". direction: "noise" runs clean and
    takes edges from corrupt, "denoise" the other way round; then a score says by how much the metric rises.

    Warns (UserWarning) if the model solves both sides of fewer than half of the pairs.

    Raises ValueError for an unknown method, no step, and where the two runs do not differ in the metric; Unsupported
    where the model has something that `Graph` does not compute.
    """
    check_meeting(model, pairs, PairBatch)
    check_choice("method", method, get_args(Method))
    check_choice("by", by, ("all", "position"))
    check_choice("direction", direction, get_args(Direction))
    if steps is not None:
        check_count("steps", steps)
        if method != "eap-ig":
            raise ValueError(f"steps is {steps}, and method {method!r} takes none; only eap-ig does")
    check_flag("progress", progress)
    graph, measured = Graph(model), metric(pairs)
    into, other = (pairs.clean, pairs.corrupt) if direction == "noise" else (pairs.corrupt, pairs.clean)
    sign = 1 if direction == "noise" else -1
    names = list(into.positions) if by == "position" else [None]
    edges = [replace(edge, position=name) for edge in graph.edges for name in names]
    with torch.no_grad():
        outs, reference = graph.outputs(into.tokens), graph.outputs(other.tokens)
        reads = measured.reads(into)
        before = graph.logits(into.tokens, reads)[0]
        start = measured.measure(before[None], into, before)[0]
        goal = measured.measure(graph.logits(other.tokens, reads), into, before)[0]
    if abs(float((goal - start).mean())) < 1e-6:
        raise ValueError(f"clean and corrupt do not differ in {measured.name}, so no edge can carry a difference")
    steps_taken, incomplete = 0, float("nan")
    if method == "exact":
        values = start - patched(graph, into, reference, [[edge] for edge in edges], measured, progress=progress)
        forwards = len(edges) + 2
    else:

        def attribute(points: Sequence[float]) -> Tensor:
            gradient = torch.zeros(len(graph.receivers), *reference.shape[1:], device=reference.device)
            for point in tqdm(points, desc="gradients", disable=not progress):
                embedding = torch.lerp(outs[0], reference[0], point)
                gradient += _gradient(graph, measured, into, embedding, before) / len(points)
            return _attributed(graph, edges, into, outs - reference, gradient)

        from_embedding = torch.tensor([edge.sender == EMBED for edge in edges], device=start.device)
        gap, steps_taken, runs = (start - goal).mean(), 1 if method == "eap" else steps or FIRST, 0
        before_last = float("inf")
        while True:
            points = [0.0] if method == "eap" else [(i + 0.5) / steps_taken for i in range(steps_taken)]
            values, runs = attribute(points), runs + len(points)
            incomplete = float((values[from_embedding].mean(1).sum() / gap - 1).abs())
            enough = max(incomplete, before_last) <= COMPLETE  # twice, as once can be luck
            if method == "eap" or steps is not None or enough or steps_taken >= LAST:
                break
            steps_taken, before_last = 2 * steps_taken, incomplete
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


def patched(
    graph: Graph,
    into: TokenBatch,
    reference: Tensor,
    groups: Sequence[Sequence[Edge]],
    metric: Metric,
    *,
    inverted: bool = False,
    progress: bool = False,
) -> Tensor:
    """(group, batch) the metric of `into` where the edges of a group, or with `inverted` all others, carry what they do
    in the reference run (sender, batch, pos, d_model)."""
    reads, found = metric.reads(into), []
    size = graph.chunk(into.tokens)
    with torch.no_grad():
        before = graph.logits(into.tokens, reads)[0]
        for first in tqdm(range(0, len(groups), size), desc="edges", disable=not progress):
            masks = [graph.mask(into, group) for group in groups[first : first + size]]
            if any(mask.ndim > 2 for mask in masks):  # some have positions
                shape = (*masks[0].shape[:2], *into.tokens.shape)
                masks = [mask if mask.ndim > 2 else mask[..., None, None].expand(shape) for mask in masks]
            swapped = torch.stack([1 - mask for mask in masks] if inverted else masks)
            found.append(metric.measure(graph.logits(into.tokens, reads, swapped, reference), into, before))
    return torch.cat(found)


def _gradient(graph: Graph, metric: Metric, into: TokenBatch, embedding: Tensor, before: Tensor) -> Tensor:
    """(receiver, batch, pos, d_model) of every row's metric by what each node reads."""
    shape = (len(graph.receivers), *embedding.shape)
    with torch.enable_grad():
        probes = torch.zeros(shape, device=embedding.device, requires_grad=True)
        logits = graph.logits(into.tokens, metric.reads(into), embedding=embedding, probes=probes)
        (gradient,) = torch.autograd.grad(metric.measure(logits, into, before).sum(), probes)
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
