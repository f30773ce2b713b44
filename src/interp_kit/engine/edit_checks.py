"""Check that an edit fits a model and a batch, before anything runs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import expect
from interp_kit.engine.edits import CopyAttended, Edit, EditGroup, Source
from interp_kit.engine.sites import ACTIVATIONS, WEIGHTS, has_heads, hook_name
from interp_kit.models.hooked_model import HookedModel


def check_edits(model: HookedModel, batch: TokenBatch, groups: Iterable[EditGroup]) -> None:
    """Raise ValueError for the first edit that does not fit the model or the batch; TypeError for a source that is
    none, or has no hash. Whether a source fits a batch is looked up once per position."""
    checked: set[tuple[Source, str | int | None]] = set()
    for edit in (edit for group in groups for edit in group):
        check_edit(model, batch, edit)
        if (edit.source, edit.position) not in checked and not edit.is_weight:
            _named(edit, edit.source.check, batch, edit.position)
            checked.add((edit.source, edit.position))


def check_edit(model: HookedModel, batch: TokenBatch, edit: Edit) -> None:
    """Raise ValueError saying what of an edit does not fit the model or the batch."""
    cfg = model.cfg
    expect("the source of an edit", edit.source, Source, "such as interp_kit.Zero(), or a subclass of yours")
    if type(edit.source).__hash__ is None:
        raise TypeError(
            f"{edit}: its source has no hash; make {type(edit.source).__name__} a @dataclass(frozen=True, eq=False)"
        )
    if edit.layer is not None and not 0 <= edit.layer < cfg.n_layers:
        raise ValueError(f"{edit}: the model has layers 0 to {cfg.n_layers - 1}")
    if edit.head is not None:
        if not has_heads(edit.site):
            raise ValueError(f"{edit}: {edit.site!r} has no heads")
        heads = getattr(cfg, "n_key_value_heads", None) if edit.site in ("k", "v", "W_K", "W_V") else None
        if not 0 <= edit.head < (heads or cfg.n_heads):
            raise ValueError(f"{edit}: the model has heads 0 to {(heads or cfg.n_heads) - 1}")
    if edit.is_weight:
        if edit.position is not None:
            raise ValueError(f"{edit}: a weight has no position")
        if not edit.source.of_weights:
            raise ValueError(f"{edit}: a weight takes Set, Zero, Add or Scale")
        _check_positional(model, edit)
        weight = find_weight(dict(model.named_parameters()), edit)
        if edit.mask is not None and (not isinstance(edit.mask, Tensor) or edit.mask.dtype != torch.bool):
            found = getattr(edit.mask, "dtype", type(edit.mask).__name__)
            raise ValueError(f"{edit}: mask is a bool tensor of the weight's shape {tuple(weight.shape)}, not {found}")
        if edit.mask is not None and edit.mask.shape != weight.shape:
            raise ValueError(f"{edit}: mask of shape {tuple(edit.mask.shape)}, weight of {tuple(weight.shape)}")
        _check_neuron(edit, weight.shape[-1])
        shape = weight.shape if edit.head is None else weight.shape[1:]
        _named(edit, edit.source.check_shape, shape if edit.neuron is None else shape[:-1])
        return
    if edit.mask is not None:
        raise ValueError(f"{edit}: mask is for weights; name a position, head or neuron instead")
    name = hook_name(edit.site, edit.layer)
    _check_positional(model, edit)
    hooks = getattr(model, "hook_dict", {})
    # TransformerLens gives blocks without an MLP a hook for its output, which nothing ever passes
    without_mlp = edit.site in ("mlp_out", "mlp_post") and getattr(cfg, "attn_only", False)
    if (hooks and name not in hooks) or without_mlp:
        raise ValueError(f"{edit}: the model has no {name}")
    if edit.neuron is not None:
        _check_neuron(edit, getattr(cfg, ACTIVATIONS[edit.site][1][-1]))
    if isinstance(edit.position, str):
        batch.position(edit.position)
    elif edit.position is not None and not 0 <= edit.position < batch.tokens.shape[1]:
        raise ValueError(f"{edit}: the batch has positions 0 to {batch.tokens.shape[1] - 1}")
    shape = (*batch.tokens.shape[: 1 + (edit.position is None)], *_tail_shape(cfg, edit))
    _named(edit, edit.source.check_shape, shape)
    if isinstance(edit.source, CopyAttended):
        if edit.site != "z" or not isinstance(edit.position, str):
            raise ValueError(f'{edit}: CopyAttended is for site "z" at a named position')
        positions = getattr(cfg, "positional_embedding_type", "standard")
        if positions not in ("standard", "shortformer") or getattr(cfg, "attn_scores_soft_cap", -1.0) > 0:
            raise ValueError(
                f"{edit}: CopyAttended needs attention scores q k / scale, without soft cap; this model's positions are"
                f" {positions}"
            )


def _named(edit: Edit, check: Callable[..., None], *given: Any) -> None:
    """Make a check of an edit's source, whose ValueError then names the edit."""
    try:
        check(*given)
    except ValueError as error:
        raise ValueError(f"{edit}: {error}") from None


def find_weight(parameters: Mapping[str, Tensor], edit: Edit) -> Tensor:
    """The parameter that a weight edit is about. Raises ValueError if there is none."""
    template = WEIGHTS[edit.site][0]
    name = template.format(layer=edit.layer)
    if name not in parameters:
        raise ValueError(f"{edit}: the model has no parameter {name}")
    return parameters[name]


def _check_neuron(edit: Edit, width: int) -> None:
    if edit.neuron is not None and not 0 <= edit.neuron < width:
        raise ValueError(f"{edit}: the last axis has entries 0 to {width - 1}")


def _check_positional(model: HookedModel, edit: Edit) -> None:
    """Raise ValueError for position embeddings of a model that adds none."""
    kind = getattr(model.cfg, "positional_embedding_type", "standard")
    if edit.site in ("pos_embed", "W_pos") and kind not in ("standard", "shortformer"):
        raise ValueError(f"{edit}: the model adds no position embeddings, its positional_embedding_type is {kind!r}")


def _tail_shape(cfg: Any, edit: Edit) -> tuple[int, ...]:
    """The shape of an edited slice after batch and pos."""
    heads = (getattr(cfg, "n_key_value_heads", None) if edit.site in ("k", "v") else None) or cfg.n_heads
    axes = ACTIVATIONS[edit.site][1]
    each = () if "head" not in axes or edit.head is not None else (heads,)
    return each if edit.neuron is not None else (*each, getattr(cfg, axes[-1]))
