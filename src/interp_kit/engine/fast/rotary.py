"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864): queries and keys are turned by angles that grow with
their position."""

from typing import Any

import torch
from torch import Tensor


class Rotary:
    """The angles of a model, all of whose layers have the same: of an attention of TransformerLens's, whose tables are
    made longer where a text is longer than they are."""

    def __init__(self, attention: Any, n_ctx: int) -> None:
        self.attention, self.n_ctx, self.adjacent = attention, n_ctx, bool(attention.cfg.rotary_adjacent_pairs)
        self.width = int(attention.cfg.rotary_dim)
        self._keep(attention.rotary_cos.detach(), attention.rotary_sin.detach())

    def turned(self, x: Tensor, places: slice | Tensor, *, axis: int = -3) -> Tensor:
        """Queries or keys x (…, head, d_head) at positions `places`, which stand for the axis before `head`, or with
        axis -2 for that before d_head."""
        last = int(places.max()) + 1 if isinstance(places, Tensor) and places.numel() else getattr(places, "stop", 0)
        if last > len(self.cos):
            self._extend(last)
        cos, sin = self.cos[places], self.sin[places]
        if axis == -3:
            cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        a, b = self._pairs(x[..., : self.width])
        pair = (a * cos - b * sin, b * cos + a * sin)
        whole = torch.stack(pair, -1).flatten(-2) if self.adjacent else torch.cat(pair, -1)
        return whole if self.width == x.shape[-1] else torch.cat([whole, x[..., self.width :]], -1)

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two numbers of every pair, each (…, width / 2)."""
        if self.adjacent:
            return x[..., ::2], x[..., 1::2]
        a, b = x.chunk(2, -1)
        return a, b

    def _keep(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = self._pairs(cos)[0].contiguous(), self._pairs(sin)[0].contiguous()

    def _extend(self, length: int) -> None:
        length = min(self.n_ctx, max(length, 2 * len(self.cos)))
        sin, cos = self.attention.calculate_sin_cos_rotary(
            self.width, length, base=self.attention._rotary_base(), dtype=self.attention.cfg.dtype
        )
        self._keep(cos.to(self.cos), sin.to(self.sin))
