"""The two ends of a planted model: an empty transformer, its embedding, and its unembedding."""

from collections.abc import Sequence

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask
from interp_kit.models.planted.attention import D_HEAD, N_HEADS
from interp_kit.models.planted.directions import CONSTANT, Basis
from interp_kit.models.planted.neurons import D_MLP, is_bit

N_CTX = 64
BIT_LOGIT, SUPPORT_LOGIT, COUNT_LOGIT = 5.0, 12.0, 16.0


def empty_model(
    task: AbstractTask,
    d_model: int,
    *,
    n_layers: int = 2,
    n_heads: int = N_HEADS,
    n_ctx: int = N_CTX,
    d_head: int = D_HEAD,
    d_mlp: int = D_MLP,
    mlp: bool = True,
    layer_norm: bool = True,
) -> HookedTransformer:
    """A transformer for the task's vocabulary with every weight 0 and the gains of its LayerNorms, if any, 1."""
    cfg = HookedTransformerConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_ctx=n_ctx,
        d_head=d_head,
        n_heads=n_heads,
        d_mlp=d_mlp if mlp else None,
        d_vocab=len(task.vocabulary),
        act_fn="relu",
        attn_only=not mlp,
        normalization_type="LN" if layer_norm else None,
        init_weights=False,  # Drawing weights only to overwrite them would move the global random stream.
        device="cpu",
        dtype=torch.float32,
        default_prepend_bos=False,
    )
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith(".w") else 0.0)  # Only LayerNorm's gains are called w.
    return model.eval()


def set_embedding(model: HookedTransformer, basis: Basis) -> None:
    """A token is its direction; a position is its direction and the constant."""
    model.embed.W_E.copy_(basis.write.token)
    # Past the end of the text every position looks like the last, where only padding follows.
    index = torch.arange(model.cfg.n_ctx).clamp(max=len(basis.write.position) - 1)
    model.pos_embed.W_pos.copy_(basis.write.position[index] + CONSTANT * basis.write.constant)


def set_unembedding(model: HookedTransformer, task: AbstractTask, examples: Sequence[Example], basis: Basis) -> None:
    """Logits from position (which tokens can stand next) and from the answer directions (which one does).

    A count s gives each value k the logit k * s - k**2 / 2, largest at k = s and linear in s; both are taken about the
    middle of the range, where the mean of the operands is 0.
    """
    read = basis.read
    support = torch.zeros(len(read.position), len(task.vocabulary), dtype=torch.float64)
    for example in examples:
        for i, token in enumerate((*example.tokens[1:], task.pad)):
            support[i, token] = SUPPORT_LOGIT
    weight = torch.zeros(model.cfg.d_model, len(task.vocabulary), dtype=torch.float64)
    for field in task.fields:
        here, half = examples[0].positions[field.predict], max(field.values) / 2
        answer = read.answer[field.name]
        for value, token in zip(field.values, field.candidates, strict=True):
            offset = value - half
            if is_bit(field):
                support[here, token] = SUPPORT_LOGIT
                weight[:, token] += 2 * offset * BIT_LOGIT * answer
            else:
                support[here, token] = SUPPORT_LOGIT - COUNT_LOGIT * offset**2 / 2
                weight[:, token] += COUNT_LOGIT * offset * half * answer
    weight += read.position.T @ support
    model.unembed.W_U.copy_(read.scale * weight)
