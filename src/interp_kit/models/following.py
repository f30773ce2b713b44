"""Batches go where the model is: whoever calls an analysis need not move them.

They are moved once per call, each of them once, so that what was one batch in several places (in the pairs and in the
edits that copy from them) is one batch afterwards.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch

from interp_kit.core.batch import TokenBatch
from interp_kit.core.pairs import PairBatch


class Follows:
    """Base of what may hold batches, or others of its kind, in its attributes."""


class Moved:
    """Everything that one call is given, moved to a device; what is there already, and what holds no batch, stays the
    same object."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._done: dict[int, tuple[Any, Any]] = {}  # the original too, so that no other takes its id

    def __call__(self, value: Any) -> Any:
        if isinstance(value, TokenBatch | PairBatch | Follows):
            if id(value) not in self._done:
                self._done[id(value)] = value, self._moved(value)
            return self._done[id(value)][1]
        if isinstance(value, list | tuple):
            found = [self(one) for one in value]
            return value if all(a is b for a, b in zip(found, value, strict=True)) else type(value)(found)
        if isinstance(value, dict):
            of = {key: self(one) for key, one in value.items()}
            return value if all(of[key] is one for key, one in value.items()) else of
        return value

    def _moved(self, value: Any) -> Any:
        if isinstance(value, TokenBatch):
            return value.to(self.device)
        held: Mapping[str, Any] = vars(value)
        changed = {name: new for name, old in held.items() if (new := self(old)) is not old}
        if not changed:
            return value
        found = copy.copy(value)
        for name, new in changed.items():
            object.__setattr__(found, name, new)
        return found
