"""The boolean study as a page: what each section shows, and the sentences of `boolean_words` that it supports."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.causal.routes import ROUTES
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import scope
from interp_kit.reports.links import Link, links
from interp_kit.reports.plotting import intervals
from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.boolean.adapting import section
from interp_kit.studies.boolean.words import (
    alike,
    findings,
    mlps_against_heads,
    of,
    path_taken,
    readable,
    solves,
    solving,
)

if TYPE_CHECKING:
    from interp_kit.studies.boolean.study import Examination, Study


def _brief(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.filter(["omitted", "value", "low", "high", "n", "unit", "lookup", "majority"])


def routes_figure(examined: Sequence["Examination"], ax: Axes | None = None) -> Axes:
    """Path patching by route, one line per model; empty for one that does not solve newD, and so has no difference."""
    series = {
        route: tuple(
            np.array([getattr(m.mechanism, key)[i] if solves(m) else np.nan for m in examined])
            for key in ("route", "route_low", "route_high")
        )
        for i, route in enumerate(ROUTES)
    }
    title = "How newB (or D) reaches newD"
    return intervals(
        [m.name if solves(m) else f"{m.name}: not solved" for m in examined],
        {name: (values[0], values[1], values[2]) for name, values in series.items()},
        ax=ax,
        title=title,
        x_label="share of newD's logit difference that comes back along the route",
        limits=(-0.3, 1.3),
    )


def conflict_figure(examined: Sequence["Examination"], ax: Axes | None = None) -> Axes:
    """Conflict prompts, one line per model."""
    series = {}
    for name, key in (("only the newB token flipped", "token_flips"), ("only D flipped", "cause_flips")):
        estimates = [getattr(m.mechanism, key) for m in examined]
        series[name] = tuple(np.array([getattr(e, part) for e in estimates]) for part in ("value", "low", "high"))
    return intervals(
        [m.name for m in examined],
        series,
        ax=ax,
        title="Conflict prompts",
        x_label="share of inputs with A = 0 in which newD flips",
        limits=(-0.05, 1.05),
    )


def route_table(examined: Sequence["Examination"]) -> pd.DataFrame:
    """One row per model: what each experiment says, and the verdict."""
    rows = []
    for m in examined:
        r = m.mechanism
        row: dict[str, object] = {"model": m.name, "newD right on correct texts": r.solved.value}
        row |= dict(zip(ROUTES, r.route.tolist(), strict=True))
        row |= {
            "newB token flips newD": of(r.token_flips),
            "D flips newD": of(r.cause_flips),
            "free-running flip": float(r.free_target[-1]),
            "latent flip, token held": float(r.latent_target.max(initial=-np.inf, where=~np.isnan(r.latent_target)))
            if r.config["units"]
            else float("nan"),
            "n pairs": r.config["units"],
            "verdict": r.verdict,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _span(counts: Sequence[int]) -> str:
    """One number, or the least to the largest."""
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def write_report(study: "Study", path: str | Path, playground: Path | None = None) -> Path:
    """The study as a page at PATH (.html), with Markdown and figures beside it. playground: a page of the first model,
    which the findings link to."""
    return page(study, lambda found: () if playground is None else links(found, playground, path)).write(path)


def page(study: "Study", tries: Callable[[AbstractResult], tuple[Link, ...]] = lambda found: ()) -> Report:
    """The study as a Report. tries: the links of a result."""
    sections = (
        _task_section(study),
        _path_section(study),
        _probe_section(study),
        _patch_section(study),
        _alike_section(study, tries),
    )
    first = study.models[0].lesion
    sections = (*sections, *section(study, () if first is None else tries(first)), *_sae_section(study))
    configs = {
        m.name: {
            "mechanism": m.mechanism.config,
            **{
                key: getattr(m, key).config
                for key in ("probe", "ablation", "denoise", "lesion")
                if getattr(m, key) is not None
            },
        }
        for m in (*study.models, *study.yardsticks)
    }
    return Report(
        title="How a small transformer computes five structural equations",
        findings=findings(study),
        sections=sections,
        configs=configs,
    )


def _task_section(study: "Study") -> Section:
    text = (
        "The model reads five bits A to E and writes newA = A xor C, newB = not D, newC = B and E, newD = A or newB,"
        " then the two sums. newD depends on another output: does the model compute newB on the way to it? There are"
        " only 32 inputs,"
        " so a model can be right on all of them by memory alone; inputs left out of training say more.",
        solving(study),
    )
    parts: list[Figure | Table] = []
    if study.held_out is not None:
        parts += [
            Figure(study.held_out.plot(), study.held_out.caption()),
            Table(
                _brief(study.held_out.to_frame()),
                "Exact match on inputs never trained on, mean over omission sets: other networks than the seeds",
            ),
        ]
    frames = [m.evaluation.to_frame().assign(model=m.name) for m in (*study.models, *study.yardsticks)]
    parts.append(Table(pd.concat(frames), "Accuracy of every model, by field, with both baselines", folded=True))
    return Section("The task, and whether it is solved", text, tuple(parts))


def _path_section(study: "Study") -> Section:
    everyone = (*study.models, *study.yardsticks)
    units = [m.mechanism.config["units"] for m in everyone if solves(m)] or [0]
    worlds = [m.mechanism.token_flips.n for m in everyone]
    yardsticks = ", ".join(f"{m.name}: {m.mechanism.verdict}" for m in study.yardsticks)
    text = (
        "newB is 1 - D on every input, so no probe can tell a model that computed newB from one that still carries D."
        " The paths can: newD may read the newB token that the model wrote (via token), D's own token (direct), or"
        " the place where newB"
        " was about to be predicted (latent).",
        path_taken(study),
        *((f"The yardsticks, whose mechanism is known, come out as: {yardsticks}.",) if yardsticks else ()),
    )
    routes = Figure(
        routes_figure(everyone),
        "Path patching by sender: newD's prediction alone reads the keys and values of one group of positions from"
        f" the other world (n = {numbered(_span(units), 'pairs')} of worlds that differ in D alone, A = 0, each"
        " taken both ways"
        f"{scope(study.models[0].mechanism.config)}; 95 % intervals over pairs). 0: nothing"
        " comes back, 1: all of it. The planted models are positive controls. A model that does not solve newD, as the"
        " untrained one, has no difference that could come back: its line is empty, and it is named by no route.",
    )
    conflict = Figure(
        conflict_figure(everyone),
        "Prompts that no input produces: the newB token from one input, D from the other (n ="
        f" {numbered(_span(worlds), 'inputs')} with A = 0, where newB decides newD, by model: those in which the"
        " right newD is the likelier of its two"
        " values; Wilson intervals). A model that ignores both flips in none, and so may one that never"
        " learned.",
    )
    table = Table(
        route_table(everyone),
        "By model: share of the 32 correct texts on which newD is right, all before it being given (in the table of"
        " accuracies the model writes all of it itself); path patching by route, empty where no pair is solved;"
        " conflict prompts, in how many of the inputs with A = 0 newD flips; share of newD answers that"
        " flip when only the emitted newB is edited and the model runs on"
        " freely; the largest recovery of newD when the residual stream at newB's prediction is patched with the newB"
        " token held.",
    )
    return Section("By which path newD is computed", text, (routes, conflict, table))


def _probe_section(study: "Study") -> Section:
    result = study.readability
    text = (
        readable(study),
        "A cell counts only where the variable is determined by what is visible and is not yet written. The cell is"
        f" chosen on {len(result.config['chosen_on'])} seeds, reported on {len(result.config['reported_on'])} others."
        " “Computed” needs a margin above chance, visible tokens, an untrained network and unasked functions, and a"
        " score that passes the permutation maximum over all cells.",
    )
    shown = study.models[-1].probe
    assert shown is not None
    parts: list[Figure | Table] = [
        Figure(result.plot(), result.caption()),
        Table(result.to_frame(), "The chosen cells"),
        Figure(shown.plot(label="newB", excess=True), shown.caption("newB", excess=True)),
        Figure(shown.plot(label="newA", excess=True), shown.caption("newA", excess=True)),
        Table(shown.to_frame(), f"Every probe of {study.models[-1].name}", folded=True),
    ]
    return Section("Where variables are readable", text, tuple(parts))


def _patch_section(study: "Study") -> Section:
    first = study.models[0]
    if first.denoise is None or first.noise is None:
        return Section(
            "Where the difference travels", (f"{first.name} does not solve newD, so there is nothing to patch.",)
        )
    text = (
        "Copying the residual stream of one layer and position from one world into the other shows where the difference"
        f" between them lives on its way from D to newD, here in {first.name}, the first of the seeds. It is not a test"
        " of newB: D and newB differ together in every pair.",
    )
    parts = [
        Figure(first.denoise.plot(), first.denoise.caption()),
        Figure(first.noise.plot(), first.noise.caption()),
        Table(first.denoise.to_frame(), f"Every patch of {first.name}", folded=True),
    ]
    return Section("Where the difference travels", text, tuple(parts))


def _alike_section(study: "Study", tries: Callable[[AbstractResult], tuple[Link, ...]]) -> Section:
    first = study.models[0].ablation
    assert first is not None
    text = (
        alike(study),
        "Heads of models that were initialised independently have no common numbering, so they are matched by their"
        " effects on half of the inputs and compared on the other half.",
        mlps_against_heads(study),
    )
    parts = [
        Figure(first.plot(), first.caption()),
        Table(first.to_frame(), f"Every component of {study.models[0].name}", folded=True),
        Figure(study.head_similarity.plot(), study.head_similarity.caption()),
        Table(study.head_similarity.to_frame(), "Heads: every pair", folded=True),
        Table(study.similarity.to_frame(), "Heads and MLPs: every pair", folded=True),
    ]
    return Section("How alike the seeds are", text, tuple(parts), tries(first))


def _sae_section(study: "Study") -> tuple[Section, ...]:
    if study.sae is None:
        return ()
    text = (
        f"A sparse autoencoder at {study.sae.hook} of {study.models[0].name}, measured on inputs that it was not"
        f" trained on, beside a PCA of as many directions. It saw {study.sae.distinct_vectors} distinct activations,"
        " so its features may memorise them: this is a check of the tool, not evidence about the model.",
        *study.sae.notes,
    )
    parts = (Figure(study.sae.plot(), study.sae.caption()), Table(study.sae.to_frame(), "Every figure", folded=True))
    return (Section("Sparse features", text, parts),)
