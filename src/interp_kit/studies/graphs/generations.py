"""Generations of any systems on causal-graph questions: accuracy by difficulty, and where their traces err.

All intervals and tests are over graphs, on which the questions of one graph depend together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp_kit.core.showing import PROGRESS, bar
from interp_kit.core.stats.chance import holm, sign_flip
from interp_kit.core.stats.intervals import Estimate, clustered_mean
from interp_kit.tasks.graphs.questions import verifier
from interp_kit.tasks.graphs.questions.difficulty import BUCKETS
from interp_kit.tasks.graphs.traces.analysis import CLASSES, KINDS, Analyst, Judge, question_of

UNIT = "graphs"
ALL = "all"
LEVEL = 0.05  # Of the test that decides what is bold.


@dataclass(frozen=True)
class Generations:
    """Scored and analysed generations.

    Attributes:
        rows: One per generation: id, system, text, formal, answer, graph (the independent unit), level, bucket, parsed,
            correct, tvd (1 without an answer), name, kind, line, segment, where (of the first error), strategy, cut,
            judged.
        curves: System -> accuracy at each of the verifier's THRESHOLDS.
    """

    rows: pd.DataFrame
    curves: Mapping[str, Sequence[float]]

    @property
    def systems(self) -> list[str]:
        """The systems, in alphabetical order."""
        return sorted(self.rows["system"].unique())

    @property
    def buckets(self) -> list[str]:
        """The difficulty buckets that have questions, and all of them together."""
        return [*(b for b in BUCKETS if b in set(self.rows["bucket"])), ALL]

    def _cell(self, system: str, bucket: str) -> pd.DataFrame:
        here = self.rows["system"] == system
        return pd.DataFrame(self.rows[here if bucket == ALL else here & (self.rows["bucket"] == bucket)])

    def accuracy(self, system: str, bucket: str = ALL) -> Estimate | None:
        """The share of right answers; None without questions."""
        here = self._cell(system, bucket)
        return (
            None
            if here.empty
            else clustered_mean(here["correct"].to_numpy(), here["graph"].to_numpy(), UNIT, (0.0, 1.0))
        )

    def p_values(self, bucket: str = ALL) -> dict[str, float]:
        """Each system against the best one of a bucket: `sign_flip` over the graphs of the questions that both
        answered, corrected by `holm` for the systems of the bucket; nan without common questions, 1 for the best."""
        shares = {s: one.value for s in self.systems if (one := self.accuracy(s, bucket)) is not None}
        if not shares:
            return {}
        best = max(shares, key=shares.__getitem__)
        others, found = [s for s in shares if s != best], []
        top = self._cell(best, bucket).set_index("id")
        for system in others:
            both = top.join(self._cell(system, bucket).set_index("id")[["correct"]], rsuffix="_other", how="inner")
            difference = (both["correct"].astype(float) - both["correct_other"]).to_numpy()
            found.append(sign_flip(difference, both["graph"].to_numpy()) if len(both) else float("nan"))
        return {best: 1.0, **dict(zip(others, holm(found), strict=True))}

    def bold(self, bucket: str = ALL) -> set[str]:
        """The best system of a bucket, and those that do not differ from it significantly."""
        return {system for system, p in self.p_values(bucket).items() if p > LEVEL}

    def accuracies(self) -> pd.DataFrame:
        """One row per system and bucket: accuracy with its interval, p against the best, bold, questions, graphs."""
        rows = []
        for bucket in self.buckets:
            p = self.p_values(bucket)
            for system in self.systems:
                one = self.accuracy(system, bucket)
                if one is not None:
                    rows.append({
                        "system": system, "bucket": bucket, "accuracy": one.value, "low": one.low, "high": one.high,
                        "p": p[system], "bold": p[system] > LEVEL, "n": len(self._cell(system, bucket)),
                        "graphs": one.n,
                    })  # fmt: skip
        return pd.DataFrame(rows)

    def errors(self) -> pd.DataFrame:
        """One row per system and class of error that occurs: share of generations with its interval over graphs."""
        label = self.rows["name"] + self.rows["kind"].map(lambda kind: f": {kind}" if kind else "")
        order = [c for name in CLASSES for c in ([f"{name}: {k}" for k in KINDS] if name == "formula" else [name])]
        rows = []
        for system in self.systems:
            here = (self.rows["system"] == system).to_numpy()
            graph, correct = self.rows["graph"].to_numpy()[here], self.rows["correct"].to_numpy(dtype=bool)[here]
            for name in order:
                hit = np.array([found == name for found in label])[here]
                if hit.any():
                    one = clustered_mean(hit, graph, UNIT, (0.0, 1.0))
                    rows.append({
                        "system": system, "class": name, "share": one.value, "low": one.low, "high": one.high,
                        "share of right answers": float(hit[correct].mean()) if correct.any() else None,
                        "n": int(hit.sum()),
                    })  # fmt: skip
        return pd.DataFrame(rows)

    def strategies(self) -> pd.DataFrame:
        """One row per system and strategy: share of generations, and accuracy among them."""
        found = self.rows.groupby(["system", "strategy"], sort=True)["correct"].agg(["size", "mean"]).reset_index()
        total = found.groupby("system")["size"].transform("sum")
        shares = {"share": found["size"] / total, "accuracy": found["mean"], "n": found["size"]}
        return found[["system", "strategy"]].assign(**shares)

    def difficulty(self) -> pd.DataFrame:
        """Questions by bucket (rows) and level (columns), each question once."""
        once = self.rows.drop_duplicates("id")
        return pd.crosstab(once["bucket"], once["level"]).rename_axis(columns=None).reset_index()

    def examples(self, n: int = 2, seed: int = 0) -> pd.DataFrame:
        """Random generations, at most n per system."""
        rng = np.random.default_rng(seed)
        picked = []
        for system in self.systems:
            here = self._cell(system, ALL).sort_values("id")
            picked.append(here.iloc[np.sort(rng.choice(len(here), min(n, len(here)), replace=False))])
        return pd.concat(picked, ignore_index=True)


def analyse_generations(
    generations: Sequence[Mapping[str, str]],
    questions: Mapping[str, Mapping[str, Any]],
    *,
    judge: Judge | None = None,
    progress: bool = PROGRESS,
) -> Generations:
    """Score generations, and find where their traces err.

    Args:
        generations: Rows with id, system and text, as `read_generations` gives.
        questions: Id -> row, as `read_questions` gives.
        judge: Called with each question and text; what it says stands in the column `judged`, and decides nothing.
        progress: Whether to show a bar.

    Raises:
        ValueError: for no generations, and ids that are not among the questions.
    """
    if not generations:
        raise ValueError("there are no generations: expected one or more")
    unknown = [g["id"] for g in generations if g["id"] not in questions]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(generations)} generations are of unknown questions, as {unknown[0]!r}: expected"
            f" ids of the questions' file, as {next(iter(questions), 'none')!r}"
        )
    analysts: dict[str, Analyst] = {}
    rows, distances = [], {}
    with bar(len(generations), "generations", progress) as shown:
        for one in sorted(generations, key=lambda g: (g["system"], g["id"])):
            row = questions[one["id"]]
            model, question = question_of(row)
            if row["tables"] not in analysts:
                analysts[row["tables"]] = Analyst(model)
            found = analysts[row["tables"]].analyse(question, row["answer"], one["text"], judge)
            scored = verifier.score(one["text"], row["answer"])
            distances.setdefault(one["system"], []).append(
                verifier.distance(verifier.parse(one["text"]), row["answer"])
            )
            first = found.errors[0] if found.errors else None
            rows.append({
                **one, "formal": row["formal"], "answer": row["answer"], "level": row["level"],
                "graph": json.dumps([row["split"], row["graph"], row["tables"]]), "bucket": row["depth_bucket"],
                "parsed": bool(scored.parsed), "correct": bool(scored.correct), "tvd": scored.tvd,
                "name": found.name, "kind": found.kind, "line": first.line if first else None,
                "segment": first.segment if first else None, "where": first.text if first else "",
                "strategy": found.strategy, "cut": found.cut, "judged": found.judged,
            })  # fmt: skip
            shown.update()
    frame = pd.DataFrame(rows).astype({"line": "Int64", "segment": "Int64"})
    frame["graph"] = pd.factorize(frame["graph"])[0]
    return Generations(frame, {system: verifier.accuracies(own) for system, own in distances.items()})
