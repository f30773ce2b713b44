"""Path by which a prediction uses an intermediate variable: via its emitted token, directly, or by a latent.

Where the mediator is a function of its cause on every input (newB = not D), no probe can tell one from the other; only
crossing them can. Three experiments: conflict prompts (the token from one world, the rest from the other), path
patching by sender position on natural pairs, and free-running edits at the place where the mediator is predicted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from interp_kit.analysis.causal.patching import PatchingResult, patch_senders
from interp_kit.analysis.causal.routes import (
    FEWEST,
    ROUTES,
    SHARED,
    check_question,
    flips,
    opposing_routes,
    positions_by_route,
    said_of,
    verdict_of,
)
from interp_kit.core.config import check_count, check_flag, check_seed
from interp_kit.core.pairs import PairBatch
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, Bar, bar, counted, numbered
from interp_kit.core.stats.intervals import (
    Estimate,
    clustered_mean,
    mean_estimate,
    ratio_interval,
    scope,
    wilson,
)
from interp_kit.core.task import AbstractTask
from interp_kit.engine.decode import complete
from interp_kit.engine.edits import Copy, Edit
from interp_kit.engine.metrics import Accuracy, LogitDifference, accuracy
from interp_kit.engine.sweep import editing, sweep
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import intervals

STEPS = 7  # that a bar counts: inputs, two kinds of flips, pairs, routes, senders, latents


@dataclass(frozen=True, kw_only=True)
class MechanismResult(AbstractResult):
    """Dependence of one model's `target` on `mediator`.

    solved: share of inputs whose target it gets right; token_flips: share of worlds in which flipping only the
    mediator's token flips the target; cause_flips: the same for flipping only the inputs that the mediator is computed
    from; sender: positions; sender_recovered, …_low, …_high: (sender,) path patching of each into the target's
    prediction; route, …_low, …_high: (4,) the same for the groups in ROUTES patched together: the mediator's token,
    everything before the mediator is predicted, the position that predicts it, everything between mediator and target;
    latent_mediator, latent_target: (layer,) recovery of both predictions when the residual stream that predicts the
    mediator is patched and its token held; free_emitted, free_target: (layer,) share of worlds whose emitted mediator
    and target flip under that edit when the model runs freely; layer_low, layer_high: (4, layer) 95 % intervals of
    these four over units (None as saved by an earlier version); dropped: pairs it does not solve; set_aside: solved
    pairs left out because they share a text with one that is used; verdict: one of ROUTES, "mixed", "none" where the
    model does not solve the target or nothing carries it, or TOO_FEW where fewer than FEWEST independent units could be
    measured, whatever the routes show. A route that works against the answer is named in the verdict too ("direct,
    opposed by via token"). Intervals are over `config["units"]` independent units of pairs (PairBatch.apart): of two
    texts paired both ways, both are one. Where the model solves both sides of no pair there is no difference to follow:
    routes and latents are nan, no sender.
    """

    later: ClassVar[tuple[str, ...]] = ("layer_low", "layer_high")
    mediator: str
    target: str
    solved: Estimate
    token_flips: Estimate
    cause_flips: Estimate
    sender: tuple[str, ...]
    sender_recovered: np.ndarray
    sender_low: np.ndarray
    sender_high: np.ndarray
    route: np.ndarray
    route_low: np.ndarray
    route_high: np.ndarray
    latent_mediator: np.ndarray
    latent_target: np.ndarray
    free_emitted: np.ndarray
    free_target: np.ndarray
    dropped: int
    set_aside: int
    verdict: str
    config: Mapping[str, Any]
    layer_low: np.ndarray | None = None
    layer_high: np.ndarray | None = None

    @property
    def opposing(self) -> tuple[str, ...]:
        """Routes that move the answer the other way: their whole interval is below -SHARED, or the value itself where
        enough pairs agree on it to the last digit, and so leave no interval."""
        return opposing_routes(self._ends()[1])

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the intervals of routes, and the values where all of enough pairs agree."""
        agreed = np.isnan(self.route_low) & (self.config["units"] >= FEWEST)
        return np.where(agreed, self.route, self.route_low), np.where(agreed, self.route, self.route_high)

    def to_frame(self) -> pd.DataFrame:
        """One row per measurement: experiment, what was changed, value, interval, n; of routes also their role:
        "carries" (interval above one half), "shares" (above SHARED), "opposes" (below -SHARED)."""
        pairs = self.config["units"]
        rows: list[tuple] = [("accuracy", self.target, *_parts(self.solved))]
        rows.append(("conflict", f"only {self.mediator}'s token", *_parts(self.token_flips)))
        rows.append(("conflict", f"only {self.mediator}'s causes", *_parts(self.cause_flips)))
        for values, names, kind in (
            ((self.route, self.route_low, self.route_high), ROUTES, "route"),
            ((self.sender_recovered, self.sender_low, self.sender_high), self.sender, "sender"),
        ):
            rows += [(kind, name, *row, pairs) for name, *row in zip(names, *values, strict=True)]
        unknown = np.full((4, len(self.free_target)), np.nan)
        low, high = (unknown if ends is None else ends for ends in (self.layer_low, self.layer_high))
        kinds = {
            f"patched, {self.mediator}": self.latent_mediator,
            f"patched, {self.target} with the token held": self.latent_target,
            f"free-running, {self.mediator} emitted": self.free_emitted,
            f"free-running, {self.target}": self.free_target,
        }
        for (kind, values), *ends in zip(kinds.items(), low, high, strict=True):
            rows += [(kind, f"L{la}", *row, pairs) for la, row in enumerate(zip(values, *ends, strict=True))]
        frame = pd.DataFrame(rows, columns=["experiment", "changed", "value", "low", "high", "n"])
        least, most = self._ends()
        roles = np.select([least > 0.5, least > SHARED, most < -SHARED], ["carries", "shares", "opposes"], "")
        frame["role"] = ""
        frame.loc[frame["experiment"] == "route", "role"] = roles
        return frame

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Path patching on {c['model']}: share of {self.target}'s logit difference that comes back when its"
            f" prediction reads one route's keys and values from the other run (n ="
            f" {numbered(c['units'], 'independent ' + c['pair_kind'])}{scope(c)}, {self.dropped} unsolved left"
            f" out{self._aside()}; 95 % intervals; 0: as"
            f" unpatched, 1: as the other run). Verdict: {self.verdict}."
        )

    def _aside(self) -> str:
        return f", {self.set_aside} that share a text with these set aside" if self.set_aside else ""

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult."""
        model, flips = self.config["model"], self.token_flips
        if not self.config["units"]:
            return (
                f"No route by which {model} uses {self.mediator} for {self.target} can be told: it solves both sides of"
                f" 0 of {numbered(self.dropped + self.set_aside, 'pairs')}, and gets {self.target} right in a share of"
                f" {self.solved.short()} of {numbered(self.solved.n, self.solved.unit)}.",
            )
        return (
            f"{model} {said_of(self.verdict, self.mediator, self.target)}. Flipping only the token of"
            f" {self.mediator} flips {self.target} in a share of {flips.short()} of {numbered(flips.n, flips.unit)}.",
        )

    def highlights(self) -> pd.DataFrame:
        """See AbstractResult: accuracy, the conflict prompts, and the routes."""
        frame = self.to_frame()
        return pd.DataFrame(frame[frame["experiment"].isin(["accuracy", "conflict", "route"]) & frame["value"].notna()])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Path patching by route."""
        series = {"recovered": (self.route, self.route_low, self.route_high)}
        title = (
            f"Route to {self.target}, by {self.mediator} or past it: {self.config['model']}"
            f" ({self.verdict}, n = {self.config['units']})"
        )
        return intervals(ROUTES, series, ax=ax, title=title, x_label=f"recovered {self.target} logit difference")


