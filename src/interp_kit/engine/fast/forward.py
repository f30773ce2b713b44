"""A HookedTransformer's weights run by plain torch: fused projections, scaled_dot_product_attention, and keys and
values kept in memory set aside once, so that a text can grow without running its beginning again.

What is not certain to be computed alike is refused, and logits are compared with the model's before anything else runs.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp_kit.engine.fast.layers import MLP, Layer, Norm, Unsupported, layer_of, norm_of, refuse
from interp_kit.engine.fast.matmul import Products, blocks
from interp_kit.engine.fast.rotary import Rotary
from interp_kit.engine.inputs import check_length, whole_text
from interp_kit.models.hooked_model import HookedModel

TOLERANCE = 1e-4
BEHIND = ("z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")  # sites that follow from queries and keys
INSIDE = ("mlp_post", "mlp_out")  # sites of an MLP
Visit = Callable[[str, int, Tensor], None]  # site, layer, activation


class Executor:
    """The logits of `model` with its weights as they are now: make a new one where weights change.

    Raises Unsupported naming what the model has that is not computed here (experts, soft caps, local layers, active
    hooks, half precision …), or by how much logits differ on random tokens (`compare`; without it the caller has to).
    n_groups: heads of keys and values, each for as many queries' heads as follow each other.

    blocks: only the first so many, for `run` alone: nothing is copied that need not be, and nothing compared.
    """

    def __init__(self, model: HookedModel, *, compare: bool = True, blocks: int | None = None) -> None:
        refuse(model)
        whole: Any = model
        cfg = model.cfg
        self.n_ctx, self.n_heads, self.d_head = cfg.n_ctx, cfg.n_heads, cfg.d_head
        self.n_groups = cfg.n_key_value_heads or cfg.n_heads
        self.heads = (self.n_heads, self.n_groups, self.n_groups)
        rotates = cfg.positional_embedding_type == "rotary" and cfg.n_layers > 0
        rotary = Rotary(whole.blocks[0].attn, cfg.n_ctx) if rotates else None
        with torch.no_grad():
            self.embed = whole.embed.W_E.detach()
            learned = cfg.positional_embedding_type == "standard"
            self.positions = whole.pos_embed.W_pos.detach() if learned else None
            arrange = Tensor.contiguous if blocks is None else _same
            self.layers = [layer_of(block, arrange, rotary) for block in list(whole.blocks)[:blocks]]
            self.norm = norm_of(whole.ln_final) if cfg.normalization_type is not None else Norm(None, None, None)
            self.unembed = arrange(whole.unembed.W_U.detach().T), whole.unembed.b_U.detach()
        self.linear = Products(cfg.act_fn if not cfg.attn_only else None, self.embed, alike=blocks is not None)
        self.length, self.cache = 0, self.embed.new_empty(len(self.layers), 2, 0, self.n_groups, 0, self.d_head)
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
        ValueError if the tokens do not fit.
        """
        room = int(self.n_ctx if capacity is None else capacity)
        check_length(room, self.n_ctx)
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

        visit: as in `run`, of the new positions; it may change values in place. Raises ValueError if there are no
        tokens, or they exceed the capacity, or are of another number of texts.
        """
        start, new = self.length, tokens.shape[1]
        end = start + new
        *_, batch, _, capacity, _ = self.cache.shape
        if start == end or end > capacity or len(tokens) != batch:
            raise ValueError(
                f"{tuple(tokens.shape)} tokens cannot follow {start}: there is room for {capacity} in {batch} texts"
            )
        at, inside, visit = None, visit is not None, visit or _nothing
        if new > 1 and not (every or inside):
            at = tokens.new_full((batch, 1), new - 1)
        x = self._embed(tokens, start, visit)
        for number, (layer, kept) in enumerate(zip(self.layers, self.cache[:, :, :, :, :end], strict=True)):
            x = self._block(number, layer, x, kept, visit, at if number == len(self.layers) - 1 else None, inside)
        self.length = end
        return F.linear(self.norm(x if every else x[:, -1]), *self.unembed)

    @torch.inference_mode()
    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        visit: Visit,
        stop: int | None = None,
        at: Int[Tensor, "batch read"] | None = None,
        *,
        inside: bool = True,
    ) -> Float[Tensor, "batch _ d_model"]:
        """(batch, pos, d_model) the residual stream before the final norm, or before block `stop`.

        visit: called with site, layer and value of every activation on the way: embed, pos_embed, resid_pre, q, k, v, z
        (batch, pos, head, d_head), attn_out, resid_mid, mlp_post, mlp_out and resid_post. What it raises ends the run.
        at: positions that the last block goes on with, from z on: they then stand for `pos`, also in what returns.
        inside: whether `visit` wants sites that are INSIDE: without, MLPs are the faster ones.
        """
        x = self._embed(tokens, 0, visit)
        layers = self.layers[:stop]
        for number, layer in enumerate(layers):
            x = self._block(number, layer, x, None, visit, at if number == len(layers) - 1 else None, inside)
        return x

    def _embed(self, tokens: Tensor, start: int, visit: Visit) -> Tensor:
        words = F.embedding(tokens, self.embed)
        if self.positions is None:
            visit("embed", 0, words)
            return words
        places = self.positions[start : start + tokens.shape[1]].expand_as(words)
        if visit is not _nothing:
            places = places.clone()  # which a visit may change
        visit("embed", 0, words)
        visit("pos_embed", 0, places)
        return words + places

    def _block(
        self,
        number: int,
        layer: Layer,
        x: Tensor,
        kept: Tensor | None,
        visit: Visit,
        at: Tensor | None = None,
        inside: bool = True,
    ) -> Tensor:
        """(batch, new, d_model) the residual stream after a block. kept: (2, batch, head, pos, d_head) keys and values
        up to the last new position, of which the new ones are written here; None where all are new. at: (batch, read)
        of the new positions, those that are wanted."""
        visit("resid_pre", number, x)
        heads = self.linear(layer.norm1(x), *layer.qkv).unflatten(-1, (-1, self.d_head)).split(self.heads, 2)
        for name, value in zip("qkv", heads, strict=True):
            visit(name, number, value)
        new, end, seen = x.shape[1], x.shape[1] if kept is None else kept.shape[3], None
        if layer.places_count:
            here = slice(end - new, end)
            heads = (layer.query(heads[0], here), layer.key(heads[1], here), heads[2])
        q, k, v = (value.transpose(1, 2) for value in heads)
        if kept is not None:
            kept[0, :, :, end - new :], kept[1, :, :, end - new :] = k, v
            k, v = kept
            if 1 < new < end:
                seen = torch.ones(new, end, dtype=torch.bool, device=x.device).tril(end - new)
        if at is not None:
            rows = torch.arange(len(x), device=x.device)[:, None]
            x, q = x[rows, at], heads[0][rows, at].transpose(1, 2)
            seen = torch.arange(end, device=x.device) <= at[:, None, :, None] + (end - new)
        if new == 1 and x.device.type == "cpu":  # one query sees every key; torch's own takes an eighth longer here
            k, v = self.spread(k, 1), self.spread(v, 1)
            z = (q * layer.scale @ k.mT).softmax(-1) @ v
        else:
            z = self.attend(q, k, v, layer.scale, mask=seen, is_causal=seen is None and 1 < new == end)
        z = z.transpose(1, 2)
        visit("z", number, z)
        out = self.linear(z.flatten(2), *layer.out)
        visit("attn_out", number, out)
        before, x = x, x + out
        visit("resid_mid", number, x)  # which hooks of a parallel block do not have
        source = before if layer.parallel else x
        if layer.mlp is not None and inside:
            post = layer.mlp.hidden(source, self.linear)
            visit("mlp_post", number, post)
            out = self.linear(post, *layer.mlp.out)
            visit("mlp_out", number, out)
            x = x + out
        elif layer.mlp is not None:
            x = self.add_mlp(layer.mlp, source, x, torch.empty_like(x))
        visit("resid_post", number, x)
        return x

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, *, mask: Tensor | None, is_causal: bool) -> Tensor:
        """(batch, head, query, d_head) of queries of that shape, and keys and values of groups of heads."""
        k, v = self.spread(k, 1), self.spread(v, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale)

    def spread(self, x: Tensor, axis: int) -> Tensor:
        """Keys or values of groups, once for each of the heads that read them."""
        each = self.n_heads // self.n_groups
        return x if each == 1 else x.repeat_interleave(each, axis)

    def add_mlp(
        self,
        mlp: MLP,
        source: Float[Tensor, "*token d"],
        x: Float[Tensor, "*token d"],
        out: Float[Tensor, "*token d"],
    ) -> Float[Tensor, "*token d"]:
        """`out`, to which x and what an MLP makes of `source` are written: in blocks, of which all stays in the
        processor's cache. All three may be one tensor."""
        for read, rows, into in zip(blocks(source), blocks(x), blocks(out), strict=True):
            torch.add(rows, self.linear(mlp.hidden(read, self.linear), *mlp.out), out=into)
        return out

    def read_out(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """(…, vocab) logits of the residual stream before the final norm."""
        return F.linear(self.norm(x), *self.unembed)

    def _room(self, batch: int, capacity: int) -> Tensor:
        """(layer, 2, batch, head, capacity, d_head) memory for keys and values; the last one again where it fits."""
        shape = (len(self.layers), 2, batch, self.n_groups, capacity, self.d_head)
        return self.cache if self.cache.shape == shape else self.embed.new_empty(shape)

    def _compare(self, model: HookedModel) -> None:
        """Raise Unsupported if logits are not the model's on a few random tokens, of every position and the last."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, len(self.embed), (2, min(self.n_ctx, 8)), generator=generator).to(self.embed.device)
        half = (tokens.shape[1] + 1) // 2
        with torch.inference_mode():
            expected = whole_text(model, tokens)
            pieces = [self.prefill(tokens[:, :half], every=True, capacity=tokens.shape[1])]
            pieces += [self.step(tokens[:, at])[:, None] for at in range(half, tokens.shape[1])]
            pieces.append(self.prefill(tokens, capacity=tokens.shape[1])[:, None])
            difference = (torch.cat(pieces, dim=1) - torch.cat([expected, expected[:, -1:]], dim=1)).abs().max()
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= allowed:
            raise Unsupported(f"logits differ from the model's by {float(difference):.1e}, allowed {allowed:.1e}")
        self.cache, self.length = self._room(0, 0), 0


def _nothing(site: str, layer: int, value: Tensor) -> None: ...


def _same(x: Tensor) -> Tensor:
    return x
