"""Sources of given numbers, and copies of another run's activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_number
from interp_kit.engine.sources.source import Position, Source, check_aligned

Values = Tensor | np.ndarray | Sequence[Any] | np.generic | float | int


def _numbers(name: str, given: Any) -> Tensor:
    """A tensor of what numbers an edit was given, wherever they lie: they follow the model's dtype and device when they
    are written. Raises TypeError for what is not made of real numbers, ValueError for nan."""
    try:
        value = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError):
        found = f"{type(given).__name__} of {getattr(np.asarray(given, dtype=object), 'dtype', 'objects')}"
        raise TypeError(f"{name} takes a tensor, an array or a list of real numbers, not a {found}") from None
    if value.is_complex() or value.layout != torch.strided or value.is_meta:
        raise TypeError(
            f"{name} takes a dense tensor of real numbers, not {value.dtype}, {value.layout}, {value.device}"
        )
    if value.is_floating_point() and bool(value.isnan().any()):
        raise ValueError(f"{name}: {int(value.isnan().sum())} of {value.numel()} numbers are nan")
    return value


@dataclass(frozen=True, eq=False, init=False)
class Set(Source):
    """Write this value, broadcast to the edited slice: (batch, …) at a named position, (batch, pos, …) elsewhere. It
    may be a tensor of any dtype and device, an array, a list or a number."""

    value: Tensor
    of_weights: ClassVar[bool] = True

    def __init__(self, value: Values) -> None:
        object.__setattr__(self, "value", _numbers("Set", value))

    @property
    def numbers(self) -> Tensor:
        return self.value

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return given.to(old).expand_as(old)


@dataclass(frozen=True)
class Zero(Source):
    """Write zero. Far from anything that the model has seen: prefer Mean or Resample."""

    of_weights: ClassVar[bool] = True

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        return torch.zeros_like(old)


@dataclass(frozen=True, eq=False, init=False)
class Add(Source):
    """Add scale * vector: steering. `vector` is broadcast like Set's value."""

    vector: Tensor
    scale: float | int
    of_weights: ClassVar[bool] = True

    def __init__(self, vector: Values, scale: float | int = 1.0) -> None:
        object.__setattr__(self, "vector", _numbers("Add", vector))
        object.__setattr__(self, "scale", scale)
        check_number("scale", scale)

    @property
    def numbers(self) -> Tensor:
        return self.vector

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return old + self.scale * given.to(old)


@dataclass(frozen=True)
class Scale(Source):
    """Multiply by a factor; -1 flips."""

    factor: float
    of_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("factor", self.factor)

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        return old * self.factor


@dataclass(frozen=True)
class Copy(Source):
    """Write the activation that the same model has on `batch`, row by row: patching, interchange."""

    batch: TokenBatch

    def needs(self, batch: TokenBatch) -> TokenBatch:
        return self.batch

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return given


@dataclass(frozen=True, eq=False)
class CopyAttended(Source):
    """Path patching by sender: the edited position reads keys and values of `batch` at `senders`; nobody else does.

    For site "z" with a named position, the receiver. Only the attention of the receiver changes: no earlier position
    does, and later ones only by what they read of the receiver (Goldowsky-Dill et al. 2023, with positions as senders).
    """

    batch: TokenBatch
    senders: tuple[str, ...]

    def check(self, batch: TokenBatch, position: Position) -> None:
        assert isinstance(position, str)
        check_aligned(batch, self.batch, [position, *self.senders])
        at = batch.position(position)
        if any((batch.position(name) > at).any() for name in self.senders):
            raise ValueError(f"a sender stands after the receiver {position!r}")

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        raise TypeError("CopyAttended changes what attention reads, and has no values of its own: run it by hooks")


def copied(source: Source) -> TokenBatch | None:
    """The batch whose activation a source writes unchanged, if it does nothing else: so not what a subclass makes."""
    return source.batch if type(source) is Copy else None
