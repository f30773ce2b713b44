"""Muon on the matrices of the blocks with AdamW on the rest, as one optimizer; and the schedule of learning rates."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp_kit.training.muon import Muon


def rate(step: int, steps: int, warm_up: int = 0, flat: float = 0.0) -> float:
    """The factor on the learning rates at a step.

    It rises linearly over the first `warm_up` steps, is 1 up to the share `flat` of all, and falls linearly to 0.

    Args:
        step: Steps done before, from 0.
        steps: Steps in all.
        warm_up: Steps until the factor is 1.
        flat: Share of the steps after which the factor falls, from 0 and below 1.
    """
    rising = (step + 1) / warm_up if warm_up else 1.0
    falling = (steps - step) / max(1.0, steps * (1 - flat))
    return max(0.0, min(1.0, rising, falling))


def block_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of a GPT-2's blocks, and all other parameters (embeddings, biases, norms), each once."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if ".h." in f".{name}" and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    return matrices, [p for _, p in named if id(p) not in chosen]


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that step as one; `param_groups` are those of both, so that one schedule moves all rates.

    Args:
        model: A GPT-2.
        matrix_learning_rate: Of Muon, on the matrices of the blocks.
        learning_rate: Of AdamW, on the rest.
        weight_decay: Of the matrices, decoupled.
    """

    def __init__(
        self, model: nn.Module, matrix_learning_rate: float, learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        matrices, rest = block_matrices(model)
        self.parts = (
            Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay),
            torch.optim.AdamW(rest, lr=learning_rate, weight_decay=0.0),
        )
        super().__init__([{"params": [*matrices, *rest]}], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient. Gives the loss that `closure` computes first, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both, Muon's first."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of both."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def learnt_loss(model: Any, tokens: Tensor, labels: Tensor, no_loss: int) -> Tensor:
    """The summed loss, in nats, of predicting `labels` where they are not `no_loss`; logits are made there alone.

    The rows run in two parts, long and short texts, so that short ones carry little padding. No mask is needed: padding
    on the right is behind all that is predicted.

    Args:
        model: A GPT2LMHeadModel.
        tokens: (batch, pos) ids, padded on the right.
        labels: (batch, pos) the same ids where they are learned.
        no_loss: What labels hold elsewhere.
    """
    learnt = labels != no_loss
    ends = torch.where(learnt, torch.arange(labels.shape[1], device=labels.device), 0).amax(1)
    order = ends.argsort(descending=True)
    long = _cut(ends[order].tolist())
    total = tokens.new_zeros((), dtype=model.dtype)
    for rows in (order[:long], order[long:]):
        if len(rows):
            stop = int(ends[rows].max()) + 1
            target = labels[rows, 1:stop]
            row, at = (target != no_loss).nonzero(as_tuple=True)
            hidden = model.transformer(tokens[rows, : stop - 1]).last_hidden_state[row, at]
            total = total + nn.functional.cross_entropy(model.lm_head(hidden), target[row, at], reduction="sum")
    return total


def _cut(lengths: list[int]) -> int:
    """Number of rows, longest first, to run apart, so that the tokens of both parts are fewest."""
    n = len(lengths)
    return min(range(n), key=lambda k: k * lengths[0] + (n - k) * lengths[k])
