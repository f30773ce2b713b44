"""A circuit found by taking out one edge after the other: ACDC (Conmy et al. 2023, arXiv:2304.14997)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.core.config import check_flag, check_number
from interp_kit.core.pairs import PairBatch
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.engine.graph import Graph
from interp_kit.engine.metrics import Metric, kl
from interp_kit.engine.solved import both_sides, counted_solved, warn_if_few
from interp_kit.models.circuit import LOGITS, Edge
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting


@on_model()
def acdc(
    model: HookedModel,
    pairs: PairBatch,
    *,
    threshold: float,
    metric: Callable[[PairBatch], Metric] = kl,
    progress: bool = PROGRESS,
) -> Circuit:
    """The circuit that is left when edges are removed one by one, from the logits backwards (Conmy et al. 2023).

    An edge goes if that moves the metric by less than `threshold`; it then carries the corrupt run's value. The score
    of an edge that was kept is by how much its removal would have moved the metric then.

    Args:
        model: A model that `Graph` computes.
        pairs: Clean and corrupt texts of equal length.
        threshold: Of the metric.
        metric: By default KL of the answer's distribution from the whole model's, in nats, as in the paper.
        progress: Whether to show a bar.

    Returns:
        The edges that are left.

    Warns:
        UserWarning: The model solves both sides of fewer than half of the pairs.

    Raises:
        ValueError: The threshold is not positive, or no edge is left.
    """
    check_meeting(model, pairs, PairBatch)
    check_number("threshold", threshold, above=0)
    check_flag("progress", progress)
    graph, measured = Graph(model), metric(pairs)
    into = pairs.clean
    reference, reads = graph.outputs(pairs.corrupt.tokens), measured.reads(into)
    removed, runs = graph.mask(into, []), 2
    kept: dict[Edge, np.ndarray] = {}
    with torch.no_grad():
        before = graph.logits(into.tokens, reads)[0]

        def measure(mask: Tensor) -> Tensor:
            return measured.measure(graph.logits(into.tokens, reads, mask[None], reference), into, before)[0]

        now = measured.measure(before[None], into, before)[0]
        reached = {LOGITS}
        with bar(len(graph.edges), "edges", progress) as shown:
            for edge in graph.edges[::-1]:
                shown.update()
                without = removed.clone()
                without[graph.place(edge)] = 1
                if edge.receiver not in reached:  # nothing of it is read any more
                    removed = without
                    continue
                after, runs = measure(without), runs + 1
                if float((after - now).mean().abs()) < threshold:
                    removed, now = without, after
                else:
                    reached.add(edge.sender)
                    kept[edge] = (after - now).cpu().numpy()
    if not kept:
        raise ValueError(f"no edge moves {measured.name} by {threshold}: nothing is left")
    solved = both_sides(measured, pairs, lambda tokens, at: graph.logits(tokens, at)[0])
    found = Circuit.scored(
        model, pairs, graph.nodes, kept, analysis="acdc", method="acdc", threshold=threshold, metric=measured.name,
        direction="noise", forwards=runs, **counted_solved(solved),
    )  # fmt: skip
    warn_if_few(found.config)
    return found
