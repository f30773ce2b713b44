"""Readability of a variable beyond copying: probes of several seeds, the cell chosen on some, reported on the
others.

The best of hundreds of cells looks good by chance, so the seeds that choose are not the seeds that report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from interp_kit.analysis.probing.labels import MEASURED
from interp_kit.analysis.probing.probe_result import MARGIN, ProbeResult
from interp_kit.core.config import check_names, expect, listed
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, mean_estimate
from interp_kit.core.stats.told import CHANCE, most
from interp_kit.reports.plotting import intervals


@dataclass(frozen=True, kw_only=True)
class ReadabilityResult(AbstractResult):
    """For each label the chosen cell, and what the reporting seeds show there.

    cell, position: the choice; score, margin: (estimates over reporting seeds) the score, and the score minus the best
    baseline of the same seed; raw: the probe on visible tokens there; verdict: "computed" where every reporting seed
    passes the max-statistic and the margin surely exceeds MARGIN: by Student's t over reporting seeds, and by the
    margin's interval where four seeds or more give one; "visible" where a probe on the visible tokens does as well or
    better; else "not shown".
    """

    labels: tuple[str, ...]
    cell: tuple[str, ...]
    position: tuple[str, ...]
    score: tuple[Estimate, ...]
    margin: tuple[Estimate, ...]
    raw: np.ndarray
    baseline: np.ndarray
    verdict: tuple[str, ...]
    config: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row per label."""
        return pd.DataFrame(
            {
                "label": self.labels,
                "cell": self.cell,
                "position": self.position,
                "score": [e.value for e in self.score],
                "low": [e.low for e in self.score],
                "high": [e.high for e in self.score],
                "raw_tokens": self.raw,
                "best_baseline": self.baseline,
                "margin": [e.value for e in self.margin],
                "margin_low": [e.low for e in self.margin],
                "margin_high": [e.high for e in self.margin],
                "verdict": self.verdict,
                "n": [e.n for e in self.score],
            }
        )

    def caption(self) -> str:
        """See AbstractResult."""
        n = self.score[0].n
        interval = any(np.isfinite(e.low) for e in (*self.score, *self.margin))
        over = (
            f"mean and 95 % interval over n = {numbered(n, 'seeds')}"
            if interval
            else f"mean over n = {numbered(n, 'seeds')}"
        )
        why = (
            ""
            if interval
            else f" No interval: {numbered(n, 'seeds')} {'is' if n == 1 else 'are'} too few for one, or do not differ."
        )
        return (
            f"Probe score at the cell chosen on {numbered(len(self.config['chosen_on']), 'other seeds')}, {over},"
            " beside a probe on the visible raw tokens and the best baseline."
            " Verdicts: computed, above every baseline; visible, a probe on the tokens so far does as well or better."
            + why
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: one sentence per label, by its verdict.

        "Computed in part": less than half of the way from the best baseline to 1, by the lower end of the interval.
        """
        found = []
        for i, (label, verdict) in enumerate(zip(self.labels, self.verdict, strict=True)):
            where = (
                f"{self.cell[i]}, {self.position[i]}; n ="
                f" {numbered(self.score[i].n, 'networks')} that did not choose the cell"
            )
            base = float(self.baseline[i])
            beside = f"{self.score[i].short()}, beside {self.baseline[i]:.2f} for the best baseline ({where})"
            if verdict == "computed":
                far = most((self.score[i].low - base) / (1 - base), (self.score[i].value - base) / (1 - base))
                how = "is computed: a probe reads it" if far else "is computed in part: a probe reads some of it"
                found.append(f"{label} {how} with {beside}.")
            elif verdict == "visible":
                found.append(f"{label} is visible, not computed: the tokens so far give {self.raw[i]:.2f}, {beside}.")
            else:
                found.append(f"{label} is not shown to be computed, as it {CHANCE} or the baselines: {beside}.")
        return tuple(found)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Score at the chosen cell beside the visible tokens and the best baseline."""
        names = [f"{label} ({c}, {p})" for label, c, p in zip(self.labels, self.cell, self.position, strict=True)]
        nan = np.full(len(names), np.nan)
        score = tuple(np.array([getattr(e, key) for e in self.score]) for key in ("value", "low", "high"))
        series = {"probe": score, "visible tokens": (self.raw, nan, nan), "best baseline": (self.baseline, nan, nan)}
        title = f"Held-out probe score at the chosen cell (n = {numbered(self.score[0].n, 'seeds')})"
        return intervals(
            names, series, ax=ax, title=title, x_label="balanced accuracy, or R² of sums", limits=(-0.05, 1.05)
        )


def readability(results: Sequence[ProbeResult], labels: Sequence[str] | None = None) -> ReadabilityResult:
    """Choose each label's cell on some of `results` (one per seed) and report it on the others.

    Only cells count where the label is determined by the visible text and does not yet stand in it; of these, where
    there are any, the ones that pass the max-statistic on every choosing seed. The largest mean margin over the best
    baseline is chosen; ties go to the most distinct prefixes, then to the last position before the label is written,
    where it is needed, then to the earliest layer. The first half of the results (rounded down) choose.

    Raises ValueError for fewer than three results (one chooses, two report), results of different cells, or one result
    that is there twice.
    """
    expect("results", results, (list, tuple), "a list of results of interp_kit.probe, one per seed")
    for result in results:
        expect("a result", result, ProbeResult, "as interp_kit.probe(model, batch, labels) gives")
    if len(results) < 3:
        raise ValueError("one seed chooses the cell and two report it, so at least three results are needed")
    first = results[0]
    for other in results[1:]:
        if (other.labels, other.rows, other.positions) != (first.labels, first.rows, first.positions):
            raise ValueError("the probe results are of different labels or cells")
    for i, j in combinations(range(len(results)), 2):
        if _same(results[i], results[j]):
            raise ValueError(f"results {i} and {j} are the same result; give one per seed, as each counts in n")
    half = len(results) // 2
    labels = first.labels if labels is None else check_names("labels", labels)
    rows = [_report(label, results[:half], results[half:]) for label in labels]
    return ReadabilityResult(
        labels=labels,
        **{key: tuple(row[key] for row in rows) for key in ("cell", "position", "score", "margin", "verdict")},
        raw=np.array([row["raw"] for row in rows]),
        baseline=np.array([row["baseline"] for row in rows]),
        config={
            "analysis": "readability",
            "chosen_on": tuple(r.config["model"] for r in results[:half]),
            "reported_on": tuple(r.config["model"] for r in results[half:]),
        },
    )


def _same(a: ProbeResult, b: ProbeResult) -> bool:
    """True if two results are one, or equal copies of one."""
    fields = ("score", "untrained", "raw", "control", "null_high")
    return a is b or (
        a.config == b.config
        and all(np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True) for name in fields)
    )


