"""Planted neurons: a truth table becomes one rectified neuron a row, open at one position only."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.components.transformer_block import TransformerBlock

from interp_kit.core.example import Example, Field
from interp_kit.models.planted.directions import CONSTANT, Basis

D_MLP = 32
GATE = 5.0  # Weight of the position one-hot in a neuron; above 4, all that two slots can add where it must stay shut.

Neuron = tuple[Tensor, Tensor]  # (d_model,) what it reads, (d_model,) what it writes.


def is_bit(field: Field) -> bool:
    """True if a field is answered by 0 or 1."""
    return set(field.values) == {0, 1}


def truth_table(field: Field, operands: Sequence[str], examples: Sequence[Example]) -> dict[tuple[int, ...], int]:
    """Values of the operands -> value of the field, as the examples have it. Raises ValueError if there is none."""
    table: dict[tuple[int, ...], int] = {}
    for example in examples:
        row, value = tuple(example.labels[name] for name in operands), example.labels[field.name]
        if table.setdefault(row, value) != value:
            raise ValueError(f"{field.name} is not a function of {', '.join(operands)}")
    if is_bit(field) and len(table) != 2 ** len(operands):
        raise ValueError(f"{field.name}: only {len(table)} values of {', '.join(operands)} ever occur")
    return dict(sorted(table.items()))


def field_neurons(
    field: Field,
    operands: Sequence[str],
    examples: Sequence[Example],
    basis: Basis,
    slots: Float[Tensor, "slot d_model"] | None = None,
) -> list[Neuron]:
    """The neurons that compute a field at its prediction position from the slots, into its answer direction.

    slots: readers of the operands, by default those of the two slots. Thresholds are read from the constant direction
    instead of a bias: a change of the LayerNorm scale then multiplies the whole pre-activation, and never moves a
    threshold.

    Raises ValueError if the field is not a function of the operands, or a count that is not their sum.
    """
    table = truth_table(field, operands, examples)
    read = basis.read
    here = GATE * read.position[examples[0].positions[field.predict]]
    answer, unit = basis.write.answer[field.name], read.constant / CONSTANT
    slots = read.slot if slots is None else slots
    if is_bit(field):
        neurons: list[Neuron] = []
        for row, value in table.items():
            match = torch.stack([(2 * bit - 1) * slot for bit, slot in zip(row, slots, strict=False)]).sum(0)
            # 1 where position and every operand match, at most -1 elsewhere.
            neurons.append((read.scale * (here + match - (GATE + len(row) - 1) * unit), (2 * value - 1) * answer))
        return neurons
    if any(sum(row) != value for row, value in table.items()):
        raise ValueError(f"{field.name} is not the number of ones among {', '.join(operands)}")
    # max(x, 0) - max(-x, 0) = x: the mean of the operands, signed, passes two rectified neurons.
    mean = slots[0]
    return [(read.scale * (here + sign * mean - GATE * unit), sign * answer) for sign in (1, -1)]


def filled_neurons(position: int, slot: Float[Tensor, " d_model"], basis: Basis, flag: Tensor) -> list[Neuron]:
    """Two neurons that write 1 into `flag` (d_model,) at that position where the slot holds a bit, -1 or +1, and
    nothing where it is empty (below one half)."""
    read = basis.read
    here, unit = GATE * read.position[position], read.constant / CONSTANT
    return [(read.scale * (here + 2 * sign * slot - (GATE + 1) * unit), flag) for sign in (1, -1)]


def set_mlp(block: TransformerBlock, neurons: Sequence[Neuron]) -> None:
    """Write the neurons into the MLP of a block, the first ones first."""
    for i, (read, write) in enumerate(neurons):
        block.mlp.W_in[:, i] = read
        block.mlp.W_out[i] = write
