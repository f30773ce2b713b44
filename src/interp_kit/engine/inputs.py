"""Calling a HookedTransformer itself, so that no token is taken for padding."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.models.hooked_model import HookedModel


def has_hooks(model: Any) -> bool:
    """True if anything is hooked into the model that may change what it computes."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def unpadded(model: HookedModel, tokens: Tensor) -> dict[str, Tensor]:
    """Arguments beside tokens with which the model takes none of them for padding, whatever tokenizer it carries."""
    return {} if getattr(model, "tokenizer", None) is None else {"attention_mask": torch.ones_like(tokens)}


def whole_text(model: HookedModel, tokens: Tensor) -> Tensor:
    """(batch, pos, vocab) logits of the model itself, no token taken for padding."""
    return model(tokens, **unpadded(model, tokens))


def taught(batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
    """Positions that predict what stands after the prompt."""
    at = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
    return (at >= batch.prompt_length[:, None] - 1) & (at < batch.mask.sum(1, keepdim=True) - 1)


def check_length(length: int, n_ctx: int) -> None:
    """Raise ValueError for texts that are longer than a model's context."""
    if length > n_ctx:
        raise ValueError(f"texts of {length} tokens do not fit the model's context of {n_ctx}")


def check_fits(tokens: Tensor, n_ctx: int, vocabulary: int) -> None:
    """Raise ValueError for texts (batch, pos) that a model cannot read: too long, or with ids that it does not have."""
    check_length(tokens.shape[1], n_ctx)
    low, high = (int(x) for x in tokens.aminmax()) if tokens.numel() else (0, 0)
    if low < 0 or high >= vocabulary:
        raise ValueError(f"token ids from {low} to {high}; the model has 0 to {vocabulary - 1}")
