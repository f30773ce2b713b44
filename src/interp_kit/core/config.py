"""Frozen dataclasses from files: configurations that refuse unknown keys, and fields that are what they say."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")


def from_mapping(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Build the config dataclass `cls` from a mapping (a JSON or YAML file, say).

    Lists become tuples, as frozen configs hold them. Raises ValueError naming each unknown key and the known ones, and
    each missing one.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{cls.__name__} has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    needed = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"{cls.__name__} needs {', '.join(map(repr, missing))}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def to_mapping(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return dataclasses.asdict(config)


def check_fields(cls: type[Any], values: Any, source: object) -> dict[str, Any]:
    """Return the values, if they are those of the dataclass `cls`: each field of its annotated type.

    Annotations: None, bool, int, float (an int is one), str, Any, Literal, unions, mappings, lists, tuples and
    sequences of those, and classes (of arrays, Estimates). Shapes and dtypes of arrays are not looked at.

    Raises:
        ValueError: It is no mapping of these names, or a value is of another type. It names `source` and the field.
    """
    fields = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(values, dict) or set(values) != fields:
        shown = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{source}: fields {shown} do not match {cls.__name__}'s {sorted(fields)}")
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{source}: field {name!r} is damaged: it is of type {type(value).__name__}")
    return values


def _fits(value: Any, hint: Any) -> bool:
    """True if a value, and what it holds, are of an annotated type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is typing.Annotated:
        return _fits(value, inner[0])
    if hint is float or hint is int:
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if hasattr(hint, "array_type"):  # jaxtyping's
        return isinstance(value, hint.array_type)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        inner_hints = typing.get_type_hints(hint)
        return isinstance(value, hint) and all(_fits(getattr(value, name), one) for name, one in inner_hints.items())
    if origin is None:
        return value is None if hint is None else isinstance(value, hint)
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items()
        )
    if origin is tuple and inner[-1:] != (...,):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(inner)
            and all(_fits(item, one) for item, one in zip(value, inner, strict=True))
        )
    if issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value)
    return isinstance(value, origin)
