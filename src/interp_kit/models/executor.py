"""A HookedTransformer's weights run by plain torch: fused projections, scaled_dot_product_attention, and keys and
values kept in memory set aside once, so that a text can grow without running its beginning again.

What is not certain to be computed alike is refused, and logits are compared with the model's before anything else runs.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
MODULES = re.compile(
    "Hooked(SAE)?Transformer|(Typed)?ModuleList|Embed|PosEmbed|Unembed|TransformerBlock|Attention|MLP|LayerNorm(Pre)?"
    "|Identity|HookPoint"
)


class Unsupported(ValueError):
    """The executor does not compute what this model computes; the message names why."""


@dataclass(frozen=True)
class Layer:
    """One block. qkv, out, mlp_in, mlp_out: (out, in) weight and bias; scale: what attention scores are multiplied by;
    mlp_in is None in a model of attention alone."""

    norm1: Callable[[Tensor], Tensor]
    qkv: tuple[Tensor, Tensor]
    scale: float
    out: tuple[Tensor, Tensor]
    norm2: Callable[[Tensor], Tensor] | None
    mlp_in: tuple[Tensor, Tensor] | None
    mlp_out: tuple[Tensor, Tensor] | None


class Executor:
    """The logits of `model` with its weights as they are now: make a new one where weights change.

    Raises Unsupported naming what the model has that is not computed here (rotary positions, parallel blocks, gated or
    local layers, active hooks, half precision …), or by how much logits differ on random tokens.
    """

    def __init__(self, model: HookedModel) -> None:
        _refuse(model)
        whole: Any = model
        cfg = model.cfg
        self.n_ctx, self.n_heads, self.d_head = cfg.n_ctx, cfg.n_heads, cfg.d_head
        self.act = ACTIVATIONS[cfg.act_fn] if not cfg.attn_only else F.relu
        with torch.no_grad():
            self.embed, self.positions = whole.embed.W_E.detach(), whole.pos_embed.W_pos.detach()
            self.layers = [_layer(block) for block in whole.blocks]
            self.norm = _norm(whole.ln_final) if cfg.normalization_type is not None else _same
            self.unembed = whole.unembed.W_U.detach().T.contiguous(), whole.unembed.b_U.detach()
        self.length, self.cache = 0, self.embed.new_empty(len(self.layers), 2, 0, self.n_heads, 0, self.d_head)
        self._compare(model)

    def prefill(
        self, tokens: Int[Tensor, "batch pos"], *, every: bool = False, capacity: int | None = None
    ) -> Float[Tensor, "batch vocab"] | Float[Tensor, "batch pos vocab"]:
        """Begin new texts: (batch, vocab) logits at the last position, or with `every` (batch, pos, vocab).

        capacity: how long the texts may grow, the model's context where it is not given. Raises ValueError where the
        tokens do not fit.
        """
        room = int(self.n_ctx if capacity is None else capacity)
        if room > self.n_ctx:
            raise ValueError(f"texts of {room} tokens do not fit the model's context of {self.n_ctx}")
        self.cache, self.length = self._room(len(tokens), room), 0
        return self.extend(tokens, every=every)

    def step(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """(batch, vocab) logits after one more token of each text."""
        return self.extend(tokens[:, None])

    @torch.inference_mode()
    def extend(
        self, tokens: Int[Tensor, "batch pos"], *, every: bool = False
    ) -> Float[Tensor, "batch vocab"] | Float[Tensor, "batch pos vocab"]:
        """Further tokens of the texts: logits at the last of them, or with `every` at each. Raises ValueError where
        they are none, exceed the capacity, or are of another number of texts."""
        start, end = self.length, self.length + tokens.shape[1]
        *_, batch, _, capacity, _ = self.cache.shape
        if start == end or end > capacity or len(tokens) != batch:
            raise ValueError(
                f"{tuple(tokens.shape)} tokens cannot follow {start}: there is room for {capacity} in {batch} texts"
            )
        x = F.embedding(tokens, self.embed) + self.positions[start:end]
        for layer, (keys, values) in zip(self.layers, self.cache, strict=True):
            x = x + self._attention(layer, x, keys[:, :, :end], values[:, :, :end])
            if layer.norm2 is not None and layer.mlp_in is not None and layer.mlp_out is not None:
                x = x + F.linear(self.act(F.linear(layer.norm2(x), *layer.mlp_in)), *layer.mlp_out)
        self.length = end
        return F.linear(self.norm(x if every else x[:, -1]), *self.unembed)

    @torch.inference_mode()
    def run(
        self, tokens: Int[Tensor, "batch pos"], visit: Callable[[str, int, Tensor], None], stop: int | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """(batch, pos, d_model) the residual stream before the final norm, or before block `stop`.

        visit: called with site, layer and value of every activation on the way: embed, pos_embed, resid_pre, q, k, v, z
        (batch, pos, head, d_head), attn_out, resid_mid, mlp_post, mlp_out and resid_post.
        """
        batch, length = tokens.shape
        words, places = F.embedding(tokens, self.embed), self.positions[:length].expand(batch, -1, -1)
        visit("embed", 0, words)
        visit("pos_embed", 0, places)
        x = words + places
        for number, layer in enumerate(self.layers[:stop]):
            visit("resid_pre", number, x)
            heads = F.linear(layer.norm1(x), *layer.qkv).unflatten(-1, (3, self.n_heads, self.d_head)).unbind(2)
            for name, value in zip("qkv", heads, strict=True):
                visit(name, number, value)
            q, k, v = (value.transpose(1, 2) for value in heads)
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=layer.scale).transpose(1, 2)
            visit("z", number, z)
            out = F.linear(z.flatten(2), *layer.out)
            visit("attn_out", number, out)
            x = x + out
            visit("resid_mid", number, x)
            if layer.norm2 is not None and layer.mlp_in is not None and layer.mlp_out is not None:
                post = self.act(F.linear(layer.norm2(x), *layer.mlp_in))
                visit("mlp_post", number, post)
                out = F.linear(post, *layer.mlp_out)
                visit("mlp_out", number, out)
                x = x + out
            visit("resid_post", number, x)
        return x

    def read_out(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """(…, vocab) logits of the residual stream before the final norm."""
        return F.linear(self.norm(x), *self.unembed)

    def _room(self, batch: int, capacity: int) -> Tensor:
        """(layer, 2, batch, head, capacity, d_head) memory for keys and values; the last one again where it fits."""
        shape = (len(self.layers), 2, batch, self.n_heads, capacity, self.d_head)
        return self.cache if self.cache.shape == shape else self.embed.new_empty(shape)

    def _attention(self, layer: Layer, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(batch, new, d_model) what attention adds; the new keys and values are stored at the end of the others."""
        new, end = x.shape[1], keys.shape[2]
        q, k, v = (
            F.linear(layer.norm1(x), *layer.qkv).unflatten(-1, (3, self.n_heads, self.d_head)).permute(2, 0, 3, 1, 4)
        )
        keys[:, :, end - new :], values[:, :, end - new :] = k, v
        seen = None
        if 1 < new < end:
            seen = torch.ones(new, end, dtype=torch.bool, device=x.device).tril(end - new)
        z = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, is_causal=1 < new == end, scale=layer.scale)
        return F.linear(z.transpose(1, 2).flatten(2), *layer.out)

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


def whole_text(model: HookedModel, tokens: Tensor) -> Tensor:
    """(batch, pos, vocab) logits of the model itself, no token taken for padding whatever tokenizer it carries."""
    if getattr(model, "tokenizer", None) is None:
        return model(tokens)
    return model(tokens, attention_mask=torch.ones_like(tokens))


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


def _layer(block: Any) -> Layer:
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
        out=(attention.W_O.detach().flatten(0, 1).T.contiguous(), attention.b_O.detach()),
        norm2=_norm(block.ln2) if mlp is not None else None,
        mlp_in=(mlp.W_in.detach().T.contiguous(), mlp.b_in.detach()) if mlp is not None else None,
        mlp_out=(mlp.W_out.detach().T.contiguous(), mlp.b_out.detach()) if mlp is not None else None,
    )


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    """LayerNorm, with weights or with its weights folded into what follows, or nothing."""
    if isinstance(module, nn.Identity):
        return _same
    weights = (module.w.detach(), module.b.detach()) if hasattr(module, "w") else (None, None)
    return lambda x: F.layer_norm(x, x.shape[-1:], *weights, eps=float(module.eps))


def _same(x: Tensor) -> Tensor:
    return x
