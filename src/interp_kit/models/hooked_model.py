"""The axis vocabulary of the shapes in this library, and the model that analyses ask for.

Axes: batch (examples), pos (token positions), d_model, d_head, d_mlp, head, layer, vocab (token ids), edit, pair.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:  # its name, for the annotations of those who may not know TransformerLens
    from transformer_lens import HookedTransformer as HookedTransformer


@runtime_checkable
class HookedModel(Protocol):
    """Requirements of analyses on a model: TransformerLens's hook interface, no more.

    `cfg` has n_layers, n_heads, d_model, d_head, n_ctx, d_vocab, device. Calling it on (batch, pos) token ids gives
    (batch, pos, vocab) logits.
    """

    cfg: Any

    def __call__(self, tokens: torch.Tensor, **kwargs: Any) -> torch.Tensor: ...
    def run_with_hooks(self, tokens: torch.Tensor, *, fwd_hooks: list, **kwargs: Any) -> torch.Tensor: ...
    def run_with_cache(self, tokens: torch.Tensor, **kwargs: Any) -> Any: ...
    def hooks(self, fwd_hooks: list) -> AbstractContextManager: ...
    def named_parameters(self) -> Any: ...


Hook = tuple[str, Callable[..., torch.Tensor | None]]
Names = Sequence[str]


def model_name(model: HookedModel) -> str:
    """The name under which a model was loaded, else its class: for tables and configs."""
    provenance = getattr(model, "provenance", None)
    return provenance.name if provenance is not None else type(model).__name__


def initialisation(model: HookedModel) -> str | None:
    """Initialisation of a model's weights; None if unknown. Components of models that share it keep their index."""
    return getattr(getattr(model, "provenance", None), "initialisation", None)


def attach(model: object, **facts: object) -> None:
    """Keep facts about a model on it (where it comes from, how it was checked), past torch's own attribute checks."""
    for name, value in facts.items():
        object.__setattr__(model, name, value)
