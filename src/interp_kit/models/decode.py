"""Greedy decoding without a tokenizer, token ids in and out, with edits active if the model has them."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.types import HookedModel


@torch.inference_mode()
def complete(model: HookedModel, batch: TokenBatch) -> Int[Tensor, "batch pos"]:
    """(batch, pos) each row's prompt with the model's own greedy completion, as long as the row's true text.

    The whole row is run at every step, the true text standing in for what is not yet written: a causal model cannot see
    it, and edits at later positions find their place. Rows may differ in length. Raises ValueError where the texts
    exceed the model's context.
    """
    _check_length(model, batch.tokens.shape[1])
    tokens = batch.tokens.clone()
    rows = torch.arange(len(batch), device=tokens.device)
    lengths = batch.mask.sum(1)
    for step in range(int((lengths - batch.prompt_length).max())):
        at = batch.prompt_length + step
        open_rows = rows[at < lengths]
        logits = model(tokens)
        tokens[open_rows, at[open_rows]] = logits[open_rows, at[open_rows] - 1].argmax(-1)
    return tokens


def completer(model: HookedModel, length: int) -> Callable[[Tensor], Tensor]:
    """A `generate` for AbstractTask.pairs(completion="free"): (batch, pos) prompts -> greedy texts of `length` tokens.

    Raises ValueError where `length` exceeds the model's context.
    """
    _check_length(model, length)

    @torch.inference_mode()
    def generate(prompts: Tensor) -> Tensor:
        tokens = prompts.to(model.cfg.device)
        while tokens.shape[1] < length:
            tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
        return tokens.cpu()

    return generate


def _check_length(model: HookedModel, length: int) -> None:
    if length > model.cfg.n_ctx:
        raise ValueError(f"texts of {length} tokens do not fit the model's context of {model.cfg.n_ctx}")