def _report(label: str, choosing: Sequence[ProbeResult], reporting: Sequence[ProbeResult]) -> dict:
    if label not in choosing[0].labels:
        raise ValueError(f"no label {label!r}; there are {listed(choosing[0].labels, label)}")
    i = choosing[0].labels.index(label)
    open_cells = (choosing[0].status[i] == MEASURED) & ~choosing[0].written[i]
    if not open_cells.any():
        raise ValueError(f"{label} is nowhere determined by what is visible before it is written")
    margin = np.mean([(r.score - r.baseline())[i] for r in choosing], axis=0)
    # without permutations null_high is nan, nothing passes, and nothing can be called computed
    passing = np.all([r.score[i] > r.null_high[i] for r in choosing], axis=0) & open_cells
    margin[~(passing if passing.any() else np.broadcast_to(open_cells, margin.shape))] = -np.inf
    best = np.round(margin, 9) == np.round(margin, 9).max()
    # the same score from more distinct prefixes is better evidence, and the place of need is the likelier one
    most = best & (np.where(best, choosing[0].units, -1) == np.where(best, choosing[0].units, -1).max())
    k = int(np.flatnonzero(most.any(0))[-1])
    j = int(np.argmax(most[:, k]))
    bounds = (-np.inf, 1.0)
    score = mean_estimate([r.score[i, j, k] for r in reporting], bounds=bounds)
    margins = [(r.score - r.baseline())[i, j, k] for r in reporting]
    gain = mean_estimate(margins, bounds=bounds)
    raw = float(np.mean([r.raw[i, k] for r in reporting]))
    passed = all(r.score[i, j, k] > r.null_high[i, j, k] for r in reporting)
    reach = stats.t.ppf(0.975, len(margins) - 1) * np.std(margins, ddof=1) / np.sqrt(len(margins))
    if passed and gain.value - reach > MARGIN and not gain.low <= MARGIN:
        verdict = "computed"
    else:
        verdict = "visible" if passed and raw > score.value - MARGIN else "not shown"
    return {
        "cell": choosing[0].rows[j],
        "position": choosing[0].positions[k],
        "score": score,
        "margin": gain,
        "raw": raw,
        "baseline": float(np.mean([r.baseline()[i, j, k] for r in reporting])),
        "verdict": verdict,
    }
