"""Result of a lesion: recovery over steps, self-repair at once, and who took over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy import stats

from interp_kit.core.config import check_choice
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import counted, numbered
from interp_kit.core.stats.chance import holm
from interp_kit.core.stats.intervals import Estimate, mean_estimate, mean_interval, ratio_interval, scope
from interp_kit.reports.plotting import COLOURS, GRID, intervals, new_axes, note_bend, say_start

ARMS = ("lesion", "control")
LEVEL = 0.05
LEAST_DIRECT = 0.05  # of the intact logit difference: a share of a smaller direct effect says nothing
NOTED = 3  # components that a caption names
Figure = Literal["recovery", "importance"]


@dataclass(frozen=True, kw_only=True)
class LesionResult(AbstractResult):
    """A model before a lesion, right after, and after training with it held and without.

    Attributes:
        component: Heads and MLPs, "L0H1" and "L2 MLP".
        fields: What is answered.
        seeds: Of the training examples.
        step: (time,) steps done when accuracy was measured, from 0.
        accuracy: (arm, seed, time, field) share of right answers, all text before being right; arms as in ARMS.
        difference: (arm, seed, time, field) mean logit difference.
        total: (field, row) loss of the logit difference under the lesion, untrained.
        direct: (field, row) the part of it that goes straight to the logits, other components kept as they were. The
            final LayerNorm answers to the lesion in both.
        before: (component, row) importance in the intact model, mean over fields.
        at_once: (component, row) importance with the lesion, untrained.
        after: (arm, seed, component) importance after training, with the lesion kept in its arm.
    """

    component: tuple[str, ...]
    fields: tuple[str, ...]
    seeds: tuple[int, ...]
    step: np.ndarray
    accuracy: np.ndarray
    difference: np.ndarray
    total: np.ndarray
    direct: np.ndarray
    before: np.ndarray
    at_once: np.ndarray
    after: np.ndarray
    config: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Examples measured."""
        return self.before.shape[-1]

    def accuracy_of(self, arm: str, time: int = -1) -> Estimate:
        """Share of right answers of an arm, over seeds, at one of the times; by default the last. Before any step it
        has no interval: all seeds begin as the one model."""
        check_choice("arm", arm, ARMS)
        return self._over_seeds(self.accuracy[ARMS.index(arm), :, time].mean(-1), time)

    @property
    def repair(self) -> Estimate:
        """Logit difference that other components make good at once: direct less total effect, over examples. Below 0
        where they lose more by the lesion than they make good."""
        return self._over_examples((self.direct - self.total).mean(0))

    @property
    def repaired_share(self) -> Estimate:
        """Share of the direct effect that is made good at once; nan where the direct effect is not above 0, or is less
        than LEAST_DIRECT of the intact model's logit difference."""
        part, whole = (self.direct - self.total).mean(0), self.direct.mean(0)
        intact = float(self.difference[ARMS.index("control"), 0, 0].mean())
        if not self._over_examples(whole).low > 0 or whole.mean() < LEAST_DIRECT * intact:
            return Estimate(np.nan, np.nan, np.nan, self.n, "examples")
        value, low, high = (float(x) for x in ratio_interval(part, whole))
        return Estimate(value, low, high, self.n, "examples")

    @property
    def takeover(self) -> pd.DataFrame:
        """One row per component, most growth first: how much more important it is after training with the lesion than
        after the same steps without, over seeds, with p of a t-test by Holm's correction over components."""
        grown = self.after[0] - self.after[1]
        mean, low, high = mean_interval(grown.T, "seeds")
        frame = pd.DataFrame({"component": self.component, "growth": mean, "low": low, "high": high})
        frame["p"] = holm([_t_test(row) for row in grown.T])
        frame["n"] = len(self.seeds)
        return frame.sort_values("growth", ascending=False, kind="stable", ignore_index=True)

    @property
    def took_over(self) -> tuple[str, ...]:
        """Components that grew beyond the control (p < 0.05 of all components together), most growth first."""
        frame = self.takeover
        return tuple(frame[(frame["growth"] > 0) & (frame["p"] < LEVEL)]["component"])

    def to_frame(self) -> pd.DataFrame:
        """One row per measurement: accuracy by arm and step, effects at once, importance by component and state."""
        rows: list[tuple[object, ...]] = []

        def add(measure: str, state: str, name: str, step: int, found: Estimate) -> None:
            rows.append((measure, state, name, step, found.value, found.low, found.high, found.n, found.unit))

        for i, arm in enumerate(ARMS):
            for t, step in enumerate(self.step.tolist()):
                for j, field in enumerate(self.fields):
                    add("accuracy", arm, field, step, self._over_seeds(self.accuracy[i, :, t, j], t))
        for name, effect in (("total effect", self.total), ("direct effect", self.direct)):
            add(name, "at once", "lesion", 0, self._over_examples(effect.mean(0)))
        add("repaired", "at once", "lesion", 0, self.repair)
        end = int(self.step[-1])
        for i, name in enumerate(self.component):
            add("importance", "before", name, 0, self._over_examples(self.before[i]))
            add("importance", "at once", name, 0, self._over_examples(self.at_once[i]))
            add("growth", "at once", name, 0, self._over_examples(self.at_once[i] - self.before[i]))
            for arm, after in zip(ARMS, self.after, strict=True):
                add("importance", f"after, {arm}", name, end, mean_estimate(after[:, i]))
            add("growth", "lesion less control", name, end, mean_estimate(self.after[0, :, i] - self.after[1, :, i]))
        columns = ["measure", "state", "name", "step", "value", "low", "high", "n", "unit"]
        return pd.DataFrame(rows, columns=columns)

    def highlights(self) -> pd.DataFrame:
        """See AbstractResult: accuracy before and after, the effects, and the components that grow most."""
        frame = self.to_frame()
        ends = frame["measure"].eq("accuracy") & frame["step"].isin([0, int(self.step[-1])])
        effects = frame["measure"].isin(["total effect", "direct effect", "repaired"])
        grown = pd.DataFrame(frame[frame["state"].eq("lesion less control")])
        grown = grown.sort_values(by="value", ascending=False).head(NOTED)
        return pd.concat([pd.DataFrame(frame[ends | effects]), grown])

    def to_try(self) -> dict[str, list[dict[str, Any]]]:
        """See AbstractResult: the lesion itself, before any training."""
        cut = list(self.config["cut"])
        return {f"{'; '.join(self.config['edits'])}, before training": cut} if cut else {}

    def findings(self) -> tuple[str, ...]:
        """Accuracy, self-repair and takeover in words that the numbers choose."""
        return self._recovery(), self._self_repair(), self._takeover()

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Share of right answers of {c['model']} with a lesion held in training ({'; '.join(c['edits'])};"
            f" {numbered(c['steps'], 'steps')} of {numbered(c['batch_size'], 'texts')}, learning rate"
            f" {c['learning_rate']:g}), beside the control: the same steps without it. {self._recovery()} Bands: 95 %"
            f" intervals over seeds (n = {numbered(self.n, 'examples')}{scope(c)}, {counted(len(self.seeds), 'seed')};"
            " of one seed, or of the one model before training, there is none)."
        )

    def figures(self) -> tuple[tuple[dict[str, Any], str], ...]:
        """See AbstractResult: recovery, and who took over."""
        importance = (
            f"Importance of every component: the loss of logit difference under {self.config['kind']} ablation, in the"
            " intact model, right after the lesion (both untrained), and after training, with the lesion held and in"
            f" the control. 95 % intervals, over examples before training and over seeds after it (n = {self.n}"
            f" examples{scope(self.config)}, {counted(len(self.seeds), 'seed')})."
        )
        return ({}, self.caption()), ({"figure": "importance"}, importance)

    def _recovery(self) -> str:
        intact, cut = (float(self.accuracy[i, 0, 0].mean()) for i in (1, 0))
        return (
            f"Accuracy goes from {intact:.2f} to {cut:.2f} at once; after {numbered(int(self.step[-1]), 'steps')} it is"
            f" {self.accuracy_of('lesion').short()} with the lesion held and {self.accuracy_of('control').short()} in"
            " the control."
        )

    def _self_repair(self) -> str:
        direct, total = (self._over_examples(effect.mean(0)) for effect in (self.direct, self.total))
        effects = f"the logit difference falls by {total.short()}, by {direct.short()} directly"
        share = self.repaired_share
        if np.isnan(share.value):
            why = "too little to speak of a share repaired" if direct.low > 0 else "it has no direct effect to repair"
            return f"Untrained, {effects}: {why}."
        if self.repair.low > 0:
            return f"Untrained, {effects}: other components make good {share.short()} of the direct effect."
        if self.repair.high < 0:
            return f"Untrained, {effects}: the rest is lost by way of later components, without self-repair on balance."
        return f"Untrained, {effects}: no self-repair is shown."

    def _takeover(self) -> str:
        names, frame = self.took_over, self.takeover.set_index("component")
        if len(self.seeds) < 2:
            return "One seed does not tell who took over."
        if not names:
            return "No component is shown to grow beyond the control."
        listed = ", ".join(
            f"{name} by {Estimate(row.growth, row.low, row.high, len(self.seeds), 'seeds').short()}"
            for name, row in ((name, frame.loc[name]) for name in names[:NOTED])
        )
        grow = "grows" if len(names) == 1 else "grow"
        return f"{len(names)} of {len(self.component)} components {grow} beyond the control, most {listed}."

    def plot(self, ax: Axes | None = None, *, figure: Figure = "recovery") -> Axes:
        """Accuracy over steps beside the control ("recovery"), or every component's importance before, at once and
        after ("importance")."""
        check_choice("figure", figure, get_args(Figure))
        return self._plot_recovery(ax) if figure == "recovery" else self._plot_importance(ax)

    def _plot_recovery(self, ax: Axes | None) -> Axes:
        title, accuracy = f"Recovery, {self.config['model']}", self.accuracy.mean(-1)
        return recovery(self.step, accuracy, "seeds", title, ax, apart_from=int((self.step == 0).sum()))

    def _plot_importance(self, ax: Axes | None) -> Axes:
        series = {"before": mean_interval(self.before), "right after": mean_interval(self.at_once)}
        for arm, after in zip(ARMS, self.after, strict=True):
            series[f"after {numbered(int(self.step[-1]), 'steps')}, {arm}"] = mean_interval(after.T, "seeds")
        return intervals(
            self.component,
            series,
            ax=ax,
            title=f"Importance of components, {self.config['model']}",
            x_label="loss of logit difference without it",
        )

    def _over_examples(self, values: np.ndarray) -> Estimate:
        return mean_estimate(values, "examples")

    def _over_seeds(self, shares: np.ndarray, time: int) -> Estimate:
        """shares: (seed,) at one of the times."""
        return mean_estimate(shares if self.step[time] else shares[:1], "seeds", (0.0, 1.0))


