"""Circuits of heads and MLPs that carry a rule: those that matter most, kept alone, beside random sets as large."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from interp_kit.analysis.causal.ablation import AblationResult
from interp_kit.core.identity import derive_seed
from interp_kit.core.pairs import PairBatch
from interp_kit.core.stats.intervals import ratio_interval
from interp_kit.engine.edits import Copy, Edit
from interp_kit.engine.metrics import first_difference
from interp_kit.engine.sweep import sweep
from interp_kit.models.hooked_model import HookedModel
from interp_kit.reports.plotting import intervals
from interp_kit.tasks.culture.world import TASKS

SIZES = (4, 8, 16, 32)
RANDOM = 8  # sets of each size


def parts_of(model: HookedModel, source: Copy) -> dict[str, Edit]:
    """Every head and MLP, exchanged at all positions for what it gives on another batch."""
    layers = range(model.cfg.n_layers)
    heads = {f"L{la}H{he}": Edit("z", la, source, head=he) for la in layers for he in range(model.cfg.n_heads)}
    return heads | {f"L{la} MLP": Edit("mlp_out", la, source) for la in layers}


@dataclass(frozen=True)
class RuleCircuits:
    """Faithfulness of the best parts of each rule alone: (m(circuit) - m(no part)) / (m(model) - m(no part)), of the
    own answer's lead over the other rule's, all other parts exchanged.

    rules: names; sizes: parts kept; value, low, high: (rule, size) with 95 % intervals over quizzes; random: (rule,
    set, size) of random sets; best: of each rule, its parts in order; n: (rule,) quizzes; total: parts of the model.
    """

    rules: tuple[str, ...]
    sizes: tuple[int, ...]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    random: NDArray[np.float64]
    best: tuple[tuple[str, ...], ...]
    n: tuple[int, ...]
    total: int

    def to_frame(self) -> pd.DataFrame:
        """One row per rule and size."""
        rows = [
            (rule, size, self.total, self.value[r, s], self.low[r, s], self.high[r, s], self.random[r, :, s].mean(),
             self.random[r, :, s].max(), self.n[r], ", ".join(self.best[r][:size]) if size <= 8 else "")
            for r, rule in enumerate(self.rules)
            for s, size in enumerate(self.sizes)
        ]  # fmt: skip
        columns = ["rule", "kept", "of", "faithfulness", "low", "high", "random", "random_highest", "n", "parts"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, name: str) -> Axes:
        """Faithfulness by size, and the mean of random sets."""
        nan = np.full(len(self.sizes), np.nan)
        series = {rule: (self.value[r], self.low[r], self.high[r]) for r, rule in enumerate(self.rules)}
        series["random sets, all rules"] = (self.random.mean((0, 1)), nan, nan)
        names = [f"{size} of {self.total} parts" for size in self.sizes]
        return intervals(names, series, title=f"{name}: best parts alone", x_label="faithfulness")


def rule_circuits(
    model: HookedModel, pairs: PairBatch, parts: AblationResult, by_rule: Mapping[str, Sequence[int]], seed: int = 0
) -> RuleCircuits:
    """Keep the parts that matter most for each rule, and exchange all others.

    pairs: other quizzes than those that `parts` was measured on; by_rule: rule -> rows of `parts`.
    """
    task, total = pairs.clean.label("task").cpu().numpy(), len(parts.component)
    sizes = tuple(size for size in SIZES if size < total)
    rng = np.random.default_rng(derive_seed(seed, "rule circuits"))
    orders = [rng.permutation(total) for _ in range(RANDOM)]
    found, best, counts = [], [], []
    for rule, rows in by_rule.items():
        of = pairs.take(np.flatnonzero(task == TASKS.index(rule)).tolist())
        order = np.argsort(-parts.importance(rows=rows), kind="stable")
        edits = list(parts_of(model, Copy(of.corrupt)).values())
        kept = [one[:size] for one in (order, *orders) for size in sizes]
        groups = [[edits[i] for i in range(total) if i not in set(some.tolist())] for some in kept] + [edits]
        swept = sweep(model, of.clean, groups, first_difference(of))
        nothing = swept.values[-1, 0]
        found.append(ratio_interval(swept.values[:-1, 0] - nothing, swept.baseline[0] - nothing, groups=of.units()))
        best.append(tuple(parts.component[i] for i in order))
        counts.append(len(of))
    value, low, high = np.array(found).transpose(1, 0, 2).reshape(3, len(by_rule), 1 + RANDOM, len(sizes))
    return RuleCircuits(
        tuple(by_rule), sizes, value[:, 0], low[:, 0], high[:, 0], value[:, 1:], tuple(best), tuple(counts), total
    )
