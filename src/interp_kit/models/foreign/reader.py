"""Interface of a reader of a layout: it is given a state dict and settings, and gives a HookedTransformer's config and
weights, and the layout's own forward pass to compare with."""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from interp_kit.models.tensor_files import CheckpointError, check_finite

LONGEST = 2**24  # context of a model without position embeddings
# What a caller may name that shapes do not say.
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "act_fn": str,
    "eps": (float, int),
    "n_heads": int,
    "n_ctx": int,
    "attn_scale": (float, int),
    "normalization_type": (str, type(None)),
    "parallel_attn_mlp": bool,
    "rotary_base": (float, int),
    "rotary_dim": int,
    "rotary_adjacent_pairs": bool,
    "final_norm": bool,
    "initializer_range": (float, int),
}


@dataclass(frozen=True)
class Found:
    """A file in TransformerLens's terms.

    config: of a HookedTransformer; weights: by its parameter names; final_norm: whether it has one; forward: (batch,
    pos) tokens -> (batch, pos, vocab) logits by the layout's own computation, None if the layout is TransformerLens's;
    tables: buffers that the built model must have alike.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    final_norm: bool = True
    forward: Callable[[Tensor], Tensor] | None = None
    tables: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Reader(Protocol):
    """A layout: how its files are recognised by their keys, and read."""

    name: str

    def recognises(self, keys: Collection[str]) -> bool: ...
    def read(self, file: "File") -> Found: ...


@dataclass
class File:
    """The tensors of a file, from which a reader takes one after the other.

    state: key -> tensor; given: settings that the caller names; stored: those that the file has, under its own names.
    """

    path: Path
    state: Mapping[str, Tensor]
    given: Mapping[str, Any]
    stored: Mapping[str, Any]
    taken: set[str] = field(default_factory=set)
    assumed: dict[str, Any] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        return key in self.state

    def take(self, key: str, *shape: int | None) -> Tensor:
        """A tensor of a shape, of which None may be any length from 1. Raises CheckpointError if it is missing or of
        another shape, not of floating-point numbers, or not finite."""
        if key not in self.state:
            raise CheckpointError(f"{self.path}: {key} is missing; {shown(self.state)}")
        value = self.state[key]
        wanted = tuple("any" if length is None else length for length in shape)
        fits = len(value.shape) == len(shape) and value.numel() > 0
        if not fits or any(a is not None and a != b for a, b in zip(shape, value.shape, strict=True)):
            raise CheckpointError(f"{self.path}: {key} has shape {tuple(value.shape)}, expected {wanted}")
        if not value.is_floating_point():
            raise CheckpointError(f"{self.path}: {key} holds {value.dtype}, no floating-point numbers")
        check_finite({key: value}, self.path)
        self.taken.add(key)
        return value.float() if value.dtype != torch.float64 else value

    def layers(self, pattern: str) -> int:
        """The number of layers, whose keys begin with `pattern` and a number. Raises CheckpointError for a gap."""
        numbers = {int(match[1]) for key in self.state if (match := re.match(rf"{pattern}\.(\d{{1,9}})\.", key))}
        if numbers != set(range(len(numbers))):
            gap = next(i for i in range(len(numbers) + 1) if i not in numbers)
            raise CheckpointError(f"{self.path}: layer {gap} is missing of {pattern}.0 to {pattern}.{max(numbers)}")
        return len(numbers)

    def setting(self, name: str, stored: str = "", *, default: Any = None, assumed: bool = True) -> Any:
        """A setting that the caller or the file names, else `default`, which is kept in `assumed`. Raises
        CheckpointError if nothing says it and there is no default, or if both say and differ."""
        there = self.stored.get(stored or name)
        kinds = OPTIONS[name]
        if there is not None and (not isinstance(there, kinds) or (isinstance(there, bool) and kinds is not bool)):
            raise CheckpointError(f"{self.path}: its {stored or name} is {str(there)[:40]!r}, expected {_kind(kinds)}")
        if isinstance(there, float | int) and not math.isfinite(min(there, 2)):
            raise CheckpointError(f"{self.path}: its {stored or name} is not finite")
        if name in self.given:
            return self.given[name]
        if there is not None:
            return there
        if default is None:
            raise CheckpointError(
                f"{self.path}: {name} stands neither in the file nor in the shapes of its tensors; name it:"
                f" {named_as(name)}"
            )
        if assumed:
            self.assumed[name] = default
        return default

    def size(self, name: str, found: int, stored: str = "") -> int:
        """A size that shapes say. Raises CheckpointError if the caller or the file says another."""
        for said in (self.given.get(name), self.stored.get(stored or name)):
            if said is not None and said != found:
                raise CheckpointError(f"{self.path}: {name} is said to be {str(said)[:40]}, its shapes say {found}")
        return found

    def heads(self, width: int, stored: str, *, found: int | None = None) -> int:
        """The number of heads, `found` by shapes or named, which divides `width`."""
        n = self.size("n_heads", found, stored) if found is not None else self.setting("n_heads", stored)
        if n < 1 or width % n:
            raise CheckpointError(f"{self.path}: n_heads is {n}, which does not divide {width}")
        return n

    def done(self, ignored: str = r"(?!)") -> None:
        """Raise CheckpointError if a tensor was not taken, whose key is not to be `ignored`: it would not count."""
        left = [key for key in self.state if key not in self.taken and not re.fullmatch(ignored, key)]
        if left:
            more = f" (and {len(left) - 3} more)" if len(left) > 3 else ""
            raise CheckpointError(
                f"{self.path}: {', '.join(left[:3])}{more} are not of this layout, so the model computes something"
                " else; build a HookedTransformer with these weights and pass it to interp_kit.load"
            )


def named_as(*names: str) -> str:
    """Advice to name settings that a file does not say: in Python, and in a shell."""
    python = ", ".join(f"{name!r}: …" for name in names)
    return f"interp_kit.load(…, config={{{python}}}), or in a shell --config {' '.join(f'{n}=…' for n in names)}"


def read_settings(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Settings from a shell: `name=value`, whose value is JSON (4, true, null), or else a text (gelu_new). Raises
    ValueError, naming the option, for another form, and as `check_given` does."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} holds {text!r}; expected name=value, as in {option} act_fn=gelu_new n_heads=4")
        if name in found:
            raise ValueError(f"{option} names {name} twice; name it once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    check_given(found)
    return found


def check_given(given: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that does not exist, or of another kind."""
    for name, value in given.items():
        if name not in OPTIONS:
            raise ValueError(f"config has no setting {name!r}; there are {', '.join(OPTIONS)}")
        kinds = OPTIONS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise ValueError(f"config: {name} is {value!r}, expected {_kind(kinds)}")
        if isinstance(value, float | int) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"config: {name} is {value!r}, expected a finite number from 0")
    if given.get("initializer_range", 1) == 0:
        raise ValueError("config: initializer_range is 0, expected more; it is the standard deviation of first weights")
    if not 1 <= given.get("n_ctx", 1) <= LONGEST:
        raise ValueError(f"config: n_ctx is {given['n_ctx']}, expected 1 to {LONGEST:,}")


def shown(keys: Collection[str]) -> str:
    """The keys of a file, for an error."""
    first = [key[:60] for key in list(keys)[:8]]
    return f"it has {len(keys)} tensors: {', '.join(first)}{', …' if len(keys) > len(first) else ''}"


def _kind(kinds: type | tuple[type, ...]) -> str:
    names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    return " or ".join(
        {"str": "text", "NoneType": "None", "int": "a whole number", "float": "a number"}.get(n, n) for n in names
    )
