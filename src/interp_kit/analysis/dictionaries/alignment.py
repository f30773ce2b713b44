"""Feature-variable alignment: for every variable of a task the feature of a sparse autoencoder that tells it, on inputs
that it was not chosen by, and whether the model uses that feature for it.

A feature that tells a variable need not be what the model computes with: a copy that nothing reads tells it as well. So
each is exchanged alone between runs that differ in the variable (`feature_use`). The controls are chosen by the same
rule from the same inputs; SAEBench's TPP and SCR, whose figures hang on their hyperparameters, are not taken over.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool

from interp_kit.analysis.dictionaries.activations import _prefixes
from interp_kit.analysis.dictionaries.alignment_result import AlignmentResult
from interp_kit.analysis.dictionaries.detectors import (
    FEATURE,
    METHODS,
    PROBE,
    Candidates,
    candidates,
    choose,
    classes,
    fit_probe,
    permuted,
    ranks_of,
    shuffled_sae,
)
from interp_kit.analysis.dictionaries.feature_use import EXCHANGED, Question, pairs_for, use
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.analysis.dictionaries.splitting import Split, split
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, check_names, check_number, check_seed, expect, one_or_more
from interp_kit.core.detection import auroc, auroc_interval, best_threshold, entropy, mutual_information, ranked
from interp_kit.core.example import Example
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.core.stats import Estimate
from interp_kit.core.task import AbstractTask
from interp_kit.engine.harvest import harvest
from interp_kit.engine.sites import hook_name
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting

if TYPE_CHECKING:
    from sae_lens import SAE

LEAST, MOST = 3, 16  # units of a class in either part; classes of a variable
POSITIONS = 8  # by default
NEURONS_BEFORE = {"mlp_out": 0, "resid_post": 0, "resid_pre": 1, "resid_mid": 1}  # how many layers before the site


@dataclass(frozen=True)
class _Row:
    """A class at a position, by every method: chosen, sign, (value, low, high) of area and bits, area where chosen.
    firing: the feature that is larger on the class, and for a class that has only one opposite, that one's."""

    variable: str
    value: str
    position: str
    label: Bool[np.ndarray, " unit"]
    chosen: tuple[int, ...]
    sign: tuple[float, ...]
    auroc: tuple[tuple[float, float, float], ...]
    bits: tuple[Estimate, ...]
    chosen_at: tuple[float, ...]
    permuted: tuple[float, float]
    split: Split
    firing: tuple[int, ...]
    n: int
    of_class: int


@dataclass(frozen=True, eq=False)
class _Place:
    """One position: its distinct texts, which of them features are chosen by, and what is chosen from."""

    position: str
    rows: np.ndarray
    group: np.ndarray
    choosing: Bool[np.ndarray, " unit"]
    given: Mapping[str, Candidates]
    vectors: np.ndarray
    decoder: np.ndarray
    ranks: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        both = ranks_of(self.given, self.choosing), ranks_of(self.given, ~self.choosing)
        object.__setattr__(self, "ranks", both)


