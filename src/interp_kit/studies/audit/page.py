"""The audit as a page: which methods find which circuits, what they cost, and why those that fail do."""

import numpy as np
import pandas as pd

from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.audit.experiments import EXPERIMENTS, Experiment
from interp_kit.studies.audit.result import LEVELS, AuditResult

GOOD = 0.99


def sentences(result: AuditResult) -> tuple[str, ...]:
    """For each level, which methods find every circuit and which do not."""
    found = []
    for level in LEVELS:
        numbers = [i for i, name in enumerate(result.level) if name == level]
        good = [i for i in numbers if result.auroc[i].mean(-1).min() >= GOOD]
        poor = sorted((i for i in numbers if i not in good), key=lambda i: result.auroc[i].mean())
        words = "; ".join(result.method[i] for i in good) or "none"
        text = f"True {level} of all {len(result.circuit)} circuits found (AUROC at least {GOOD} on each): {words}."
        if poor:
            worst = [f"{result.method[i]} ({result.over_circuits(i)})" for i in poor]
            text += f" Not by {'; '.join(worst)}."
        found.append(text)
    levels = np.array(result.level)
    blind = {level: result.control[levels == level].mean(1) for level in LEVELS if (levels == level).any()}
    spans = "; ".join(f"{level} {scores.min():.2f} to {scores.max():.2f}" for level, scores in blind.items())
    found.append(
        f"On untrained models the same methods score, by method: {spans}. Above 0.5 lies what the place alone tells in"
        " any network, so a score must be held against its method's on untrained models, not against 0.5."
    )
    return tuple(found)


def experiment_table(experiments: list[Experiment]) -> pd.DataFrame:
    """One row per figure of each experiment."""
    return pd.DataFrame(
        [
            {"experiment": i, "figure": name, "value": round(value, 3), "as claimed": experiment.holds}
            for i, experiment in enumerate(experiments, start=1)
            for name, value in experiment.figures
        ]
    )


def page(result: AuditResult) -> Report:
    """The whole page; runs the experiments that explain failures."""
    experiments = [make() for make in EXPERIMENTS]
    kept = [f"{i}. {e.claim}" for i, e in enumerate(experiments, start=1) if e.holds]
    broken = [f"{i}. Not borne out: {e.claim}" for i, e in enumerate(experiments, start=1) if not e.holds]
    sections = (
        Section(
            "Which methods find the planted circuit?",
            (
                "The weights of the planted models were written by hand, and their true nodes and edges put down"
                " before any method ran; tests prove them by exhaustive intervention. The twins are networks trained"
                " to compute in the nodes of a planted one, three of each. Attribution and patching are given minimal"
                " pairs, probes all examples.",
            ),
            (
                Figure(result.plot(), result.caption()),
                Table(result.summary(), "Every method over all circuits; forwards: runs of the pairs, median."),
                Table(result.to_frame(), "Every method on every circuit, with intervals over bases.", folded=True),
            ),
        ),
        Section(
            "Why methods fail",
            (*kept, *broken),
            (Table(experiment_table(experiments), "The figures behind these sentences; left: share of the gap."),),
        ),
    )
    return Report("Which method to believe, and when", sentences(result), sections, {"audit": dict(result.config)})
