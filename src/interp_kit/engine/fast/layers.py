"""The weights of a HookedTransformer as plain tensors, and which models these say all about."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp_kit.engine.fast.matmul import ACTIVATIONS
from interp_kit.engine.inputs import has_hooks

# What of a config is read here or says nothing about the computation. All else must be as it is by default.
KNOWN = re.compile(
    "d_(model|head|mlp|vocab|vocab_out)|n_(layers|ctx|heads|params)|device|dtype|eps|act_fn|attn_only|(use_)?attn_scale"
    "|scale_attn_by_inverse_layer_idx|normalization_type|original_architecture|(model|tokenizer)_name"
    "|(default_prepend|tokenizer_prepends)_bos|init_(mode|weights)|initializer_range|seed|from_checkpoint"
    "|checkpoint_(index|label_type|value)|layer_norm_folding|trust_remote_code|tie_word_embeddings"
    "|use_(attn_result|split_qkv_input|attn_in|hook_mlp_in|hook_tokens)"
)
MODULES = re.compile(
    "Hooked(SAE)?Transformer|(Typed)?ModuleList|Embed|PosEmbed|Unembed|TransformerBlock|Attention|MLP|LayerNorm(Pre)?"
    "|Identity|HookPoint"
)


class Unsupported(ValueError):
    """The executor does not compute what this model computes; the message names why."""


@dataclass(frozen=True)
class Norm:
    """LayerNorm, with weights or with its weights folded into what follows (None); nothing at all where eps is None."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float | None

    def __call__(self, x: Tensor) -> Tensor:
        """(…, d_model) x normed."""
        return x if self.eps is None else F.layer_norm(x, x.shape[-1:], self.weight, self.bias, eps=self.eps)

    def held(
        self, parts: Float[Tensor, "*part batch d"], x: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "*part batch d"]:
        """Parts of x, centred and scaled as x is: they add up to the norm of x, less its
        bias."""
        if self.eps is None:
            return parts
        scaled = (parts - parts.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + self.eps).sqrt()
        return scaled if self.weight is None else scaled * self.weight


@dataclass(frozen=True)
class MLP:
    """norm: of what it reads; into, out: (out, in) weight and bias."""

    norm: Norm
    into: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layer:
    """One block. qkv, out: (out, in) weight and bias; scale: what attention scores are multiplied by; mlp is None in a
    model of attention alone."""

    norm1: Norm
    qkv: tuple[Tensor, Tensor]
    scale: float
    out: tuple[Tensor, Tensor]
    mlp: MLP | None


def refuse(model: Any) -> None:
    """Raise Unsupported, naming it, if a model has what its plain weights do not say."""
    if not isinstance(model, nn.Module) or not dataclasses.is_dataclass(model.cfg):
        raise Unsupported(f"{type(model).__name__} is not a HookedTransformer")
    if has_hooks(model):
        raise Unsupported("hooks are active")
    cfg: Any = model.cfg
    for module in model.modules():
        if not MODULES.fullmatch(type(module).__name__):
            raise Unsupported(f"the model has a {type(module).__name__}")
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if not KNOWN.fullmatch(field.name) and value != field.default:
            raise Unsupported(f"{field.name} is {value!r}")
    if cfg.act_fn not in ACTIVATIONS and not cfg.attn_only:
        raise Unsupported(f"act_fn is {cfg.act_fn!r}")
    if cfg.dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"dtype is {cfg.dtype}")


def layer_of(block: Any, arrange: Callable[[Tensor], Tensor]) -> Layer:
    """The weights of a block, those that lie the other way round as `arrange` leaves them."""
    attention = block.attn
    qkv = [
        (w.detach().transpose(1, 2).flatten(0, 1), b.detach().flatten())
        for w, b in ((getattr(attention, f"W_{x}"), getattr(attention, f"b_{x}")) for x in "QKV")
    ]
    mlp = getattr(block, "mlp", None)
    return Layer(
        norm1=norm_of(block.ln1),
        qkv=(torch.cat([w for w, _ in qkv]), torch.cat([b for _, b in qkv])),
        scale=1 / float(attention.attn_scale),
        out=(arrange(attention.W_O.detach().flatten(0, 1).T), attention.b_O.detach()),
        mlp=None
        if mlp is None
        else MLP(
            norm_of(block.ln2),
            into=(arrange(mlp.W_in.detach().T), mlp.b_in.detach()),
            out=(arrange(mlp.W_out.detach().T), mlp.b_out.detach()),
        ),
    )


def norm_of(module: Any) -> Norm:
    """A normalisation, or none (nn.Identity)."""
    if isinstance(module, nn.Identity):
        return Norm(None, None, None)
    weights = (module.w.detach(), module.b.detach()) if hasattr(module, "w") else (None, None)
    return Norm(*weights, float(module.eps))
