"""The audit on programs as a page: distributions per method, and what sets the failures apart."""

import numpy as np

from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.audit.programs.result import ALIKE, GOOD, ProgramsResult
from interp_kit.studies.audit.result import LEVELS


def sentences(result: ProgramsResult) -> tuple[str, ...]:
    """For each level, the methods by how often they fail."""
    frame = result.to_frame()
    found = []
    for level in LEVELS:
        rows = [row for row in frame.to_dict("records") if row["level"] == level]
        rows.sort(key=lambda row: row[f"below {GOOD}"])
        if not rows:
            continue
        words = "; ".join(
            f"{row['method']} {row[f'below {GOOD}']:.2f}"
            f" ({row[f'below {GOOD}, low']:.2f} to {row[f'below {GOOD}, high']:.2f})"
            for row in rows
        )
        found.append(
            f"True {level} of {len(result.cell)} programs: share of programs on which a method ranks below"
            f" {GOOD} (95 % over programs): {words}."
        )
    for level in LEVELS:
        together = result.groups(level)["parts that act only together"]
        exact = [
            i for i, name in enumerate(result.method) if "patching, " in name and result.level[i] == level
        ]  # fmt: skip
        if not exact:
            continue
        shares = []
        for chosen in (together, ~together):
            known = result.auroc[exact][:, np.flatnonzero(chosen)]
            known = known[np.isfinite(known)]
            shares.append(f"{(known < GOOD).mean():.2f} of {known.size} scores" if known.size else "no score")
        found.append(
            f"Exact patching of {level} fails where some true part moves nothing alone, as the plan predicts of"
            f" {together.sum()} programs: {shares[0]} below {GOOD} there, {shares[1]} elsewhere."
        )
    return tuple(found)


def page(result: ProgramsResult) -> Report:
    """The whole page."""
    trained = (
        f"{result.trained.shape[1]} networks were trained by interchange interventions to compute as a program does;"
        f" they follow it in {np.nanmin(result.follows):.2f} to {np.nanmax(result.follows):.2f} of the answers that an"
        f" interchange changes. The {result.alike.sum()} that follow at least {ALIKE:.0%} are judged: in the others the"
        " program's nodes are not the network's. Their true edges are those that path patching finds to carry more than"
        " 5 % of the gap."
        if result.trained.shape[1]
        else "No network was trained in this run."
    )
    sections = (
        Section(
            "Which methods find the circuits of random programs?",
            (
                "Boolean equations were drawn at random and compiled by five mechanisms, with and without LayerNorm and"
                " superposition. The truth is the compiler's plan, run on values instead of weights. DAS is not among"
                " the methods: it costs ten times all others together.",
                trained,
            ),
            (
                Figure(result.plot(), result.caption()),
                Table(result.summary(), "Every method over all programs, which are the independent units."),
            ),
        ),
        Section(
            "When methods fail",
            (
                "Groups overlap. A true part acts only together with others if the plan says that it moves at most 5 %"
                " of the gap alone, because a copy does the same.",
            ),
            (
                Table(result.causes(), f"Share of programs below {GOOD}, per group."),
                Table(result.failures(), "Every failure, with what is known of its program.", folded=True),
            ),
        ),
    )
    return Report(
        "Which method to believe: random programs", sentences(result), sections, {"audit": dict(result.config)}
    )
