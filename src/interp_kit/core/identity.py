"""Identity of the task that a model learned, and that examples are of: a description as JSON, and a short fingerprint
of it.

A description is saved with a trained model. Where a model meets examples, the two fingerprints are compared: equal
names do not make equal tasks, as a boolean task of other equations has the same token ids and other answers. Random
streams, too, are known by names.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Description = Mapping[str, Any]


def fingerprint(description: Description) -> str:
    """12 hexadecimal digits of a task's name and meaning; which examples are drawn has no part in it."""
    decides = {key: description[key] for key in ("name", "meaning")}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def check_description(data: object, where: str) -> dict[str, Any]:
    """A description that was read from a file. Raises ValueError, naming the file, if it is damaged."""
    if not (
        isinstance(data, dict)
        and set(data) == {"name", "options", "meaning"}
        and isinstance(data["name"], str)
        and isinstance(data["options"], dict | None)
        and isinstance(data["meaning"], dict)
    ):
        raise ValueError(f"{where}: the task's description is damaged; expected name, options and meaning")
    return data


def as_json(value: Any) -> Any:
    """A value as JSON gives it back (tuples become lists). Raises TypeError or ValueError if JSON cannot hold it."""
    return json.loads(json.dumps(value, allow_nan=False))


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed that depends on `seed` and on every name: same arguments, same stream, on every machine."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Identity:
    """The task that something is of. name: None if unknown; fingerprint: "" if only the name is known."""

    name: str | None
    fingerprint: str = ""

    def __str__(self) -> str:
        return f"{self.name!r}" + (f" (fingerprint {self.fingerprint})" if self.fingerprint else "")

    def differs(self, other: "Identity") -> bool:
        """True if the two are known to be of different tasks."""
        if self.name is None or other.name is None:
            return False
        if self.fingerprint and other.fingerprint:
            return self.fingerprint != other.fingerprint
        return self.name != other.name
