"""A HookedTransformer's weights run by plain torch: fused projections, scaled_dot_product_attention, and keys and
values kept in memory set aside once, so that a text can grow without running its beginning again.

What is not certain to be computed alike is refused, and logits are compared with the model's before anything else runs.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_kit.core.types import HookedModel

TOLERANCE = 1e-4
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
# What of a config is read here or says nothing about the computation. All else must be as it is by default.
KNOWN = re.compile(
    "d_(model|head|mlp|vocab|vocab_out)|n_(layers|ctx|heads|params)|device|dtype|eps|act_fn|attn_only|(use_)?attn_scale"
    "|scale_attn_by_inverse_layer_idx|normalization_type|original_architecture|(model|tokenizer)_name"
    "|(default_prepend|tokenizer_prepends)_bos|init_(mode|weights)|initializer_range|seed|from_checkpoint"
    "|checkpoint_(index|label_type|value)|layer_norm_folding|trust_remote_code|tie_word_embeddings"
    "|use_(attn_result|split_qkv_input|attn_in|hook_mlp_in|hook_tokens)"
)
# What oneDNN calls them, so that a product takes its activation along.
ONEDNN = {
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), ("gelu", "tanh")),
}
WIDE = 64  # d_model from which on oneDNN's products are the faster ones
BLOCK = 256  # rows that go through oneDNN at once: each new shape costs it a millisecond, and memory that it keeps
MODULES = re.compile(
    "Hooked(SAE)?Transformer|(Typed)?ModuleList|Embed|PosEmbed|Unembed|TransformerBlock|Attention|MLP|LayerNorm(Pre)?"
    "|Identity|HookPoint"
)


Visit = Callable[[str, int, Tensor], None]  # site, layer, activation


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
        """What parts of x become when they are centred and scaled as x is: they add up to the norm of x, less its
        bias."""
        if self.eps is None:
            return parts
        scaled = (parts - parts.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + self.eps).sqrt()
        return scaled if self.weight is None else scaled * self.weight


@dataclass(frozen=True)
class Layer:
    """One block. qkv, out, mlp_in, mlp_out: (out, in) weight and bias; scale: what attention scores are multiplied by;
    mlp_in is None in a model of attention alone."""

    norm1: Norm
    qkv: tuple[Tensor, Tensor]
    scale: float
    out: tuple[Tensor, Tensor]
    norm2: Norm | None
    mlp_in: tuple[Tensor, Tensor] | None
    mlp_out: tuple[Tensor, Tensor] | None


class Executor:
    """The logits of `model` with its weights as they are now: make a new one where weights change.

    Raises Unsupported naming what the model has that is not computed here (rotary positions, parallel blocks, gated or
    local layers, active hooks, half precision …), or by how much logits differ on random tokens (`compare`; without
    it the caller has to).

    blocks: only the first so many, for `run` alone: nothing is copied that need not be, and nothing compared.
    """

    def __init__(self, model: HookedModel, *, compare: bool = True, blocks: int | None = None) -> None:
        _refuse(model)
        whole: Any = model
        cfg = model.cfg
        self.n_ctx, self.n_heads, self.d_head = cfg.n_ctx, cfg.n_heads, cfg.d_head
        self.act = ACTIVATIONS[cfg.act_fn] if not cfg.attn_only else F.relu
        with torch.no_grad():
            self.embed, self.positions = whole.embed.W_E.detach(), whole.pos_embed.W_pos.detach()
            arrange = Tensor.contiguous if blocks is None else _same
            self.layers = [_layer(block, arrange) for block in list(whole.blocks)[:blocks]]
            self.norm = _norm(whole.ln_final) if cfg.normalization_type is not None else Norm(None, None, None)
            self.unembed = arrange(whole.unembed.W_U.detach().T), whole.unembed.b_U.detach()
        self.fused = ONEDNN.get(cfg.act_fn or "", ("none", "")) if _has_onednn(self.embed) else None
        if self.fused is not None and not _multiplies(self.act, *self.fused):
            self.fused = None
        self.alike = blocks is not None  # whether all calls have the same few shapes
        self.length, self.cache = 0, self.embed.new_empty(len(self.layers), 2, 0, self.n_heads, 0, self.d_head)
        if compare and blocks is None:
            self._compare(model)

    def prefill(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        every: bool = False,
        capacity: int | None = None,
        visit: Visit | None = None,
    ) -> Float[Tensor, "batch vocab"] | Float[Tensor, "batch pos vocab"]:
        """Begin new texts: (batch, vocab) logits at the last position, or with `every` (batch, pos, vocab).

        capacity: how long the texts may grow, the model's context where it is not given; visit: as for `extend`. Raises
        ValueError where the tokens do not fit.
        """
        room = int(self.n_ctx if capacity is None else capacity)
        if room > self.n_ctx:
            raise ValueError(f"texts of {room} tokens do not fit the model's context of {self.n_ctx}")
        self.cache, self.length = self._room(len(tokens), room), 0
        return self.extend(tokens, every=every, visit=visit)

    def step(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """(batch, vocab) logits after one more token of each text."""
        return self.extend(tokens[:, None])

    @torch.inference_mode()
    def extend(
        self, tokens: Int[Tensor, "batch pos"], *, every: bool = False, visit: Visit | None = None
    ) -> Float[Tensor, "batch vocab"] | Float[Tensor, "batch pos vocab"]:
        """Further tokens of the texts: logits at the last of them, or with `every` at each.

        visit: as in `run`, of the new positions; it may change values in place. Raises ValueError where there are no
        tokens, or they exceed the capacity, or are of another number of texts.
        """
        start, end = self.length, self.length + tokens.shape[1]
        *_, batch, _, capacity, _ = self.cache.shape
        if start == end or end > capacity or len(tokens) != batch:
            raise ValueError(
                f"{tuple(tokens.shape)} tokens cannot follow {start}: there is room for {capacity} in {batch} texts"
            )
        visit = visit or _nothing
        x = self._embed(tokens, start, visit)
        for number, (layer, kept) in enumerate(zip(self.layers, self.cache[:, :, :, :, :end], strict=True)):
            x = self._block(number, layer, x, kept, visit)
        self.length = end
        return F.linear(self.norm(x if every else x[:, -1]), *self.unembed)

    @torch.inference_mode()
    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        visit: Visit,
        stop: int | None = None,
        at: Int[Tensor, "batch read"] | None = None,
    ) -> Float[Tensor, "batch _ d_model"]:
        """(batch, pos, d_model) the residual stream before the final norm, or before block `stop`.

        visit: called with site, layer and value of every activation on the way: embed, pos_embed, resid_pre, q, k, v, z
        (batch, pos, head, d_head), attn_out, resid_mid, mlp_post, mlp_out and resid_post. What it raises ends the run.
        at: positions that the last block goes on with, from z on: they then stand for `pos`, also in what returns.
        """
        x = self._embed(tokens, 0, visit)
        layers = self.layers[:stop]
        for number, layer in enumerate(layers):
            x = self._block(number, layer, x, None, visit, at if number == len(layers) - 1 else None)
        return x

    def _embed(self, tokens: Tensor, start: int, visit: Visit) -> Tensor:
        words = F.embedding(tokens, self.embed)
        places = self.positions[start : start + tokens.shape[1]].expand_as(words)
        if visit is not _nothing:
            places = places.clone()  # which a visit may change
        visit("embed", 0, words)
        visit("pos_embed", 0, places)
        return words + places

    def _block(
        self, number: int, layer: Layer, x: Tensor, kept: Tensor | None, visit: Visit, at: Tensor | None = None
    ) -> Tensor:
        """(batch, new, d_model) the residual stream behind a block. kept: (2, batch, head, pos, d_head) keys and values
        up to the last new position, of which the new ones are written here; None where all are new, and only those at
        `at` (batch, read) may be wanted."""
        visit("resid_pre", number, x)
        heads = self.linear(layer.norm1(x), *layer.qkv).unflatten(-1, (3, self.n_heads, self.d_head)).unbind(2)
        for name, value in zip("qkv", heads, strict=True):
            visit(name, number, value)
        q, k, v = (value.transpose(1, 2) for value in heads)
        new, end, seen = q.shape[2], q.shape[2], None
        if kept is not None:
            end = kept.shape[3]
            kept[0, :, :, end - new :], kept[1, :, :, end - new :] = k, v
            k, v = kept
            if 1 < new < end:
                seen = torch.ones(new, end, dtype=torch.bool, device=x.device).tril(end - new)
        if at is not None:
            rows = torch.arange(len(x), device=x.device)[:, None]
            x, q = x[rows, at], heads[0][rows, at].transpose(1, 2)
            seen = torch.arange(end, device=x.device) <= at[:, None, :, None]
        causal = seen is None and 1 < new == end
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=causal, scale=layer.scale)
        z = z.transpose(1, 2)
        visit("z", number, z)
        out = self.linear(z.flatten(2), *layer.out)
        visit("attn_out", number, out)
        x = x + out
        visit("resid_mid", number, x)
        if layer.norm2 is not None and layer.mlp_in is not None and layer.mlp_out is not None:
            post = self.linear(layer.norm2(x), *layer.mlp_in, act=True)
            visit("mlp_post", number, post)
            out = self.linear(post, *layer.mlp_out)
            visit("mlp_out", number, out)
            x = x + out
        visit("resid_post", number, x)
        return x

    def read_out(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """(…, vocab) logits of the residual stream before the final norm."""
        return F.linear(self.norm(x), *self.unembed)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, *, act: bool = False) -> Tensor:
        """(…, out) x (…, in) through a layer of weights and, where asked, the activation."""
        kind, algorithm = self.fused if act and self.fused is not None else ("none", "")
        if self.alike and self.fused is not None:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], algorithm)
        if not act or self.fused is None or len(rows := x.flatten(0, -2)) < BLOCK:
            return self.act(F.linear(x, weight, bias)) if act else F.linear(x, weight, bias)
        out = x.new_empty(*x.shape[:-1], len(weight))
        for here, into in zip(rows.split(BLOCK), out.flatten(0, -2).split(BLOCK), strict=True):
            if len(here) == BLOCK:
                into.copy_(torch.ops.mkldnn._linear_pointwise(here, weight, bias, kind, [], algorithm))
            else:
                into.copy_(self.act(F.linear(here, weight, bias)))
        return out

    def _room(self, batch: int, capacity: int) -> Tensor:
        """(layer, 2, batch, head, capacity, d_head) memory for keys and values; the last one again where it fits."""
        shape = (len(self.layers), 2, batch, self.n_heads, capacity, self.d_head)
        return self.cache if self.cache.shape == shape else self.embed.new_empty(shape)

    def _compare(self, model: HookedModel) -> None:
        """Raise Unsupported where logits are not the model's on a few random tokens, in one piece and one by one."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, len(self.embed), (2, min(self.n_ctx, 8)), generator=generator).to(self.embed.device)
        half = (tokens.shape[1] + 1) // 2
        with torch.inference_mode():
            expected = whole_text(model, tokens)
            pieces = [self.prefill(tokens[:, :half], every=True, capacity=tokens.shape[1])]
            pieces += [self.step(tokens[:, at])[:, None] for at in range(half, tokens.shape[1])]
            difference = (torch.cat(pieces, dim=1) - expected).abs().max()
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise Unsupported(f"logits differ from the model's by {float(difference):.1e}, allowed {allowed:.1e}")
        self.cache, self.length = self._room(0, 0), 0


