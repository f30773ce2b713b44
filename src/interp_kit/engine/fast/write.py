"""Write an edit into an activation, in place: of the whole text, a window of it, or single positions."""

from collections.abc import Callable

import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.edits import Edit

NewValue = Callable[[Edit, tuple], Callable[[Tensor], Tensor]]


def write(value: Tensor, edit: Edit, carried: slice | Tensor, batch: TokenBatch, new_value: NewValue) -> None:
    """Edit a site's activation (batch, n, …) in place, which has the positions `carried`, a slice or (batch, n)."""
    rows, tail = torch.arange(len(batch), device=value.device), edit.tail
    if edit.position is None:
        here: tuple = (slice(None), slice(None), *tail)
        of_rows = slice(None) if isinstance(carried, slice) else rows[:, None]
        value[here] = new_value(edit, (of_rows, carried, *tail))(value[here]).to(value.dtype)
        return
    at = position_of(edit, batch)
    if isinstance(carried, slice):
        match = None
        there, column = (at >= carried.start) & (at < carried.stop), (at - carried.start).clamp(0, value.shape[1] - 1)
    else:
        match = carried == at[:, None]
        there, column = match.any(1), match.int().argmax(1)
    host = value.device.type == "cpu"  # elsewhere, to look would be to wait
    if host and not bool(there.any()):
        return
    here = (rows, column, *tail)
    old = value[here]
    new = new_value(edit, (rows, at, *tail))(old).to(value.dtype)
    if match is None:
        value[here] = (
            new if host and bool(there.all()) else torch.where(there.view(-1, *[1] * (old.ndim - 1)), new, old)
        )
    else:  # a position may be carried more than once
        every = (slice(None), slice(None), *tail)
        value[every] = torch.where(match.view(*match.shape, *[1] * (old.ndim - 1)), new[:, None], value[every])


def position_of(edit: Edit, batch: TokenBatch) -> Tensor:
    """(batch,) the position of an edit that has one."""
    if isinstance(edit.position, str):
        return batch.position(edit.position)
    assert edit.position is not None
    return torch.full_like(batch.prompt_length, edit.position)
