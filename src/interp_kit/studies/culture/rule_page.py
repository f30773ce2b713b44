"""The sections of the culture page on rules: where one stands, if it is a direction, two at once, which parts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.causal.ablation import AblationResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate
from interp_kit.reports.plotting import heatmap, intervals
from interp_kit.reports.report import Figure, Section, Table
from interp_kit.studies.culture.rules.answers import AT_INPUT, EXCHANGED, PUT_IN, UNEDITED
from interp_kit.studies.culture.rules.exchange import WHOLE
from interp_kit.tasks.culture.figures import plot_quizzes
from interp_kit.tasks.culture.grids import CELLS

if TYPE_CHECKING:
    from interp_kit.studies.culture.study import Examination, Study

CELLS_OF = "f_A cells"


def rule_findings(study: "Study") -> tuple[str, ...]:
    """The sentences on rules, each drawn from the figures of the sections below."""
    found = [*_places_findings(study.models)]
    both = [m.rules.at_once.whole(AT_INPUT, "both") for m in study.models]
    found.append(
        f"If f_A shows two rules at once, as no world does, {_range(both)} of the answers apply both in every cell (n ="
        f" {numbered(both[0].n, 'quizzes')} per model)."
        + " Looking up each object by itself would do so; one variable for the rule could not."
        * (min(share.low for share in both) > 0.2)
    )
    if (same := study.rule_similarity) is not None:
        found.append(
            f"The {same.config['k']} parts that carry the rule most overlap by {same.index.min():.2f} to"
            f" {same.index.max():.2f} (Jaccard index, {same.matched} matching, {len(same.pair)} pairs of models),"
            f" random sets with as many heads and MLPs of each layer by {same.stratified.min():.2f} to"
            f" {same.stratified.max():.2f}; p < 0.05 in {int((same.p < 0.05).sum())} of {len(same.pair)} pairs, each by"
            " itself."
        )
    return tuple(found)


def _places_findings(models: "Sequence[Examination]") -> tuple[str, ...]:
    """Sentences on where the rule stands, and if a direction moves it, in all models at once."""
    without = [m.name for m in models if not m.rules.layer]
    none = (f"In {', '.join(without)} the cells of f_A carry the rule alone before no layer.",) if without else ()
    if not (having := [m for m in models if m.rules.layer]):
        return none
    up_to: dict[int, list[str]] = {}
    for m in having:
        up_to.setdefault(m.rules.layer, []).append(m.name)
    whole, markers = (
        [m.rules.places.share(m.rules.places.at(WHOLE, place, m.rules.layer)) for m in having]
        for place in (CELLS_OF, "markers")
    )
    moved, random = (
        [
            max((m.rules.within.share(i) for i, w in enumerate(m.rules.within.what) if w.startswith(kind)), key=_value)
            for m in having
        ]
        for kind in ("constant", "random direction")
    )
    where = " and ".join(f"{layer} in {', '.join(names)}" for layer, names in up_to.items())
    least, most = min(whole, key=_value), max(moved, key=_value)
    return (
        f"The rule stands in the cells of f_A up to layer {where}. Exchanged there, {_range(whole)} of the answers"
        f" follow the other rule (lowest {least.short()}, n = {least.n} quizzes per model); exchanged at the three"
        f" markers, {_range(markers)} do (highest {max(markers, key=_value).short()}).",
        f"Moved by a constant direction for each two rules, {_range(moved)} of the answers follow at best (highest"
        f" {most.short()}), by a random one as long {_range(random)}.",
        *none,
    )


def _value(share: Estimate) -> float:
    return share.value


def _range(shares: list[Estimate]) -> str:
    low, high = min(share.value for share in shares), max(share.value for share in shares)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"


def rule_sections(study: "Study") -> tuple[Section, ...]:
    """The sections."""
    models = [*study.models, study.control]
    return _places_section(models), _direction_section(models), _at_once_section(study.models), _parts_section(study)


def _places_section(models: "Sequence[Examination]") -> Section:
    parts: list[Figure | Table] = []
    for m in models:
        axes = m.rules.places.plot()
        axes.set_title(f"{m.name}: rule exchanged (n = {m.rules.places.n})")
        parts.append(Figure(axes, m.rules.places.caption()))
        parts.append(Table(m.rules.places.to_frame(), f"{m.name}: by place and layer.", folded=True))
    return Section(
        title="Where the rule stands",
        text=(
            "One quiz under two rules: A and B are the same, f_A and the right f_B differ. The residual stream of one"
            " place before one layer is put into the other run. Markers are the tokens f_A, B and f_B, which a model"
            " could keep a rule at.",
        ),
        parts=tuple(parts),
    )


def _direction_section(models: "Sequence[Examination]") -> Section:
    names = list(dict.fromkeys(what for m in models for what in m.rules.within.what))
    series, frames = {}, []
    for m in models:
        shares = [m.rules.within.share(m.rules.within.at(what, CELLS_OF)) for what in names]
        series[m.name] = tuple(np.array([getattr(s, end) for s in shares]) for end in ("value", "low", "high"))
        frames.append(m.rules.within.to_frame().assign(model=m.name))
    first = models[0].rules
    layers = sorted({m.rules.layer for m in models})
    axes = intervals(
        names,
        series,
        title="cells of f_A, exchanged in part",
        x_label="answers by the other rule",
        limits=(-0.02, 1.02),
    )
    return Section(
        title="Is the rule a direction?",
        text=(
            "Directions are computed on other quizzes. A constant direction is the difference of two rules' means over"
            " all cells of f_A; the same vector is added to every cell. A subspace is exchanged cell by cell, so that"
            " each cell takes its own coordinates from the other run: what moves the answer then need not be a rule,"
            " and may be what the cell shows.",
        ),
        parts=(
            Figure(
                axes,
                f"Share of quizzes that follow the other rule when the cells of f_A before layer"
                f" {' or '.join(map(str, layers))} are exchanged in part (n ="
                f" {numbered(first.within.n, 'distinct quizzes')},"
                " Wilson's 95 % intervals). Controls: random directions as long; random subspaces; a placebo that"
                " writes the largest subspace's coordinates along random directions; the network untrained.",
            ),
            Table(pd.concat(frames), "The same, with those that stay and those that follow neither.", folded=True),
        ),
    )


def _at_once_section(models: "Sequence[Examination]") -> Section:
    kinds = list(dict.fromkeys(kind for m in models for kind in m.rules.at_once.kind))
    rows = [(condition, kind) for condition in (AT_INPUT, PUT_IN) for kind in kinds]
    names = [f"{kind}: {condition}" for condition, kind in rows]
    series = {}
    for m in models:
        shares = [m.rules.at_once.whole(condition, "both", kind) for condition, kind in rows]
        series[m.name] = tuple(np.array([getattr(s, end) for s in shares]) for end in ("value", "low", "high"))
    first = models[0].rules
    frames = [m.rules.at_once.to_frame().assign(model=m.name) for m in models]
    swapped = [m.rules.swapped.to_frame().assign(model=m.name) for m in models]
    cells = [
        (m.name, condition, answer, share.value, share.low, share.high, share.n)
        for m in models
        for condition in (UNEDITED, EXCHANGED)
        for answer in ("first", "second")
        for share in (m.rules.swapped.differing(condition, answer),)
    ]
    columns = ["model", "condition", "rule", "share of cells", "low", "high", "n"]
    shown = [first.at_once.kind.index(kind) for kind in kinds]
    written = first.at_once.quizzes[first.at_once.names.index(AT_INPUT)][shown]
    assert first.at_once.both is not None
    wrong = np.zeros(written.shape, bool)
    wrong[:, -CELLS:] = written[:, -CELLS:] != first.at_once.both[shown]
    return Section(
        title="Two rules at once",
        text=(
            "f_A shows what two rules change, in different cells; no world has such quizzes, and no model has seen one."
            " An answer is right if both rules are applied to B, in every cell. In the second condition f_A shows the"
            " first rule alone, and the residual stream of the cells of the object that the second changes is put in"
            f" before layer {first.layer}.",
        ),
        parts=(
            Figure(
                intervals(names, series, title="both rules applied", x_label="whole answers", limits=(-0.02, 1.02)),
                "Share of quizzes answered greedily by both rules in every cell"
                f" (n = {numbered(len(first.at_once.kind) // len(kinds), 'distinct quizzes')} per two rules, model and"
                " condition, Wilson's 95 % intervals). With f_A of the first rule alone, answers are those of that rule"
                " (in the table).",
            ),
            Figure(
                plot_quizzes(written, {"wrong": wrong}, titles=kinds),
                f"Quizzes whose f_A shows two rules, the first of each pair, with f_B as {models[0].name} writes it;"
                " crosses mark cells that are not as both rules have them.",
            ),
            Table(pd.concat(frames), "Whole answers by either rule and by both.", folded=True),
            Table(pd.concat(swapped), "Whole answers when all cells of f_A are exchanged.", folded=True),
            Table(
                pd.DataFrame(cells, columns=columns),
                "Cells on which the two rules differ, when all cells of f_A are exchanged: share as the quiz's own rule"
                " (first) and as the other (second) has them; the rest follows neither.",
                folded=True,
            ),
        ),
    )


def _parts_section(study: "Study") -> Section:
    parts: list[Figure | Table] = []
    for m in study.models:
        frame = m.rules.parts.grouped(m.rules.by_rule)
        parts.append(
            Figure(
                _parts_figure(m.rules.parts, m.rules.by_rule, m.name),
                "Loss of the right answer's lead (logits), at the first cell on which two rules differ, when one head"
                f" or MLP of {m.name} gives everywhere what it gives under another rule, by the quiz's rule (n ="
                f" {numbered(m.rules.parts.n, 'distinct quizzes')}; intervals in the table).",
            )
        )
        parts.append(Table(frame, f"{m.name}: heads and MLPs, 95 % intervals over quizzes.", folded=True))
        circuits = m.rules.circuits
        parts.append(
            Figure(
                circuits.plot(m.name),
                f"Faithfulness of the parts of {m.name} that matter most for a rule, all others exchanged (1: as the"
                f" whole model, 0: as with all exchanged; n = {min(circuits.n)} or more other quizzes per rule, 95 %"
                f" intervals; {circuits.random.shape[1]} random sets of each size as control).",
            )
        )
        parts.append(Table(circuits.to_frame(), f"{m.name}: circuits by rule.", folded=True))
    if (same := study.rule_similarity) is not None:
        parts.append(Figure(same.plot(), same.caption()))
        parts.append(Table(same.to_frame(), "Overlap of the parts that carry the rule.", folded=True))
    return Section(
        title="Which parts carry the rule",
        text=(
            "Each head and MLP is exchanged alone, at all positions. Parts that stand in for each other are"
            " underestimated.",
        ),
        parts=tuple(parts),
    )


def _parts_figure(parts: AblationResult, by_rule: Mapping[str, Sequence[int]], name: str) -> Axes:
    """The MLPs and the dozen heads that matter most, by rule."""
    heads = [i for i, part in enumerate(parts.component) if "MLP" not in part]
    best = sorted(heads, key=lambda i: -abs(float(parts.importance()[i])))[:12]
    shown = [i for i in range(len(parts.component)) if i in best or i not in heads]
    values = np.stack([parts.importance(rows=rows)[shown] for rows in by_rule.values()], axis=1)
    title = f"{name}: {len(best)} heads and the MLPs (n = {parts.n})"
    return heatmap(
        values, [parts.component[i] for i in shown], list(by_rule), title=title, label="lead lost (logits)",
        signed=True, x_label="rule of the quiz",
    )  # fmt: skip