def has_hooks(model: Any) -> bool:
    """Whether anything is hooked into the model that may change what it computes."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def unpadded(model: HookedModel, tokens: Tensor) -> dict[str, Tensor]:
    """What a call of the model needs beside tokens so that it takes none for padding, whatever tokenizer it carries."""
    return {} if getattr(model, "tokenizer", None) is None else {"attention_mask": torch.ones_like(tokens)}


def whole_text(model: HookedModel, tokens: Tensor) -> Tensor:
    """(batch, pos, vocab) logits of the model itself, no token taken for padding."""
    return model(tokens, **unpadded(model, tokens))


def _refuse(model: Any) -> None:
    if not isinstance(model, nn.Module) or not dataclasses.is_dataclass(model.cfg):
        raise Unsupported(f"{type(model).__name__} is no HookedTransformer")
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


def _has_onednn(weight: Tensor) -> bool:
    """Whether torch multiplies by oneDNN what is as `weight`: faster than MKL by a tenth to a half on AMD, and
    activations come in the same pass. Its first product of a shape takes a millisecond, which small models never win
    back."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.shape[1] >= WIDE


@cache
def _multiplies(act: Callable[[Tensor], Tensor], kind: str, algorithm: str) -> bool:
    """Whether oneDNN's product of BLOCK rows, with the activation that it takes along, is torch's own. Asked once a
    process: what `_compare` runs is too small to go that way."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((BLOCK, WIDE), (WIDE, WIDE), (WIDE,)))
    expected = F.linear(x, weight, bias)
    expected = expected if kind == "none" else act(expected)
    found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], algorithm)
    return bool((found - expected).abs().max() < TOLERANCE * float(expected.abs().max()))


def _layer(block: Any, arrange: Callable[[Tensor], Tensor]) -> Layer:
    """The weights of a block, those that lie the other way round as `arrange` leaves them."""
    attention = block.attn
    qkv = [
        (w.detach().transpose(1, 2).flatten(0, 1), b.detach().flatten())
        for w, b in ((getattr(attention, f"W_{x}"), getattr(attention, f"b_{x}")) for x in "QKV")
    ]
    mlp = getattr(block, "mlp", None)
    return Layer(
        norm1=_norm(block.ln1),
        qkv=(torch.cat([w for w, _ in qkv]), torch.cat([b for _, b in qkv])),
        scale=1 / float(attention.attn_scale),
        out=(arrange(attention.W_O.detach().flatten(0, 1).T), attention.b_O.detach()),
        norm2=_norm(block.ln2) if mlp is not None else None,
        mlp_in=(arrange(mlp.W_in.detach().T), mlp.b_in.detach()) if mlp is not None else None,
        mlp_out=(arrange(mlp.W_out.detach().T), mlp.b_out.detach()) if mlp is not None else None,
    )


def _norm(module: Any) -> "Norm":
    if isinstance(module, nn.Identity):
        return Norm(None, None, None)
    weights = (module.w.detach(), module.b.detach()) if hasattr(module, "w") else (None, None)
    return Norm(*weights, float(module.eps))


def _nothing(site: str, layer: int, value: Tensor) -> None: ...


def _same(x: Tensor) -> Tensor:
    return x
