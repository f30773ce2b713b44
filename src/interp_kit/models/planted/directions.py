"""The directions of a planted model: one for each feature, drawn at random by the seed, and what reads them back.

Orthonormal features are read by themselves. Features in superposition (Elhage et al. 2022,
transformer-circuits.pub/2022/toy_model) overlap, so each is read by its least-squares reader.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_kit.core.seeding import derive_seed
from interp_kit.core.task import AbstractTask

D_MODEL, N_SLOTS = 64, 2
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

    length: of a text in tokens. Raises ValueError where the task has more features than 63 dimensions hold.
    """
    free = _mean_free(D_MODEL, seed, "planted")
    directions = _split(task, length, free, D_MODEL)
    return Basis(directions, directions)


def superposed(task: AbstractTask, length: int, seed: int, d_model: int, noise: float = 0.02) -> Basis:
    """Random unit directions, more of them than dimensions: tokens, positions and answers overlap.

    The slots of the heads and the constant keep dimensions of their own. noise: ridge of the readers, which are those
    of least squares for features that come independently.
    """
    free = _mean_free(d_model, seed, "superposed")
    alone, shared = free[: N_SLOTS + 1], free[N_SLOTS + 1 :]
    n = len(task.vocabulary) + length + len(task.fields)
    generator = torch.Generator().manual_seed(derive_seed(seed, "superposed features"))
    mixed = torch.randn(n, len(shared), generator=generator, dtype=torch.float64)
    write = _spread(mixed) @ shared
    covariance = write.T @ write + noise * torch.eye(d_model, dtype=torch.float64)
    read = torch.linalg.solve(covariance, write.T).T
    read = read / (read * write).sum(-1, keepdim=True)
    before = len(task.vocabulary) + length
    arranged = [torch.cat([rows[:before], alone[:N_SLOTS], rows[before:], alone[N_SLOTS:]]) for rows in (write, read)]
    return Basis(*(_split(task, length, rows, d_model) for rows in arranged))


def _mean_free(d_model: int, seed: int, name: str) -> Float[Tensor, "free d_model"]:
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    matrix = torch.randn(d_model, d_model, generator=generator, dtype=torch.float64)
    matrix[:, 0] = 1.0
    return torch.linalg.qr(matrix).Q[:, 1:].T


def _spread(rows: Float[Tensor, "feature dim"], steps: int = 300) -> Float[Tensor, "feature dim"]:
    """Unit rows pushed apart until none overlaps another by much: steps of gradient descent on the sum of the fourth
    powers of their cosines."""
    rows = rows / rows.norm(dim=-1, keepdim=True)
    for _ in range(steps):
        cosine = rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype)
        rows = rows - 0.5 * cosine**3 @ rows
        rows = rows / rows.norm(dim=-1, keepdim=True)
    return rows


def _split(task: AbstractTask, length: int, rows: Float[Tensor, "feature d_model"], d_model: int) -> Directions:
    sizes = [len(task.vocabulary), length, N_SLOTS, len(task.fields), 1]
    if sum(sizes) > len(rows):
        raise ValueError(f"{task.name} needs {sum(sizes)} features; {d_model} dimensions hold {len(rows)}")
    token, position, slot, answer, constant, spare = rows.split([*sizes, len(rows) - sum(sizes)])
    named = {field.name: direction for field, direction in zip(task.fields, answer, strict=True)}
    scale = math.sqrt((2 + CONSTANT**2) / d_model)  # An embedding is one token, one position and the constant.
    return Directions(token, position, slot, named, constant[0], spare, scale)
