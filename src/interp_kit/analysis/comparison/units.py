"""The values of units, neurons or features, of several networks at the same tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from interp_kit.analysis.dictionaries.activations import text_prefixes
from interp_kit.analysis.dictionaries.alignment.detectors import encode
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.engine.harvest import harvest
from interp_kit.models.hooked_model import HookedModel

Within = Literal["text", "position"]
BLOCKS, ROWS = 10, 64


@dataclass(frozen=True, eq=False)
class Tokens:
    """Distinct tokens: index in the batch's real tokens, block (of texts that are measured on; -1 of those that units
    are matched on), number of the named position, texts measured on."""

    index: Int[np.ndarray, " token"]
    block: Int[np.ndarray, " token"]
    place: Int[np.ndarray, " token"]
    texts: int


def chosen_tokens(batch: TokenBatch, most: int, seed: int) -> Tokens:
    """Tokens whose text up to there is distinct, at most so many, and their texts in two halves."""
    row, column = (part.numpy() for part in batch.mask.cpu().nonzero().unbind(1))
    prefix = text_prefixes(batch).cpu().numpy()[row, column]
    first = np.unique(prefix, return_index=True)[1]
    rng = np.random.default_rng(derive_seed(seed, "tokens"))
    index = np.sort(first if len(first) <= most else rng.choice(first, most, replace=False))
    texts = rng.permutation(np.unique(row[index]))
    if len(texts) < 4:
        raise ValueError(f"{len(texts)} distinct texts: units are matched on half of them, so give four or more")
    half = len(texts) // 2
    blocks = min(BLOCKS, half)
    block = np.full(len(batch), -1)
    block[texts[:half]] = np.arange(half) % blocks
    place = np.zeros(batch.tokens.shape, dtype=np.int64)
    for number, at in enumerate(batch.positions.values(), start=1):
        has = (at >= 0).cpu().numpy()
        place[np.flatnonzero(has), at.cpu().numpy()[has]] = number
    return Tokens(index, block[row[index]], place[row[index], column[index]], half)


def units_of(
    models: Sequence[HookedModel],
    batch: TokenBatch,
    hook: str,
    saes: Sequence[SAEResult] | None,
    chosen: Tokens,
    within: Within,
    rotations: int,
    seed: int,
) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """(token, unit) values of every network, and of every network rotated."""
    values, turned = [], []
    for m, model in enumerate(models):
        raw = _read(model, batch, hook, chosen)
        rng = np.random.default_rng(derive_seed(seed, "rotation", m))
        width = int(np.prod(raw.shape[1:]))
        turns = [np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32) for _ in range(rotations)]
        if saes is None:
            flat = raw.reshape(len(raw), -1)
            values.append(_centred(flat, chosen, within))
            turned.append([_centred(flat @ turn, chosen, within) for turn in turns])
            continue
        sae, mean = saes[m].to_sae_lens(), raw.reshape(len(raw), -1).mean(0)
        if sae.cfg.d_in != width:
            raise ValueError(f"an autoencoder of {sae.cfg.d_in} inputs at {hook}, which has {width}")
        shapes = [raw, *((mean + (raw.reshape(len(raw), -1) - mean) @ turn).reshape(raw.shape) for turn in turns)]
        codes = [_centred(encode(sae, torch.from_numpy(one)).numpy(), chosen, within) for one in shapes]
        values.append(codes[0])
        turned.append(codes[1:])
    return values, turned


def _read(model: HookedModel, batch: TokenBatch, hook: str, chosen: Tokens) -> Float[np.ndarray, "token ..."]:
    """The chosen tokens' activations, texts by the chunk."""
    found, done = [], 0
    for start in range(0, len(batch), ROWS):
        part = batch.take(range(start, min(start + ROWS, len(batch)))).to(str(model.cfg.device))
        count = int(part.mask.sum())
        here = chosen.index[(chosen.index >= done) & (chosen.index < done + count)] - done
        done += count
        if len(here):
            read = harvest(model, part, hook, dtype=torch.float32, progress=False)[hook]
            found.append(read[torch.from_numpy(here)].cpu().numpy())
    return np.concatenate(found)


def _centred(values: np.ndarray, chosen: Tokens, within: Within) -> np.ndarray:
    if within == "text":
        return values
    _, place = np.unique(chosen.place, return_inverse=True)
    sums = np.zeros((place.max() + 1, values.shape[1]), dtype=np.float64)
    np.add.at(sums, place, values)
    return (values - (sums / np.bincount(place)[:, None])[place]).astype(np.float32)
