"""Logits of MyGPTs on quizzes, for evaluation on a CPU: half the time of the network's own pass.

Products go through oneDNN where that is the faster, attention through chunks of queries that skip what they do not see,
and the first two grids that a quiz shares with its noisy copy are run once.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_kit.engine.fast.matmul import Products
from interp_kit.models.mygpt import Block, MyGPT
from interp_kit.tasks.culture.grids import LENGTH, QUARTER

SHARED = 2 * QUARTER  # positions whose inputs a quiz and its noisy copies have in common
CHUNK = 51  # queries at a time: their scores stay in the processor's cache


def readable(model: object) -> bool:
    """True if `Reader` computes what the model does: a plain float32 MyGPT on a CPU, in eval mode and without hooks."""
    if type(model) is not MyGPT or model.training:
        return False
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return not hooked and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())


class Reader:
    """The logits of a model with its weights as they are now. Threads may share one.

    Raises ValueError for a model that is not `readable`.
    """

    def __init__(self, model: MyGPT) -> None:
        if not readable(model):
            raise ValueError("a Reader needs a plain float32 MyGPT on a CPU, in eval mode and without hooks")
        self.model = model
        self.linear = Products("relu", model.embed.weight, alike=True)
        self.blocks = [_Weights(block) for block in model.blocks if isinstance(block, Block)]

    @torch.inference_mode()
    def __call__(self, quizzes: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """(batch, 404, vocab) logits of (batch, 404) quizzes, those at t predicting token t from the tokens before it.

        Neighbouring rows that begin alike share the run of their beginning.
        """
        begins = torch.ones(len(quizzes), dtype=torch.bool)
        begins[1:] = (quizzes[1:, : SHARED - 1] != quizzes[:-1, : SHARED - 1]).any(1)
        of = begins.cumsum(0) - 1
        x = self.model.embed_tokens(quizzes)
        rows = [x[begins, :SHARED], x[:, SHARED:]]  # beginnings, and all rests
        stream = torch.cat([part.flatten(0, 1) for part in rows])
        for block in self.blocks:
            stream = self._block(block, stream, len(rows[0]), of)
        logits = self.model.readout(stream)
        first, rest = logits.split([len(rows[0]) * SHARED, len(rows[1]) * (LENGTH - SHARED)])
        return torch.cat([first.unflatten(0, (-1, SHARED))[of], rest.unflatten(0, (len(quizzes), -1))], 1)

    def _block(self, w: "_Weights", x: Float[Tensor, "token d"], beginnings: int, of: Tensor) -> Tensor:
        """The stream after a block: (beginnings * SHARED + len(of) * the rest, d_model)."""
        qkv = self.linear(w.block.ln1(x), w.qkv, w.no_bias)
        cut = beginnings * SHARED
        first = [_heads(part, beginnings, w.n_heads) for part in qkv[:cut].split(w.sizes, -1)]
        rest = [_heads(part, len(of), w.n_heads) for part in qkv[cut:].split(w.sizes, -1)]
        keys, values = (
            torch.cat([before.unflatten(0, (-1, w.n_heads))[of].flatten(0, 1), after], 1)
            for before, after in zip(first[1:], rest[1:], strict=True)
        )
        z = torch.cat([_flat(attend(*first), w.n_heads), _flat(attend(rest[0], keys, values), w.n_heads)])
        x = x + self.linear(z, w.out, w.no_out_bias)
        hidden = self.linear(w.block.ln2(x), w.block.fc1.weight, w.block.fc1.bias, act=True)
        return x + self.linear(hidden, w.block.fc2.weight, w.block.fc2.bias)


class _Weights:
    """A block's attention weights as (out, in), queries scaled, keys, values and queries side by side."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.n_heads, d_key, _ = block.w_q.shape
        with torch.no_grad():
            parts = [w.flatten(0, 1) for w in (block.w_q * d_key**-0.5, block.w_k, block.w_v)]
            self.qkv, self.out = torch.cat(parts), block.w_o.T.contiguous()
            self.no_bias, self.no_out_bias = self.qkv.new_zeros(len(self.qkv)), self.out.new_zeros(len(self.out))
        self.sizes: Sequence[int] = [len(w) for w in parts]


def attend(
    q: Float[Tensor, "row query d_key"], k: Float[Tensor, "row pos d_key"], v: Float[Tensor, "row pos d_value"]
) -> Float[Tensor, "row query d_value"]:
    """Causal softmax(q k^T) v, a row per head; the queries are those of the last positions. q is scaled already."""
    before, out = k.shape[1] - q.shape[1], v.new_empty(*q.shape[:2], v.shape[2])
    for start in range(0, q.shape[1], CHUNK):
        stop = min(q.shape[1], start + CHUNK)
        scores = torch.bmm(q[:, start:stop], k[:, : before + stop].mT)
        size = stop - start
        scores[:, :, before + start :].add_(torch.full((size, size), -torch.inf, dtype=q.dtype).triu_(1))
        torch.bmm(torch.softmax(scores, -1), v[:, : before + stop], out=out[:, start:stop])
    return out


def _heads(x: Float[Tensor, "token width"], rows: int, n_heads: int) -> Float[Tensor, "row pos each"]:
    return x.unflatten(0, (rows, -1)).unflatten(-1, (n_heads, -1)).transpose(1, 2).flatten(0, 1)


def _flat(z: Float[Tensor, "row pos each"], n_heads: int) -> Float[Tensor, "token width"]:
    return z.unflatten(0, (-1, n_heads)).transpose(1, 2).flatten(2).flatten(0, 1)
