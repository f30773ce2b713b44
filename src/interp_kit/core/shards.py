"""Data sets made in shards: which of them a job makes, and what is there already is never replaced.

A shard is a pair (i, n): the i-th of n, counted from 0, a pure function of the config. Jobs of a cluster, each with one
shard, need nothing else.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from interp_kit.core.config import check_count
from interp_kit.core.files import cannot_write, check_writable

Shard = tuple[int, int]
WHOLE: Shard = (0, 1)
MOST = 99_999


def check_shard(shard: Shard) -> None:
    """Raise ValueError if there is no such shard."""
    index, count = shard
    check_count("the number of shards", count, 1, MOST)
    check_count("the shard", index, 0, count - 1)


def parse_shard(text: str) -> Shard:
    """The shard of an option such as "0/4"; WHOLE for no text. Raises ValueError for any other."""
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if text and found is None:
        raise ValueError(f"--shard is {text!r}; expected i/n, as in 0/4 for the first of four")
    return WHOLE if found is None else (int(found[1]), int(found[2]))


def numbered(index: int, count: int) -> str:
    """The end of a name, of the index-th of `count` files."""
    return f"-{index:05d}-of-{count:05d}"


def check_new(paths: Iterable[Path]) -> None:
    """Raise OSError, before the work begins, if one of the files is there already or cannot be written."""
    for path in paths:
        if path.exists():
            raise cannot_write(path, FileExistsError("it is there already; remove it, or name another folder"))
        check_writable(path)
