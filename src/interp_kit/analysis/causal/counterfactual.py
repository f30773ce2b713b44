"""Answers of the task's causal model for a pair of runs: the base's answer under do(variable = the source's value).
Pairs in which it changes, and controls in which it must not, for interchange and distributed alignment search.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import listed
from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edit_checks import check_edit
from interp_kit.engine.edits import Zero, everywhere
from interp_kit.engine.metrics import AtField
from interp_kit.models.hooked_model import HookedModel

SOURCES = 128  # sources that each base of a larger pool is paired with


@dataclass(frozen=True, eq=False)
class Interchange:
    """A base run that takes one activation from a source run, and the token that the causal model then answers."""

    base: Example
    source: Example
    answer: int


@dataclass(frozen=True, eq=False)
class Chosen(AtField):
    """The token id of the field's candidate with the highest logit, as a number."""

    title, differentiable = "choice", False

    def values(
        self,
        logits: Float[Tensor, "*edits batch read vocab"],
        batch: TokenBatch,
        reference: Float[Tensor, "batch read vocab"] | None,
    ) -> Float[Tensor, "*edits batch"]:
        candidates = tensor(batch.field(self.field).candidates, device=logits.device)
        return candidates[logits[..., 0, candidates].argmax(-1)].float()


def check_places(
    model: HookedModel,
    task: AbstractTask,
    examples: Sequence[Example],
    sites: str | Sequence[str],
    positions: Iterable[str],
) -> None:
    """Raise ValueError for a site that the model does not have, and a position that no example has: before any
    counterfactual is made, as those may take minutes."""
    one = task.batch(examples[:1])
    for edit in everywhere(model, sites, Zero(), [None]):
        check_edit(model, one, edit)
    known = {id(example.positions): example.positions for example in examples}
    names = list(dict.fromkeys(name for places in known.values() for name in places))
    for name in positions:
        if name not in names:
            raise ValueError(f"no position {name!r}; there are {listed(names, name)}")


def interchanges(
    task: AbstractTask,
    variable: str,
    target: str,
    *,
    pairs: Sequence[tuple[Example, Example]] | None = None,
    pool: Sequence[Example] | None = None,
    limit: int = 512,
    seed: int = 0,
) -> tuple[list[Interchange], list[Interchange]]:
    """The pairs in which do(variable = the source's value) changes the base's target, and controls: pairs with equal
    values of the variable and different targets, whose answer must stay. Both sides of each have texts of equal length.

    pairs: to choose from; default every ordered pair of `pool`, by default `task.pool(seed)`, each base with
    at most 128 random sources; of either kind at most `limit` are drawn. Raises ValueError naming an unknown
    variable or target, and if no pair is changed.
    """
    task.check_names(variable, target)
    field = task.field(target)
    if limit < 1:
        raise ValueError(f"limit {limit}: at least one pair is needed")
    rng, refusals = np.random.default_rng(seed), [""]
    changed: list[Interchange] = []
    control: list[Interchange] = []
    bases = 0
    for base, others in _by_base(task.pool(seed) if pool is None else pool, pairs, rng):
        worlds: dict[int, int | None] = {}
        before, found = len(changed), base.labels[target]
        for source in others:
            value = source.labels[variable]
            if len(source.tokens) != len(base.tokens):
                continue
            if value == base.labels[variable]:
                if source.labels[target] != found:
                    control.append(Interchange(base, source, field.token(found)))
                continue
            if value not in worlds:
                worlds[value] = _under(task, base, {variable: value}, target, refusals)
            answer = worlds[value]
            if answer is not None and answer != found:
                changed.append(Interchange(base, source, field.token(answer)))
        bases += len(changed) > before
        if pairs is None and bases == limit:
            break
    if not changed:
        raise ValueError(
            f"{task.name}: in no pair does do({variable} = the source's value) change the base's answer of {target!r}"
            + refusals[-1]
        )
    if pairs is not None:
        return changed, control
    return _draw(changed, limit, rng), _draw(control, limit, rng)


def _by_base(
    pool: Sequence[Example], pairs: Sequence[tuple[Example, Example]] | None, rng: np.random.Generator
) -> Iterator[tuple[Example, list[Example]]]:
    """Each base with its sources: those of the pairs, each once, else all of the pool, in random order."""
    if pairs is None:
        for i in rng.permutation(len(pool)).tolist():
            drawn = range(len(pool)) if len(pool) <= SOURCES else rng.choice(len(pool), SOURCES, replace=False).tolist()
            yield pool[i], [pool[j] for j in drawn if pool[j].tokens != pool[i].tokens]
        return
    given: dict[tuple[int, ...], tuple[Example, dict[tuple[int, ...], Example]]] = {}
    for base, source in pairs:
        given.setdefault(base.tokens, (base, {}))[1][source.tokens] = source
    for base, sources in given.values():
        yield base, list(sources.values())


def _under(task: AbstractTask, base: Example, do: dict[str, int], target: str, refusals: list[str]) -> int | None:
    """The target's value under do, None where the task refuses that world."""
    try:
        return task.intervene(base, do)[target]
    except ValueError as refusal:
        refusals.append(f" ({refusal})")
        return None


def _draw(rows: list[Interchange], limit: int, rng: np.random.Generator) -> list[Interchange]:
    if len(rows) <= limit:
        return rows
    return [rows[i] for i in np.sort(rng.choice(len(rows), limit, replace=False)).tolist()]