def recovery(
    step: np.ndarray, accuracy: np.ndarray, unit: str, title: str, ax: Axes | None = None, *, apart_from: int = 0
) -> Axes:
    """Accuracy (arm, unit, time) over steps, the mean with its 95 % interval over units, where they differ.

    apart_from: The first time at which units may differ. Before it they are one model, which has no interval.
    """
    ax = ax or new_axes()
    for i, label in enumerate(("lesion held", "control: no lesion")):
        found = [mean_estimate(values, unit, (0.0, 1.0)) for values in accuracy[i].T]
        ax.plot(step, [e.value for e in found], marker="os"[i], ms=4, color=COLOURS[i], label=label)
        alike = np.ptp(accuracy[i], 0)[apart_from:] == 0  # an exact interval of equal values would look like a fall
        low, high = (np.where(alike, np.nan, [getattr(e, end) for e in found[apart_from:]]) for end in ("low", "high"))
        ax.fill_between(step[apart_from:], low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
    title = f"{title} (n = {numbered(accuracy.shape[1], unit)})"
    ax.set(title=title, xlabel="training steps after the lesion", ylabel="share of right answers")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # steps
    say_start(ax, "y")
    note_bend(ax, step, accuracy[0].mean(0), "{y:.2f} after {x:g} steps")
    ax.grid(color=GRID)
    ax.legend(loc="lower right", frameon=False, fontsize="small")
    return ax


def _t_test(values: np.ndarray) -> float:
    """Two-sided p of a mean of 0; nan for fewer than two values, 1 where all are 0."""
    if len(values) < 2:
        return float("nan")
    if not np.ptp(values):
        return 1.0 if not values[0] else float("nan")
    return float(stats.ttest_1samp(values, 0.0)[1])  # pyright: ignore[reportArgumentType]
