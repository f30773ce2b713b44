"""The study of the culture models as a page: each section says what was done, what came out and beside what."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.causal.ablation import AblationResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import mean_interval
from interp_kit.reports.plotting import heatmap, intervals
from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.culture.curve import plot_curve
from interp_kit.studies.culture.rule_page import rule_findings, rule_sections
from interp_kit.studies.culture.scores import CultureTests
from interp_kit.studies.culture.study import LATENTS
from interp_kit.studies.culture.training.turns import Point
from interp_kit.tasks.culture.figures import plot_quizzes
from interp_kit.tasks.culture.world import TASKS

if TYPE_CHECKING:
    from interp_kit.studies.culture.study import Examination, Study


def page(scores: CultureTests, study: "Study", curve: Sequence[Point] = ()) -> Report:
    """The tests and the study as a Report, with the learning curves where they are known."""
    first = study.models[0]
    return Report(
        title="How small transformers solve grid quizzes",
        findings=findings(scores, study),
        sections=(
            _scores_section(scores, curve),
            _ablation_section(study),
            _attention_section(study),
            _generation_section(first),
            _probe_section(study),
            _patch_section(study),
            *rule_sections(study),
            *_overlap_section(study),
        ),
        configs={
            "tests": scores.config,
            **{m.name: {"parts": m.parts.config, "lags": m.lags.config} for m in (*study.models, study.control)},
        },
    )


def findings(scores: CultureTests, study: "Study") -> tuple[str, ...]:
    """The sentences on top, each drawn from the figures below it."""
    found = [_solved(scores)]
    heads = "; ".join(f"in {m.name} {', '.join(same_cell_heads(m)) or 'none'}" for m in study.models)
    found.append(f"Heads that look mostly at the same cell of an earlier grid: {heads}.")
    found += rule_findings(study)
    if (same := study.similarity) is not None:
        found.append(
            f"The {same.config['k']} most important components of two models overlap by {_span(same.index)} (Jaccard"
            f" index, {same.matched} matching, {len(same.pair)} pairs of models), those of random sets with as many"
            f" heads and MLPs of each layer by {_span(same.stratified)}; p < 0.05 in {int((same.p < 0.05).sum())} of"
            f" {len(same.pair)} pairs, each by itself."
        )
    return tuple(found)


def _solved(scores: CultureTests) -> str:
    """Sentence on what the models solve."""
    clean, noisy = ([scores.accuracy(model, level) for model in scores.models] for level in scores.noise.tolist()[:2])
    rows = {
        task: np.array([scores.accuracy(model, float(scores.noise[0]), task=task).value for model in scores.models])
        for task in scores.tasks
    }
    best, worst = max(rows, key=lambda t: rows[t].min()), min(rows, key=lambda t: rows[t].min())
    ends = f"best at {best} ({_span(rows[best])}), worst at {worst} ({_span(rows[worst])})"
    if len(scores.models) == 1:
        return f"{scores.models[0]} solves {clean[0]} without noise and {noisy[0]} with it; {ends}."
    levels = (
        f"{_span(np.array([one.value for one in found]))} (lowest {min(found, key=lambda one: one.value).short()})"
        for found in (clean, noisy)
    )
    return (
        f"{len(scores.models)} models solve {' of quizzes without noise and '.join(levels)} with it"
        f" (n = {clean[0].n} each); {ends}."
    )


def _span(values: np.ndarray) -> str:
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"


def same_cell_heads(m: "Examination", threshold: float = 0.5) -> list[str]:
    """The heads that give more than `threshold` of their attention to one same-cell position, with the grid."""
    return [
        f"{head} ({name.split(', ')[1]})"
        for lag, name in zip(m.lags.lags, m.lags.names, strict=True)
        if name.startswith("same cell")
        for head in m.lags.lag_heads(lag, threshold)
    ]


def _scores_section(scores: CultureTests, curve: Sequence[Point]) -> Section:
    frame = scores.to_frame()
    shown = frame.loc[(frame["structure"] == "all") | (frame["task"] == "all"), list(frame.columns)]
    return Section(
        title="What is solved",
        text=(
            "Every quiz is drawn anew and asked in one of four orders; two of them ask for the grid before the rule was"
            " applied. An answer counts if all its cells are right.",
        ),
        parts=(
            Figure(scores.plot(), scores.caption()),
            Table(
                shown,
                "Share of quizzes solved, by structure and by task, beside the mean probability of a right sample"
                " (expected), what copying the third grid gets (copied) and what the best answer could (ceiling).",
                folded=True,
            ),
            *_curve_figure(curve),
        ),
    )


def _curve_figure(curve: Sequence[Point]) -> tuple[Figure, ...]:
    if not curve:
        return ()
    return (
        Figure(
            plot_curve(curve),
            "Learning curves: mean probability that a sampled answer is right, and share of greedy answers that are, on"
            " the same fresh quizzes at every evaluation, with noise. The learning rate falls to 0 at the end.",
        ),
    )


def _by_task(result: AblationResult, task_of: dict[str, list[int]], title: str, label: str) -> Axes:
    frame = result.grouped(task_of)
    tasks = [task for task in TASKS if task_of[task]]
    values = frame.pivot_table(index="component", columns="group", values="importance", sort=False)[tasks]
    return heatmap(values.to_numpy(), list(values.index), tasks, title=title, label=label, signed=True, x_label="task")


def _ablation_section(study: "Study") -> Section:
    parts: list[Figure | Table] = []
    for m in (*study.models, study.control):
        n = m.layers.n
        parts.append(
            Figure(
                _by_task(m.layers, m.task_of, f"{m.name}: layers set to zero (n = {n})", "log-probability lost (nats)"),
                f"Mean log-probability of the true answer's cells that {m.name} loses when one layer's attention or MLP"
                f" writes nothing, by task (n = {numbered(n, 'distinct quizzes')}; intervals in the table).",
            )
        )
        parts.append(
            Table(
                m.layers_exact.grouped({"all": range(n), **m.task_of}),
                f"{m.name}: share of quizzes solved greedily that is lost (95 % intervals over quizzes).",
                folded=True,
            )
        )
    return Section(
        title="Which layers each task needs",
        text=("Zero is far from anything a model has seen, so this bounds what a layer does from above.",),
        parts=tuple(parts),
    )


def _attention_section(study: "Study") -> Section:
    models = (*study.models, study.control)
    return Section(
        title="Heads that look at the same cell",
        text=(
            "Attention is measured from the token before each cell of the last grid, the position at which that cell is"
            " predicted. Where a head looks is not yet what it does: the next section takes such heads away.",
        ),
        parts=tuple(
            part
            for m in models
            for part in (
                Figure(m.lags.plot(), m.lags.caption()),
                Table(m.lags.to_frame(), f"{m.name}: attention by place, with its controls.", folded=True),
            )
        ),
    )


def _generation_section(m: "Examination") -> Section:
    g = m.generations
    solved = np.flatnonzero(g.right()[0])
    row = int(solved[0]) if len(solved) else 0
    conditions = [c for c in range(len(g.conditions)) if c == 0 or g.parted[c, row] >= 0][:6]
    texts, wrong = g.tokens[conditions, row], g.wrong[conditions, row]
    figure = plot_quizzes(
        texts, {"wrong": wrong}, titles=[f"{g.conditions[c]} ({m.shown_tasks[row]})" for c in conditions]
    )
    parts: list[Figure | Table] = [
        Figure(g.plot(), g.caption()),
        Figure(
            figure,
            f"One quiz ({m.shown_tasks[row]}), answered by {m.name} intact and with parts removed; crosses mark wrong"
            " cells. Parts whose removal changes nothing in this quiz are not drawn.",
        ),
        Table(g.to_frame(), "Share of quizzes right, mean number of wrong cells, share of answers changed."),
    ]
    parted = [c for c in conditions if c > 0]
    if parted:
        condition = g.conditions[parted[0]]
        parts.append(
            Figure(
                g.plot_logits(condition, row),
                f"Logits at the cell where the answer of this quiz first differs, intact and with {condition}. Both"
                " runs read the same text.",
            )
        )
    return Section(
        title="What is written without them",
        text=("Each answer is generated freely, cell by cell, each cell read back by the model that wrote it.",),
        parts=tuple(parts),
    )


def _probe_section(study: "Study") -> Section:
    parts = []
    for label, key in (("task", "task_probe"), ("direction of half_fill", "direction_probe")):
        for m in (*study.models, study.control):
            result = getattr(m, key)
            parts.append(
                Figure(
                    result.plot(excess=True),
                    f"{label}, {m.name}: balanced accuracy above the best of chance, the visible tokens themselves and"
                    f" the network untrained (n = {result.units.min()} or more distinct prefixes).",
                )
            )
    return Section(
        title="Where the latents can be read",
        text=(
            "Linear probes for the rule and its direction, at the end of the example pair and before the answer. That a"
            " latent can be read does not say that it is used.",
        ),
        parts=tuple(parts),
    )


def _patch_section(study: "Study") -> Section:
    parts, silent = [], []
    for m in (*study.models, study.control):
        for task, result in m.patches.items():
            axes = result.plot()
            axes.set_title(f"{m.name}, {task}: which grid carries {LATENTS[task]} (n = {result.n})")
            parts.append(Figure(axes, f"{task}: {result.caption()}"))
            parts.append(Table(result.to_frame(), f"{m.name}, {task}: recovered, with intervals.", folded=True))
        missing = [task for task in LATENTS if task not in m.patches]
        if missing:
            silent.append(f"{m.name} does not tell the latents of {', '.join(missing)} apart.")
    return Section(
        title="Which grid carries a latent",
        text=(
            "Two quizzes differ in one latent alone: the rule's direction, or the colour c3 that it adds. One grid's"
            " residual stream at a time is copied from one run into the other, and the first cell read at which the two"
            " answers differ, on pairs of which the model prefers both right answers. What f_A carries before the first"
            " layer, f_B (as far as it is written) has to carry before the last reads it.",
            *silent,
        ),
        parts=tuple(parts),
    )


def _overlap_section(study: "Study") -> tuple[Section, ...]:
    if study.similarity is None:
        return ()
    names = list(study.models[0].parts.component)
    series = {}
    for m in study.models:
        mean, low, high = mean_interval(m.parts.effect[:, 0])
        series[m.name] = (mean, low, high)
    return (
        Section(
            title="Do the models need the same parts?",
            text=(
                "The models share no initialisation, so head 2 of one is not head 2 of another: heads of a layer are"
                " matched by what their removal does to one half of the quizzes, and compared on the other.",
            ),
            parts=(
                Figure(
                    intervals(names, series, title="importance of parts", x_label="log-probability lost (nats)"),
                    f"Mean ablation of every head and MLP (n = {numbered(study.models[0].parts.n, 'quizzes')},"
                    " 95 % intervals).",
                ),
                Figure(study.similarity.plot(), study.similarity.caption()),
                Table(pd.DataFrame(study.similarity.to_frame()), "Overlap of the most important parts."),
            ),
        ),
    )
