"""Activation patching: which sites carry a variable from a clean run into a corrupt one (Meng et al. 2022; Zhang &
Nanda 2023), and path patching by sender position: which earlier token a prediction reads it from (Goldowsky-Dill et
al. 2023).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from interp_kit.analysis.causal.patching_result import PatchingResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_choice, check_flag, check_names, one_or_more
from interp_kit.core.own_tokens import position_names
from interp_kit.core.pairs import PairBatch
from interp_kit.core.showing import PROGRESS
from interp_kit.core.stats.intervals import ratio_interval
from interp_kit.engine.edits import Copy, CopyAttended, Direction, Edit, check_by, everywhere, grouped
from interp_kit.engine.metrics import Metric, logit_difference
from interp_kit.engine.solved import counted_solved, solving, warn_if_few
from interp_kit.engine.sweep import sweep
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting

ALL = "all"
MetricOf = Callable[[PairBatch], Metric]


class Place(NamedTuple):
    """Place of an edit in the result, if its own site does not say it."""

    site: str
    layer: int | None = None
    head: int | None = None
    position: str | None = None


@on_model(causal=False)
def patch(
    model: HookedModel,
    pairs: PairBatch,
    *,
    sites: str | Sequence[str] = "resid_pre",
    by: Literal["position", "all"] = "position",
    positions: Sequence[str | int] | Mapping[str, Sequence[str | int]] | None = None,
    metric: MetricOf = logit_difference,
    direction: Direction = "denoise",
    only_solved: bool = False,
    progress: bool = PROGRESS,
) -> PatchingResult:
    """Copy one activation at a time from one run of each pair into the other, and measure what follows it.

    Args:
        model: Any model.
        pairs: Clean and corrupt texts of equal length, as `task.pairs` gives.
        sites: Activation sites, every layer of each; those with heads (z, q, k, v) are patched head by head.
        by: "position": one named position at a time; "all": all positions together.
        positions: Names, or indices of named tokens; None: those that every row has. A mapping name -> positions
            patches groups of them, such as
            all cells of a grid.
        metric: What is measured, as a function of the pairs.
        direction: "denoise" copies clean into corrupt, "noise" corrupt into clean.
        only_solved: Keep the pairs of which the model solves both sides, and count the rest.
        progress: Whether to show a bar.

    Returns:
        One entry per edit. `recovered` is 1 if the run moved all the way to the one copied from, 0 if it did not move.

    Warns:
        UserWarning: The model solves both sides of fewer than half of the pairs, none being left out.

    Raises:
        ValueError: Lengths differ, a site is unknown, positions are named with by="all", or the two runs do not differ
            in the metric.
    """
    check_by(by, positions)
    check_meeting(model, pairs, PairBatch)
    everywhere(model, sites, Copy(pairs.clean), [None])  # raises for a site that is unknown
    groups: dict[str, list[str]] = {}
    if positions is not None:
        edited = (pairs.corrupt if direction == "denoise" else pairs.clean).positions
        groups = grouped(position_names("positions", positions, edited))
        for group in groups.values():
            check_names("positions", group, edited)
    pairs, dropped = _used(model, pairs, metric, direction, only_solved, progress)
    into, source = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    if positions is None:
        groups = grouped([name for name, index in into.positions.items() if bool((index >= 0).all())])
    names = [None] if by == "all" else list(groups)
    marks = everywhere(model, sites, Copy(source), names)
    edits = [
        [mark] if mark.position is None else [replace(mark, position=name) for name in groups[str(mark.position)]]
        for mark in marks
    ]
    given = {} if by == "all" else _given(pairs, into, groups, metric)
    result = _swept(model, pairs, marks, edits, metric, direction, dropped, only_solved, progress, **given)
    warn_if_few(result.config)
    return result


@on_model()
def patch_senders(
    model: HookedModel,
    pairs: PairBatch,
    *,
    receiver: str | None = None,
    senders: Sequence[str | int | Sequence[str | int]] | None = None,
    metric: MetricOf = logit_difference,
    direction: Direction = "denoise",
    only_solved: bool = False,
    progress: bool = PROGRESS,
) -> PatchingResult:
    """Path patching by sender position: the receiver alone reads each sender's keys and values from the other run.

    Every layer's attention of the receiver is changed and no position before it is, so what is recovered at the
    receiver travels straight from the sender.

    Args:
        model: A causal model.
        pairs: Clean and corrupt texts of equal length.
        receiver: A prediction position; None: that of the target.
        senders: Named positions, or groups of them patched together. None: each one before the receiver that every
            row has.
        metric: What is measured, as a function of the pairs.
        direction: "denoise" copies clean into corrupt, "noise" corrupt into clean.
        only_solved: Keep the pairs of which the model solves both sides, and count the rest.
        progress: Whether to show a bar.

    Returns:
        One entry per sender.

    Raises:
        ValueError: As `patch` does, and for a sender after the receiver.
    """
    check_meeting(model, pairs, PairBatch)
    if receiver is not None:
        pairs.clean.position(receiver)
    edited = (pairs.corrupt if direction == "denoise" else pairs.clean).positions
    if senders is not None:
        senders = [position_names("senders", s, edited) for s in position_names("senders", senders, edited)]
        for group in senders:
            check_names("senders", one_or_more(group), edited)
    pairs, dropped = _used(model, pairs, metric, direction, only_solved, progress)
    into, source = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    receiver = receiver or into.field(pairs.target).predict
    at = into.position(receiver)
    if senders is None:
        senders = [name for name, index in into.positions.items() if bool(((index >= 0) & (index < at)).all())]
    check_names("senders", [s if isinstance(s, str) else " + ".join(check_names("senders", s)) for s in senders])
    groups = [(s,) if isinstance(s, str) else tuple(s) for s in senders]
    edits = [
        [Edit("z", layer, CopyAttended(source, group), position=receiver) for layer in range(model.cfg.n_layers)]
        for group in groups
    ]
    marks = [Place("senders", position=" + ".join(group)) for group in groups]
    result = _swept(model, pairs, marks, edits, metric, direction, dropped, only_solved, progress, receiver=receiver)
    warn_if_few(result.config)
    return result


def _used(
    model: HookedModel, pairs: PairBatch, metric: MetricOf, direction: str, only_solved: bool, progress: bool
) -> tuple[PairBatch, int]:
    """The pairs, or those of which the model gives both answers by argmax, and how many are left out. Raises TypeError
    for anything but pairs, ValueError for those of another task, and for unknown options."""
    check_meeting(model, pairs, PairBatch)
    check_choice("direction", direction, get_args(Direction))
    check_flag("only_solved", only_solved)
    check_flag("progress", progress)
    if not only_solved:
        return pairs, 0
    sides = zip((pairs.clean, pairs.corrupt), solving(metric(pairs), pairs), strict=True)
    right = [sweep(model, side, [], measured).baseline[0] == 1 for side, measured in sides]
    kept = np.flatnonzero(right[0] & right[1])
    if len(kept) == 0:
        raise ValueError(f"the model solves both sides of none of the {len(pairs)} pairs")
    return pairs.take(kept.tolist()), len(pairs) - len(kept)


def _given(
    pairs: PairBatch, into: TokenBatch, groups: Mapping[str, Sequence[str]], metric: MetricOf
) -> dict[str, tuple[str, ...]]:
    """Positions that carry what differs by construction: those whose token differs in any pair, and those whose logits
    are read."""
    rows, reads = torch.arange(len(into), device=into.tokens.device), metric(pairs).reads(into)
    differ, predict = [], []
    for group, names in groups.items():
        index = torch.stack([into.position(name) for name in names], 1)
        differ += [group] if bool(pairs.token_differs[rows[:, None], index].any()) else []
        predict += [group] if bool((index[:, :, None] == reads[:, None].to(index.device)).any()) else []
    return {"differ": tuple(differ), "predict": tuple(predict)}


def _swept(
    model: HookedModel,
    pairs: PairBatch,
    marks: Sequence[Edit | Place],
    edits: Sequence[Sequence[Edit]],
    metric: MetricOf,
    direction: Direction,
    dropped: int,
    only_solved: bool,
    progress: bool,
    **config: object,
) -> PatchingResult:
    """Run the edits, each of which stands in the result as its mark."""
    right = [[measured] for measured in solving(metric(pairs), pairs)]
    sides = [pairs.clean, pairs.corrupt]
    if direction == "denoise":
        right, sides = right[::-1], sides[::-1]
    swept = sweep(
        model, sides[0], edits, metric(pairs), other=sides[1], unedited=right[0], unedited_other=right[1],
        progress=progress,
    )  # fmt: skip
    assert swept.other is not None
    assert swept.unedited is not None
    assert swept.unedited_other is not None
    solved = (swept.unedited[0] == 1) & (swept.unedited_other[0] == 1)
    values, start, goal = swept.values[:, 0], swept.baseline[0], swept.other[0]
    if abs((goal - start).mean()) < 1e-6:
        raise ValueError(
            f"clean and corrupt do not differ in {metric(pairs).name} (mean gap {(goal - start).mean():.1e} over"
            f" {len(pairs)} pairs), so there is nothing to recover; the model solves both sides of"
            f" {int(solved.sum())} of them"
        )
    unit = pairs.units()
    recovered, low, high = ratio_interval(values - start, goal - start, groups=unit)
    return PatchingResult(
        site=tuple(mark.site for mark in marks),
        layer=np.array([-1 if mark.layer is None else mark.layer for mark in marks]),
        head=np.array([-1 if mark.head is None else mark.head for mark in marks]),
        position=tuple(ALL if mark.position is None else str(mark.position) for mark in marks),
        recovered=recovered,
        low=low,
        high=high,
        values=values,
        start=start,
        goal=goal,
        unit=unit,
        dropped=dropped,
        config={
            "analysis": "patch",
            "model": model_name(model),
            "task": pairs.clean.task,
            "variable": pairs.variable,
            "target": pairs.target,
            "inputs": tuple(name for name in pairs.clean.inputs if any(name in differs for differs in pairs.differs)),
            "completion": pairs.completion,
            "whole": pairs.whole,
            "metric": metric(pairs).name,
            "direction": direction,
            **counted_solved(solved, left_out=dropped, only_solved=only_solved),
            **config,
        },
    )
