"""A planted induction circuit: a previous-token head, and an induction head that reads it by K-composition.

After Elhage et al. 2021 (transformer-circuits.pub/2021/framework) and Olsson et al. 2022 (arXiv:2209.11895): two layers
of attention alone, with LayerNorm. All features are orthonormal, mean-free and drawn by the seed, as in `boolean`.

    L0H0  each position attends to the one before it and writes which token stands there ("before")
    L1H1  each position looks for the one whose "before" is its own token, and writes the token that stands there into
          "answer", from which the logits are read; the first position, which has no token before it, is never matched

The other heads are idle: they attend evenly and write nothing.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp_kit.core.identity import derive_seed
from interp_kit.core.task import AbstractTask
from interp_kit.models.planted.attention import D_HEAD
from interp_kit.models.planted.directions import CONSTANT, D_MODEL
from interp_kit.models.planted.embedding import empty_model

N_CTX = 12
PREVIOUS, INDUCTION = 0, 1  # Heads of layer 0 and of layer 1.
SCORE, LOGIT = 16.0, 12.0


def planted_induction(task: AbstractTask, seed: int = 0) -> HookedTransformer:
    """The induction model for an induction task; the seed draws the residual basis, which no answer depends on.

    Raises ValueError if the texts are longer than 12 tokens or the tokens are more than 15.
    """
    longest = max(len(example.tokens) for example in task.sample(1, 0))
    n = len(task.vocabulary)
    if longest > N_CTX or n + 1 > D_HEAD:
        raise ValueError(
            f"{task.name} has {n} tokens and texts of {longest}: an induction head here tells {D_HEAD - 1} tokens apart"
            f" in texts of {N_CTX}"
        )
    token, before, answer, position, constant = _features(n, seed)
    scale = math.sqrt((2 + CONSTANT**2) / D_MODEL)  # An embedding is one token, one position and the constant.
    strength = math.sqrt(SCORE * math.sqrt(D_HEAD)) * scale
    code = strength * torch.eye(D_HEAD, dtype=torch.float64)
    model = empty_model(task, D_MODEL, n_ctx=N_CTX, mlp=False)
    with torch.no_grad():
        model.embed.W_E.copy_(token)
        model.pos_embed.W_pos.copy_(position + CONSTANT * constant)
        first, second = model.blocks[0].attn, model.blocks[1].attn
        first.W_Q[PREVIOUS] = position[1:].T @ code[: N_CTX - 1]
        first.W_K[PREVIOUS] = position[:-1].T @ code[: N_CTX - 1]
        first.W_V[PREVIOUS, :, :n] = scale * token.T
        first.W_O[PREVIOUS, :n] = before
        # The last dimension of the head: every query, and against it the key of the first position.
        second.W_Q[INDUCTION] = token.T @ code[:n] + torch.outer(constant / CONSTANT, code[-1])
        second.W_K[INDUCTION] = before.T @ code[:n] - torch.outer(position[0], code[-1])
        second.W_V[INDUCTION, :, :n] = scale * token.T
        second.W_O[INDUCTION, :n] = answer
        weight = LOGIT * answer.T
        # Behind the answer stands the end, by position alone.
        for at in range(longest - 2, N_CTX):
            weight[:, task.pad] += 2 * LOGIT * position[at]
        model.unembed.W_U.copy_(scale * weight)
    return model


def _features(
    n: int, seed: int
) -> tuple[
    Float[Tensor, "vocab d_model"],
    Float[Tensor, "vocab d_model"],
    Float[Tensor, "vocab d_model"],
    Float[Tensor, "pos d_model"],
    Float[Tensor, " d_model"],
]:
    """Directions of the token that stands here, of the token before it, of the answer, of positions and constant."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "planted induction"))
    matrix = torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    matrix[:, 0] = 1.0
    free = torch.linalg.qr(matrix).Q[:, 1:].T
    token, before, answer, position, constant, _ = free.split([n, n, n, N_CTX, 1, len(free) - 3 * n - N_CTX - 1])
    return token, before, answer, position, constant[0]
