"""The audit: every method of the kit on models whose circuit was written into the weights, scored against the truth.

How well a method ranks true nodes, edges or positions above all others is its AUROC: 1 where every true one is above
every other, 0.5 for chance. The control asks the same of fresh random weights of the same architecture against the same
truth: what a method scores there, it scores without any mechanism.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from sklearn.metrics import roc_auc_score

from interp_kit.core.folders import check_folder
from interp_kit.core.parallel import in_processes
from interp_kit.core.plotting import heatmap, new_axes
from interp_kit.core.result import KIND as RESULT
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats import Estimate, mean_estimate
from interp_kit.models.planted import PLANTED_TASKS, ground_truth
from interp_kit.recipes.audit_case import Case, Method, with_own_edges
from interp_kit.recipes.audit_methods import METHODS
from interp_kit.recipes.circuit_twins import TWINS
from interp_kit.recipes.zoo import load, planted, task_of, untrained
from interp_kit.reports.report import page_path

SEEDS = (0, 1, 2)
TWIN = "twin:"  # what names a trained twin
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
        """One row a method and circuit, planted or trained: AUROC with interval over seeds (nan for fewer than four);
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
        """One row a method: mean over circuits with interval, its worst circuit, the control, and what it costs."""
        rows = []
        for i, (method, level) in enumerate(zip(self.method, self.level, strict=True)):
            found, worst = self.over_circuits(i), int(self.auroc[i].mean(-1).argmin())
            rows.append(
                {
                    "level": level,
                    "method": method,
                    "AUROC": round(found.value, 3),
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
            values, [f"{self.level[i]}: {self.method[i]}" for i in order], columns, ax=ax, limits=(0.0, 1.0),
            title=f"Which methods find the true circuit? (planted: mean of n = {len(self.seeds)} bases)",
            label="AUROC", x_label="circuit: planted; trained to compute alike; untrained", y_label="method",
        )  # fmt: skip
        for y, x in np.ndindex(values.shape):
            if np.isfinite(values[y, x]):
                ax.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", fontsize=7,
                        color="white" if values[y, x] < 0.6 else "black")  # fmt: skip
        for x in {len(self.circuit), len(columns) - 1}:
            ax.axvline(x - 0.5, color="white", linewidth=3)
        for y in range(1, len(order)):
            if self.level[order[y]] != self.level[order[y - 1]]:
                ax.axhline(y - 0.5, color="white", linewidth=3)
        return ax


def auroc(case: Case, method: Method, scores: Mapping[Any, float]) -> float:
    """How well the scores rank what is true above what is not. Raises ValueError for a score that is not finite."""
    truth, edges = case.truth, case.truth.edges if case.edges is None else case.edges
    true = {"nodes": truth.nodes, "edges": edges, "positions": {truth.site[2]}}[method.level]
    if missing := true - set(scores):
        raise ValueError(f"{method.name} gave no score to {', '.join(map(str, missing))}")
    values = np.array(list(scores.values()))
    if not np.isfinite(values).all():
        raise ValueError(f"{method.name} gave {values[~np.isfinite(values)][0]} to one of the {method.level}")
    return float(roc_auc_score([key in true for key in scores], values))


def audit(
    circuits: Sequence[str] = tuple(PLANTED_TASKS),
    methods: Sequence[Method] = METHODS,
    seeds: Sequence[int] = SEEDS,
    *,
    twins: Sequence[str] = tuple(TWINS),
    jobs: int | None = 1,
    progress: bool = False,
) -> AuditResult:
    """Run every method on every planted circuit at every seed, on an untrained model of each, and on trained twins.

    Raises ValueError for an unknown circuit or twin, no method or no seed.
    """
    if not (circuits and methods and seeds):
        raise ValueError("an audit needs a circuit, a method and a seed")
    for name in circuits:
        ground_truth(name)
    if unknown := set(twins) - set(TWINS):
        raise ValueError(f"no twin {', '.join(sorted(unknown))}; there are {', '.join(TWINS)}")
    work = [(name, seed) for name in circuits for seed in (*seeds, None)] + [(f"{TWIN}{name}", 0) for name in twins]
    run = partial(_run, methods=tuple(methods))
    found = in_processes(run, work, jobs, name="models", progress=progress)
    shape, first = (len(circuits), len(seeds) + 1, len(methods)), len(found) - len(twins)
    scores, forwards, seconds = (np.array(part).reshape(shape) for part in zip(*found[:first], strict=True))
    return AuditResult(
        method=tuple(method.name for method in methods),
        level=tuple(method.level for method in methods),
        circuit=tuple(circuits),
        seeds=tuple(seeds),
        twins=tuple(twins),
        twin_of=tuple(TWINS[name][0] for name in twins),
        auroc=scores[:, :-1].transpose(2, 0, 1),
        trained=np.array([scored for scored, _, _ in found[first:]]).reshape(len(twins), len(methods)).T,
        control=scores[:, -1].T,
        forwards=forwards[:, :-1].mean(1).T,
        seconds=seconds[:, :-1].mean(1).T,
        config={"analysis": "audit", "circuits": tuple(circuits), "seeds": tuple(seeds)},
    )


def _run(
    work: tuple[str, int | None], methods: Sequence[Method]
) -> tuple[tuple[float, ...], tuple[int, ...], tuple[float, ...]]:
    """AUROC, forwards and seconds of each method on one model: that of a seed, or for None an untrained one."""
    name, seed = work
    if name.startswith(TWIN):
        model = load(name)
    else:
        model = planted(name, seed or 0) if seed is not None else untrained(planted(name))
    is_twin = name.startswith(TWIN)
    case = Case(model, task_of(model), ground_truth(TWINS[name.removeprefix(TWIN)][0] if is_twin else name))
    case = with_own_edges(case) if is_twin else case
    _ = case.pairs, case.everything, case.graph  # built once for all, so that no method pays for them
    found = []
    for method in methods:
        start = perf_counter()
        result = method.run(case)
        judged = np.nan if is_twin and method.defines_edges else auroc(case, method, result.scores)
        found.append((judged, result.forwards, perf_counter() - start))
    scores, forwards, seconds = zip(*found, strict=True)
    return scores, forwards, seconds


def main(out: Path, *, jobs: int | None = None, progress: bool = False) -> Path:
    """Run the whole audit and write its page to `out`, its tables and figures into folders beside it."""
    from interp_kit.recipes.audit_page import page

    out = page_path(out)
    tables = check_folder(out.with_name(f"{out.stem}_tables"), RESULT)
    result = audit(jobs=jobs, progress=progress)
    written = page(result).write(out)
    result.save(tables)
    return written
