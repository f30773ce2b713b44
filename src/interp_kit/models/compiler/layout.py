"""The residual directions of a compiled model: tokens, positions, slots, answers and a constant, drawn by the seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask
from interp_kit.models.planted.directions import CONSTANT, Basis, Directions

DRAWS = 16  # of superposed features, of which the best conditioned is taken
LOUD = 2.0  # In superposition the norm varies with the token; the constant is this much louder, so that it hardly does.
WIDTHS = 4  # d_model is a multiple of it


@dataclass(frozen=True, eq=False)
class Layout:
    """basis: what features write and what reads them; junk: (decoy, d_model) what decoys write, and nothing reads. Each
    has its own, so that a flipped bit leaves the norm as it was."""

    basis: Basis
    junk: Float[Tensor, "decoy d_model"]


def lay_out(
    task: AbstractTask,
    examples: Sequence[Example],
    n_slots: int,
    n_decoys: int,
    *,
    superposed: bool,
    layer_norm: bool,
    generator: torch.Generator,
) -> Layout:
    """Random directions of mean 0. Orthonormal; or superposed: tokens, positions and answers are random unit vectors in
    no more dimensions than the states span that can occur, so every one overlaps others and its reader, of least
    squares, is still exact on those states. Slots, junk and constant keep dimensions of their own."""
    used = sorted(
        {token for example in examples for token in example.tokens}
        | {token for field in task.fields for token in field.candidates}
    )
    length, n_answers = len(examples[0].tokens), len(task.fields)
    n_shared, n_alone = len(used) + length + n_answers, n_slots + n_decoys + 1
    states = _states(task, examples, used) if superposed else None
    wide = n_shared if states is None else int(torch.linalg.matrix_rank(states))
    d_model = math.ceil((wide + n_alone + 1) / WIDTHS) * WIDTHS
    matrix = torch.randn(d_model, d_model, generator=generator, dtype=torch.float64)
    matrix[:, 0] = 1.0  # so that all others have mean 0, and LayerNorm's centring does nothing
    free = torch.linalg.qr(matrix).Q[:, 1:].T
    alone, shared = free[:n_alone], free[n_alone : n_alone + wide]
    if states is None:
        write = read = shared
    else:
        write, read = _packed(states, shared, generator)
    loud = LOUD if superposed else 1.0
    scale = math.sqrt((2 + (loud * CONSTANT) ** 2) / d_model) if layer_norm else 1.0

    def directions(rows: Tensor, constant: Tensor) -> Directions:
        token = torch.zeros(len(task.vocabulary), d_model, dtype=torch.float64)
        token[used] = rows[: len(used)]
        answers = dict(zip([field.name for field in task.fields], rows[len(used) + length :], strict=True))
        none = alone[:0]
        return Directions(token, rows[len(used) : len(used) + length], alone[:n_slots], answers, constant, none, scale)

    basis = Basis(directions(write, loud * alone[-1]), directions(read, alone[-1] / loud))
    return Layout(basis, alone[n_slots:-1])


def _packed(states: Tensor, shared: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(feature, d_model) unit directions within `shared`, and their readers."""
    draws = []
    for _ in range(DRAWS):
        drawn = torch.randn(states.shape[1], len(shared), generator=generator, dtype=torch.float64)
        write = drawn / drawn.norm(dim=-1, keepdim=True) @ shared
        read = torch.linalg.lstsq(states @ write, states, driver="gelsd").solution.T
        draws.append((float(read.norm(dim=-1).max()), write, read))
    _, write, read = min(draws, key=lambda draw: draw[0])
    return write, read


def _states(task: AbstractTask, examples: Sequence[Example], used: Sequence[int]) -> Float[Tensor, "state feature"]:
    """Amounts of every feature in each state of the residual stream that can occur: the token and position that stand
    there and, where a field is predicted, any amount of its answer."""
    index, length = {token: i for i, token in enumerate(used)}, len(examples[0].tokens)
    answered = {examples[0].positions[field.predict]: i for i, field in enumerate(task.fields)}
    rows = []
    for position, token in sorted({pair for example in examples for pair in enumerate(example.tokens)}):
        for amount in (0.0, 1.0) if position in answered else (0.0,):
            row = torch.zeros(len(used) + length + len(task.fields), dtype=torch.float64)
            row[index[token]] = row[len(used) + position] = 1
            if position in answered:
                row[len(used) + length + answered[position]] = amount
            rows.append(row)
    return torch.stack(rows)
