"""The directions of a planted model: one for each feature, drawn at random by the seed, and what reads them back.

Orthonormal features are read by themselves. Features in superposition (Elhage et al. 2022,
transformer-circuits.pub/2022/toy_model) overlap, so each is read by its least-squares reader.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_kit.core.example import Example
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import AbstractTask

D_MODEL, SUPERPOSED_WIDTH, N_SLOTS = 64, 42, 2
CONSTANT = 8.0  # With d_model = 64 the LayerNorm scale is near 1.


@dataclass(frozen=True, eq=False)
class Directions:
    """Mean-free residual directions.

    token: one for each token id; position: one for each position of the text; slot: what an attention head writes;
    answer: field -> what its logits are read from; constant: the same amount of it stands everywhere; spare: no feature
    of the three first models, here for more slots and flags; scale: what LayerNorm divides by, so weights that read the
    residual stream are multiplied by it.
    """

    token: Float[Tensor, "vocab d_model"]
    position: Float[Tensor, "pos d_model"]
    slot: Float[Tensor, "slot d_model"]
    answer: Mapping[str, Float[Tensor, " d_model"]]
    constant: Float[Tensor, " d_model"]
    spare: Float[Tensor, "spare d_model"]
    scale: float


@dataclass(frozen=True, eq=False)
class Basis:
    """write: what a feature adds to the residual stream; read: what finds its amount there, 1 on the feature itself."""

    write: Directions
    read: Directions


def orthonormal(task: AbstractTask, length: int, seed: int) -> Basis:
    """Random orthonormal directions, each orthogonal to the all-ones vector, so that every feature has mean 0.

    length: of a text in tokens. Raises ValueError if the task has more features than 63 dimensions hold.
    """
    free = _mean_free(D_MODEL, seed, "planted")
    directions = _split(task, length, free, D_MODEL)
    return Basis(directions, directions)


def superposed(task: AbstractTask, examples: Sequence[Example], seed: int) -> Basis:
    """Random unit directions, more of them than dimensions: every token, position and answer overlaps the others.

    On the boolean task 44 such features share 38 dimensions, with cosines of 0.16 in the root mean square; the slots of
    the heads and the constant keep dimensions of their own. A reader is the one of least squares on what can stand at
    a position: its tokens there, and at a field's prediction position any of its answers. As a token stands at few
    positions, these states span no more dimensions than there are, so the readers are exact on them.

    Raises ValueError if the states span more dimensions.
    """
    free = _mean_free(SUPERPOSED_WIDTH, seed, "superposed")
    alone, shared = free[: N_SLOTS + 1], free[N_SLOTS + 1 :]
    states = _states(task, examples)
    if (needed := int(torch.linalg.matrix_rank(states))) > len(shared):
        raise ValueError(f"{task.name} has states that span {needed} dimensions; {len(shared)} are shared")
    generator = torch.Generator().manual_seed(derive_seed(seed, "superposed features"))
    write = torch.randn(states.shape[1], len(shared), generator=generator, dtype=torch.float64) @ shared
    write = write / write.norm(dim=-1, keepdim=True)
    read = torch.linalg.lstsq(states @ write, states, driver="gelsd").solution.T
    length = len(examples[0].tokens)
    before = len(task.vocabulary) + length
    sides = (torch.cat([rows[:before], alone[:-1], rows[before:], alone[-1:]]) for rows in (write, read))
    return Basis(*(_split(task, length, rows, SUPERPOSED_WIDTH) for rows in sides))


def _states(task: AbstractTask, examples: Sequence[Example]) -> Float[Tensor, "state feature"]:
    """Amounts of every feature (tokens, positions, answers) in each state of the residual stream that can occur."""
    n_tokens, length = len(task.vocabulary), len(examples[0].tokens)
    answered = {examples[0].positions[field.predict]: i for i, field in enumerate(task.fields)}
    rows = []
    for position, token in sorted({pair for example in examples for pair in enumerate(example.tokens)}):
        for amount in (0.0, -1.0, 1.0) if position in answered else (0.0,):
            row = torch.zeros(n_tokens + length + len(task.fields), dtype=torch.float64)
            row[token] = row[n_tokens + position] = 1
            if position in answered:
                row[n_tokens + length + answered[position]] = amount
            rows.append(row)
    return torch.stack(rows)


def _mean_free(d_model: int, seed: int, name: str) -> Float[Tensor, "free d_model"]:
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    matrix = torch.randn(d_model, d_model, generator=generator, dtype=torch.float64)
    matrix[:, 0] = 1.0
    return torch.linalg.qr(matrix).Q[:, 1:].T


def _split(task: AbstractTask, length: int, rows: Float[Tensor, "feature d_model"], d_model: int) -> Directions:
    sizes = [len(task.vocabulary), length, N_SLOTS, len(task.fields), 1]
    if sum(sizes) > len(rows):
        raise ValueError(f"{task.name} needs {sum(sizes)} features; {d_model} dimensions hold {len(rows)}")
    token, position, slot, answer, constant, spare = rows.split([*sizes, len(rows) - sum(sizes)])
    named = {field.name: direction for field, direction in zip(task.fields, answer, strict=True)}
    scale = math.sqrt((2 + CONSTANT**2) / d_model)  # An embedding is one token, one position and the constant.
    return Directions(token, position, slot, named, constant[0], spare, scale)
