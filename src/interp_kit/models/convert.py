"""Exact conversion into TransformerLens, checked on every call. The only code that knows TransformerLens's version."""

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.hooked_model import HookedModel, attach
from interp_kit.models.mygpt import EPS, MyGPT, sinusoidal

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
    from transformers import GPT2LMHeadModel

TOLERANCE = 1e-4
SPREAD = 0.02  # standard deviation of GPT-2's first weights
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
    (folding shifts logits by a constant); quantity: which of the two; tokens: how many positions were compared. A model
    that was never converted has NOT_CONVERTED: nan over 0 positions.
    """

    max_difference: float
    quantity: str
    tokens: int

    def __str__(self) -> str:
        if not self.tokens:
            return "nothing to convert: the weights are a HookedTransformer's own, so no logits were compared"
        return f"conversion checked: {self.difference}"

    @property
    def difference(self) -> str:
        """Name of what was compared, and by how much it differs."""
        what = "logits" if self.quantity == "logit" else "log-probabilities"
        return f"{what} differ by at most {self.max_difference:.2e} over {self.tokens} positions"


NOT_CONVERTED = ConversionCheck(math.nan, "logit", 0)


@torch.inference_mode(False)  # weights made in inference mode could never be trained, or studied by gradients
def hooked_transformer(*, sae: bool = False, **config: Any) -> "HookedTransformer":
    """A HookedTransformer of this config (with `sae`, sae_lens's HookedSAETransformer), without TransformerLens's
    notices about its 4.0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        if sae:
            from sae_lens import HookedSAETransformer

            return HookedSAETransformer(HookedTransformerConfig(**config))
        return HookedTransformer(HookedTransformerConfig(**config), move_to_device=True)


def key_value_cache(model: HookedModel, batch: int) -> "TransformerLensKeyValueCache":
    """TransformerLens's own cache, empty: for `model(tokens, past_kv_cache=…, attention_mask=ones)`."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch)


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
        raise CheckpointError(f"n_embd {hf.n_embd} is not a multiple of n_head {hf.n_head}")
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
    the trained model's own. The check is kept as `model.conversion`. Raises CheckpointError if the config cannot be
    converted or, in float32, where the two differ by more than 1e-4 relative to the largest logit (absolute below 1).
    """
    return convert_hf(hf, gpt2_config(hf.config), "gpt2.convert_gpt2_weights", fold=fold, device=device)


@torch.inference_mode(False)
def convert_hf(
    hf: Any, config: dict[str, Any], converter: str, *, fold: bool = False, device: str = "cpu"
) -> "HookedTransformer":
    """A Hugging Face model as a HookedTransformer of this config, in the source's dtype.

    Args:
        hf: The model.
        config: Of the HookedTransformer.
        converter: TransformerLens's function that renames the weights: `module.function` of its weight_conversions.
        fold: As for `convert_gpt2`.
        device: Of the model.

    Returns:
        The model; the check against the source is kept as `conversion`.

    Raises:
        CheckpointError: In float32, the two differ by more than 1e-4 relative to the largest logit.
    """
    module, _, name = converter.partition(".")
    convert = getattr(importlib.import_module(f"transformer_lens.pretrained.weight_conversions.{module}"), name)
    model = hooked_transformer(**config, dtype=next(hf.parameters()).dtype, device=device)
    built(model, {k: v.detach().clone() for k, v in convert(hf, model.cfg).items()}, fold=fold)
    attach(model, conversion=verify(model, hf, folded=fold))
    return model


@torch.inference_mode(False)
def built(
    model: "HookedTransformer", weights: Mapping[str, Tensor], *, fold: bool = False, final_norm: bool = True
) -> "HookedTransformer":
    """The model with these weights, by its parameters' names, ready for analyses. Raises CheckpointError if folding is
    asked for and there is no final norm to fold."""
    if not final_norm:
        if fold:
            raise CheckpointError("a model without a final LayerNorm cannot be folded; load it with fold=False")
        _without_final_norm(model)
    model.load_and_process_state_dict(
        dict(weights), fold_ln=fold, center_writing_weights=fold, center_unembed=fold, fold_value_biases=fold
    )
    model.eval()
    model.requires_grad_(False)
    return model


@torch.inference_mode(False)
def convert_mygpt(source: MyGPT, *, sae: bool = False, n_ctx: int = 405, device: str = "cpu") -> "HookedTransformer":
    """A MyGPT as a HookedTransformer (with `sae`, sae_lens's HookedSAETransformer) that computes the same, in the
    source's dtype: source(quiz) == model([0] + quiz[:-1]).

    There is no final LayerNorm; `W_pos` holds the sinusoidal table; heads are max(d_key, d_value) wide, the narrower
    half padded with zeros. The check is kept as `model.conversion`, the source's sizes as `model.mygpt`. Raises
    CheckpointError where, in float32, the two differ by more than 1e-4 relative to the largest logit (or 1).
    """
    config = source.config
    d_head = max(config.d_key, config.d_value)
    model = hooked_transformer(
        sae=sae,
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_ctx=n_ctx,
        d_head=d_head,
        n_heads=config.n_heads,
        d_mlp=config.d_mlp,
        d_vocab=config.d_vocab,
        act_fn="relu",
        eps=EPS,
        attn_scale=config.d_key**0.5,
        normalization_type="LN",
        init_weights=False,
        original_architecture="MyGPT",
        default_prepend_bos=False,
        dtype=source.embed.weight.dtype,
        device=device,
    )
    _without_final_norm(model)
    with torch.no_grad():
        for name, value in _mygpt_weights(source, d_head, n_ctx).items():
            parameter = model.get_parameter(name)
            assert parameter.shape == value.shape, f"{name}: {tuple(value.shape)} for {tuple(parameter.shape)}"
            parameter.copy_(value)
    model.eval()
    model.requires_grad_(False)
    attach(model, conversion=_verify_mygpt(model, source), mygpt=config)
    return model


@torch.inference_mode()
def _verify_mygpt(model: "HookedTransformer", source: MyGPT) -> ConversionCheck:
    """Compare both, without dropout, on random tokens at full context length."""
    tokens, training = _random_tokens(model), source.training
    try:
        source.eval()
        logits = [source(row[None].to(source.embed.weight.device)) for row in tokens]
    finally:
        source.train(training)
    return _compare(model, F.pad(tokens, (1, -1)), logits, "logit")


def _without_final_norm(model: "HookedTransformer") -> None:
    """TransformerLens knows no model of LayerNorms but the last; setup() forgets the hooks of the one removed."""
    model.ln_final = nn.Identity()
    model.setup()


def _mygpt_weights(source: MyGPT, d_head: int, n_ctx: int) -> dict[str, Tensor]:
    """Name in the HookedTransformer -> weight. Those not named stay as they are made: biases of 0."""
    weights = {
        "embed.W_E": source.embed.weight,
        "pos_embed.W_pos": sinusoidal(n_ctx, source.config.d_model),
        "unembed.W_U": source.readout.weight.T,
        "unembed.b_U": source.readout.bias,
    }
    for layer, block in enumerate(source.blocks):
        part = dict(block.named_parameters())
        for ours, theirs in (("w_q", "W_Q"), ("w_k", "W_K"), ("w_v", "W_V")):
            wide = F.pad(part[ours], (0, 0, 0, d_head - part[ours].shape[1]))
            weights[f"blocks.{layer}.attn.{theirs}"] = wide.transpose(1, 2)
        out = part["w_o"].unflatten(0, (source.config.n_heads, -1))
        weights[f"blocks.{layer}.attn.W_O"] = F.pad(out, (0, 0, 0, d_head - out.shape[1]))
        for norm in ("ln1", "ln2"):
            weights[f"blocks.{layer}.{norm}.w"] = part[f"{norm}.weight"]
            weights[f"blocks.{layer}.{norm}.b"] = part[f"{norm}.bias"]
        for ours, theirs in (("fc1", "in"), ("fc2", "out")):
            weights[f"blocks.{layer}.mlp.W_{theirs}"] = part[f"{ours}.weight"].T
            weights[f"blocks.{layer}.mlp.b_{theirs}"] = part[f"{ours}.bias"]
    return weights


def verify(model: "HookedTransformer", hf: Any, *, folded: bool, seed: int = 0) -> ConversionCheck:
    """Compare both models on random tokens at full context length. Raises CheckpointError if float32 disagrees."""
    return compared(model, lambda tokens: hf(tokens.to(hf.device)).logits, folded=folded, seed=seed)


@torch.inference_mode()
def compared(
    model: "HookedTransformer", forward: Callable[[Tensor], Tensor], *, folded: bool = False, seed: int = 0
) -> ConversionCheck:
    """Compare a model with its source's (batch, pos) tokens -> (batch, pos, vocab) logits, as `verify` does."""
    tokens = _random_tokens(model, seed)
    return _compare(model, tokens, (forward(row[None]) for row in tokens), "log-prob" if folded else "logit")


def _random_tokens(model: "HookedTransformer", seed: int = 0) -> Tensor:
    """(rows, n_ctx) random tokens: two rows, or one where a full vocabulary at full context is a large answer. Rotary
    positions have no table that could be wrong at its end: their texts have at most 512 tokens."""
    cfg = model.cfg
    length = min(cfg.n_ctx, 512) if cfg.positional_embedding_type == "rotary" else cfg.n_ctx
    rows = 2 if length * cfg.d_vocab < 10**7 else 1
    return torch.randint(0, cfg.d_vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _compare(model: "HookedTransformer", tokens: Tensor, logits: Iterable[Tensor], quantity: str) -> ConversionCheck:
    """Compare the model on each row of `tokens` with the source's (1, pos, vocab) logits for it. Raises
    CheckpointError if float32 disagrees."""
    cfg = model.cfg
    worst, size = 0.0, 1.0
    for row, source in zip(tokens, logits, strict=True):
        source = source.float().cpu()
        found = model(row[None].to(cfg.device)).float().cpu()
        if quantity == "log-prob":
            source, found = source.log_softmax(-1), found.log_softmax(-1)
        worst = float(torch.maximum(torch.tensor(worst), (source - found).abs().max()))  # nan stays nan
        size = max(size, float(source.abs().max()))
    check = ConversionCheck(worst, quantity, tokens.numel())
    if not (math.isfinite(worst) and worst <= TOLERANCE * size) and cfg.dtype == torch.float32:
        raise CheckpointError(f"the conversion is not exact: {check.difference}, allowed {TOLERANCE * size:.2e}")
    return check


@torch.inference_mode(False)
def untrained(model: HookedModel, seed: int = 0) -> "HookedTransformer":
    """The same architecture and class with fresh random weights, the control of every analysis: normal of standard
    deviation cfg.initializer_range, biases 0, LayerNorm weights 1. A MyGPT is drawn as its original is; its sinusoidal
    positions, padding and missing final LayerNorm stay.

    A Hugging Face config names its initializer_range. Weights in a file do not show it: it is what a config in the file
    or beside it says, or `load(..., config={"initializer_range": 0.05})`, else GPT-2's 0.02. A HookedTransformer that
    names none, in memory or in a file of TransformerLens, has TransformerLens's 0.8 / sqrt(d_model)."""
    cfg = copy.deepcopy(model.cfg)
    sae = any(kind.__name__ == "HookedSAETransformer" for kind in type(model).__mro__)
    mygpt = getattr(model, "mygpt", None)
    if mygpt is not None:
        source = MyGPT(mygpt, seed=seed).to(cfg.dtype)
        return convert_mygpt(source, sae=sae, n_ctx=cfg.n_ctx, device=cfg.device)
    fresh = hooked_transformer(sae=sae, **{**cfg.to_dict(), "init_weights": False})
    if isinstance(getattr(model, "ln_final", None), nn.Identity):
        _without_final_norm(fresh)
    generator = torch.Generator().manual_seed(seed)
    std = cfg.initializer_range if cfg.initializer_range > 0 else SPREAD
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            kind = name.rsplit(".", 1)[-1].removeprefix("_")  # grouped keys and values begin with a line
            if kind == "w":
                parameter.fill_(1.0)
            elif kind.startswith("b"):
                parameter.zero_()
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * std)
    fresh.eval()
    fresh.requires_grad_(False)
    return fresh
