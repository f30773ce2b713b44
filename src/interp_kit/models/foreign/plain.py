"""Pieces of the layouts' own forward passes, in plain torch."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

_TANH = partial(F.gelu, approximate="tanh")
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """An activation by TransformerLens's name; those that are not of torch are the tanh form of GELU."""
    return _ACTIVATIONS.get(name, _TANH)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None) -> Tensor:
    """(batch, pos, head * d_head) causal attention of queries, keys and values (batch, pos, heads * d_head)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2).flatten(2)
