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
from interp_kit.engine.fast.rotary import Rotary
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
# What GPT-2 and MyGPT do not have: RMSNorm, gated MLPs, rotary positions, parallel blocks, grouped queries.
BEYOND = re.compile(
    "gated_mlp|positional_embedding_type|rotary_(dim|base|adjacent_pairs|scaling_factor)|parallel_attn_mlp"
    "|n_key_value_heads|use_qk_norm|final_rms|uses_rms_norm|use_NTK_by_parts_rope|NTK_.*"
)
MODULES_BEYOND = re.compile("GroupedQueryAttention|GatedMLP|RMSNorm(Pre)?")
POSITIONS = ("standard", "rotary")


class Unsupported(ValueError):
    """The executor does not compute what this model computes; the message names why."""


@dataclass(frozen=True)
class Norm:
    """LayerNorm, with weights or with its weights folded into what follows (None); nothing at all where eps is None.

    rms: RMSNorm (Zhang & Sennrich 2019): nothing is centred, and there is no bias.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float | None
    rms: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """(…, d_model) x normed."""
        if self.eps is None:
            return x
        if self.rms:
            return F.rms_norm(x, x.shape[-1:], self.weight, eps=self.eps)
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, eps=self.eps)

    def held(
        self, parts: Float[Tensor, "*part batch d"], x: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "*part batch d"]:
        """Parts of x, centred and scaled as x is: they add up to the norm of x, less its
        bias."""
        if self.eps is None:
            return parts
        if self.rms:
            scaled = parts / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()
            return scaled if self.weight is None else scaled * self.weight
        scaled = (parts - parts.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + self.eps).sqrt()
        return scaled if self.weight is None else scaled * self.weight


Product = Callable[..., Tensor]  # of x, weight, bias and `act`


@dataclass(frozen=True)
class MLP:
    """norm: of what it reads; into, out: (out, in) weight and bias; gate: of a gated one (Shazeer 2020), weight and a
    bias of 0."""

    norm: Norm
    into: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    gate: tuple[Tensor, Tensor] | None = None

    def hidden(self, x: Tensor, product: Product) -> Tensor:
        """(…, d_mlp) what its neurons give of the residual stream x (…, d_model)."""
        normed = self.norm(x)
        if self.gate is None:
            return product(normed, *self.into, act=True)
        up = product(normed, self.into[0], self.gate[1])  # the bias comes after the gate
        return product(normed, *self.gate, act=True) * up + self.into[1]


@dataclass(frozen=True)
class Layer:
    """One block.

    qkv: (out, in) weight and bias of all queries' heads, then all keys', then all values'; scale: what attention scores
    are multiplied by; out: (out, in) weight and bias; mlp: None in a model of attention alone; parallel: whether the
    MLP reads what attention reads, and not what it gives; norms: of each head's query and key, if there are any;
    rotary: what turns them.
    """

    norm1: Norm
    qkv: tuple[Tensor, Tensor]
    scale: float
    out: tuple[Tensor, Tensor]
    mlp: MLP | None
    parallel: bool = False
    norms: tuple[Norm, Norm] | None = None
    rotary: Rotary | None = None

    def query(self, x: Tensor, places: slice | Tensor, *, axis: int = -3) -> Tensor:
        """Queries as scores have them, of those that projections give; places, axis: as for `Rotary.turned`."""
        return self._scored(x, 0, places, axis)

    def key(self, x: Tensor, places: slice | Tensor, *, axis: int = -3) -> Tensor:
        """Keys, likewise."""
        return self._scored(x, 1, places, axis)

    @property
    def places_count(self) -> bool:
        """True where queries and keys are not those that projections give."""
        return self.norms is not None or self.rotary is not None

    def _scored(self, x: Tensor, which: int, places: slice | Tensor, axis: int) -> Tensor:
        x = x if self.norms is None else self.norms[which](x)
        return x if self.rotary is None else self.rotary.turned(x, places, axis=axis)


def refuse(model: Any, *, beyond: bool = True) -> None:
    """Raise Unsupported, naming it, where a model has what its plain weights do not say.

    beyond: whether it may have what GPT-2 and MyGPT do not have.
    """
    if not isinstance(model, nn.Module) or not dataclasses.is_dataclass(model.cfg):
        raise Unsupported(f"{type(model).__name__} is not a HookedTransformer")
    if has_hooks(model):
        raise Unsupported("hooks are active")
    cfg: Any = model.cfg
    for module in model.modules():
        kind = type(module).__name__
        if not (MODULES.fullmatch(kind) or (beyond and MODULES_BEYOND.fullmatch(kind))):
            raise Unsupported(f"the model has a {type(module).__name__}")
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        known = KNOWN.fullmatch(field.name) or (beyond and BEYOND.fullmatch(field.name))
        if not known and value != field.default:
            raise Unsupported(f"{field.name} is {value!r}")
    if cfg.positional_embedding_type not in POSITIONS:
        raise Unsupported(f"positional_embedding_type is {cfg.positional_embedding_type!r}")
    if str(cfg.original_architecture).startswith("Olmo"):  # which norms behind attention, and all heads at once
        raise Unsupported(f"original_architecture is {cfg.original_architecture!r}")
    if cfg.act_fn not in ACTIVATIONS and not cfg.attn_only:
        raise Unsupported(f"act_fn is {cfg.act_fn!r}")
    if cfg.dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"dtype is {cfg.dtype}")


def layer_of(block: Any, arrange: Callable[[Tensor], Tensor], rotary: Rotary | None = None) -> Layer:
    """The weights of a block, those that lie the other way round as `arrange` leaves them."""
    attention = block.attn
    grouped = hasattr(attention, "_W_K")
    names = [("W_Q", "b_Q"), *(((f"_W_{x}", f"_b_{x}") if grouped else (f"W_{x}", f"b_{x}")) for x in "KV")]
    qkv = [
        (getattr(attention, w).detach().transpose(1, 2).flatten(0, 1), getattr(attention, b).detach().flatten())
        for w, b in names
    ]
    mlp = getattr(block, "mlp", None)
    return Layer(
        norm1=norm_of(block.ln1),
        qkv=(torch.cat([w for w, _ in qkv]), torch.cat([b for _, b in qkv])),
        scale=1 / float(attention.attn_scale),
        out=(arrange(attention.W_O.detach().flatten(0, 1).T), attention.b_O.detach()),
        mlp=None if mlp is None else _mlp_of(mlp, norm_of(block.ln2), arrange),
        parallel=mlp is not None and bool(block.cfg.parallel_attn_mlp),
        norms=(norm_of(attention.q_norm), norm_of(attention.k_norm)) if block.cfg.use_qk_norm else None,
        rotary=rotary,
    )


def _mlp_of(mlp: Any, norm: Norm, arrange: Callable[[Tensor], Tensor]) -> MLP:
    gate = getattr(mlp, "W_gate", None)
    return MLP(
        norm,
        into=(arrange(mlp.W_in.detach().T), mlp.b_in.detach()),
        out=(arrange(mlp.W_out.detach().T), mlp.b_out.detach()),
        gate=None if gate is None else (arrange(gate.detach().T), torch.zeros_like(mlp.b_in)),
    )


def norm_of(module: Any) -> Norm:
    """A normalisation, or none (nn.Identity)."""
    if isinstance(module, nn.Identity):
        return Norm(None, None, None)
    weight, bias = (part.detach() if (part := getattr(module, name, None)) is not None else None for name in "wb")
    return Norm(weight, bias, float(module.eps), type(module).__name__.startswith("RMS"))
