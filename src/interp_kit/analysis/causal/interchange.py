"""Interchange interventions (Geiger et al. 2021, arXiv:2106.02997; 2023, arXiv:2301.04709): is a variable of the task's
causal model realised at one site of the network?

An activation of a source run is written into a base run. Where the site realises the variable, the network answers as
the causal model does in the base's world under do(variable = the source's value). `das` looks for a subspace of a site.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.analysis.causal.counterfactual import Chosen, check_places, interchanges
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, check_seed
from interp_kit.core.example import Example
from interp_kit.core.own_tokens import position_names
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS, numbered
from interp_kit.core.stats.intervals import Estimate, wilson_share
from interp_kit.core.stats.told import CHANCE, most
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Copy, check_by, everywhere, grouped
from interp_kit.engine.solved import caveat, counted_solved, said, warn_if_few
from interp_kit.engine.sweep import sweep
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.site_heatmap import site_map

ALL = "all"
KEPT = 0.95  # share of controls that a site which holds the variable alone must keep
NONE = Estimate(float("nan"), float("nan"), float("nan"), 0, "bases")


@dataclass(frozen=True, kw_only=True)
class InterchangeResult(AbstractResult):
    """Interchange accuracy by site: one entry per edit.

    site, layer (-1: none), head (-1: none or all), position ("all", or a name) say where; all of length n_edits.
    accuracy: (n_edits,) share of `pairs` that the edited model answers as the causal model does under do(variable);
    kept: the same over `controls`, whose source has the base's value of the variable, so that the answer must stay
    although the source's own differs (nan where the task has no such pair); …_low, …_high: Wilson's 95 % interval over
    bases, as pairs of one base are not independent. bases, control_bases: (n_edits,) how many those are; pairs,
    controls: (n_edits,) distinct pairs at that site. baseline, baseline_kept: the same two shares of the unedited
    model. hits: (n_edits, all pairs), control_hits: (n_edits, all controls) each answer. dropped: pairs and controls
    left out because the model does not solve the base.
    """

    leading: ClassVar[str] = "accuracy"
    site: tuple[str, ...]
    layer: np.ndarray
    head: np.ndarray
    position: tuple[str, ...]
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bases: np.ndarray
    pairs: np.ndarray
    kept: np.ndarray
    kept_low: np.ndarray
    kept_high: np.ndarray
    control_bases: np.ndarray
    controls: np.ndarray
    baseline: Estimate
    baseline_kept: Estimate
    hits: np.ndarray
    control_hits: np.ndarray
    dropped: int
    config: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row per edit: where, interchange accuracy and share kept, each with interval and n."""
        return pd.DataFrame(
            {
                "site": self.site,
                "layer": self.layer,
                "head": self.head,
                "position": self.position,
                "accuracy": self.accuracy,
                "low": self.low,
                "high": self.high,
                "n": self.bases,
                "pairs": self.pairs,
                "baseline": self.baseline.value,
                "kept": self.kept,
                "kept_low": self.kept_low,
                "kept_high": self.kept_high,
                "n_kept": self.control_bases,
            }
        )

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        dots = f"There are no control pairs, whose {c['variable']} would be equal"
        if self.controls.any():
            of = numbered(_span(self.controls), "control pairs")
            dots = f"Dots: fewer than 95 % of {of}, whose {c['variable']} is equal, keep their answer"
        return (
            f"Interchange accuracy on {c['model']}: share of pairs in which {c['target']} becomes what"
            f" do({c['variable']} = the source's value) makes of it when one activation is copied from the source run"
            f" into the base run (n = {numbered(_span(self.bases), 'bases')} with {numbered(c['sources'], 'sources')},"
            f" {numbered(_span(self.pairs), 'distinct pairs')} at a site, all with {c['target']} changed by"
            f" do({c['variable']}); {said(c, self.dropped, 'the base of')}; unedited: {self.baseline}). {dots}."
            " 95 % Wilson intervals over bases in the table."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: the site that acts as the variable, or that none does.

        A site "acts as" it if the lower end of its interval is above one half and above the unedited model's interval,
        and if it keeps 95 % of the controls. A smaller share above the unedited model's is named as the most.
        """
        c, alone = self.config, ~(self.kept < KEPT)
        shown = self.low > self.baseline.high
        pool = next((p for p in (shown & alone, shown, np.isfinite(self.accuracy)) if p.any()), None)
        if pool is None:
            return ()
        few = caveat(c, "the base of")
        best = int(np.where(pool, self.accuracy, -1).argmax())
        layer, head = int(self.layer[best]), int(self.head[best])
        at = f"{self.site[best]}" + (f", L{layer}" if layer >= 0 else "") + (f"H{head}" if head >= 0 else "")
        at += f" at {self.position[best]}"
        share = Estimate(self.accuracy[best], self.low[best], self.high[best], int(self.bases[best]), "bases")
        numbers = f"{share.short()} of n = {numbered(self.bases[best], 'bases')} (unedited {self.baseline.short()})"
        does = f"gives {c['target']} as do({c['variable']}) would have it in {numbers}"
        kept = Estimate(self.kept[best], self.kept_low[best], self.kept_high[best], int(self.control_bases[best]), "")
        if not shown[best]:
            return (f"{few}That a site holds {c['variable']} {CHANCE}: at best, copying {at} {does}.",)
        if np.isnan(kept.value):
            return (
                f"{few}Copying {at} {does}; the task has no control pairs, so it may carry more than {c['variable']}.",
            )
        keeps = f"keeps the answer in {kept.short()} of controls"
        if not most(share.low, share.value):
            of = "of those that keep their controls, " if alone[best] else ""
            return (
                f"{few}No site acts as {c['variable']} in most pairs: {of}at best copying {at} {does}, and {keeps}.",
            )
        if alone[best]:
            return (f"{few}{at} acts as {c['variable']}: copying it {does}, and {keeps}.",)
        return (
            f"{few}No site holds {c['variable']} alone: copying {at} {does}, but controls with an equal"
            f" {c['variable']} keep their answer in {kept.short()} alone.",
        )

    def plot(
        self, ax: Axes | None = None, site: str | None = None, what: Literal["accuracy", "kept"] = "accuracy"
    ) -> Axes:
        """Layers (or heads) by position, for one site, by default the first; what: "accuracy" or the control's "kept".
        Raises ValueError for a site that was not edited."""
        site = site or self.site[0]
        return site_map(
            self.to_frame().assign(moved=self.kept < KEPT),
            site,
            what,
            mark="moved" if what == "accuracy" else None,
            ax=ax,
            title=f"{site}: do({self.config['variable']}) → {self.config['target']} (n ="
            f" {numbered(_span(self.bases), 'bases')})",
            label="interchange accuracy" if what == "accuracy" else "control: answer kept",
            limits=(0.0, 1.0),
        )


@on_model()
def interchange(
    model: HookedModel,
    task: AbstractTask,
    variable: str,
    target: str,
    *,
    sites: str | Sequence[str] = "resid_post",
    positions: Sequence[str | int] | Mapping[str, Sequence[str | int]] | None = None,
    by: Literal["position", "all"] = "position",
    pairs: Sequence[tuple[Example, Example]] | None = None,
    only_solved: bool = False,
    limit: int = 512,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> InterchangeResult:
    """Copy one activation at a time from a source run into a base run, and ask whether the answer of field `target` is
    that of the base's world under do(variable = the source's value), by `task.intervene`.

    Only pairs count in which do(variable) changes the base's answer. The text is the base's own, its true completion
    included (teacher forcing): where `variable` is written in it, the base's value stands there, and at other positions
    nothing of the source is seen. The answer is the field's candidate with the highest logit; tokens that are no
    candidate do not count. A model that always says the same has the share of its `baseline`, so read each site beside
    it, or leave out with `only_solved` the pairs whose base the unedited model does not solve: the baseline is then 0.

    Controls are pairs with equal values of `variable` whose targets differ: a site that carries more than the variable
    moves them too. Pairs with equal base, source up to the edited position, and answer count once per site,
    as a causal model cannot tell them apart; intervals are over bases, for these sources.

    Args:
        model: A model that learned the task.
        task: Says by `intervene` what follows from do(variable).
        variable: The variable that a site may hold.
        target: The field whose answer it should move.
        sites: Activation sites, every layer of each; those with heads are edited head by head.
        positions: Names, or indices of named tokens; None: those that every row has, up to the target's
            prediction. A mapping name -> positions
            edits groups together.
        by: "position": one position at a time; "all": all together.
        pairs: (base, source) examples. None: all that `task.pool(seed)` has, with at most `limit` pairs and `limit`
            controls.
        only_solved: Leave out the pairs whose base the unedited model does not solve.
        limit: Most pairs, and most controls.
        seed: Of their draw.
        progress: Whether to show a bar.

    Returns:
        Interchange accuracy per edit, and the share of controls kept.

    Warns:
        UserWarning: The model solves the base of fewer than half of the pairs and controls, none being left out.

    Raises:
        ValueError: A variable, target, site or position is unknown; positions are named with by="all"; a position
            stands elsewhere in base and source; or do(variable) changes the target in no pair.
    """
    check_meeting(model, task, AbstractTask)
    check_by(by, positions)
    check_count("limit", limit)
    check_seed(seed)
    check_flag("only_solved", only_solved)
    check_flag("progress", progress)
    task.check_names(variable, target)
    pool = task.pool(seed) if pairs is None else [side for pair in pairs for side in pair]
    groups: dict[str, list[str]] = {}
    if pool and positions is not None:
        groups = grouped(position_names("positions", positions, task.batch(pool[:1]).positions))
    if pool:
        check_places(model, task, pool, sites, [name for group in groups.values() for name in group])
    changed, control = interchanges(task, variable, target, pairs=pairs, pool=pool, limit=limit, seed=seed)
    rows = [*changed, *control]
    base, source = (task.batch(side, model.cfg.device) for side in ([r.base for r in rows], [r.source for r in rows]))
    at = base.position(base.field(target).predict)
    if positions is not None:
        groups = grouped(position_names("positions", positions, base.positions))
    groups = groups or grouped(base.positions_to(target))
    marks = everywhere(model, sites, Copy(source), [None] if by == "all" else list(groups))
    edits = [
        [mark] if mark.position is None else [replace(mark, position=name) for name in groups[str(mark.position)]]
        for mark in marks
    ]
    swept = sweep(model, base, edits, Chosen(target), progress=progress)
    answer = np.array([row.answer for row in rows])
    hit, before = swept.values[:, 0] == answer, swept.baseline[0] == answer
    solved = swept.baseline[0] == base.answer[target].cpu().numpy()
    use = solved if only_solved else np.ones_like(solved)
    is_pair = np.arange(len(rows)) < len(changed)
    if not (use & is_pair).any():
        raise ValueError(f"the model solves the base of none of the {len(changed)} pairs")
    units = {mark.position: _distinct(base, source, at, answer, groups.get(str(mark.position))) for mark in marks}
    texts = np.array([row.base.text for row in rows])
    shares = [
        [_share(hit[i], units[mark.position] & use & part, texts) for part in (is_pair, ~is_pair)]
        for i, mark in enumerate(marks)
    ]
    figures = np.array([[(s.value, s.low, s.high, s.n) for s in both] for both in shares])
    (accuracy, low, high, bases), (kept, kept_low, kept_high, control_bases) = figures.transpose(1, 2, 0)
    counts = np.array([[(units[m.position] & use & part).sum() for m in marks] for part in (is_pair, ~is_pair)])
    result = InterchangeResult(
        site=tuple(mark.site for mark in marks),
        layer=np.array([-1 if mark.layer is None else mark.layer for mark in marks]),
        head=np.array([-1 if mark.head is None else mark.head for mark in marks]),
        position=tuple(ALL if mark.position is None else str(mark.position) for mark in marks),
        accuracy=accuracy,
        low=low,
        high=high,
        bases=bases.astype(int),
        pairs=counts[0],
        kept=kept,
        kept_low=kept_low,
        kept_high=kept_high,
        control_bases=control_bases.astype(int),
        controls=counts[1],
        baseline=_share(before, use & is_pair, texts),
        baseline_kept=_share(before, use & ~is_pair, texts),
        hits=hit[:, use & is_pair],
        control_hits=hit[:, use & ~is_pair],
        dropped=int((~use).sum()),
        config={
            "analysis": "interchange",
            "model": model_name(model),
            "task": task.name,
            "variable": variable,
            "target": target,
            "sources": len({row.source.tokens for row, used in zip(changed, use, strict=False) if used}),
            "seed": seed,
            **counted_solved(solved[use], left_out=int((~use).sum()), only_solved=only_solved),
        },
    )
    warn_if_few(result.config, "the base of")
    return result


def _distinct(
    base: TokenBatch, source: TokenBatch, at: Tensor, answer: np.ndarray, positions: Sequence[str] | None
) -> np.ndarray:
    """(pairs,) True at the first of the pairs that are alike in what the model can see: the base up to the prediction,
    the source up to the last of the edited positions (None: all), and in the answer."""
    last = (source.mask.sum(1) - 1).cpu().numpy()
    if positions is not None:
        last = np.max([source.position(name).cpu().numpy() for name in positions], axis=0)
    texts = zip(base.tokens.cpu().numpy(), at.tolist(), source.tokens.cpu().numpy(), last.tolist(), strict=True)
    seen: set[tuple[bytes, bytes, int]] = set()
    first = np.zeros(len(answer), dtype=bool)
    for i, (b, end, s, until) in enumerate(texts):
        key = (b[: end + 1].tobytes(), s[: until + 1].tobytes(), int(answer[i]))
        first[i] = key not in seen
        seen.add(key)
    return first


def _share(hit: np.ndarray, use: np.ndarray, texts: np.ndarray) -> Estimate:
    """The share of hits among the pairs in use, its interval over their distinct bases."""
    return wilson_share(hit[use].mean(), len(np.unique(texts[use])), "bases") if use.any() else NONE


def _span(n: np.ndarray) -> str:
    return str(n.min()) if n.min() == n.max() else f"{n.min()} to {n.max()}"
