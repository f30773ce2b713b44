"""Values that edges carry in place of their senders' outputs: another run's, an average, or zero; and the metric of a
model in which some edges carry them."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.pairs import PairBatch
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.engine.graph import MEMORY, Graph
from interp_kit.engine.metrics import Metric
from interp_kit.models.circuit import Edge

Ablation = Literal["counterfactual", "mean", "mean-pooled", "zero", "resample"]
CONSTANT = (
    "mean",
    "mean-pooled",
    "zero",
)  # carried values are the same for all texts, and come from no run of the model
Carried = Callable[[Tensor], Tensor]  # rows of a batch -> (sender, row, pos, d_model) what senders give in another run


def outputs_of(graph: Graph, other: TokenBatch) -> Carried:
    """Output of senders on the same rows of another batch."""
    return lambda rows: graph.outputs(other.tokens[rows])


def carried(graph: Graph, pairs: PairBatch, ablation: Ablation, *, seed: int = 0, memory: int = MEMORY) -> Carried:
    """Values that ablated edges carry in the run of the clean texts. Learned positions belong to no node: they are the
    same in all runs, and "zero" and "mean-pooled" leave them in the embedding, as EAP-IG's code does.

    Raises ValueError for texts of different form (mean, resample), or if resample has fewer than two pairs.
    """
    if ablation == "counterfactual":
        return outputs_of(graph, pairs.corrupt)
    both, n = torch.cat([pairs.clean.tokens, pairs.corrupt.tokens]), len(pairs)
    if ablation in ("mean", "resample") and not _of_one_form(pairs.clean):
        instead = ", or ablation='mean-pooled'" if ablation == "mean" else ""
        raise ValueError(
            f"{ablation} ablation needs texts of one form: here positions stand at different places{instead}"
        )
    if ablation == "resample":
        if n < 2:
            raise ValueError("resample ablation needs at least two pairs")
        generator = np.random.default_rng(seed)
        donor = (np.arange(n) + generator.integers(1, n, size=n)) % n + n * generator.integers(0, 2, size=n)
        donors = torch.as_tensor(donor, device=both.device)
        return lambda rows: graph.outputs(both[donors[rows]])
    if ablation == "mean":
        constant = _summed(graph, both, memory) / len(both)
    else:
        embed, places = graph.executor.embed, graph.executor.positions
        constant = embed.new_zeros(len(graph.senders), both.shape[1], embed.shape[1])
        here = 0.0 if places is None else places[: both.shape[1]]
        if ablation == "mean-pooled":
            kept = torch.cat([pairs.clean.mask, pairs.corrupt.mask])
            total = _summed(graph, both, memory, kept)
            total[0] -= (here * kept.sum(0)[:, None]).double()
            constant += (total.sum(1, keepdim=True) / kept.sum()).to(constant)
        constant[0] += here
    value = constant.to(graph.executor.embed)[:, None]
    return lambda rows: value.expand(-1, len(rows), -1, -1)


def _summed(graph: Graph, tokens: Tensor, memory: int, kept: Tensor | None = None) -> Tensor:
    """(sender, pos, d_model) outputs summed over texts, where `kept` (text, pos) is true: one text after the other in
    float64, so that the sum does not depend on how many run together."""
    d_model = graph.executor.embed.shape[1]
    total = torch.zeros(len(graph.senders), tokens.shape[1], d_model, device=tokens.device, dtype=torch.float64)
    for rows in graph.parts(tokens, memory):
        outputs = graph.outputs(tokens[rows])
        for i, row in enumerate(rows.tolist()):
            value = outputs[:, i].double()
            total += value if kept is None else value * kept[row][:, None]
    return total


def _of_one_form(batch: TokenBatch) -> bool:
    return bool(batch.mask.all()) and all(bool((at == at[0]).all()) for at in batch.positions.values())


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
            part, measured, other, values = into.take(rows), metric.take(rows), reference(rows), []
            reads, size = measured.reads(part), graph.chunk(part.tokens, memory)
            before = graph.logits(part.tokens, reads)[0]
            for first in range(0, len(groups), size):
                masks = [graph.mask(part, group) for group in groups[first : first + size]]
                if any(mask.ndim > 2 for mask in masks):  # some have positions
                    shape = (*masks[0].shape[:2], *part.tokens.shape)
                    masks = [mask if mask.ndim > 2 else mask[..., None, None].expand(shape) for mask in masks]
                swapped = torch.stack([1 - mask for mask in masks] if inverted else masks)
                values.append(measured.measure(graph.logits(part.tokens, reads, swapped, other), part, before))
                shown.update(len(masks))
            found.append(torch.cat(values))
    return torch.cat(found, 1)
