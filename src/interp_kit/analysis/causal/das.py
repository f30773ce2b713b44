"""Distributed alignment search: does a k-dimensional subspace of one site realise a variable of the causal model?
(Geiger, Wu et al. 2024, "Finding alignments between interpretable causal variables and distributed neural
representations", arXiv:2303.02536.)

Swapping the subspace's coordinates from a source run into a base run has to give the answer of the base's world under
do(variable = the source's value). The basis is learnt on some inputs and scored on others; the network stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from tqdm.auto import tqdm

from interp_kit.analysis.causal import das_controls
from interp_kit.analysis.causal.counterfactual import Chosen
from interp_kit.analysis.causal.das_controls import CHANCE, FITTED, OFF_PATH, OPEN, VERDICTS, Controls
from interp_kit.analysis.causal.das_fit import Cell, Trials, first_basis, fit, orthonormal, split
from interp_kit.core.config import (
    check_choice,
    check_count,
    check_flag,
    check_names,
    check_number,
    check_seed,
    one_or_more,
)
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats import mean_estimate
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Copy, Edit
from interp_kit.engine.sites import has_heads, hook_name
from interp_kit.engine.solved import counted_solved, said, warn_if_few
from interp_kit.engine.sweep import sweep
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import heatmap, intervals

COUNTS = ("train_inputs", "held_out_inputs", "train_pairs", "held_out_pairs", "held_out_controls")
CONTROLLED = tuple(f"{name}{kind}" for name in das_controls.SCORES for kind in ("", "_kept"))
SCORES = ("train", "held_out", "kept", "random", "random_kept", "full", "full_kept", *CONTROLLED)


@dataclass(frozen=True, kw_only=True)
class DASResult(AbstractResult):
    """Accuracy of swapping a learnt subspace, by cell (layer and position) and seed.

    layer: (cell,); position: one name per cell; seeds: each draws its own split of the inputs and its own first basis.
    train, held_out: (cell, seed) share of the pairs changed by do(variable) that get the causal model's answer, on
    pairs whose two inputs are both used, or both unused, in fitting; kept: (cell, seed) share of held-out controls,
    equal in the variable and different in the target, that keep the base's answer, nan where there is none. mean, low,
    high: (cell,) of held_out, with a 95 % interval over seeds (nan for fewer than four). All that follows is (cell,
    seed) on the held-out pairs, with its …_kept beside. random: a random subspace of k dimensions; full: the whole
    activation copied.

    Controls, nan where they were not asked for. placebo: the change of the learnt coordinates, as large, written in
    random directions; untrained: a subspace learnt in an untrained network; arbitrary: one learnt for a bit that is
    drawn for each text, which no model can hold; read: of the learnt subspace, the component in the row space of all
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
        """What the controls leave of each cell: "nothing found", "off the path", "no better than a control" (within
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
            f" do({c['variable']} = the source's value) makes of it when k = {c['k']} learnt dimensions of {self.site}"
            f" are swapped from the source run into the base run (mean over n = {len(self.seeds)} seeds of split and"
            f" first basis; per seed {_span(self.held_out_pairs)} pairs of {_span(self.held_out_inputs)} inputs unused"
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
        return f"Controls: {shares}. Of {len(self.position)} cells: {said} (dots: found, but does not stand)."

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
        shown = {"learnt": self.held_out, "learnt, control kept": self.kept, "random": self.random, "full": self.full}
        added = {"placebo": "placebo", "untrained": "untrained", "arbitrary variable": "arbitrary"}
        added |= {"component read": "read", "component not read": "unread"}
        shown |= {label: getattr(self, name) for label, name in added.items() if np.isfinite(getattr(self, name)).any()}
        series = {name: _over_seeds(values) for name, values in shown.items()}
        cells = [f"L{layer} {name}" for layer, name in zip(self.layer, self.position, strict=True)]
        if self.config["controls"]:
            cells = [f"{cell}\n{said}" for cell, said in zip(cells, self.verdict, strict=True)]
        unedited = {"unedited": float(self.baseline.mean())}
        return intervals(
            cells, series, ax=ax, title=title, x_label="held-out accuracy", reference=unedited, limits=(-0.02, 1.02)
        )


@on_model(gradients=True)
def das(
    model: HookedModel,
    task: AbstractTask,
    variable: str,
    target: str,
    *,
    site: str = "resid_post",
    layer: int | Sequence[int] | None = None,
    position: str | Sequence[str] | None = None,
    k: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 100,
    learning_rate: float = 0.05,
    span: Literal["data", "site"] = "data",
    held_out: float = 0.3,
    limit: int = 256,
    controls: bool | Sequence[str] = True,
    progress: bool = False,
) -> DASResult:
    """Learn k orthonormal directions whose coordinates, swapped from source to base, act as do(variable) on `target`.

    The pairs, the text and the answer are those of `interchange`: the base keeps its own true completion, and the
    answer is taken among the field's candidates. Fitted is the mean cross-entropy of that answer, on pairs in which
    do(variable) changes it and, with equal weight, on controls in which it must stay; full batches, Adam.

    site: with one vector a position and a layer; layer, position: one or several, fitted apart (None: every layer;
    every named position up to the target's prediction). k: dimensions. held_out: share of `task.pool()` left out of
    fitting; only pairs of two inputs left out are scored, though early in the text two inputs can have the same
    activation. limit: pairs, and controls, on either side of the split. Seeds are of splits and first bases: the
    interval says nothing of other trained models. steps: at most; a loss below 0.01 nats ends them.

    span: "data" searches the directions in which the site's activations differ among the inputs fitted on. "site" is
    Geiger et al.'s own search of all directions: with few inputs it finds some that no input moves, and writes an
    answer along them where the variable never is.

    controls: what each score is held against, all by default, or some of CONTROLS: "placebo", "untrained", "arbitrary",
    "row space" (see `DASResult` and its `verdict`). Two of them are themselves fitted, by at most 40 steps each, so
    all of them together cost about as much as the search. An alignment that was not held against them is not judged.

    Warns (UserWarning) if the unedited model solves the base of fewer than half of the held-out pairs and controls.

    Weights are never written, no gradient is left on them, and the global random state is not touched. Raises
    ValueError for an unknown name, a site that has heads or no layer, a k that does not fit, a position that stands
    elsewhere in base and source, an unknown control, and where do(variable) changes the target in no pair of one side.
    """
    check_meeting(model, task, AbstractTask)
    check_choice("span", span, ("data", "site"))
    for option, value in (("k", k), ("limit", limit)):
        check_count(option, value)
    check_count("steps", steps, least=0)
    check_number("learning_rate", learning_rate, above=0)
    check_number("held_out", held_out, above=0, below=1)
    check_flag("progress", progress)
    options = {"k": k, "steps": steps, "learning_rate": learning_rate, "span": span}
    options |= {"held_out": held_out, "limit": limit}
    asked = das_controls.checked(controls)
    if layer is not None and not isinstance(layer, Sequence):
        check_count("layer", layer, least=0, most=model.cfg.n_layers - 1)
    layers = list(range(model.cfg.n_layers)) if layer is None else [layer] if isinstance(layer, int) else list(layer)
    for option, numbers in (("seeds", seeds), ("layer", layers)):
        if not len(numbers) or len(set(numbers)) < len(numbers):
            raise ValueError(f"{option} is {list(numbers)}; name at least one, and each once")
    for seed in seeds:
        check_seed(seed, "seeds")
    for number in layers:
        check_count("layer", number, least=0, most=model.cfg.n_layers - 1)
        hook_name(site, number)
    if has_heads(site):
        raise ValueError(f"site {site!r} has heads, not one vector a position; attn_out is their sum")
    names = None if position is None else check_names("position", one_or_more(position))
    cells: list[tuple[int, str]] = []
    scores, bases, ranks, counts, solved = [], [], [], [], []
    bar = tqdm(total=0, desc="fits", disable=not progress)
    with bar, torch.inference_mode(False):  # the caller's inference mode would leave nothing to learn from
        for seed in seeds:
            sides = split(task, variable, target, held_out, limit, seed, model.cfg.device)
            names = list(sides[0].base.positions_to(target) if names is None else names)
            cells = [(number, name) for number in layers for name in names]
            fits = 1 + sum(name in FITTED for name in asked)
            bar.total = len(seeds) * len(cells) * fits
            whole, unedited, right = _full(model, sides[1], site, cells)
            solved.append(right)
            beside = Controls.of(model, sides, asked, steps, learning_rate, span, seed)
            found = []
            for cell, full in zip(cells, whole, strict=True):
                train, held = (Cell(model, side, site, *cell) for side in sides)
                axes = train.axes(span)
                if k > axes.shape[1]:
                    raise ValueError(
                        f"k = {k} of {axes.shape[1]} dimensions of {site}, layer {cell[0]}, at {cell[1]!r}"
                    )
                free, anywhere = (first_basis(n, k, seed, *cell).to(axes) for n in (axes.shape[1], axes.shape[0]))
                basis, random = fit(train, axes, free, steps, learning_rate), orthonormal(anywhere)
                own = (train.shares(basis)[0], *held.shares(basis), *held.shares(random), *full)
                found.append((*own, *np.ravel(beside.shares(train, held, basis, (site, *cell)))))
                bases.append(basis.cpu().numpy())
                ranks.append(axes.shape[1])
                bar.update(fits)
            scores.append(found)
            counts.append((unedited, *_counts(sides)))
    values = dict(zip(SCORES, np.array(scores, dtype=float).transpose(2, 1, 0), strict=True))
    mean, low, high = _over_seeds(values["held_out"])
    baseline, *numbers = np.array(counts).T
    result = DASResult(
        site=site,
        layer=np.array([number for number, _ in cells]),
        position=tuple(name for _, name in cells),
        seeds=tuple(seeds),
        mean=mean,
        low=low,
        high=high,
        baseline=baseline,
        **values,
        **{name: number.astype(int) for name, number in zip(COUNTS, numbers, strict=True)},
        rank=np.array(ranks).reshape(len(seeds), len(cells)).T,
        basis=np.stack(bases).reshape(len(seeds), len(cells), -1, k).swapaxes(0, 1),
        config={
            "analysis": "das",
            "model": model_name(model),
            "task": task.name,
            "variable": variable,
            "target": target,
            "controls": asked,
            **options,
            **counted_solved(np.concatenate(solved)),
        },
    )
    warn_if_few(result.config, "the base of", "held-out pairs")
    return result


def _full(
    model: HookedModel, trials: Trials, site: str, cells: Sequence[tuple[int, str]]
) -> tuple[list[tuple[float, float]], float, np.ndarray]:
    """By cell, the shares when the whole activation is copied; the share of changed pairs without any edit; and (pair,)
    True where the unedited model solves the base."""
    copy = Copy(trials.source)
    edits = [Edit(site, number, copy, position=name) for number, name in cells]
    swept = sweep(model, trials.base, edits, Chosen(trials.target))
    candidates = torch.tensor(trials.base.field(trials.target).candidates)
    right = candidates[trials.right.cpu()]
    shares = [trials.shares((torch.from_numpy(row) == right).to(trials.changes.device)) for row in swept.values[:, 0]]
    unedited = trials.shares((torch.from_numpy(swept.baseline[0]) == right).to(trials.changes.device))
    return shares, unedited[0], swept.baseline[0] == trials.base.answer[trials.target].cpu().numpy()


def _counts(sides: tuple[Trials, Trials]) -> tuple[int, ...]:
    train, held = sides
    pairs = [int(side.changes.sum()) for side in sides]
    return train.inputs, held.inputs, *pairs, len(held.changes) - pairs[1]


def _over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
