"""A last line by which a text that was written here is known, unless it was changed since."""

import hashlib
from pathlib import Path

from interp_kit.core.files import JSON_LIMIT, read_bytes


def signed(text: str, line: str) -> str:
    """The text with its signature: a line with the hash of the text in place of `{}`."""
    return f"{text}\n{line.format(hashlib.sha256(text.encode()).hexdigest())}\n"


def is_signed(path: Path, line: str, limit: int = JSON_LIMIT) -> bool:
    """Whether a file of at most `limit` bytes is as `signed` gave it with the same line."""
    try:
        text = read_bytes(path, limit).decode()
    except ValueError:
        return False
    return text == signed(text.rpartition("\n" + line.partition("{}")[0])[0], line)
