"""Places where variables are read: named positions of a batch, the distinct texts at each, and the choosing half."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from interp_kit.analysis.dictionaries.activations import text_prefixes
from interp_kit.analysis.dictionaries.alignment.detectors import Candidates, candidates, ranks_of, shuffled_sae
from interp_kit.core.batch import TokenBatch
from interp_kit.core.example import Example
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import AbstractTask
from interp_kit.engine.harvest import harvest
from interp_kit.engine.sites import hook_name
from interp_kit.models.hooked_model import HookedModel

if TYPE_CHECKING:
    from sae_lens import SAE

POSITIONS = 8  # by default
NEURONS_BEFORE = {"mlp_out": 0, "resid_post": 0, "resid_pre": 1, "resid_mid": 1}  # how many layers before the site


@dataclass(frozen=True, eq=False)
class Place:
    """One position.

    Attributes:
        position: Its name.
        rows: (unit,) A row of the batch for each distinct text up to the position.
        group: (row,) The unit of each row.
        choosing: (unit,) True on those that features are chosen by.
        given: Method -> what it chooses from.
        vectors: (unit, d) Activations.
        decoder: (feature, d) Decoder vectors of the autoencoder.
        ranks: Of the units that are chosen by, and of the others.
    """

    position: str
    rows: Int[np.ndarray, " unit"]
    group: Int[np.ndarray, " row"]
    choosing: Bool[np.ndarray, " unit"]
    given: Mapping[str, Candidates]
    vectors: Float[np.ndarray, "unit d"]
    decoder: Float[np.ndarray, "feature d"]
    ranks: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        both = ranks_of(self.given, self.choosing), ranks_of(self.given, ~self.choosing)
        object.__setattr__(self, "ranks", both)


def distinct_texts(task: AbstractTask | TokenBatch, limit: int, seed: int) -> TokenBatch:
    """Distinct examples of a task, or rows of a batch, at most `limit`, drawn by `seed`."""
    if isinstance(task, TokenBatch):
        rows = np.random.default_rng(seed).permutation(len(task))[:limit]
        return task if len(task) <= limit else task.take(np.sort(rows).tolist())
    pool: Sequence[Example] = task.pool(derive_seed(seed, "alignment") % 2**31)
    if len(pool) > limit:
        order = np.random.default_rng(seed).permutation(len(pool))[:limit]
        pool = [pool[i] for i in np.sort(order)]
    return task.batch(pool)


def default_positions(batch: TokenBatch) -> list[str]:
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


def places_of(
    model: HookedModel, batch: TokenBatch, hook: str, sae: "SAE", names: Sequence[str], chosen_by: float, seed: int
) -> Iterator[Place]:
    """Each position with its distinct texts and all candidates."""
    neurons = _neurons(model, hook)
    hooks = [hook] if neurons is None else [hook, neurons]
    found = harvest(model, batch, hooks, positions=list(names), dtype=torch.float32, progress=False)
    width = found[hook][0, 0].numel()
    if sae.cfg.d_in != width:
        raise ValueError(f"an autoencoder of {sae.cfg.d_in} inputs at {hook}, which has {width}")
    control, prefixes = shuffled_sae(sae, seed), text_prefixes(batch).cpu()
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
        yield Place(name, rows, group.reshape(-1), by[rows], given, flat, decoder)
