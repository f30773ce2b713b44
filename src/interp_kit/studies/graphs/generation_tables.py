"""Generations as tables in Markdown and LaTeX, as text for the terminal, and as a page."""

from typing import Any

import pandas as pd

from interp_kit.reports.plotting import COLOURS, intervals, new_axes, say_start
from interp_kit.reports.report import Figure, Report, Section, Table
from interp_kit.studies.graphs.generations import ALL, Generations
from interp_kit.tasks.graphs.questions.verifier import THRESHOLDS

SCORED = (
    "Share of answers within a TVD (total variation distance) of 0.01 from the right one, with 95 % intervals over"
    " graphs"
)
TESTED = (
    "the best of a {of}, and those not significantly different from it (paired sign-flip permutation test by graph,"
    " two-sided, 9,999 resamples, Holm-corrected within the {of}, p > .05)."
)
CAPTION = f"{SCORED}. Bold: {TESTED.format(of='column')}"
DEPTHS = "by depth d: edges from the farthest ancestor to the target, one less if it is intervened on"
SHOWN = {
    "system": "system", "id": "id", "formal": "question", "answer": "right answer", "error": "first error",
    "line": "in line", "text": "text",
}  # fmt: skip
_LATEX = str.maketrans({
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
})  # fmt: skip


def markdown(found: Generations) -> str:
    """Accuracy by system and bucket, for Markdown."""
    lines = [["system", *found.buckets], ["---"] * (1 + len(found.buckets))]
    for system, cells in _cells(found):
        texts = [f"**{text}**" if bold else text for text, bold in cells]
        lines.append([" ".join(system.split()).replace("|", r"\|"), *texts])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(found: Generations) -> str:
    """The same for LaTeX, with booktabs."""
    lines = [" & ".join(["system", *found.buckets]) + r" \\", r"\midrule"]
    for system, cells in _cells(found):
        texts = [rf"\textbf{{{text}}}" if bold else text for text, bold in cells]
        lines.append(" & ".join([" ".join(system.split()).translate(_LATEX), *texts]) + r" \\")
    body = "\n".join(lines)
    return (
        rf"\begin{{tabular}}{{l{'r' * len(found.buckets)}}}" + f"\n\\toprule\n{body}\n" + r"\bottomrule"
        "\n" + r"\end{tabular}"
    )


def _cells(found: Generations) -> list[tuple[str, list[tuple[str, bool]]]]:
    bold = {bucket: found.bold(bucket) for bucket in found.buckets}
    table = []
    for system in found.systems:
        shares = [(found.accuracy(system, bucket), system in bold[bucket]) for bucket in found.buckets]
        table.append((system, [(one.short() if one else "–", best) for one, best in shares]))
    return table


def curves(found: Generations, every: int = 1) -> pd.DataFrame:
    """Accuracy at each threshold of TVD, one column per system."""
    at = list(range(0, len(THRESHOLDS), every))
    columns = {system: [found.curves[system][i] for i in at] for system in found.systems}
    return pd.DataFrame({"threshold": [float(THRESHOLDS[i]) for i in at], **columns})


def text(found: Generations, examples: int = 2, seed: int = 0) -> str:
    """Tables and examples for a terminal."""
    parts = ["Accuracy", markdown(found), CAPTION, latex(found)]
    for title, frame in (
        ("Accuracy by threshold of TVD", curves(found, 9)),
        ("First error of each trace (share of generations)", found.errors()),
        ("Strategies", found.strategies()),
        ("Questions by difficulty", found.difficulty()),
    ):
        parts.append(f"\n{title}\n{frame.to_string(index=False, float_format=lambda v: f'{v:.3f}')}")
    for row in found.examples(examples, seed).to_dict("records"):
        where = "" if pd.isna(row["line"]) else f", line {row['line']}: {row['where']}"
        head = f"Example of {row['system']}: {row['id']}, {row['formal']}, right answer {row['answer']}"
        parts.append(f"\n{head}\n{_named(row)}{where}\n{row['text'][:2000]}")
    return "\n".join(parts)


def _named(row: dict[str, Any]) -> str:
    return f"{row['name']}{': ' + row['kind'] if row['kind'] else ''}"


def page(found: Generations, examples: int = 2, seed: int = 0) -> Report:
    """The page: accuracy, curves, errors, difficulty, examples."""
    frame = found.accuracies()
    series = {}
    for system in found.systems:
        own = frame[frame["system"] == system].set_index("bucket").reindex(found.buckets)
        series[system] = (own["accuracy"].to_numpy(), own["low"].to_numpy(), own["high"].to_numpy())
    first = intervals(found.buckets, series, x_label="share of right answers", limits=(-0.02, 1.02))
    axes = new_axes()
    for i, system in enumerate(found.systems):
        axes.plot([float(t) for t in THRESHOLDS], found.curves[system], color=COLOURS[i % len(COLOURS)], label=system)
    axes.set(xlabel="TVD from the right answer that still counts as right", ylabel="share of right answers")
    say_start(axes, "y")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    counts = found.difficulty().set_index("bucket")
    bars = counts.plot.bar(stacked=True, ax=new_axes(), rot=0, color=list(COLOURS[: len(counts.columns)]))
    bars.set(xlabel="depth of ancestors", ylabel="questions")
    shown = found.examples(examples, seed)
    shown["error"] = [_named(row) for row in shown.to_dict("records")]
    drawn = pd.DataFrame({name: shown[column] for column, name in SHOWN.items()})
    sections = (
        Section("Accuracy by difficulty", (), (
            Figure(first, f"{SCORED}, {DEPTHS} ({ALL}: every depth)."),
            Table(frame, f"The same as numbers; n: questions. Bold: {TESTED.format(of='bucket')}"),
        )),
        Section("Accuracy by threshold", (), (
            Figure(axes, "Share of answers within each of 100 thresholds of TVD (total variation distance)."),
        )),
        Section("Where traces err", (
            "Terms are looked up by exact inference on the printed model; formulas are tested as identities on the same"
            " graph with other random tables. A wrong answer without a located error is: cannot tell.",
        ), (
            Table(found.errors(), "The first error of each trace, as a share of a system's generations."),
            Table(found.strategies(), "How answers were sought."),
        )),
        Section("Questions", (), (Figure(bars, f"Questions by level and {DEPTHS}. Each counts once."),)),
        Section("Examples", (), (
            Table(drawn, "Generations drawn at random, and where their traces first err."),
        )),
    )  # fmt: skip
    findings = tuple(f"Of the answers of {s}, {found.accuracy(s, ALL)} are right." for s in found.systems)
    return Report("Generations on causal-graph questions", findings, sections, {"n": len(found.rows)})
