"""Frozen dataclasses from files: configurations that refuse unknown keys, and fields that are what they say; and
checks of the options that functions take."""

import dataclasses
import difflib
import math
import numbers
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
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
        ValueError: It is not a mapping of these names, or a value is of another type. It names `source` and the field.
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


# Checks of options. Each is made before any work, and its one error names option, value and what would do.


def check_choice(option: str, value: object, choices: Iterable[Any]) -> None:
    """Raises ValueError if `value` is not one of `choices`; True is not 1."""
    known = list(choices)
    alike = [c for c in known if isinstance(value, type(c)) and isinstance(value, bool) == isinstance(c, bool)]
    if value not in alike:
        raise ValueError(f"{option} is {_shown(value)}; expected one of {listed(known, value)}")


def check_count(option: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raises ValueError if `value` is not a whole number from `least` to `most`; True and 1.0 are not."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or int(value) < least or (most is not None and int(value) > most):
        wanted = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{option} is {_shown(value)}; expected a whole number {wanted}")


def check_seed(value: object, option: str = "seed") -> None:
    """Raises ValueError if `value` is not a whole number of 0 or more."""
    check_count(option, value, least=0)


def check_number(
    option: str,
    value: Any,
    *,
    above: float | int = -math.inf,
    least: float | int = -math.inf,
    below: float | int = math.inf,
    most: float | int = math.inf,
) -> None:
    """Raises ValueError if `value` is not a finite number within the bounds, of which `above` and `below` are not
    allowed themselves."""
    number = _as_float(value)
    if not (math.isfinite(number) and above < number < below and least <= number <= most):
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("above", above), ("at least", least), ("below", below), ("at most", most))
            if math.isfinite(bound)
        ]
        raise ValueError(f"{option} is {_shown(value)}; expected a finite number {' and '.join(bounds)}".rstrip())


def _as_float(value: Any) -> float:
    """A number as a float; nan for anything but a number, and for one too large to be a float."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def check_flag(option: str, value: object) -> None:
    """Raises ValueError if `value` is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f"{option} is {_shown(value)}; expected True or False")


def check_names(
    option: str, names: object, known: Iterable[str] | None = None, *, empty: bool = False
) -> tuple[str, ...]:
    """The names as a tuple. Raises ValueError for anything but a sequence of names (one string alone is not), none of
    them unless `empty`, one that is there twice, or one that is not `known`."""
    if isinstance(names, str | bytes | Mapping) or not isinstance(names, Iterable):
        raise ValueError(f"{option} is {_shown(names)}; expected a sequence of names")
    found = list(names)
    if not found and not empty:
        raise ValueError(f"{option} is empty; name at least one, or leave the option out")
    allowed = None if known is None else list(known)
    for i, name in enumerate(found):
        if not isinstance(name, str) or (allowed is not None and name not in allowed):
            wanted = "a name" if allowed is None else f"one of {listed(allowed, name)}"
            raise ValueError(f"{option} holds {_shown(name)}; expected {wanted}")
        if name in found[:i]:
            raise ValueError(f"{option} holds {name!r} twice; name each once")
    return tuple(found)


def one_or_more(names: Any) -> Any:
    """A single name as a list of it; anything else as it is."""
    return [names] if isinstance(names, str) else names


def expect(what: str, value: object, kinds: type | tuple[type, ...], hint: str = "") -> None:
    """Raises TypeError if an argument is of another kind than expected, with a hint at how such a one is made."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise TypeError(f"{what} is {_article(value)}; expected {wanted}{f': {hint}' if hint else ''}")


def _article(value: object) -> str:
    kind = type(value).__name__
    return f"the text {_shown(value)}" if isinstance(value, str) else f"a {kind}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


LISTED = 300  # characters of names in an error
DIGITS = re.compile(r"\d+")


def listed(names: Iterable[Any], wrong: object = None) -> str:
    """Names for an error: all of them; if they are too many, their number, the one nearest to `wrong`, and families in
    which only numbers differ ("f_B[0..9,0..9]"). A name with a comma or a space is quoted."""
    texts = [str(name) for name in names]
    if len(text := ", ".join(map(_quoted, texts))) <= LISTED:
        return text
    near = difflib.get_close_matches(wrong, texts, 1, cutoff=0.0) if isinstance(wrong, str) else []
    families: dict[str, list[str]] = {}
    for name in texts:
        families.setdefault(DIGITS.sub("#", name), []).append(name)
    shown = list(map(_family, families.values()))
    short = ", ".join(shown)
    if len(short) > LISTED:
        kept = next(n for n in range(len(shown), -1, -1) if len(", ".join(shown[:n])) <= LISTED)
        short = ", ".join([*shown[:kept], "…"])
    return f"{len(texts):,}" + (f", the nearest being {_quoted(near[0])}" if near else "") + f": {short}"


def _quoted(name: str) -> str:
    return repr(name) if not name or {" ", ";"} & set(name) or name.endswith(",") else name


def _family(names: list[str]) -> str:
    """Names that differ in numbers, as one: the least and the largest of each number."""
    if len(names) == 1:
        return _quoted(names[0])
    columns = zip(*(DIGITS.findall(name) for name in names), strict=True)
    spans = [(min(column, key=int), max(column, key=int)) for column in columns]  # as written: 000..004
    ends = iter([low if int(low) == int(high) else f"{low}..{high}" for low, high in spans])
    return _quoted(DIGITS.sub(lambda _: next(ends), names[0]))
