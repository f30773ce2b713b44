"""The study of graph questions as a page: what each section shows, and the sentences of `words` that it supports."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.core.showing import numbered
from interp_kit.reports.plotting import heatmap, intervals
from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.graphs import words

if TYPE_CHECKING:
    from interp_kit.studies.graphs.study import Study


def page(study: "Study") -> Report:
    """The study as a Report."""
    return Report(
        title="Does a model compute on the way what another writes down?",
        findings=words.findings(study),
        sections=(
            _accuracy(study),
            _written(study),
            _chain(study),
            _readable(study),
            _kind(study),
            _parts(study),
            _features(study),
            _arms(study),
        ),
        configs={form: next(iter(one.importance.values())).config for form, one in study.inside.items()},
    )


def accuracy_figure(study: "Study", ax: Axes | None = None) -> Axes:
    """Accuracy by kind and depth on graphs never seen, one marker a model, beside both baselines."""
    frames = {form: words.cells(evaluation) for form, evaluation in study.evaluations.items()}
    first = next(iter(frames.values()))
    names = [f"{kind}, depth {depth}" for kind, depth in zip(first["kind"], first["depth"], strict=True)]
    series = {
        form: (frame["accuracy"].to_numpy(), frame["low"].to_numpy(), frame["high"].to_numpy())
        for form, frame in frames.items()
    }
    nowhere = np.full(len(first), np.nan)
    for column, name in (("own_rows", "Y's own rows"), ("majority", "majority answer")):
        series[name] = (first[column].to_numpy(), nowhere, nowhere)
    return intervals(
        names, series, ax=ax, title="Accuracy on graphs never seen", x_label="share of right answers",
        limits=(-0.02, 1.02),
    )  # fmt: skip


def _accuracy(study: "Study") -> Section:
    n = {form: int(words.cells(e)["n"].to_numpy().sum()) for form, e in study.evaluations.items()}
    classes = {form: int(words.cells(e)["classes"].to_numpy().max()) for form, e in study.evaluations.items()}
    caption = (
        f"Share of right answers to new questions (n = {n[words.DIRECT]} per model) on graphs of classes not seen in"
        f" training, with 95 % intervals over up to {classes[words.DIRECT]} classes. Trained on depths 0 to 2; depth 3"
        " is new. Baselines: the mean of Y's own table rows that agree with x (always right at depth 0 of do), and the"
        " commonest answer."
    )
    every = pd.concat([e.to_frame().assign(model=e.model) for e in study.evaluations.values()], ignore_index=True)
    text = (
        *(words.ahead(study, form) for form in study.evaluations),
        words.against(study),
        *(words.deeper(study, form) for form in study.evaluations),
        *(words.unseen(study, form) for form in study.evaluations),
        "Many answers are P(Y = 1) with nothing given, whatever X is; the column moved counts only the questions whose"
        " answer is another.",
    )
    parts = (Figure(accuracy_figure(study), caption), Table(every, "Every kind, depth and split", folded=True))
    return Section("What they get right", text, parts)


def _written(study: "Study") -> Section:
    o = study.overwritten
    rows = [
        {"share of": what, "value": e.value, "low": e.low, "high": e.high, "classes": e.n}
        for what, e in (
            ("answers that follow from the swapped factor", o.follows),
            ("answers that stay as they were", o.keeps),
            ("right answers without the swap", o.untouched),
            ("whole remainders that follow from the swapped factor", o.again),
        )
    ]
    text = (
        "A right trace is cut after one of its factors, two entries of that factor are swapped so that the answer"
        " changes, and the model goes on writing.",
        words.follows(study),
    )
    return Section(
        "Does the trace model use its trace?",
        text,
        (Table(pd.DataFrame(rows), "Traces with two entries swapped, 95 % intervals over classes."),),
    )


def _chain(study: "Study") -> Section:
    parts: list[Figure | Table] = []
    for one in study.inside.values():
        parts += [Figure(r.plot(), r.caption()) for r in one.exchanged.values()]
        parts += [Table(r.to_frame(), f"{one.model}, {mediator}", folded=True) for mediator, r in one.exchanged.items()]
    text = (
        "On the chain b, d, a, c with the question do b ? c, elimination computes P(d), then P(a), then the answer. If"
        " a place of the network holds P(d), copying it from another question must give the answer of do(P(d)).",
        "For the trace model, whose text holds its own later steps, the next factor is asked for, not the answer.",
        *(sentence for one in study.inside.values() for sentence in words.carried(one)),
    )
    return Section("Are the steps used inside?", text, tuple(parts))


def _readable(study: "Study") -> Section:
    parts: list[Figure | Table] = []
    for one in study.inside.values():
        for label in one.probes.labels:
            parts.append(Figure(one.probes.plot(label=label, excess=True), one.probes.caption(label, excess=True)))
        parts.append(Table(one.probes.to_frame(), f"Every probe of {one.model}", folded=True))
    text = (
        "Linear probes for the steps of the chain where the question stands, before anything is written. An excess of 0"
        " says that the tokens, or an untrained network, give the same.",
        *(words.readable(one) for one in study.inside.values()),
    )
    return Section("Are the steps readable?", text, tuple(parts))


def _kind(study: "Study") -> Section:
    found = study.inside[words.DIRECT].kind
    if found is None:
        text = ("Too few pairs of do() and see() prompts are solved on both sides, so none are patched.",)
        return Section("What tells do() from see()?", text, ())
    parts = (Figure(found.plot(), found.caption()), Table(found.to_frame(), "Every patch", folded=True))
    text = (
        "Two prompts that differ in the token do or see alone, whose answers differ: copying one place of the residual"
        " stream shows where that difference stands on its way to the answer.",
    )
    return Section("What tells do() from see()?", text, parts)


def _parts(study: "Study") -> Section:
    parts: list[Figure | Table] = []
    for one in study.inside.values():
        names = list(one.importance)
        effect = np.stack([found.importance() for found in one.importance.values()], axis=1)
        first = next(iter(one.importance.values()))
        axes = heatmap(
            effect, first.component, names, signed=True, label="loss of log probability, nats",
            title=f"What each part is worth, {one.model}",
        )  # fmt: skip
        parts.append(
            Figure(
                axes,
                f"Mean ablation of every head and MLP of {one.model} by kind and depth (n ="
                f" {numbered(first.n, 'questions')} each):"
                " what the right completion's log-probability loses.",
            )
        )
        every = [found.to_frame().assign(cell=cell) for cell, found in one.importance.items()]
        parts.append(Table(pd.concat(every, ignore_index=True), f"Every part of {one.model}", folded=True))
    text = (
        "Other questions of the same kind and depth are the yardstick: no two kinds can share more.",
        *(words.parts_shared(one) for one in study.inside.values()),
    )
    return Section("Which parts matter, by kind and depth", text, tuple(parts))


def _features(study: "Study") -> Section:
    rows, parts = [], []
    for one in study.inside.values():
        shift = one.features
        parts.append(Figure(shift.sae.plot(), f"{one.model}. {shift.sae.caption()}"))
        for cell, count in shift.differing.items():
            rows.append({
                "model": one.model, "questions": cell, "features that differ from do, depth 2": count,
                "of them on one side only": shift.only[cell], "active features": shift.alive, "n": shift.n,
            })  # fmt: skip
    parts.append(
        Table(pd.DataFrame(rows), "Features whose share of questions differs from that of do questions of depth 2"
              " (Fisher's test, false discovery rate .05); other questions of that cell are the control")
    )  # fmt: skip
    text = ("Sparse features of the residual stream after the second layer, of one autoencoder for all questions.",)
    return Section("Features of one kind of question, or of all", text, tuple(parts))


def _arms(study: "Study") -> Section:
    text = (
        "From the direct model, cross-entropy of the right answer, or policy gradients with the strict or the soft"
        " reward, on the same prompts in the same order and at the same rates.",
        words.arms_said(study),
    )
    frame = words.arms_gain(study)
    return Section("Other objectives", text, () if frame.empty else (Table(frame, "Gain over the start"),))
