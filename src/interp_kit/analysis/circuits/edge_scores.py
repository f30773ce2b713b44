"""Score of every edge of a model: exactly, by patching each alone, or attributed by gradients, as EAP (Syed et al.
2023, arXiv:2310.10348) and EAP-IG (Hanna et al. 2024, arXiv:2403.17806) do.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch

from interp_kit.analysis.circuits.carried import CONSTANT, carried, outputs_of, patched
from interp_kit.analysis.circuits.circuit import Circuit
from interp_kit.analysis.circuits.edge_gradients import Method, Part, by_gradients, check_gradient
from interp_kit.core.config import check_choice, check_count, check_flag
from interp_kit.core.pairs import PairBatch
from interp_kit.core.showing import PROGRESS
from interp_kit.engine.edits import Direction
from interp_kit.engine.graph import MEMORY, Graph
from interp_kit.engine.metrics import Metric, logit_difference
from interp_kit.engine.solved import both_sides, counted_solved, warn_if_few
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting

EdgeAblation = Literal["counterfactual", "mean", "mean-pooled", "zero"]


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
    ablation: EdgeAblation = "counterfactual",
    memory: int = MEMORY,
    progress: bool = PROGRESS,
) -> Circuit:
    """Every edge of the model with its score on these pairs.

    Args:
        model: A model that `Graph` computes.
        pairs: Clean and corrupt texts of equal length.
        method: "exact" runs the pairs once for each edge; "eap" takes one gradient; "eap-ig" averages gradients at
            `steps` midpoints between the embeddings of the two runs (EAP-IG-inputs), so that the scores of the edges
            that leave the embedding sum up to the difference of the two runs; "eap-ig-activations" averages them at
            `steps` midpoints between the two runs' outputs of the embedding, of each layer's heads and of each MLP in
            turn.
        steps: Of both. None: doubled until that sum holds within 2 % twice running (of activations, until no score
            changes by more than 2 % of the largest); config["incomplete"] says by how much it does not, as a share.
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
            takes a gradient that the metric does not have (accuracy and exact_match; kl for "eap"; any that is flat);
            or the ablation does not go with the direction, with the texts (mean: of one form) or with "eap-ig".
        Unsupported: The model has something that `Graph` does not compute.
    """
    check_meeting(model, pairs, PairBatch)
    check_choice("method", method, get_args(Method))
    check_choice("by", by, ("all", "position"))
    check_choice("direction", direction, get_args(Direction))
    check_choice("ablation", ablation, get_args(EdgeAblation))
    if steps is not None:
        check_count("steps", steps)
        if not method.startswith("eap-ig"):
            raise ValueError(f"steps is {steps}, and method {method!r} takes none; only eap-ig does")
    check_count("memory", memory)
    check_flag("progress", progress)
    if ablation in CONSTANT and method == "eap-ig":
        raise ValueError(f"eap-ig goes from one text to another, not to ablation={ablation!r}: use eap-ig-activations")
    if ablation in CONSTANT and direction == "denoise":
        raise ValueError(f"ablation={ablation!r} has no other run to start from: use direction='noise'")
    measured = metric(pairs)
    if method != "exact":
        check_gradient(method, measured, at_the_run=method == "eap")
    graph = Graph(model)
    into, other = (pairs.clean, pairs.corrupt) if direction == "noise" else (pairs.corrupt, pairs.clean)
    sign = 1 if direction == "noise" else -1
    constant = carried(graph, pairs, ablation, memory=memory) if ablation in CONSTANT else None
    reference = constant or outputs_of(graph, other)
    names = list(into.positions) if by == "position" else [None]
    edges = [replace(edge, position=name) for edge in graph.edges for name in names]
    parts = [
        Part(graph, measured, into, reference, rows, None if constant else other)
        for rows in graph.parts(into.tokens, memory)
    ]
    start, goal = (torch.cat(values) for values in zip(*(part.ends() for part in parts), strict=True))
    if abs(float((goal - start).mean())) < 1e-6:
        runs = "no edge and all edges ablated" if constant else "clean and corrupt"
        raise ValueError(f"{runs} do not differ in {measured.name}, so no edge can carry a difference")
    steps_taken, incomplete = 0, float("nan")
    if method == "exact":
        groups = [[edge] for edge in edges]
        after = patched(graph, into, reference, groups, measured, memory=memory, progress=progress)
        values, forwards = start - after, len(edges) + 2
    else:
        values, steps_taken, incomplete, runs = by_gradients(
            parts, edges, start - goal, method, steps, measured, progress
        )
        forwards = 2 + 3 * runs
    scores = dict(zip(edges, sign * values.cpu().numpy(), strict=True))
    solved = both_sides(measured, pairs, lambda tokens, at: graph.logits(tokens, at)[0])
    found = Circuit.scored(
        model, pairs, graph.nodes, scores, analysis="score_edges", method=method, steps=steps_taken,
        incomplete=incomplete, metric=measured.name, direction=direction, ablation=ablation,
        gap=float(sign * (start - goal).mean()), forwards=forwards, **counted_solved(solved),
    )  # fmt: skip
    warn_if_few(found.config)
    return found
