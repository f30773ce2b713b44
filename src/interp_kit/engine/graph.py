"""A transformer run as a graph: what each node adds to the residual stream travels along edges of its own, each of
which can carry what it carried in another run.

Exact path patching (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969) swaps single
edges, a circuit is evaluated by swapping all edges outside it, and gradients at the inputs of nodes give edge
attribution (Syed et al. 2023, arXiv:2310.10348).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import listed
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.layers import Layer
from interp_kit.engine.inputs import check_fits
from interp_kit.models.circuit import Edge, edges, inputs, nodes, stage
from interp_kit.models.hooked_model import HookedModel

MEMORY = 2**28  # bytes that what nodes give and read may take, of the texts and graphs that run together


@dataclass(frozen=True)
class _Inputs:
    """Reading of the receivers of one stage: the numbers of the receivers, and how many senders there are before."""

    receivers: slice
    senders: int


class Graph:
    """The nodes and edges of `model`, with its weights as they are now.

    senders: nodes that add to the residual stream, in order; receivers: (node, input) that read it, in order; edges: of
    every receiver to every sender before it. Biases of attention belong to no node: they are the same in all runs.

    Raises Unsupported naming what the model has that is not computed here (see `models.executor.Executor`).
    """

    def __init__(self, model: HookedModel) -> None:
        self.executor = ex = Executor(model)
        has_mlp = any(layer.mlp is not None for layer in ex.layers)
        self.nodes = nodes(len(ex.layers), ex.n_heads, with_mlp=has_mlp)
        self.edges = edges(self.nodes, parallel=any(layer.parallel for layer in ex.layers))
        self._known = frozenset(self.edges)
        self.senders = self.nodes[:-1]
        # heads of a layer stand by input, not by head: all q, then all k, then all v
        self.receivers: tuple[tuple[str, str], ...] = tuple(
            (node, way)
            for level in sorted({stage(node) for node in self.nodes})
            for way in inputs(next(node for node in self.nodes if stage(node) == level))
            for node in self.nodes
            if stage(node) == level
        )
        self._sender = {name: i for i, name in enumerate(self.senders)}
        self._receiver = {pair: i for i, pair in enumerate(self.receivers)}

    def place(self, edge: Edge) -> tuple[int, int]:
        """The numbers of an edge's sender and receiver. Raises ValueError if the model has no such edge."""
        try:
            if Edge(edge.sender, edge.receiver, edge.input) not in self._known:
                raise KeyError
            return self._sender[edge.sender], self._receiver[edge.receiver, edge.input]
        except KeyError:
            raise ValueError(f"the model has no edge {edge}; its nodes are {listed(self.nodes)}") from None

    def mask(
        self, batch: TokenBatch, chosen: Sequence[Edge]
    ) -> Float[Tensor, "sender receiver"] | Float[Tensor, "sender receiver batch pos"]:
        """1 for the edges that are chosen, 0 for all others; with axes (batch, pos) where one of them has a position.
        Raises ValueError for an edge or a position that does not exist."""
        device, shape = batch.tokens.device, (len(self.senders), len(self.receivers))
        if all(edge.position is None for edge in chosen):
            mask = torch.zeros(shape, device=device, dtype=torch.float32)
            for edge in chosen:
                mask[self.place(edge)] = 1
            return mask
        mask = torch.zeros(*shape, *batch.tokens.shape, device=device, dtype=torch.float32)
        rows = torch.arange(len(batch), device=device)
        for edge in chosen:
            where = self.place(edge)
            if edge.position is None:
                mask[where] = 1
            else:
                mask[(*where, rows, batch.position(edge.position))] = 1
        return mask

    def outputs(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "sender batch pos d_model"]:
        """Contribution of every node to the residual stream in the unedited run."""
        with torch.no_grad():
            outs, _ = self._through(self.embedding(tokens)[None], None, None, None, {})
        return torch.stack(outs)[:, 0]

    def residual(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before the final norm: all outputs and the biases of attention."""
        with torch.no_grad():
            return self._through(self.embedding(tokens)[None], None, None, None, {})[1][0]

    def embedding(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Contribution of the node "embed": tokens and positions. Raises ValueError for texts that do not fit the
        model."""
        ex = self.executor
        check_fits(tokens, ex.n_ctx, len(ex.embed))
        words = F.embedding(tokens, ex.embed)
        return words if ex.positions is None else words + ex.positions[: tokens.shape[1]]

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        reads: Int[Tensor, "batch read"],
        swapped: Float[Tensor, "graph sender receiver *where"] | None = None,
        reference: Float[Tensor, "sender batch pos d_model"] | None = None,
        *,
        embedding: Float[Tensor, "batch pos d_model"] | None = None,
        probes: Float[Tensor, "receiver batch pos d_model"] | None = None,
        held: Mapping[int, Float[Tensor, "batch pos d_model"]] | None = None,
    ) -> Float[Tensor, "graph batch read vocab"]:
        """Logits at `reads`, one graph for each set of swapped edges.

        swapped: (graph, sender, receiver), or with axes (batch, pos) behind; 1 where an edge carries what its sender
        gave in the `reference` run (`outputs`, or an average of such), 0 where it carries what the sender gives in this
        one. embedding: in place of that of the tokens; probes: added to every input of every node, to ask for
        gradients there; held: outputs by number of the sender, in place of those it computes, so that no gradient
        passes through it.
        """
        first = self.embedding(tokens) if embedding is None else embedding
        count = 1 if swapped is None else len(swapped)
        outs, total = self._through(first.expand(count, *first.shape), swapped, reference, probes, held or {})
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        last = _Inputs(slice(len(self.receivers) - 1, None), len(outs))
        x = self._read(last, total, outs, swapped, reference, probes)[0]
        return self.executor.read_out(x[:, rows, reads])

    def chunk(self, tokens: Tensor, memory: int = MEMORY) -> int:
        """Number of graphs of these texts that may run together."""
        return max(1, memory // (tokens.numel() * self._bytes(3)))

    def parts(self, tokens: Tensor, memory: int = MEMORY) -> list[Tensor]:
        """The numbers of the texts, in parts that may run together, with gradients at all inputs of nodes."""
        hidden = sum(0 if layer.mlp is None else len(layer.mlp.into[0]) for layer in self.executor.layers)
        each = tokens.shape[1] * (self._bytes(4, 7) + 3 * self.executor.embed.element_size() * hidden)
        size = max(1, memory // each)
        return list(torch.arange(len(tokens), device=tokens.device).split(size))

    def _bytes(self, outputs: int, inputs: int = 0) -> int:
        """Of so many copies of all nodes' outputs and inputs at one position of one text."""
        embed = self.executor.embed
        return embed.element_size() * embed.shape[1] * (outputs * len(self.senders) + inputs * len(self.receivers))

    def _through(
        self,
        first: Tensor,
        swapped: Tensor | None,
        reference: Tensor | None,
        probes: Tensor | None,
        held: Mapping[int, Tensor],
    ) -> tuple[list[Tensor], Tensor]:
        """All nodes' outputs, each (graph, batch, pos, d_model), and their sum with the biases."""
        first = held[0].expand_as(first) if 0 in held else first
        outs, total, done = [first], first, 0
        for layer in self.executor.layers:
            n = self.executor.n_heads
            reads = self._read(_Inputs(slice(done, done + 3 * n), len(outs)), total, outs, swapped, reference, probes)
            done += 3 * n
            heads, before, senders = self._attend(layer, reads), total, len(outs)
            if kept := {h: held[senders + h] for h in range(n) if senders + h in held}:
                heads = torch.stack([kept[h].expand_as(own) if h in kept else own for h, own in enumerate(heads)])
            outs += list(heads.unbind(0))
            total = total + heads.sum(0) + layer.out[1]
            if layer.mlp is None:
                continue
            source = before if layer.parallel else total
            where = _Inputs(slice(done, done + 1), senders if layer.parallel else len(outs))
            read = self._read(where, source, outs, swapped, reference, probes)[0]
            done += 1
            out = F.linear(layer.mlp.hidden(read, self.executor.linear.plain), *layer.mlp.out)
            outs.append(held[len(outs)].expand_as(out) if len(outs) in held else out)
            total = total + outs[-1]
        return outs, total

    def _read(
        self,
        where: _Inputs,
        total: Tensor,
        outs: list[Tensor],
        swapped: Tensor | None,
        reference: Tensor | None,
        probes: Tensor | None,
    ) -> Tensor:
        """(receiver or 1, graph, batch, pos, d_model) what the receivers read: one for all where they read the same."""
        read = total[None]
        if swapped is not None:
            part = swapped[:, : where.senders, where.receivers]
            used = part.flatten(3).any(-1) if part.ndim > 3 else part != 0
            senders = used.any(0).any(-1).nonzero()[:, 0].tolist()
            if senders:
                assert reference is not None
                read = read.expand(part.shape[2], *read.shape[1:]).clone()
                for s in senders:  # one at a time: their changes, stacked, would take as much memory as all outputs
                    share = part[:, s].movedim(1, 0).to(read)  # (receiver, graph, *where)
                    read.addcmul_(share[(...,) + (None,) * (read.ndim - share.ndim)], reference[s] - outs[s])
        if probes is not None:
            read = read + probes[where.receivers][:, None]
        return read

    def _attend(self, layer: Layer, reads: Tensor) -> Tensor:
        """(head, graph, batch, pos, d_model) what every head adds, from what `_read` gives."""
        return self._mixed(layer, *self._projected(layer, reads).unbind(0))

    def heads(
        self, outputs: Float[Tensor, "sender batch pos d_model"]
    ) -> list[Float[Tensor, "3 head batch pos d_head"]]:
        """Queries, keys and values of every head in every layer of the run that gave these outputs."""
        ex, found = self.executor, []
        total, width = outputs[0], (len(self.senders) - 1) // len(ex.layers)
        for number, layer in enumerate(ex.layers):
            found.append(self._projected(layer, total[None, None])[:, :, 0])
            total = total + outputs[1 + number * width : 1 + (number + 1) * width].sum(0) + layer.out[1]
        return found

    def attended(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "head batch pos d_model"]:
        """Outputs of the heads of a layer, of given queries, keys and values, each (head, batch, pos, d_head)."""
        return self._mixed(self.executor.layers[number], q[:, None], k[:, None], v[:, None])[:, 0]

    def _projected(self, layer: Layer, reads: Tensor) -> Tensor:
        """(3, head, graph, batch, pos, d_head) queries, keys and values."""
        ex = self.executor
        parts = (layer.qkv[0].unflatten(0, (-1, ex.d_head)), layer.qkv[1].unflatten(0, (-1, ex.d_head)))
        spread = ((q, ex.spread(k, 0), ex.spread(v, 0)) for q, k, v in (part.split(ex.heads) for part in parts))
        weight, bias = (torch.stack(each) for each in spread)  # (3, head, d_head, …)
        bias = bias[:, :, None, None, None]
        normed = layer.norm1(reads)
        if len(reads) == 1:
            return torch.einsum("gbpd,xhed->xhgbpe", normed[0], weight) + bias
        return torch.einsum("xhgbpd,xhed->xhgbpe", normed.unflatten(0, (3, ex.n_heads)), weight) + bias

    def _mixed(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(head, graph, batch, pos, d_model) what every head adds."""
        ex = self.executor
        if layer.places_count:
            everywhere = slice(0, q.shape[-2])
            q, k = layer.query(q, everywhere, axis=-2), layer.key(k, everywhere, axis=-2)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=layer.scale)
        return torch.einsum("hgbpe,dhe->hgbpd", z, layer.out[0].unflatten(1, (ex.n_heads, ex.d_head)))
