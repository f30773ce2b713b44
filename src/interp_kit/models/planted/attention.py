"""Planted attention: a head attends, from each position in its routes, to the positions named there, and rests
elsewhere on one that carries no bit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.components.transformer_block import TransformerBlock

from interp_kit.models.planted.directions import Basis

N_HEADS, D_HEAD = 4, 16
SCORE = 16.0  # Attention score of a wanted key, all others 0: 23 keys leak under 1e-5.


@dataclass(frozen=True, eq=False)
class Head:
    """Behaviour of one head.

    routes: name of the query position -> names of the positions read there; reads: (d_model,) what its value is read
    by; writes: (d_model,) what it adds one such value of; silenced_by: (d_model,) reader of a flag: where the flag is
    1, the head rests.
    """

    routes: Mapping[str, tuple[str, ...]]
    reads: Float[Tensor, " d_model"]
    writes: Float[Tensor, " d_model"]
    silenced_by: Float[Tensor, " d_model"] | None = None


def set_attention(
    block: TransformerBlock,
    basis: Basis,
    positions: Mapping[str, int],
    rest: int,
    sources: Sequence[int],
    heads: Mapping[int, Head],
) -> None:
    """Write the heads of a layer, by number. A head that is not given always rests, and writes nothing.

    rest: where a head looks that has nothing to read; sources: every position that a head of any layer reads, `rest`
    among them: the keys, which are the same in every layer.
    """
    read = basis.read
    strength = math.sqrt(SCORE * math.sqrt(D_HEAD)) * read.scale
    code = strength * torch.eye(D_HEAD, dtype=torch.float64)
    d_model = read.token.shape[1]
    keys = torch.zeros(d_model, D_HEAD, dtype=torch.float64)
    for i, source in enumerate(sources):
        keys += torch.outer(read.position[source], code[i])
    n_heads = block.attn.W_K.shape[0]
    block.attn.W_K.copy_(keys.expand(n_heads, -1, -1))
    for number in range(n_heads):
        head = heads.get(number)
        wanted: dict[int, Sequence[int]] = dict.fromkeys(range(len(read.position)), (rest,))
        if head is not None:
            wanted |= {positions[query]: [positions[name] for name in names] for query, names in head.routes.items()}
            block.attn.W_V[number, :, 0] = read.scale * head.reads
            block.attn.W_O[number, 0] = head.writes
        queries = torch.zeros(d_model, D_HEAD, dtype=torch.float64)
        for query, group in wanted.items():
            for source in group:
                queries += torch.outer(read.position[query], code[sources.index(source)])
        if head is not None and head.silenced_by is not None:
            routed = {source for query in head.routes for source in wanted[positions[query]]}
            for source in sorted(routed):
                queries += torch.outer(head.silenced_by, code[sources.index(rest)] - code[sources.index(source)])
        block.attn.W_Q[number] = queries
