"""One prompt with its truth, one thing that a model answers, and what a batch needs to know of a task."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from interp_kit.core.identity import Identity
from interp_kit.core.showing import counted, line, preview, shortened


@dataclass(frozen=True)
class Field:
    """One thing that the model answers.

    name: the variable; predict: the named position whose logits predict it; values: what it can be;
    candidates: the token id of each value, in the same order.
    """

    name: str
    predict: str
    values: tuple[int, ...]
    candidates: tuple[int, ...]

    def token(self, value: int) -> int:
        """The token id that writes `value`. Raises ValueError if the field cannot have it."""
        if value not in self.values:
            raise ValueError(f"{self.name} cannot be {value}; it is one of {self.values}")
        return self.candidates[self.values.index(value)]


@dataclass(frozen=True)
class Example:
    """One prompt with its completion and the truth about it.

    tokens: prompt, completion and end-of-text; prompt_length: tokens of the prompt; positions: named position -> index
    into tokens, one name for every token; labels: variable -> true value.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_length: int
    positions: Mapping[str, int]
    labels: Mapping[str, int]

    def __repr__(self) -> str:
        return line(
            "Example",
            repr(shortened(self.text)),
            counted(len(self.tokens), "token"),
            counted(len(self.labels), "label"),
        )

    def _repr_html_(self) -> str:
        return preview(self.text, {"variable": list(self.labels), "value": list(self.labels.values())})


@runtime_checkable
class Labelling(Protocol):
    """The part of a task that a batch needs: names, tokens and variables. See AbstractTask for what each means."""

    name: str
    fields: tuple[Field, ...]
    variables: tuple[str, ...]
    inputs: tuple[str, ...]
    numeric: tuple[str, ...]
    vocabulary: tuple[str, ...]
    pad: int

    @property
    def n_worlds(self) -> int | None:
        """Number of distinct examples."""
        ...

    @property
    def identity(self) -> Identity:
        """Name and fingerprint."""
        ...