def _parts(estimate: Estimate) -> tuple[float, float, float, int]:
    return estimate.value, estimate.low, estimate.high, estimate.n


@on_model()
def mechanism(
    model: HookedModel,
    task: AbstractTask,
    *,
    mediator: str,
    target: str,
    limit: int = 512,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> MechanismResult:
    """Decide by which route `target` uses `mediator`, on minimal pairs that flip both.

    A route is named if its recovery is above one half with its whole interval, no other's is above 0.2 with its
    own, and the conflict prompts agree; "mixed" if two share it. Only independent solved pairs are measured, of which
    no two share a text; with fewer than 5 no route is named.

    Args:
        model: A causal model that learned the task.
        task: Gives pairs and conflict prompts.
        mediator: A field that the text writes on the way.
        target: The field that may use it.
        limit: Most inputs, most pairs and most conflict prompts.
        seed: Of their draw.
        progress: Show a bar.

    Returns:
        The verdict, recovery per route and per sender, and the flips of the conflict prompts.

    Raises:
        ValueError: The mediator is not a field before the target, there is no such pair, or the two runs do not differ.
    """
    check_meeting(model, task, AbstractTask)
    check_flag("progress", progress)
    check_count("limit", limit)
    check_seed(seed)
    check_question(task, mediator, target)
    with bar(STEPS + model.cfg.n_layers, f"{mediator} -> {target}", progress) as shown:
        return _mechanism(model, task, mediator, target, (limit, seed), shown)


def _mechanism(
    model: HookedModel, task: AbstractTask, mediator: str, target: str, draw: tuple[int, int], shown: Bar
) -> MechanismResult:
    """As `mechanism`; `shown` is updated after each of STEPS steps, and after each layer in which texts run freely.
    draw: limit and seed."""
    device, (limit, seed), done = model.cfg.device, draw, shown.update
    natural = task.pairs(mediator, target, limit=limit, seed=seed).to(device)
    shown.set_description_str(f"{mediator} -> {target}, {counted(len(natural), 'pair')}")
    pool = task.pool(seed)
    if len(pool) > limit:
        pool = [pool[i] for i in np.sort(np.random.default_rng(seed).choice(len(pool), limit, replace=False))]
    everything = task.batch(pool, device)
    right = sweep(model, everything, [], accuracy(target)).baseline[0]
    solved = wilson(int(right.sum()), len(right))
    done()
    token = flips(model, task.conflict_pairs(mediator, target, limit=limit, seed=seed).to(device))
    done()
    cause = flips(model, task.pairs(mediator, target, completion="clean", limit=limit, seed=seed).to(device))
    done()
    both_sides = [
        sweep(model, side, [], Accuracy(target)).baseline[0] == 1 for side in (natural.clean, natural.corrupt)
    ]
    kept = np.flatnonzero(both_sides[0] & both_sides[1])
    done()
    sender: tuple[str, ...] = ()
    by_sender = tuple(np.zeros((3, 0)))
    route, low, high, least, most = np.full((5, len(ROUTES)), np.nan)
    latent, units, used = np.full((3, 4, model.cfg.n_layers), np.nan), 0, 0
    if len(kept):
        pairs = natural.take(kept.tolist()).apart(both_ways=True)
        units, used = len(np.unique(pairs.units())), len(pairs)
        route, low, high, least, most = _patch_routes(model, pairs, positions_by_route(pairs, mediator, target))
        done()
        single = patch_senders(model, pairs)
        done()
        sender, by_sender = single.position, (single.recovered, single.low, single.high)
        latent = _latent(model, pairs, mediator, target, done)
    verdict = verdict_of(solved, token, (route, least, most), tuple(latent[0]), units)
    return MechanismResult(
        mediator=mediator,
        target=target,
        solved=solved,
        token_flips=token,
        cause_flips=cause,
        sender=sender,
        sender_recovered=by_sender[0],
        sender_low=by_sender[1],
        sender_high=by_sender[2],
        route=route,
        route_low=low,
        route_high=high,
        latent_mediator=latent[0, 0],
        latent_target=latent[0, 1],
        free_emitted=latent[0, 2],
        free_target=latent[0, 3],
        layer_low=latent[1],
        layer_high=latent[2],
        dropped=len(natural) - len(kept),
        set_aside=len(kept) - used,
        verdict=verdict,
        config={
            "analysis": "mechanism",
            "model": model_name(model),
            "task": task.name,
            "metric": "logit difference",
            "pairs": used,
            "units": units,
            "limit": limit,
            "seed": seed,
            "whole": natural.whole and used == len(natural),
            "pair_kind": f"minimal pairs that flip {mediator} and {target}",
        },
    )


def _patch_routes(model: HookedModel, pairs: PairBatch, routes: Mapping[str, tuple[str, ...]]) -> tuple:
    """(5, route): recovered, low, high, and between what it surely lies: low and high, or what the least and the most
    of the pairs give by themselves if pairs that agree to the last digit leave no interval."""
    present = [name for name in ROUTES if routes[name]]
    result: PatchingResult = patch_senders(model, pairs, senders=[routes[name] for name in present])
    by_pair = (result.values - result.start) / (result.goal - result.start)
    least = np.where(np.isnan(result.low), by_pair.min(-1), result.low)
    most = np.where(np.isnan(result.high), by_pair.max(-1), result.high)
    filled = [np.zeros(len(ROUTES)) for _ in range(5)]
    for i, name in enumerate(present):
        for array, values in zip(filled, (result.recovered, result.low, result.high, least, most), strict=True):
            array[ROUTES.index(name)] = values[i]
    return tuple(filled)


def _latent(model: HookedModel, pairs: PairBatch, mediator: str, target: str, done: Callable[[], Any]) -> np.ndarray:
    """(3, 4, layer) value, low and high, for the edit that swaps the residual stream at the mediator's prediction:
    recovery of both predictions with the clean completion held, and flips of both when running freely."""
    clean, other = pairs.clean, pairs.corrupt
    predicts = clean.field(mediator).predict
    metrics = [LogitDifference(name, other.answer[name], clean.answer[name]) for name in (mediator, target)]
    edits = [Edit("resid_post", layer, Copy(other), position=predicts) for layer in range(model.cfg.n_layers)]
    swept = sweep(model, clean, edits, metrics, other=other)
    done()
    goal = swept.other
    assert goal is not None
    found, groups = np.full((3, 4, len(edits)), np.nan), pairs.units()
    for j in range(2):
        gap = goal[j] - swept.baseline[j]
        if abs(gap.mean()) > 1e-6:
            found[:, j] = ratio_interval(swept.values[:, j] - swept.baseline[j], gap, groups=groups)
    rows = torch.arange(len(clean), device=clean.tokens.device)
    for i, edit in enumerate(edits):
        with editing(model, clean, edit):
            text = complete(model, clean)
        for j, name in enumerate((mediator, target)):
            flips = (text[rows, clean.position(name)] == other.answer[name]).cpu().numpy()
            share = clustered_mean(flips, groups, "pairs", (0.0, 1.0))
            found[:, 2 + j, i] = share.value, share.low, share.high
        done()
    return found


def route_summary(results: list[MechanismResult]) -> dict[str, Estimate]:
    """Each route's recovery over models, with its interval over seeds."""
    return {name: mean_estimate([r.route[i] for r in results]) for i, name in enumerate(ROUTES)}
