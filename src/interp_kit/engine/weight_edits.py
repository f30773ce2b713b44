"""Edits of a model for the length of a `with` block, after which its parameters and hooks are as before."""

import contextlib
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp_kit.engine.edit_checks import find_weight
from interp_kit.engine.edits import Edit, EditGroup
from interp_kit.models.hooked_model import Hook, HookedModel


@contextlib.contextmanager
def edited_weights(model: HookedModel, edits: Sequence[Edit]) -> Iterator[None]:
    """Apply the weight edits of a group to the parameters, and put the former values back whatever happens."""
    former: dict[int, tuple[Tensor, Tensor]] = {}
    parameters = dict(model.named_parameters()) if any(edit.is_weight for edit in edits) else {}
    try:
        for edit in edits:
            if edit.is_weight:
                weight = find_weight(parameters, edit)
                with _writing(weight):
                    former.setdefault(id(weight), (weight, weight.detach().clone()))
                    _edit_weight(weight, edit)
        yield
    finally:
        for weight, value in former.values():
            with _writing(weight):
                weight.copy_(value)


def _writing(weight: Tensor) -> contextlib.AbstractContextManager:
    """Context in which a parameter may be written in place: those made in inference mode only in it."""
    return torch.inference_mode() if weight.is_inference() else torch.no_grad()


class _Block:
    """One open block of edits: its weights and its hooks."""

    def __init__(self, model: HookedModel, group: EditGroup, hooks: Sequence[Hook]) -> None:
        self.model, self.group, self.hooks = model, group, list(hooks)
        self.active = contextlib.ExitStack()

    def open(self) -> None:
        """Change the weights and add the hooks, both or none."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(edited_weights(self.model, self.group))
            stack.enter_context(self.model.hooks(fwd_hooks=self.hooks))
            self.active = stack.pop_all()

    def close(self) -> None:
        """Undo it."""
        self.active.close()


_OPEN: WeakKeyDictionary[HookedModel, list[_Block]] = WeakKeyDictionary()


@contextlib.contextmanager
def applied(model: HookedModel, group: EditGroup, hooks: Sequence[Hook]) -> Iterator[None]:
    """A group's weights and hooks, active in the block. Blocks of one model may end in any order, as those of
    generators do: what was opened after a block is taken off to end it, and put on again."""
    blocks, block = _OPEN.setdefault(model, []), _Block(model, group, hooks)
    block.open()
    blocks.append(block)
    try:
        yield
    finally:
        at = blocks.index(block)
        later = blocks[at + 1 :]
        for one in reversed(blocks[at:]):
            one.close()
        del blocks[at:]
        for one in later:
            one.open()
            blocks.append(one)


def _edit_weight(parameter: Tensor, edit: Edit) -> None:
    where: tuple = () if edit.head is None else (edit.head,)
    where = (*where, ..., slice(None) if edit.neuron is None else edit.neuron)
    old = parameter[where].clone()
    new = edit.source.new(old, edit.source.numbers)
    if edit.mask is not None:
        new = torch.where(edit.mask.to(old.device)[where], new, old)
    parameter[where] = new
