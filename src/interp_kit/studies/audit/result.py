"""Result of the audit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate, mean_estimate
from interp_kit.reports.plotting import OVER_DARK, OVER_LIGHT, heatmap, new_axes

CHANCE = 0.5
LEVELS = ("nodes", "edges", "positions")


@dataclass(frozen=True, kw_only=True)
class AuditResult(AbstractResult):
    """AUROC of every method on every circuit.

    method, level: (method,); circuit: (circuit,); seeds: of the residual basis, (seed,); auroc: (method, circuit,
    seed); twins: trained networks; twin_of: (twin,) the planted model in whose nodes each was taught to compute;
    trained: (method, twin) AUROC, its edges being those that path patching finds to carry more than 5 % of the gap, and
    nan for that method; control: (method, circuit) on an
    untrained model; forwards: (method, circuit) runs of the pairs, a gradient counting two; seconds: (method, circuit)
    on one thread.
    """

    method: tuple[str, ...]
    level: tuple[str, ...]
    circuit: tuple[str, ...]
    seeds: tuple[int, ...]
    twins: tuple[str, ...]
    twin_of: tuple[str, ...]
    auroc: np.ndarray
    trained: np.ndarray
    control: np.ndarray
    forwards: np.ndarray
    seconds: np.ndarray
    config: Mapping[str, Any]

    def over_circuits(self, method: int) -> Estimate:
        """Mean AUROC with its interval over circuits, each its mean over seeds."""
        return mean_estimate(self.auroc[method].mean(-1), "circuits", (0.0, 1.0))

    def twinned(self) -> dict[str, np.ndarray]:
        """Planted model -> (method, twin) AUROC on the networks that were taught to compute as it does."""
        return {name: self.trained[:, [of == name for of in self.twin_of]] for name in dict.fromkeys(self.twin_of)}

    def to_frame(self) -> pd.DataFrame:
        """One row per method and circuit, planted or trained: AUROC with interval over seeds (nan for fewer than four);
        the control, cost."""
        rows = []
        for i, (method, level) in enumerate(zip(self.method, self.level, strict=True)):
            for j, circuit in enumerate(self.circuit):
                found = mean_estimate(self.auroc[i, j], "seeds", (0.0, 1.0))
                rows.append(
                    {
                        "level": level,
                        "method": method,
                        "circuit": circuit,
                        "auroc": found.value,
                        "low": found.low,
                        "high": found.high,
                        "seeds": found.n,
                        "untrained": self.control[i, j],
                        "forwards": self.forwards[i, j],
                        "seconds": self.seconds[i, j],
                    }
                )
            for circuit, scores in self.twinned().items():
                if np.isnan(scores[i]).any():
                    continue
                found = mean_estimate(scores[i], "networks", (0.0, 1.0))
                rows.append(
                    {
                        "level": level,
                        "method": method,
                        "circuit": f"{circuit}, trained",
                        "auroc": found.value,
                        "low": found.low,
                        "high": found.high,
                        "seeds": found.n,
                    }
                )
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """One row per method: mean over circuits with interval, its worst circuit, the control, and what it costs."""
        rows = []
        for i, (method, level) in enumerate(zip(self.method, self.level, strict=True)):
            found, worst = self.over_circuits(i), int(self.auroc[i].mean(-1).argmin())
            rows.append(
                {
                    "level": level,
                    "method": method,
                    "AUROC": found.value,
                    "95 % over circuits": "none" if np.isnan(found.low) else f"{found.low:.2f} to {found.high:.2f}",
                    **{f"{name}, trained": round(float(auroc[i].mean()), 2) for name, auroc in self.twinned().items()},
                    "worst": f"{self.auroc[i, worst].mean():.2f} ({self.circuit[worst]})",
                    "untrained": round(float(self.control[i].mean()), 2),
                    "forwards": round(float(np.median(self.forwards[i]))),
                    "seconds": round(float(np.median(self.seconds[i])), 2),
                }
            )
        return pd.DataFrame(rows)

    def caption(self) -> str:
        """See AbstractResult."""
        return (
            f"How well each method ranks the true nodes, edges or positions of {len(self.circuit)} planted circuits"
            f" (mean AUROC over n = {len(self.seeds)} residual bases, intervals in the table; trained:"
            f" {len(self.twins)} networks, taught to compute in the same nodes, their true edges those that path"
            " patching finds, hatched there; untrained: the same methods and truths on untrained models, mean over"
            " circuits). A score says as much as it exceeds the last column, which is 0.5 only where nothing but the"
            " circuit sets its nodes, edges or positions apart. Positions are compared at the one site where the"
            " variable stands, with a single true one."
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Methods by circuits, with the control as the last column."""
        order = [i for level in LEVELS[::-1] for i in range(len(self.method))[::-1] if self.level[i] == level]
        trained = [auroc.mean(1) for auroc in self.twinned().values()]
        values = np.column_stack([self.auroc.mean(-1), *trained, self.control.mean(1)])[order]
        columns = [name.removeprefix("boolean-") for name in self.circuit]
        columns += [*(f"{name.removeprefix('boolean-')}, trained" for name in self.twinned()), "untrained"]
        ax = ax or new_axes(4.2 + 0.62 * len(columns), 1.6 + 0.29 * len(order))
        heatmap(
            values, [f"{self.level[i]}: {self.method[i]}" for i in order], columns, ax=ax, limits=(CHANCE, 1.0),
            title=f"Which methods find the true circuit? (planted: mean of n = {numbered(len(self.seeds), 'bases')})",
            label="AUROC (colours start at chance, 0.5)",
            x_label="circuit: planted; trained to compute alike; untrained", y_label="method",
        )  # fmt: skip
        for y, x in np.ndindex(values.shape):
            if np.isfinite(values[y, x]):
                ax.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", fontsize=8,
                        color=OVER_DARK if values[y, x] < 0.82 else OVER_LIGHT)  # fmt: skip
        for x in {len(self.circuit), len(columns) - 1}:
            ax.axvline(x - 0.5, color="#ffffff", linewidth=3)
        for y in range(1, len(order)):
            if self.level[order[y]] != self.level[order[y - 1]]:
                ax.axhline(y - 0.5, color="#ffffff", linewidth=3)
        return ax
