"""Exact conversion into TransformerLens, checked on every call. The only code that knows TransformerLens's version."""

import copy
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from interp_kit.core.types import HookedModel, attach
from interp_kit.models.gpt2 import CheckpointError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformers import GPT2LMHeadModel

TOLERANCE = 1e-4
ACTIVATIONS = {
    "gelu_new": "gelu_new",
    "gelu": "gelu",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class ConversionCheck:
    """The converted model against its source on random tokens at full context length.

    max_difference: largest absolute difference of raw logits, or of log-probabilities where weights were folded
    (folding shifts logits by a constant); quantity: which of the two; tokens: how many positions were compared.
    """

    max_difference: float
    quantity: str
    tokens: int

    def __str__(self) -> str:
        return f"max |{self.quantity} difference| {self.max_difference:.2e} over {self.tokens} positions"


def hooked_transformer(**config: Any) -> "HookedTransformer":
    """A HookedTransformer of this config, without TransformerLens's notices about its 4.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        return HookedTransformer(HookedTransformerConfig(**config), move_to_device=True)


def gpt2_config(hf: Any) -> dict[str, Any]:
    """TransformerLens's config of a Hugging Face GPT-2 config. Raises CheckpointError naming what cannot be
    converted."""
    if hf.activation_function not in ACTIVATIONS:
        raise CheckpointError(
            f"activation_function {hf.activation_function!r} cannot be converted; these can: {', '.join(ACTIVATIONS)}"
        )
    if getattr(hf, "add_cross_attention", False):
        raise CheckpointError("add_cross_attention=True cannot be converted: there is no encoder to attend to")
    if hf.n_head < 1 or hf.n_embd % hf.n_head:
        raise CheckpointError(f"n_embd {hf.n_embd} is no multiple of n_head {hf.n_head}")
    return {
        "n_layers": hf.n_layer,
        "d_model": hf.n_embd,
        "n_ctx": hf.n_positions,
        "d_head": hf.n_embd // hf.n_head,
        "n_heads": hf.n_head,
        "d_mlp": hf.n_inner if hf.n_inner is not None else 4 * hf.n_embd,
        "d_vocab": hf.vocab_size,
        "act_fn": ACTIVATIONS[hf.activation_function],
        "eps": hf.layer_norm_epsilon,
        "use_attn_scale": hf.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": hf.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
        "initializer_range": hf.initializer_range,
        "init_weights": False,
        "original_architecture": "GPT2LMHeadModel",
        "default_prepend_bos": False,
    }


def convert_gpt2(hf: "GPT2LMHeadModel", *, fold: bool = False, device: str = "cpu") -> "HookedTransformer":
    """A GPT-2 as a HookedTransformer that computes the same, in the source's dtype.

    fold: fold LayerNorms and centre weights as TransformerLens does by default; off by default, so that activations are
    the trained model's own. The check is kept as `model.conversion`. Raises CheckpointError where the config cannot be
    converted or, in float32, where the two differ by more than 1e-4 relative to the largest logit (absolute below 1).
    """
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    dtype = next(hf.parameters()).dtype
    model = hooked_transformer(**gpt2_config(hf.config), dtype=dtype, device=device)
    state = {k: v.detach().clone() for k, v in convert_gpt2_weights(hf, model.cfg).items()}
    model.load_and_process_state_dict(
        state, fold_ln=fold, center_writing_weights=fold, center_unembed=fold, fold_value_biases=fold
    )
    model.eval()
    model.requires_grad_(False)
    check = verify(model, hf, folded=fold)
    attach(model, conversion=check)
    return model


def verify(model: "HookedTransformer", hf: "GPT2LMHeadModel", *, folded: bool, seed: int = 0) -> ConversionCheck:
    """Compare both models on random tokens at full context length. Raises CheckpointError where float32 disagrees."""
    cfg = model.cfg
    generator = torch.Generator().manual_seed(seed)
    rows = 2 if cfg.n_ctx * cfg.d_vocab < 10**7 else 1  # a full vocabulary at full context is a large answer
    tokens = torch.randint(0, cfg.d_vocab, (rows, cfg.n_ctx), generator=generator)
    with torch.inference_mode():
        worst, size = 0.0, 1.0
        for row in tokens:
            source = hf(row[None].to(hf.device)).logits.float().cpu()
            found = model(row[None].to(cfg.device)).float().cpu()
            if folded:
                source, found = source.log_softmax(-1), found.log_softmax(-1)
            worst = float(torch.maximum(torch.tensor(worst), (source - found).abs().max()))  # nan stays nan
            size = max(size, float(source.abs().max()))
    check = ConversionCheck(worst, "log-prob" if folded else "logit", tokens.numel())
    if not (math.isfinite(worst) and worst <= TOLERANCE * size) and cfg.dtype == torch.float32:
        raise CheckpointError(f"the conversion is not exact: {check}, allowed {TOLERANCE * size:.2e}")
    return check


def untrained(model: HookedModel, seed: int = 0) -> "HookedTransformer":
    """The same architecture with fresh random weights, the control of every analysis: normal of standard deviation
    cfg.initializer_range (0.02 where none is set), biases 0, LayerNorm weights 1."""
    cfg = copy.deepcopy(model.cfg)
    fresh = hooked_transformer(**{**cfg.to_dict(), "init_weights": False})
    generator = torch.Generator().manual_seed(seed)
    std = cfg.initializer_range if cfg.initializer_range > 0 else 0.02
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if kind == "w":
                parameter.fill_(1.0)
            elif kind.startswith("b"):
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    fresh.eval()
    fresh.requires_grad_(False)
    return fresh