@on_model()
def align_features(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    sae: SAEResult,
    *,
    variables: str | Sequence[str] | None = None,
    positions: str | Sequence[str] | None = None,
    target: str | None = None,
    limit: int = 1024,
    pairs: int = 128,
    chosen_by: float = 0.5,
    permutations: int = 100,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> AlignmentResult:
    """Find for every variable the feature that tells it, and measure whether the model uses the feature for it.

    A variable of more than two values is told value by value, each against all others (at most the 16 most frequent);
    an amount by whether it is above the value that divides the inputs most evenly. A unit is a distinct text up to the
    position, as equal ones have equal activations. Features are chosen on one part of the units and scored on the
    other; the autoencoder itself may have been trained on either.

    Args:
        model: The model that the autoencoder was trained on.
        task: Its task; or a batch with labels, of which nothing is exchanged.
        sae: Of `train_sae`.
        variables: By default all of the task.
        positions: Named positions that every text has; by default those that predict a field, the last eight.
        target: The field whose answer an exchange is to move; by default the one that the position predicts, else that
            of the task's question, else the last.
        limit: Texts, all of the task or as many as are drawn.
        pairs: Pairs per variable, at most.
        chosen_by: Share of the units that features are chosen by.
        permutations: Of the labels.
        seed: Of texts, parts, permutations and random features.
        progress: Whether to show a bar.

    Returns:
        A result whose `summary()` is the table to read first.

    Raises:
        ValueError: An unknown name, an autoencoder of another width, or no class with three units in either part.

    Example:
        >>> found = align_features(model, task, sae, variables="newB", positions="newB?", target="newD")
        >>> found.summary()[["class", "feature", "SAE feature", "moves"]]
    """
    check_meeting(model, task, AbstractTask, TokenBatch)
    expect("sae", sae, SAEResult, "as train_sae gives")
    check_count("limit", limit, least=4)
    check_count("pairs", pairs)
    check_count("permutations", permutations, least=2)
    check_number("chosen_by", chosen_by, above=0, below=1)
    check_seed(seed)
    check_flag("progress", progress)
    batch = _texts(task, limit, seed).to(str(model.cfg.device))
    wanted = tuple(batch.labels) if variables is None else check_names("variables", one_or_more(variables))
    for name in wanted:
        batch.label(name)
    places = _default_positions(batch) if positions is None else check_names("positions", one_or_more(positions))
    for name in places:
        batch.position(name)
    if target is not None:
        batch.field(target)
    dictionary = sae.to_sae_lens().to(str(model.cfg.device))
    rows: list[_Row] = []
    with bar(len(places), "positions", progress) as shown:
        for place in _places(model, batch, sae.hook, dictionary, places, chosen_by, seed):
            for name in wanted:
                rows += _variable(place, name, batch, permutations, seed)
            shown.update()
    if not rows:
        raise ValueError(
            f"none of {', '.join(wanted)} is determined at any of {', '.join(places)} with {LEAST} distinct texts of a"
            " class, and as many others, in either part; give other positions, or a larger limit"
        )
    used, unused = _used(model, task, batch, dictionary, sae.hook, rows, target, pairs, seed)
    config = {
        "analysis": "align_features",
        "model": model_name(model),
        "task": batch.task,
        "hook": sae.hook,
        "width": len(sae.frequency),
        "architecture": sae.sae_config["architecture"],
        "chosen_by": chosen_by,
        "permutations": permutations,
        "limit": limit,
        "seed": seed,
        "whole": batch.whole,
    }
    return _result(rows, used, unused, config)


def _texts(task: AbstractTask | TokenBatch, limit: int, seed: int) -> TokenBatch:
    """Distinct examples, at most `limit`."""
    if isinstance(task, TokenBatch):
        return task if len(task) <= limit else task.take(range(limit))
    pool: Sequence[Example] = task.pool(derive_seed(seed, "alignment") % 2**31)
    if len(pool) > limit:
        order = np.random.default_rng(seed).permutation(len(pool))[:limit]
        pool = [pool[i] for i in np.sort(order)]
    return task.batch(pool)


def _default_positions(batch: TokenBatch) -> list[str]:
    """The positions that predict a field and that every row has, the last eight; else the last position."""
    names = [f.predict for f in batch.fields if bool((batch.positions[f.predict] >= 0).all())]
    found = list(dict.fromkeys(names))[-POSITIONS:]
    return found or [name for name, index in batch.positions.items() if bool((index >= 0).all())][-1:]


def _neurons(model: HookedModel, hook: str) -> str | None:
    """The hook of the neurons whose output the site holds, if any."""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_(\w+)", hook)
    if not found or getattr(model.cfg, "attn_only", False) or found[2] not in NEURONS_BEFORE:
        return None
    layer = int(found[1]) - NEURONS_BEFORE[found[2]]
    return hook_name("mlp_post", layer) if layer >= 0 else None


def _places(
    model: HookedModel, batch: TokenBatch, hook: str, sae: "SAE", names: Sequence[str], chosen_by: float, seed: int
):
    """Each position with its distinct texts and all candidates."""
    neurons = _neurons(model, hook)
    hooks = [hook] if neurons is None else [hook, neurons]
    found = harvest(model, batch, hooks, positions=list(names), dtype=torch.float32, progress=False)
    width = found[hook][0, 0].numel()
    if sae.cfg.d_in != width:
        raise ValueError(f"an autoencoder of {sae.cfg.d_in} inputs at {hook}, which has {width}")
    control, prefixes = shuffled_sae(sae, seed), _prefixes(batch).cpu()
    text = np.unique(batch.tokens.cpu().numpy(), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(derive_seed(seed, "chosen by")).permutation(text.max() + 1)
    by = np.isin(text, order[: round(chosen_by * len(order))])
    decoder = sae.W_dec.detach().double().cpu().numpy()
    for k, name in enumerate(names):
        at = batch.position(name).cpu()
        _, rows, group = np.unique(prefixes[torch.arange(len(at)), at].numpy(), return_index=True, return_inverse=True)
        vectors = found[hook][rows, k]
        units = None if neurons is None else found[neurons][rows, k]
        given = candidates(sae, control, vectors, units, by[rows])
        flat = vectors.flatten(1).double().cpu().numpy()
        yield _Place(name, rows, group.reshape(-1), by[rows], given, flat, decoder)


def _variable(place: _Place, name: str, batch: TokenBatch, permutations: int, seed: int) -> list[_Row]:
    """The classes of a variable at a position; none if the text up to there does not determine it."""
    every = batch.label(name).cpu().numpy()
    values, by = every[place.rows], place.choosing
    if (values[place.group] != every).any() or min(by.sum(), (~by).sum()) < 2 * LEAST:
        return []
    found = classes(values, name in batch.numeric, (by, ~by), LEAST, MOST)
    if not found:
        return []
    labels = np.stack(list(found.values()))
    picks = {method: choose(one, by, place.ranks[0][method], labels[:, by]) for method, one in place.given.items()}
    sides = labels if len(labels) > 1 else np.concatenate([labels, ~labels])
    firing = choose(place.given[FEATURE], by, place.ranks[0][FEATURE], sides[:, by], firing=True)[0].tolist()
    rows = []
    for i, (value, label) in enumerate(found.items()):
        seeds = np.random.default_rng(derive_seed(seed, "permutation", place.position, name, value))
        there, here = permuted(
            place.ranks[0][FEATURE], place.ranks[1][FEATURE], (label[by], label[~by]), permutations, seeds
        )
        by_chance = float(np.percentile(here, 95)), float(there.mean())
        here_picked = {method: (int(which[i]), float(area[i])) for method, (which, area) in picks.items()}
        fires = tuple(firing if len(labels) == 1 else firing[i : i + 1])
        rows.append(_row(place, name, value, label, here_picked, by_chance, fires))
    return rows


def _row(
    place: _Place,
    variable: str,
    value: str,
    label: Bool[np.ndarray, " unit"],
    picks: Mapping[str, tuple[int, float]],
    by_chance: tuple[float, float],
    firing: tuple[int, ...],
) -> _Row:
    by = place.choosing
    probe = fit_probe(place.vectors, label, by)
    chosen, sign, areas, bits, there = [], [], [], [], []
    for method in METHODS:
        if method == PROBE:
            which, direction, values = -1, 1.0, probe.values
            at = float(auroc(ranked(values[by, None]), label[None, by])[0, 0])
        elif method in picks:
            which, at = picks[method]
            direction = -1.0 if at < 0.5 else 1.0
            values, at = direction * place.given[method].values[:, which], 0.5 + abs(at - 0.5)
        else:
            which, direction, at, values = -1, 1.0, np.nan, None
        chosen.append(which)
        sign.append(direction)
        there.append(at)
        if values is None:
            areas.append((np.nan, np.nan, np.nan))
            bits.append(Estimate(np.nan, np.nan, np.nan, 0, "inputs"))
            continue
        area = float(auroc(ranked(values[~by, None]), label[None, ~by])[0, 0])
        low, high = auroc_interval(area, int(label[~by].sum()), int((~label[~by]).sum()))
        areas.append((area, float(low), float(high)))
        bits.append(mutual_information(values[~by] > best_threshold(values[by], label[by]), label[~by]))
    parts = split(place.given[FEATURE].values, place.decoder, label, by, chosen[0], sign[0], probe)
    return _Row(
        variable, value, place.position, label, tuple(chosen), tuple(sign), tuple(areas), tuple(bits), tuple(there),
        by_chance, parts, firing, int((~by).sum()), int(label[~by].sum()),
    )  # fmt: skip


def _used(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    batch: TokenBatch,
    sae: "SAE",
    hook: str,
    rows: Sequence[_Row],
    target: str | None,
    limit: int,
    seed: int,
) -> tuple[list[tuple[Question, Mapping[str, Estimate]]], dict[str, str]]:
    """Every question with what each exchange moves, and why variables have none."""
    if isinstance(task, TokenBatch):
        return [], {}
    asked: dict[tuple[str, str], list[Question]] = {}
    predicted = {f.predict: f.name for f in batch.fields}
    usual = task.question[1] if task.question else batch.fields[-1].name
    for variable, position in dict.fromkeys((row.variable, row.position) for row in rows):
        here = [row for row in rows if (row.variable, row.position) == (variable, position)]
        main = tuple(dict.fromkeys(row.chosen[0] for row in here))
        every = tuple(dict.fromkeys(one for row in here for one in (row.chosen[0], *row.firing, *row.split.features)))
        goal = target or predicted.get(position, usual)
        asked.setdefault((variable, goal), []).append(Question(variable, position, goal, main, every))
    found, unused = [], {}
    for (variable, goal), questions in asked.items():
        made = pairs_for(task, variable, goal, limit, seed)
        if isinstance(made, str):
            unused[f"{variable} -> {goal}"] = made
            continue
        made = made.to(str(model.cfg.device))
        last = made.clean.position(made.clean.field(goal).predict)
        seen = [q for q in questions if bool((made.clean.positions[q.position] <= last).all())]
        if seen:
            found += list(zip(seen, use(model, sae, hook, made, seen, seed), strict=True))
    order = {key: i for i, key in enumerate(dict.fromkeys((row.variable, row.position) for row in rows))}
    return sorted(found, key=lambda one: order[one[0].variable, one[0].position]), unused


def _result(
    rows: Sequence[_Row],
    used: Sequence[tuple[Question, Mapping[str, Estimate]]],
    unused: Mapping[str, str],
    config: Mapping[str, object],
) -> AlignmentResult:
    areas = np.array([row.auroc for row in rows])
    bits = np.array([[(e.value, e.low, e.high) for e in row.bits] for row in rows])
    shares = {
        name: np.array([(e.value, e.low, e.high) for e in (getattr(row.split, name) for row in rows)])
        for name in ("missed", "absorbed")
    }
    moved = np.array([[(e.value, e.low, e.high) for e in (by[k] for k in EXCHANGED)] for _, by in used])
    moved = moved.reshape(len(used), len(EXCHANGED), 3)
    return AlignmentResult(
        variable=tuple(row.variable for row in rows),
        value=tuple(row.value for row in rows),
        position=tuple(row.position for row in rows),
        method=METHODS,
        chosen=np.array([row.chosen for row in rows]),
        sign=np.array([row.sign for row in rows]),
        auroc=areas[..., 0],
        auroc_low=areas[..., 1],
        auroc_high=areas[..., 2],
        chosen_at=np.array([row.chosen_at for row in rows]),
        bits=bits[..., 0],
        bits_low=bits[..., 1],
        bits_high=bits[..., 2],
        entropy=entropy(np.array([row.of_class / row.n for row in rows])),
        permuted_high=np.array([row.permuted[0] for row in rows]),
        permuted_chosen_at=np.array([row.permuted[1] for row in rows]),
        sparse=np.array([row.split.areas for row in rows]),
        needed=np.array([len(row.split.features) for row in rows]),
        missed=shares["missed"][:, 0],
        missed_low=shares["missed"][:, 1],
        missed_high=shares["missed"][:, 2],
        absorbed=shares["absorbed"][:, 0],
        absorbed_low=shares["absorbed"][:, 1],
        absorbed_high=shares["absorbed"][:, 2],
        absorber=np.array([row.split.absorber for row in rows]),
        n=np.array([row.n for row in rows]),
        of_class=np.array([row.of_class for row in rows]),
        use_variable=tuple(question.variable for question, _ in used),
        use_position=tuple(question.position for question, _ in used),
        target=tuple(question.target for question, _ in used),
        exchanged=EXCHANGED,
        moved=moved[..., 0],
        moved_low=moved[..., 1],
        moved_high=moved[..., 2],
        pairs=np.array([by["feature"].n for _, by in used], dtype=int),
        unused=dict(unused),
        config=config,
    )
