"""Feature-variable alignment: for every variable of a task the feature of a sparse autoencoder that tells it, on inputs
that it was not chosen by, and whether the model uses that feature for it.

A feature that tells a variable need not be what the model computes with: a copy that nothing reads tells it as well. So
each is exchanged alone between runs that differ in the variable (`feature_use`). The controls are chosen by the same
rule from the same inputs; SAEBench's TPP and SCR, whose figures hang on their hyperparameters, are not taken over.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp_kit.analysis.dictionaries.alignment.detectors import METHODS
from interp_kit.analysis.dictionaries.alignment.places import default_positions, distinct_texts, places_of
from interp_kit.analysis.dictionaries.alignment.result import AlignmentResult
from interp_kit.analysis.dictionaries.alignment.rows import LEAST, Row, classes_at
from interp_kit.analysis.dictionaries.alignment.use import EXCHANGED, Question, pairs_for, use
from interp_kit.analysis.dictionaries.origin import check_sae, digest_of_sae
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_flag, check_names, check_number, check_seed, one_or_more
from interp_kit.core.showing import PROGRESS, bar
from interp_kit.core.stats.detection import entropy
from interp_kit.core.stats.intervals import Estimate
from interp_kit.core.task import AbstractTask
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting

if TYPE_CHECKING:
    from sae_lens import SAE


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
        limit: Texts: all of the task or batch, or as many as are drawn by `seed`.
        pairs: Pairs per variable, at most.
        chosen_by: Share of the units that features are chosen by.
        permutations: Of the labels.
        seed: Of texts, parts, permutations and random features.
        progress: Whether to show a bar.

    Returns:
        A result whose `summary()` is the table to read first.

    Raises:
        ValueError: An unknown name, an autoencoder of another model or width, or no class with three units in either
            part.

    Examples:
        >>> found = align_features(model, task, sae, variables="newB", positions="newB?", target="newD")
        >>> found.summary()[["class", "feature", "SAE feature", "moves"]]
    """
    check_meeting(model, task, AbstractTask, TokenBatch)
    check_sae(model, sae)
    check_count("limit", limit, least=4)
    check_count("pairs", pairs)
    check_count("permutations", permutations, least=2)
    check_number("chosen_by", chosen_by, above=0, below=1)
    check_seed(seed)
    check_flag("progress", progress)
    batch = distinct_texts(task, limit, seed).to(str(model.cfg.device))
    wanted = tuple(batch.labels) if variables is None else check_names("variables", one_or_more(variables))
    for name in wanted:
        batch.label(name)
    places = default_positions(batch) if positions is None else check_names("positions", one_or_more(positions))
    for name in places:
        batch.position(name)
    if target is not None:
        batch.field(target)
    dictionary = sae.to_sae_lens().to(str(model.cfg.device))
    rows: list[Row] = []
    enough = len(np.unique(batch.units())) >= 4 * LEAST
    with bar(len(places), "positions", progress) as shown:
        for place in places_of(model, batch, sae.hook, dictionary, places, chosen_by, seed) if enough else ():
            for name in wanted:
                rows += classes_at(place, name, batch, permutations, seed)
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
        "sae": digest_of_sae(sae),
        "width": len(sae.frequency),
        "architecture": sae.sae_config["architecture"],
        "chosen_by": chosen_by,
        "permutations": permutations,
        "limit": limit,
        "seed": seed,
        "whole": batch.whole,
    }
    return _result(rows, used, unused, config)


def _used(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    batch: TokenBatch,
    sae: "SAE",
    hook: str,
    rows: Sequence[Row],
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
        moved = use(model, sae, hook, made, seen, seed) if seen else []
        if isinstance(moved, str):
            unused[f"{variable} -> {goal}"] = moved
        else:
            found += list(zip(seen, moved, strict=True))
    order = {key: i for i, key in enumerate(dict.fromkeys((row.variable, row.position) for row in rows))}
    return sorted(found, key=lambda one: order[one[0].variable, one[0].position]), unused


def _result(
    rows: Sequence[Row],
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
