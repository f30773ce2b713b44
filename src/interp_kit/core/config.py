"""Frozen configurations that refuse unknown keys."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

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
