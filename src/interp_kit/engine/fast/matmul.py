"""Products with weights as fast as the machine has them: by oneDNN where it is the faster and computes the same."""

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}
# What oneDNN calls them, so that a product takes its activation along.
ONEDNN = {
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), ("gelu", "tanh")),
}
WIDE = 64  # d_model from which on oneDNN's products are the faster ones
ALONE = ("none", "")  # a product without an activation
LARGE = 2**18  # numbers in a weight, from which on that pays for products without an activation too
BLOCKS = (512, 128)  # rows that go through oneDNN at once: a new shape costs it a millisecond, and memory it keeps
TOLERANCE = 1e-4  # of the largest number, between a product of oneDNN and torch's own


class Products:
    """Products of weights and activations, for one model.

    activation: its name, in ACTIVATIONS, None for a model without; like: one of its weights; alike: whether all calls
    have the same few shapes, which oneDNN then keeps.
    """

    def __init__(self, activation: str | None, like: Tensor, *, alike: bool = False) -> None:
        self.act = ACTIVATIONS[activation or "relu"]
        self.fused = ONEDNN.get(activation or "", ALONE) if _has_onednn(like) else None
        if self.fused is not None and not (_multiplies(self.act, *self.fused) and _multiplies(self.act, *ALONE)):
            self.fused = None
        self.alike = alike

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, *, act: bool = False) -> Tensor:
        """(…, out) x (…, in) times weight (out, in), plus bias, and the activation where asked."""
        kind, algorithm = self.fused if act and self.fused is not None else ALONE
        if self.alike and self.fused is not None:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], algorithm)
        rows = x.flatten(0, -2)
        if self.fused is not None and len(rows) in BLOCKS:
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], algorithm)
        if self.fused is None or len(rows) < BLOCKS[-1] or not (act or weight.numel() >= LARGE):
            return self.plain(x, weight, bias, act=act)
        out = x.new_empty(*x.shape[:-1], len(weight))
        for here, into in zip(blocks(rows), blocks(out), strict=True):
            into.copy_(self(here, weight, bias, act=act))
        return out

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor, *, act: bool = False) -> Tensor:
        """The same by torch's own product, through which gradients pass."""
        out = F.linear(x, weight, bias)
        return self.act(out) if act else out


def blocks(x: Tensor) -> tuple[Tensor, ...]:
    """The vectors of contiguous x (…, d) as views (row, d) of BLOCKS, the larger ones first, and the rest. What is made
    of one stays in the processor's cache; elsewhere than there it is all of them at once."""
    rows = x.view(-1, x.shape[-1])
    if x.device.type != "cpu":
        return (rows,)
    sizes, left = [], len(rows)
    for block in BLOCKS:
        sizes += [block] * (left // block)
        left %= block
    return rows.split([*sizes, left] if left else sizes)


def _has_onednn(weight: Tensor) -> bool:
    """True if torch multiplies by oneDNN what is as `weight`: faster than MKL by a tenth to a half on AMD, and
    activations come in the same pass. Its first product of a shape takes a millisecond, which small models never win
    back."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.shape[1] >= WIDE


@cache
def _multiplies(act: Callable[[Tensor], Tensor], kind: str, algorithm: str) -> bool:
    """True if oneDNN's products of BLOCKS of rows, with the activation that they take along, are torch's own. Asked
    once a process: texts on which models are compared are too small to go that way."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float32)
        for shape in ((max(BLOCKS), WIDE), (WIDE, WIDE), (WIDE,))
    )
    expected = F.linear(x, weight, bias)
    expected = expected if kind == "none" else act(expected)
    found = (torch.ops.mkldnn._linear_pointwise(x[:rows], weight, bias, kind, [], algorithm) for rows in BLOCKS)
    allowed = TOLERANCE * float(expected.abs().max())
    return all(bool((some - expected[: len(some)]).abs().max() < allowed) for some in found)
