"""Muon (Jordan et al. 2024): momentum whose matrix of updates is made orthogonal by Newton-Schulz steps.

torch.optim.Muon takes matrices only and works in bfloat16, which CPUs without it emulate; here heads may be a third
axis, matrices of one shape are made orthogonal together, and the precision is the caller's.
"""

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """(n, rows, columns) the matrices with all singular values brought near 1 (0.7 to 1.2) by a quintic iteration."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal. A parameter of more than two axes is a matrix (everything before the last
    axis, last axis). The step is lr * sqrt(max(1, rows / columns)). weight_decay: decoupled, so that no singular value
    grows beyond sqrt(max(1, rows / columns)) / weight_decay; precision: of the orthogonal updates."""

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, *, weight_decay: float | int = 0.0,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.precision = precision

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient. Gives the loss that `closure` computes first, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"]).reshape(-1, p.shape[-1])
                by_shape.setdefault(update.shape, []).append((p, update))
            for (rows, columns), pairs in by_shape.items():
                updates = orthogonalise(torch.stack([update for _, update in pairs]).to(self.precision))
                for (p, _), update in zip(pairs, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(update.view_as(p), alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)
        return loss
