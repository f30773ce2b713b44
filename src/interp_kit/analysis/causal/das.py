"""Distributed alignment search: does a k-dimensional subspace of one site realise a variable of the causal model?
(Geiger, Wu et al. 2024, "Finding alignments between interpretable causal variables and distributed neural
representations", arXiv:2303.02536.)

Swapping the subspace's coordinates from a source run into a base run has to give the answer of the base's world under
do(variable = the source's value). The basis is learned on some inputs and scored on others; the network stays as it is.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from interp_kit.analysis.causal import das_controls
from interp_kit.analysis.causal.counterfactual import Chosen, check_places
from interp_kit.analysis.causal.das_controls import FITTED, Controls
from interp_kit.analysis.causal.das_fit import Cell, Trials, first_basis, fit, orthonormal, split
from interp_kit.analysis.causal.das_result import COUNTS, SCORES, DASResult, over_seeds
from interp_kit.core.config import (
    check_choice,
    check_count,
    check_flag,
    check_names,
    check_number,
    check_seed,
    one_or_more,
)
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Copy, Edit
from interp_kit.engine.sites import has_heads, hook_name, parse_activation
from interp_kit.engine.solved import counted_solved, warn_if_few
from interp_kit.engine.sweep import sweep
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting


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
    progress: bool = PROGRESS,
) -> DASResult:
    """Learn k orthonormal directions whose coordinates, swapped from source to base, act as do(variable) on `target`.

    The pairs, the text and the answer are those of `interchange`: the base keeps its own true completion, and the
    answer is taken among the field's candidates. Fitted is the mean cross-entropy of that answer, on pairs in which
    do(variable) changes it and, with equal weight, on controls in which it must stay; full batches, Adam.

    Weights are never written, no gradient is left on them, and the global random state is not touched.

    Args:
        model: A model that learned the task.
        task: Says by `intervene` what follows from do(variable).
        variable: The variable that a subspace may hold.
        target: The field whose answer it should move.
        site: A site with one vector per position and layer.
        layer: One or several, fitted apart; None: every layer.
        position: One or several, fitted apart; None: every named position up to the target's prediction.
        k: Dimensions of the subspace.
        seeds: Of splits and first bases; so the interval says nothing of other trained models.
        steps: Most steps; a loss below 0.01 nats ends them.
        learning_rate: Of Adam.
        span: "data" searches the directions in which the site's activations differ among the inputs fitted on. "site"
            is Geiger et al.'s own search of all directions: with few inputs it finds some that no input moves, and
            writes an answer along them where the variable never is.
        held_out: Share of `task.pool()` left out of fitting. Only pairs of two inputs left out are scored, though early
            in the text two inputs can have the same activation.
        limit: Most pairs, and most controls, on either side of the split.
        controls: What each score is held against, all by default, or some of "placebo", "untrained", "arbitrary" and
            "row space" (see `DASResult` and its `verdict`). Two of them are themselves fitted, by at most 40 steps
            each, so all together cost about as much as the search. A fit without them gets no verdict.
        progress: Whether to show a bar.

    Returns:
        Held-out shares per cell and seed, beside those of the controls.

    Warns:
        UserWarning: The unedited model solves the base of fewer than half of the held-out pairs and controls.

    Raises:
        ValueError: A name or control is unknown, the site has heads or no layer, k does not fit, a position stands
            elsewhere in base and source, or do(variable) changes the target in no pair of one side.
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
    site, own = parse_activation(site)
    if own is not None:
        if layer not in (None, own):
            raise ValueError(f"site {site}.{own} is of layer {own}, and layer is {layer}: give one of them")
        layer = own
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
    task.check_names(variable, target)
    if names is not None:
        check_places(model, task, task.pool(seeds[0]), site, names)
    cells: list[tuple[int, str]] = []
    scores, bases, ranks, counts, solved = [], [], [], [], []
    fits = 1 + sum(name in FITTED for name in asked)
    many = len(seeds) * len(layers) * (len(names) if names else 1) * fits
    with (
        bar(many, "fits", progress) as shown,
        torch.inference_mode(False),
    ):  # the caller's inference mode would leave nothing to learn from
        for seed in seeds:
            sides = split(task, variable, target, held_out, limit, seed, model.cfg.device)
            names = list(sides[0].base.positions_to(target) if names is None else names)
            cells = [(number, name) for number in layers for name in names]
            shown.total = len(seeds) * len(cells) * fits
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
                shown.update(fits)
            scores.append(found)
            counts.append((unedited, *_counts(sides)))
    values = dict(zip(SCORES, np.array(scores, dtype=float).transpose(2, 1, 0), strict=True))
    mean, low, high = over_seeds(values["held_out"])
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
