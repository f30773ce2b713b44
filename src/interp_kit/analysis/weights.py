"""Edits of parameters: applied for the length of a `with` block, and put back whatever happens in it."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from interp_kit.analysis.sites import Add, Edit, Scale, Set, Zero, find_weight
from interp_kit.core.types import HookedModel


@contextlib.contextmanager
def edited_weights(model: HookedModel, edits: Sequence[Edit]) -> Iterator[None]:
    """Apply the weight edits of a group to the parameters, and put the former values back whatever happens."""
    former: dict[int, tuple[Tensor, Tensor]] = {}
    parameters = dict(model.named_parameters()) if any(edit.is_weight for edit in edits) else {}
    try:
        with torch.no_grad():
            for edit in edits:
                if edit.is_weight:
                    weight = find_weight(parameters, edit)
                    former.setdefault(id(weight), (weight, weight.detach().clone()))
                    _edit_weight(weight, edit)
        yield
    finally:
        with torch.no_grad():
            for weight, value in former.values():
                weight.copy_(value)


def _edit_weight(parameter: Tensor, edit: Edit) -> None:
    where: tuple = () if edit.head is None else (edit.head,)
    where = (*where, ..., slice(None) if edit.neuron is None else edit.neuron)
    old = parameter[where].clone()
    match edit.source:
        case Zero():
            new = torch.zeros_like(old)
        case Scale(factor=factor):
            new = old * factor
        case Add(vector=vector, scale=scale):
            new = old + scale * vector.to(old)
        case Set(value=value):
            new = value.to(old).expand_as(old)
        case _:
            raise TypeError(f"{edit}: a weight takes Set, Zero, Add or Scale")
    if edit.mask is not None:
        new = torch.where(edit.mask.to(old.device)[where], new, old)
    parameter[where] = new
