"""Result of the audit on compiled programs: distributions over programs, and what sets the failures apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.core.result import AbstractResult
from interp_kit.core.stats.intervals import Estimate, mean_estimate, wilson
from interp_kit.reports.plotting import new_axes
from interp_kit.studies.audit.result import LEVELS

GOOD, LEAST = 0.9, 0.05  # AUROC below which a method failed; share of the gap that a true part moves
ALIKE = 0.95  # a trained network that follows less of its program does not compute as the program does
COMPILED, TRAINED, UNTRAINED = "#0072b2", "#d55e00", "#999999"  # told apart by the colour-blind (Okabe & Ito)


@dataclass(frozen=True, kw_only=True)
class ProgramsResult(AbstractResult):
    """AUROC of every method on every compiled program.

    method, level: (method,); cell: (program,) its mechanism in words; number: (program,); auroc: (method, program), nan
    where a method gave no score; seconds: (method, program) of one core; alone: (level, program) least share of the
    gap that a true part moves by itself, as the plan predicts; least_true, most_false: (method, program) scores;
    control: (method, untrained network); trained: (method, trained network), nan for what defines its true edges;
    trained_number, follows: (trained network,) its program, and the share of the answers changed by an interchange in
    which it follows that program.
    """

    method: tuple[str, ...]
    level: tuple[str, ...]
    cell: tuple[str, ...]
    number: tuple[int, ...]
    auroc: np.ndarray
    seconds: np.ndarray
    alone: np.ndarray
    least_true: np.ndarray
    most_false: np.ndarray
    control: np.ndarray
    trained: np.ndarray
    trained_number: tuple[int, ...]
    follows: np.ndarray
    config: Mapping[str, Any]

    @property
    def alike(self) -> np.ndarray:
        """(trained network,) True for those that compute as their program does: only there its nodes are true."""
        return self.follows >= ALIKE

    def over_programs(self, method: int) -> Estimate:
        """Mean AUROC with its interval over programs on which the method gave a score."""
        return mean_estimate(_known(self.auroc[method]), "programs", (0.0, 1.0))

    def to_frame(self) -> pd.DataFrame:
        """One row per method: mean with its 95 % interval over programs, median, quartiles, the share below GOOD with
        its interval, chance, control, trained networks that compute alike (median, worst, share below GOOD), and
        cost."""
        rows = []
        for i, (method, level) in enumerate(zip(self.method, self.level, strict=True)):
            known, mean = _known(self.auroc[i]), self.over_programs(i)
            failed = wilson(int((known < GOOD).sum()), len(known), "programs")
            low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
            control, trained = _known(self.control[i]), _known(self.trained[i, self.alike])
            rows.append(
                {
                    "level": level, "method": method, "n": len(known), "no score": len(self.cell) - len(known),
                    "mean": mean.value, "low": mean.low, "high": mean.high,
                    "median": middle, "quartile 1": low, "quartile 3": high,
                    f"below {GOOD}": failed.value, f"below {GOOD}, low": failed.low, f"below {GOOD}, high": failed.high,
                    "chance": 0.5, "untrained": control.mean() if len(control) else np.nan, "untrained n": len(control),
                    "trained": np.median(trained) if len(trained) else np.nan,
                    "trained, worst": trained.min() if len(trained) else np.nan,
                    f"trained, below {GOOD}": (trained < GOOD).mean() if len(trained) else np.nan,
                    "trained n": len(trained),
                    "CPU seconds": float(np.median(self.seconds[i])),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """The frame, rounded and with intervals in words."""
        rows = []
        for row in self.to_frame().to_dict("records"):
            rows.append(
                {
                    "level": row["level"], "method": row["method"], "median": round(row["median"], 2),
                    "quartiles": f"{row['quartile 1']:.2f} to {row['quartile 3']:.2f}",
                    "mean (95 %)": f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
                    f"below {GOOD} (95 %)": f"{row[f'below {GOOD}']:.2f} ({row[f'below {GOOD}, low']:.2f} to"
                    f" {row[f'below {GOOD}, high']:.2f})",
                    "untrained": _rounded(row["untrained"]), "trained": _rounded(row["trained"]),
                    f"trained, below {GOOD}": _rounded(row[f"trained, below {GOOD}"]),
                    "n": row["n"], "CPU seconds": round(row["CPU seconds"], 2),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def causes(self) -> pd.DataFrame:
        """Share of programs below GOOD, per method and group of programs: how programs differ, not why, except for
        "parts that act only together", which the plan predicts."""
        rows = []
        for i, (method, level) in enumerate(zip(self.method, self.level, strict=True)):
            row: dict[str, Any] = {"level": level, "method": method}
            for name, chosen in self.groups(level).items():
                known = _known(self.auroc[i, chosen])
                share = f"{(known < GOOD).mean():.2f} (n = {len(known)})" if len(known) else "none"
                row[name] = share
            rows.append(row)
        return pd.DataFrame(rows)

    def groups(self, level: str) -> dict[str, np.ndarray]:
        """Group -> (program,) whether it belongs to it."""
        cells = np.array(self.cell)

        def where(test: Callable[[str], bool]) -> np.ndarray:
            return np.array([test(cell) for cell in cells], dtype=bool)

        kinds = dict.fromkeys(cell.split(",")[0] for cell in self.cell)
        return {
            **{kind: where(lambda cell, kind=kind: cell.split(",")[0] == kind) for kind in sorted(kinds)},
            "LayerNorm": where(lambda cell: "no LayerNorm" not in cell),
            "no LayerNorm": where(lambda cell: "no LayerNorm" in cell),
            "superposed": where(lambda cell: "superposed" in cell),
            "not superposed": where(lambda cell: "superposed" not in cell),
            "parts that act only together": self.alone[LEVELS.index(level)] <= LEAST,
            "every part acts alone": self.alone[LEVELS.index(level)] > LEAST,
        }

    def failures(self) -> pd.DataFrame:
        """One row per method and program below GOOD, with what is known of the program."""
        rows = []
        for i, j in np.argwhere(~(self.auroc >= GOOD)):
            level = self.level[i]
            together = self.alone[LEVELS.index(level), j] <= LEAST
            rows.append(
                {
                    "level": level, "method": self.method[i], "program": self.number[j], "cell": self.cell[j],
                    "AUROC": self.auroc[i, j], "lowest true": self.least_true[i, j],
                    "highest false": self.most_false[i, j],
                    "cause": "no score" if np.isnan(self.auroc[i, j])
                    else "true parts act only together" if together else "",
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def caption(self) -> str:
        """See AbstractResult."""
        text = (
            f"AUROC for true nodes, edges and positions of {len(self.cell)} programs drawn at random and compiled: one"
            " dot per program, the independent unit; line: median, box: quartiles. Grey: mean of the same methods on"
            f" untrained models ({self.control.shape[1]}); dashed: chance."
        )
        n, of = int(self.alike.sum()), len(self.alike)
        which = f"{n} of {of} networks trained to compute alike that do (they follow at least {ALIKE:.0%})"
        return text + (f" Orange: {which}, one dot each." if of else "")

    def plot(self, ax: Axes | None = None) -> Axes:
        """One row per method: dots, median and quartiles over programs, beside control and trained networks."""
        order = [i for level in LEVELS[::-1] for i in range(len(self.method))[::-1] if self.level[i] == level]
        ax = ax or new_axes(8.0, 1.4 + 0.27 * len(order))
        shift = np.random.default_rng(0).uniform(-0.28, 0.28, len(self.cell))
        for y, i in enumerate(order):
            known = np.isfinite(self.auroc[i])
            ax.scatter(self.auroc[i, known], y + shift[known], s=6, color=COMPILED, alpha=0.35, linewidth=0)
            low, middle, high = np.quantile(self.auroc[i, known], (0.25, 0.5, 0.75))
            ax.fill_betweenx([y - 0.34, y + 0.34], low, high, color=COMPILED, alpha=0.18, linewidth=0)
            ax.plot([middle, middle], [y - 0.38, y + 0.38], color=COMPILED, linewidth=2.5)
            if len(control := _known(self.control[i])):
                ax.plot(control.mean(), y, "|", color=UNTRAINED, markersize=12, markeredgewidth=2.5)
            trained = _known(self.trained[i, self.alike])
            ax.scatter(trained, np.full(len(trained), y - 0.38), s=22, color=TRAINED, marker="^", linewidth=0, zorder=3)
        for y in range(1, len(order)):
            if self.level[order[y]] != self.level[order[y - 1]]:
                ax.axhline(y - 0.5, color="black", linewidth=0.8)
        ax.axvline(0.5, color="black", linewidth=0.8, linestyle="--")
        ax.set_yticks(range(len(order)), [f"{self.level[i]}: {self.method[i]}" for i in order], fontsize=9)
        ax.set_ylim(-0.6, len(order) - 0.4)
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("AUROC (1: every true part above every false one; dashed: chance)")
        ax.set_title(f"Which methods find the true circuit of {len(self.cell)} random programs?", fontsize=11)
        return ax


def gather(records: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> ProgramsResult:
    """The result of what the files of all networks say. Raises ValueError if there is no compiled program."""
    kinds = {kind: [r for r in records if r["kind"] == kind] for kind in ("compiled", "untrained", "trained")}
    compiled = kinds["compiled"]
    if not compiled:
        raise ValueError("no compiled program was audited")

    def scores(found: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
        table = [[np.nan if (v := row.get(name)) is None else v for row in r["scores"]] for r in found]
        return np.array(table, dtype=float).reshape(len(found), len(compiled[0]["scores"])).T

    return ProgramsResult(
        method=tuple(row["method"] for row in compiled[0]["scores"]),
        level=tuple(row["level"] for row in compiled[0]["scores"]),
        cell=tuple(r["cell"] for r in compiled),
        number=tuple(r["number"] for r in compiled),
        auroc=scores(compiled, "auroc"),
        seconds=scores(compiled, "seconds"),
        alone=np.array([[r["alone"][level] for r in compiled] for level in LEVELS]),
        least_true=scores(compiled, "least_true"),
        most_false=scores(compiled, "most_false"),
        control=scores(kinds["untrained"], "auroc"),
        trained=scores(kinds["trained"], "auroc"),
        trained_number=tuple(r["number"] for r in kinds["trained"]),
        follows=np.array([r["follows"] for r in kinds["trained"]], dtype=float),
        config=dict(config),
    )


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _rounded(value: float) -> float | str:
    return round(value, 2) if np.isfinite(value) else "none"
