"""Result of distributed alignment search: by cell and seed, held-out shares beside those of its controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from interp_kit.analysis.causal import das_controls
from interp_kit.analysis.causal.das_controls import CHANCE, OFF_PATH, OPEN, STANDS, VERDICTS
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import counted, numbered
from interp_kit.core.stats.intervals import Estimate, mean_estimate
from interp_kit.core.stats.told import most
from interp_kit.engine.solved import caveat, said
from interp_kit.reports.plotting import heatmap, intervals

COUNTS = ("train_inputs", "held_out_inputs", "train_pairs", "held_out_pairs", "held_out_controls")
CONTROLLED = tuple(f"{name}{kind}" for name in das_controls.SCORES for kind in ("", "_kept"))
SCORES = ("train", "held_out", "kept", "random", "random_kept", "full", "full_kept", *CONTROLLED)


@dataclass(frozen=True, kw_only=True)
class DASResult(AbstractResult):
    """Accuracy of swapping a learned subspace, by cell (layer and position) and seed.

    layer: (cell,); position: one name per cell; seeds: each draws its own split of the inputs and its own first basis.
    train, held_out: (cell, seed) share of the pairs changed by do(variable) that get the causal model's answer, on
    pairs whose two inputs are both used, or both unused, in fitting; kept: (cell, seed) share of held-out controls,
    equal in the variable and different in the target, that keep the base's answer, nan where there is none. mean, low,
    high: (cell,) of held_out, with a 95 % interval over seeds (nan for fewer than four). All that follows is (cell,
    seed) on the held-out pairs, with its …_kept beside. random: a random subspace of k dimensions; full: the whole
    activation copied.

    Controls, nan where they were not asked for. placebo: the change of the learned coordinates, as large, written in
    random directions; untrained: a subspace learned in an untrained network; arbitrary: one learned for a bit that is
    drawn for each text, which no model can hold; read: of the learned subspace, the component in the row space of all
    that reads it downstream; unread: the component outside of it.

    baseline: (seed,) of the unedited model. train_inputs, held_out_inputs, train_pairs, held_out_pairs,
    held_out_controls: (seed,) how many. rank: (cell, seed) dimensions that were searched; basis: (cell, seed, d, k),
    orthonormal columns.
    """

    site: str
    layer: np.ndarray
    position: tuple[str, ...]
    seeds: tuple[int, ...]
    train: np.ndarray
    held_out: np.ndarray
    kept: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    random: np.ndarray
    random_kept: np.ndarray
    full: np.ndarray
    full_kept: np.ndarray
    placebo: np.ndarray
    placebo_kept: np.ndarray
    untrained: np.ndarray
    untrained_kept: np.ndarray
    arbitrary: np.ndarray
    arbitrary_kept: np.ndarray
    read: np.ndarray
    read_kept: np.ndarray
    unread: np.ndarray
    unread_kept: np.ndarray
    baseline: np.ndarray
    train_inputs: np.ndarray
    held_out_inputs: np.ndarray
    train_pairs: np.ndarray
    held_out_pairs: np.ndarray
    held_out_controls: np.ndarray
    rank: np.ndarray
    basis: np.ndarray
    config: Mapping[str, Any]

    def gain(self, score: str = "held_out") -> np.ndarray:
        """(cell,) share of changed pairs answered, plus share of controls kept, minus 1, as a mean over seeds: 1 for a
        subspace that is the variable, 0 for one that does nothing, and for one that changes answers whether or not the
        variable differs. Without controls it is the share of changed pairs minus the unedited model's.

        score: "held_out", or one that has a …_kept ("random", "full", "placebo", "read", …).
        """
        kept = self.kept if score == "held_out" else getattr(self, f"{score}_kept")
        hits = getattr(self, score)
        return np.where(self.held_out_controls > 0, hits + kept - 1, hits - self.baseline).mean(1)

    @property
    def off_path(self) -> np.ndarray:
        """(cell,) True if the subspace acts by a path that the network's own activations do not take: less than half of
        its gain is left in the component that is read downstream, which would lose nothing if what separates the
        variable's values were also what acts, and copying the whole activation does not reach that half either. An
        illusion, not a finding (Makelov et al. 2023, arXiv:2311.17030). False where the row space was not asked for."""
        return das_controls.off_path(self.gain(), self.gain("read"), self.gain("full"))

    @property
    def verdict(self) -> tuple[str, ...]:
        """Verdict per cell, given the controls: "nothing found", "off the path", "no better than a control" (within
        MARGIN of a random subspace, placebo, untrained network or arbitrary variable), "stands"; "not judged" if no
        control was asked for."""
        if not self.config["controls"]:
            return (OPEN,) * len(self.position)
        rivals = [self.gain(name) for name in ("random", "placebo", "untrained", "arbitrary")]
        return das_controls.verdict(self.gain(), self.off_path, rivals)

    def to_frame(self) -> pd.DataFrame:
        """One row per cell and seed; mean, low, high, off_path and verdict are the cell's."""
        columns = {name: getattr(self, name).ravel() for name in (*SCORES, "rank")}
        cells, seeds = self.held_out.shape
        return pd.DataFrame(
            {
                "site": self.site,
                "layer": self.layer.repeat(seeds),
                "position": np.repeat(np.array(self.position), seeds),
                "seed": np.tile(self.seeds, cells),
                **columns,
                **{name: np.tile(getattr(self, name), cells) for name in ("baseline", *COUNTS)},
                **{name: getattr(self, name).repeat(seeds) for name in ("mean", "low", "high", "off_path")},
                "verdict": np.repeat(np.array(self.verdict), seeds),
            }
        )

    def caption(self) -> str:
        """See AbstractResult."""
        c = self.config
        return (
            f"Distributed alignment search on {c['model']}: share of held-out pairs in which {c['target']} becomes what"
            f" do({c['variable']} = the source's value) makes of it when k = {c['k']} learned dimensions of {self.site}"
            " are swapped from the source run into the base run (mean over n ="
            f" {numbered(len(self.seeds), 'seeds')} of split and"
            f" first basis; per seed {numbered(_span(self.held_out_pairs), 'pairs')} of"
            f" {numbered(_span(self.held_out_inputs), 'inputs')} unused"
            f" in fitting, {said(c, 0, 'the base of')}; 95 % intervals over seeds, from four on). Mean held-out share"
            f" of controls that keep their answer: {_mean(self.kept)}. By the unedited model {_mean(self.baseline)}, a"
            f" random subspace {_mean(self.random)}, the full space {_mean(self.full)}. {self._controls()}"
        )

    def _controls(self) -> str:
        if not self.config["controls"]:
            return "No control was run, so none of this is judged."
        shares = "; ".join(
            f"{text} {_mean(getattr(self, name))} ({_mean(getattr(self, f'{name}_kept'))} kept)"
            for name, text in das_controls.SCORES.items()
            if np.isfinite(getattr(self, name)).any()
        )
        counts = {name: self.verdict.count(name) for name in VERDICTS}
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return (
            f"Controls: {shares}. Of {numbered(len(self.position), 'cells')}: {said} (dots: found, but does not stand)."
        )

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: how many cells stand up to their controls, and the best of them.

        A subspace that moves half of the pairs or fewer (by the lower end of its interval; for fewer than four seeds,
        by its worst seed) is said not to act as the variable in most pairs.
        """
        c, verdict = self.config, np.array(self.verdict)
        stands = verdict == STANDS
        pool = stands if stands.any() else np.ones(len(verdict), dtype=bool)
        best = int(np.where(pool, self.gain(), -np.inf).argmax())
        share = Estimate(self.mean[best], self.low[best], self.high[best], len(self.seeds), "seeds").short()
        where = f"{counted(c['k'], 'dimension')} of {self.site} (L{self.layer[best]} at {self.position[best]})"
        seeds = f"n = {counted(len(self.seeds), 'seed')}"
        numbers = f"{share} of held-out pairs ({seeds}; unedited {self.baseline.mean():.2f})"
        does = f"swapping {where} gives {c['target']} as do({c['variable']}) would have it in {numbers}"
        few = caveat(c, "the base of", "held-out pairs")
        if not c["controls"]:
            return (
                f"{few}S{does[1:]}. No control was run, so nothing is shown: such a subspace can be fitted to"
                " anything.",
            )
        counts = ", ".join(f"{n} {name}" for name in VERDICTS if (n := int((verdict == name).sum())))
        if not stands.any():
            return (
                f"{few}No subspace is shown to be {c['variable']}: of {numbered(len(verdict), 'cells')}, {counts}."
                f" At best, {does}.",
            )
        rivals = [self.gain(name)[best] for name in ("random", "placebo", "untrained", "arbitrary")]
        known = bool(np.isfinite(self.low[best]))
        if not most(self.low[best] if known else self.held_out[best].min(), self.mean[best]):
            does = f"at best, {does}"
            head = f"No subspace acts as {c['variable']} in most pairs: {does}"
        else:
            head = f"S{does[1:]}"
        return (
            f"{few}{head}, beyond every control (share of pairs plus share of controls kept, less 1:"
            f" {self.gain()[best]:.2f}, controls at most {np.nanmax(rivals):.2f}). Of"
            f" {numbered(len(verdict), 'cells')}: {counts}.",
        )

    def highlights(self) -> pd.DataFrame:
        """See AbstractResult: the cells of largest gain, with their verdict."""
        order = np.argsort(-self.gain(), kind="stable")[: self.rows_shown]
        columns = ["layer", "position", "mean", "low", "high", "verdict"]
        frame = pd.DataFrame(self.to_frame().iloc[order * len(self.seeds)][columns]).dropna(axis=1, how="all")
        return frame.assign(gain=self.gain()[order], n=len(self.seeds))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean held-out accuracy, layers by positions, with dots where what is found does not stand; with one layer or
        one position, points beside the controls."""
        layers, names = list(dict.fromkeys(self.layer.tolist())), list(dict.fromkeys(self.position))
        title = f"{self.site}: do({self.config['variable']}) → {self.config['target']}, k = {self.config['k']}"
        if len(layers) > 1 and len(names) > 1:
            return heatmap(
                self.mean.reshape(len(layers), len(names)),
                [f"L{layer}" for layer in layers],
                names,
                ax=ax,
                title=title,
                label="held-out accuracy",
                limits=(0.0, 1.0),
                mark=np.isin(self.verdict, (OFF_PATH, CHANCE)).reshape(len(layers), len(names)),
                x_label="position",
                y_label="layer",
            )
        shown = {"learned": self.held_out, "learned, control kept": self.kept, "random": self.random, "full": self.full}
        added = {"placebo": "placebo", "untrained": "untrained", "arbitrary variable": "arbitrary"}
        added |= {"component read": "read", "component not read": "unread"}
        shown |= {label: getattr(self, name) for label, name in added.items() if np.isfinite(getattr(self, name)).any()}
        series = {name: over_seeds(values) for name, values in shown.items()}
        cells = [f"L{layer} {name}" for layer, name in zip(self.layer, self.position, strict=True)]
        if self.config["controls"]:
            cells = [f"{cell}\n{said}" for cell, said in zip(cells, self.verdict, strict=True)]
        unedited = {"unedited": float(self.baseline.mean())}
        return intervals(
            cells, series, ax=ax, title=title, x_label="held-out accuracy", reference=unedited, limits=(-0.02, 1.02)
        )


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(cell,) mean, low and high of (cell, seed) shares; nan where a seed has none."""
    rows = []
    for row in values:
        estimate = mean_estimate(row, "seeds", (0.0, 1.0)) if np.isfinite(row).all() else None
        rows.append((estimate.value, estimate.low, estimate.high) if estimate else (np.nan,) * 3)
    mean, low, high = np.array(rows).T
    return mean, low, high


def _span(n: np.ndarray) -> str:
    return str(n.min()) if n.min() == n.max() else f"{n.min()} to {n.max()}"


def _mean(values: np.ndarray) -> str:
    return f"{np.nanmean(values):.2f}" if np.isfinite(values).any() else "none"
