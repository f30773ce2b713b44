"""Edges attributed by gradients: a change of the sender's output times the gradient at the receiver, at one point (EAP,
Syed et al. 2023, arXiv:2310.10348) or averaged along a path, of embeddings or of one component's outputs at a time
(EAP-IG, Hanna et al. 2024, arXiv:2403.17806)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from interp_kit.analysis.circuits.carried import Carried
from interp_kit.core.batch import TokenBatch
from interp_kit.core.showing import bar
from interp_kit.engine.graph import Graph
from interp_kit.engine.metrics import Metric
from interp_kit.models.circuit import EMBED, Edge, stage

Method = Literal["exact", "eap", "eap-ig", "eap-ig-activations"]
FIRST, LAST = 16, 1024  # steps of integrated gradients, where none are asked for
COMPLETE = 0.02
FLAT = 1e-6  # of the difference of the two runs: gradients up to there are rounding


def midpoints(steps: int) -> list[float]:
    """Points on the way from one run (0) to the other (1)."""
    return [(i + 0.5) / steps for i in range(steps)]


def by_gradients(
    parts: "Sequence[Part]",
    edges: Sequence[Edge],
    gap: Tensor,
    method: Method,
    steps: int | None,
    metric: Metric,
    progress: bool,
) -> tuple[Tensor, int, float, int]:
    """(edge, pair) scores; at how many points, how far they are from complete (of activations: from those of half as
    many points); gradients taken of every pair.

    gap: (pair,) difference of the two runs.
    """
    from_embedding = torch.tensor([edge.sender == EMBED for edge in edges], device=gap.device)
    taken, runs, before_last, former = 1 if method == "eap" else steps or FIRST, 0, float("inf"), None
    paths = [set()] if method == "eap" else parts[0].paths(method)
    with bar(taken * len(parts) * len(paths), "gradients", progress) as shown:
        while True:
            points = [0.0] if method == "eap" else midpoints(taken)
            values = torch.cat([part.attributed(edges, points, paths, shown.update) for part in parts], 1)
            runs += len(points) * len(paths)
            refuse_flat(values, gap, method, metric)
            if method == "eap-ig-activations":
                mean = values.mean(1)
                incomplete = float("nan") if former is None else float((mean - former).abs().max() / mean.abs().max())
                former = mean
            else:
                incomplete = float((values[from_embedding].mean(1).sum() / gap.mean() - 1).abs())
            enough = max(incomplete, before_last) <= COMPLETE  # twice, as once can be luck
            if method == "eap" or steps is not None or enough or taken >= LAST:
                return values, taken, incomplete, runs
            taken, before_last = 2 * taken, incomplete if incomplete == incomplete else float("inf")
            shown.total += taken * len(parts) * len(paths)  # as many more as turn out to be needed


def refuse_flat(values: Tensor, gap: Tensor, method: str, metric: Metric) -> None:
    """Raise ValueError if no score of any pair is above rounding, though the two runs differ."""
    largest, difference = float(values.abs().max()), float(gap.abs().mean())
    if largest <= FLAT * difference:
        raise ValueError(
            f"{method}: {metric.name} is flat where its gradient is taken: the largest score is {largest:.1e}, and the"
            f" two runs differ by {difference:.1e}, so the order of the scores would be rounding. Use method='exact',"
            " or logit_difference"
        )


def check_gradient(method: str, metric: Metric, *, at_the_run: bool) -> None:
    """Raise ValueError for a metric that has no gradient; at_the_run: whether it is taken at the unedited run."""
    instead = "use logit_difference, first_difference or probability, or method='exact'"
    if not metric.differentiable:
        raise ValueError(f"{method} follows gradients, and {metric.name} is a step, which has none: {instead}")
    if at_the_run and metric.is_distance:
        raise ValueError(
            f"{method} takes the gradient at the unedited run, where {metric.name} is least and its gradient zero:"
            f" {instead}{', or method=' + repr('eap-ig') if method == 'eap' else ''}"
        )


class Part:
    """Some rows of the pairs, as many as are in memory at once, and what their edges are worth by gradients.

    other: texts of the other run, of which the metric is the goal; None: the goal is that of all edges carrying
    `carried`.
    """

    def __init__(
        self, graph: Graph, metric: Metric, into: TokenBatch, carried: Carried, rows: Tensor, other: TokenBatch | None
    ) -> None:
        self.graph, self.metric, self.carried, self.rows = graph, metric.take(rows), carried, rows
        self.into, self.other = into.take(rows), None if other is None else other.take(rows)
        self.reads = self.metric.reads(self.into)
        self.kept = None if len(rows) < len(into) else self._runs()  # where there is room for all of them

    def ends(self) -> tuple[Tensor, Tensor]:
        """(row,) the metric of the two runs."""
        with torch.no_grad():
            before = self.graph.logits(self.into.tokens, self.reads)[0]
            if self.other is not None:
                after = self.graph.logits(self.other.tokens, self.reads)[0]
            else:
                every = self.graph.mask(self.into, self.graph.edges)[None]
                after = self.graph.logits(self.into.tokens, self.reads, every, self.runs()[1])[0]
            start, goal = self.metric.measure(torch.stack([before, after]), self.into, before)
        return start, goal

    def runs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of all senders in this run and in the other, and logits of this one."""
        return self.kept or self._runs()

    def _runs(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            before = self.graph.logits(self.into.tokens, self.reads)[0]
        return self.graph.outputs(self.into.tokens), self.carried(self.rows), before

    def paths(self, method: Method) -> list[set[int]]:
        """Senders by number whose outputs go the way together: the embedding; and for "eap-ig-activations" the heads of
        each layer and each MLP besides, all others then being computed from them."""
        if method == "eap-ig":
            return [{0}]
        stages: dict[int, set[int]] = {}
        for number, node in enumerate(self.graph.senders):
            stages.setdefault(stage(node), set()).add(number)
        return list(stages.values())

    def attributed(
        self,
        edges: Sequence[Edge],
        points: Sequence[float],
        paths: Sequence[set[int]],
        done: Callable[[], Any],
    ) -> Tensor:
        """(edge, row) change of the sender's output times gradient at the receiver, averaged over points of all paths
        from one run to the other, and summed over positions, or at the edge's own; `done` is called after each
        point."""
        outs, reference, before = self.runs()
        total = torch.zeros(len(self.graph.receivers), *outs.shape[1:], device=outs.device, dtype=outs.dtype)
        for held in self._held(outs, reference, points, paths):
            total += self.gradient(before, held)
            done()
        total.div_(len(points) * len(paths))
        return _attributed(self.graph, edges, self.into, outs - reference, total)

    def _held(
        self, outs: Tensor, reference: Tensor, points: Sequence[float], paths: Sequence[set[int]]
    ) -> Iterator[dict[int, Tensor]]:
        for path in paths:
            for point in points:
                yield {sender: torch.lerp(outs[sender], reference[sender], point) for sender in path}

    def gradient(self, before: Tensor, held: Mapping[int, Tensor]) -> Tensor:
        """(receiver, row, pos, d_model) of every row's metric by what each node reads, outputs of some senders being
        held (none of the gradient passes through them)."""
        d_model = self.graph.executor.embed.shape[1]
        shape = (len(self.graph.receivers), *self.into.tokens.shape, d_model)
        with torch.enable_grad():
            probes = torch.zeros(shape, device=before.device, dtype=self.graph.executor.embed.dtype, requires_grad=True)
            logits = self.graph.logits(self.into.tokens, self.reads, probes=probes, held=held)
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
