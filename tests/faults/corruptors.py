"""Ways to damage the files of a folder. Each takes the folder, one of its files and a random generator, and says in a
few words what it did, or gives None if it does not apply to that file.

Generic ones work on the bytes of any file. Those of JSON, safetensors and torch files write a file that is well formed
and wrong in one place.
"""

import functools
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

Corruptor = Callable[[Path, Random], str | None]
MARKER = "INTERP_KIT_FAULTS_MARKER"  # the file that a payload creates if it is executed
BOMB = 24  # blocks of 64 MiB in a deflated file of 1.5 GiB


# bytes of any file


def flip_bit(path: Path, rng: Random) -> str | None:
    data = bytearray(path.read_bytes())
    if not data:
        return None
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"one bit of byte {at} of {len(data)} flipped"


def flip_bits(path: Path, rng: Random) -> str | None:
    data = bytearray(path.read_bytes())
    if not data:
        return None
    count = rng.randrange(2, 40)
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{count} bits flipped"


def truncate(path: Path, rng: Random) -> str | None:
    size = path.stat().st_size
    if not size:
        return None
    kept = rng.choice([0, rng.randrange(size), size - rng.randrange(1, min(size, 64) + 1)])
    os.truncate(path, kept)
    return f"cut to {kept} of {size} bytes"


def zero_range(path: Path, rng: Random) -> str | None:
    data = bytearray(path.read_bytes())
    if not data:
        return None
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([4, 64, 512, 4096]))
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    return f"bytes {start} to {end} of {len(data)} zeroed"


def drop_range(path: Path, rng: Random) -> str | None:
    data = path.read_bytes()
    if not data:
        return None
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 4, 64, 512]))
    path.write_bytes(data[:start] + data[end:])
    return f"bytes {start} to {end} of {len(data)} left out"


def append(path: Path, rng: Random) -> str | None:
    with open(path, "ab") as file:
        file.write(rng.randbytes(rng.choice([1, 64, 4096])))
    return "random bytes appended"


def twice(path: Path, rng: Random) -> str | None:
    path.write_bytes(path.read_bytes() * 2)
    return "content twice"


def random_bytes(path: Path, rng: Random) -> str | None:
    path.write_bytes(rng.randbytes(rng.choice([8, 512, path.stat().st_size or 1])))
    return "replaced by random bytes"


# what stands in a file's place


def missing(path: Path, rng: Random) -> str | None:
    path.unlink()
    return "missing"


def folder(path: Path, rng: Random) -> str | None:
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def endless(path: Path, rng: Random) -> str | None:
    path.unlink()
    path.symlink_to("/dev/zero")
    return "a link to /dev/zero in its place"


def pipe(path: Path, rng: Random) -> str | None:
    path.unlink()
    os.mkfifo(path)
    return "a named pipe in its place"


def loop(path: Path, rng: Random) -> str | None:
    path.unlink()
    path.symlink_to(path.name)
    return "a link to itself in its place"


def sibling(path: Path, rng: Random) -> str | None:
    others = sorted(file for file in path.parent.iterdir() if file.is_file() and file != path)
    if not others:
        return None
    other = rng.choice(others)
    shutil.copyfile(other, path)
    return f"{other.name} in its place"


class Payload:
    """Unpickled by a reader that executes code, it creates the marker file."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (os.environ[MARKER],)


def payload(path: Path, rng: Random) -> str | None:
    """A pickle that runs code, raw or inside a torch file, alone or beside the real content."""
    import torch

    content: Any = Payload()
    if path.suffix in TORCH and rng.random() < 0.5:
        content = (torch.load(path, weights_only=True), content)
    if rng.random() < 0.5:
        path.write_bytes(pickle.dumps(content, protocol=rng.choice([2, 4])))
        return "a pickle with a payload"
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.7)
    return "a torch file with a payload"


# JSON

JSON, TORCH, SAFE = (".json", ".jsonl"), (".pth", ".state", ".bin"), (".safetensors",)
BAD = (
    "NaN", "Infinity", "-Infinity", "null", "1e999", "9" * 400, "9" * 5000, "-1", "-1000000", "true", '"x"', "[]",
    "{}", "[[]]", "0.5", '"\\ud800"', "1" + "0" * 12,
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _edited(text: str, change: Callable[[Any], tuple[Any, str] | None]) -> tuple[str, str] | None:
    """The text of a JSON document after a change of its value, and what was changed. @@…@@ stands for raw text."""
    found = change(json.loads(text))
    if found is None:
        return None
    return _raw(json.dumps(found[0], indent=2 if "\n" in text.strip() else None)), found[1]


def _raw(text: str) -> str:
    return re.sub('"@@([0-9a-f]*)@@"', lambda match: bytes.fromhex(match[1]).decode(), text)


def _as_raw(text: str) -> str:
    return f"@@{text.encode().hex()}@@"


def _document(path: Path, rng: Random, change: Callable[[Any], tuple[Any, str] | None]) -> str | None:
    """Change one JSON document: the file, one line of a .jsonl, or the header of a safetensors file."""
    try:
        if path.suffix in SAFE:
            data = path.read_bytes()
            size = struct.unpack("<Q", data[:8])[0]
            found = _edited(data[8 : 8 + size].decode(), change)
            if found is None:
                return None
            head = found[0].encode()
            path.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + size :])
            return f"header: {found[1]}"
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            lines = text.splitlines()
            at = rng.randrange(len(lines))
            found = _edited(lines[at], change)
            if found is None:
                return None
            lines[at] = found[0]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            return f"line {at + 1}: {found[1]}"
        found = _edited(text, change)
    except (json.JSONDecodeError, UnicodeDecodeError, IndexError):
        return None
    if found is None:
        return None
    path.write_text(found[0], encoding="utf-8")
    return found[1]


def bad_value(path: Path, rng: Random) -> str | None:
    """One value of a JSON document replaced by a bad one."""

    def change(value: Any) -> tuple[Any, str] | None:
        at, bad = rng.choice(list(_places(value))), rng.choice(BAD)
        if not at:
            return _as_raw(bad), f"all of it is {bad[:12]}"
        former = _at(value, at)
        new = json.loads(bad) if len(bad) < 400 else None
        if new == former and type(new) is type(former):
            return None
        if isinstance(former, int | float) and not isinstance(former, bool) and bad in ("0.5", "1" + "0" * 12):
            return None  # it may be a right one
        _at(value, at[:-1])[at[-1]] = _as_raw(bad)
        return value, f"{'.'.join(map(str, at))} is {bad[:12]}"

    return _document(path, rng, change)


def nested(path: Path, rng: Random) -> str | None:
    """A value nested 100,000 deep."""
    depth = rng.choice([900, 3000, 100_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    deep = opening * depth + "1" + closing * depth

    def change(value: Any) -> tuple[Any, str] | None:
        at = rng.choice(list(_places(value)))
        if not at:
            return _as_raw(deep), f"all of it is nested {depth} deep"
        _at(value, at[:-1])[at[-1]] = _as_raw(deep)
        return value, f"{'.'.join(map(str, at))} is nested {depth} deep"

    return _document(path, rng, change)


def keys(path: Path, rng: Random) -> str | None:
    """A key renamed, left out, or one too many."""

    def change(value: Any) -> tuple[Any, str] | None:
        places = [at for at in _places(value) if isinstance(_at(value, at), dict) and _at(value, at)]
        if not places:
            return None
        inside = _at(value, rng.choice(places))
        name, how = rng.choice(sorted(inside)), rng.choice(["renamed", "left out", "added", "upper"])
        if how == "added":
            inside[f"{name}_more"] = inside[name]
        elif how == "renamed":
            inside[f"{name}x"] = inside.pop(name)
        elif how == "left out":
            del inside[name]
        elif name.upper() == name:
            return None
        else:
            inside[name.upper()] = inside.pop(name)
        return value, f"key {name}: {how}"

    return _document(path, rng, change)


def order(path: Path, rng: Random) -> str | None:
    """A list reversed, cut or doubled; two values of a mapping exchanged."""

    def change(value: Any) -> tuple[Any, str] | None:
        places = [at for at in _places(value) if isinstance(_at(value, at), dict | list) and len(_at(value, at)) > 1]
        if not places:
            return None
        at = rng.choice(places)
        inside = _at(value, at)
        where = ".".join(map(str, at)) or "all"
        if isinstance(inside, dict):
            one, two = rng.sample(sorted(inside), 2)
            if inside[one] == inside[two]:
                return None
            inside[one], inside[two] = inside[two], inside[one]
            return value, f"{where}: {one} and {two} exchanged"
        how = rng.choice(["reversed", "cut", "doubled"])
        former = list(inside)
        inside[:] = inside[::-1] if how == "reversed" else inside[:-1] if how == "cut" else inside + inside
        return (value, f"{where}: {how}") if inside != former else None

    return _document(path, rng, change)


def doubled_key(path: Path, rng: Random) -> str | None:
    """A JSON key given twice, the second time with another value."""
    if path.suffix not in JSON or path.suffix == ".jsonl":
        return None
    text = path.read_text(encoding="utf-8").rstrip()
    value = json.loads(text)
    if not isinstance(value, dict) or not value:
        return None
    name = rng.choice(sorted(value))
    path.write_text(f"{text[:-1]}, {json.dumps(name)}: {rng.choice(BAD[:9])}}}", encoding="utf-8")
    return f"key {name} twice"


# torch's zip files


def _members(path: Path) -> list[tuple[zipfile.ZipInfo, bytes]] | None:
    if path.suffix not in TORCH or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as file:
        return [(info, file.read(info)) for info in file.infolist()]


def deflated(path: Path, rng: Random) -> str | None:
    """The same members, compressed."""
    members = _members(path)
    if members is None:
        return None
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for info, data in members:
            file.writestr(info.filename, data)
    return "members compressed"


def doubled_member(path: Path, rng: Random) -> str | None:
    """One member twice, the second time with other bytes."""
    members = _members(path)
    if members is None:
        return None
    chosen = rng.randrange(len(members))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for number, (info, data) in enumerate(members):
            file.writestr(info.filename, data)
            if number == chosen:
                import warnings

                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    file.writestr(info.filename, bytes(len(data)))
    return f"member {members[chosen][0].filename} twice"


def lost_member(path: Path, rng: Random) -> str | None:
    members = _members(path)
    if members is None:
        return None
    chosen, how = rng.randrange(len(members)), rng.choice(["left out", "renamed", "shortened", "lengthened"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for number, (info, data) in enumerate(members):
            name = info.filename
            if number == chosen:
                if how == "left out":
                    continue
                name = f"../{name}" if how == "renamed" else name
                data = data[: len(data) // 2] if how == "shortened" else data
                data += bytes(64) if how == "lengthened" else b""
            file.writestr(name, data)
    return f"member {members[chosen][0].filename} {how}"


@functools.cache
def _packed() -> tuple[bytes, int]:
    """BOMB blocks of 64 MiB of zeros, deflated, and their length."""
    block = bytes(64 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return once * BOMB + packer.flush(zlib.Z_FINISH), len(block) * BOMB


def bomb(path: Path, rng: Random) -> str | None:
    """A member replaced by 1.5 GiB of zeros, deflated to 1.5 MB: made of one block, repeated."""
    members = _members(path)
    if members is None or rng.random() < 0.8:  # it costs seconds
        return None
    packed, size = _packed()
    name = rng.choice(members)[0].filename
    with zipfile.ZipFile(path, "w") as file:
        for info, data in members:
            if info.filename != name:
                file.writestr(info.filename, data)
        # zipfile would compress anew: write the packed bytes as stored, then correct both headers
        file.writestr(name, packed)
        entry = file.getinfo(name)
        offset = entry.header_offset
        entry.compress_type, entry.file_size, entry.CRC = zipfile.ZIP_DEFLATED, size, 0
    with open(path, "r+b") as raw:
        raw.seek(offset + 8)
        raw.write(struct.pack("<H", zipfile.ZIP_DEFLATED))
        raw.seek(offset + 14)
        raw.write(struct.pack("<III", 0, len(packed), size))
    return f"member {name} is {size >> 20} MiB of zeros, deflated"


# values of torch files


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from _leaves(item, (*path, at))
    else:
        yield path


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of nested dicts, lists and tuples with another value at one place."""
    if not path:
        return new
    if isinstance(value, dict):
        return {key: _with(item, path[1:], new) if key == path[0] else item for key, item in value.items()}
    return type(value)(_with(item, path[1:], new) if at == path[0] else item for at, item in enumerate(value))


def torch_value(path: Path, rng: Random) -> str | None:
    """One value of a torch file replaced by one that cannot be right."""
    import torch

    if path.suffix not in TORCH:
        return None
    content = torch.load(path, weights_only=True)
    at = rng.choice(list(_leaves(content)))
    former = content
    for key in at:
        former = former[key]
    if isinstance(former, torch.Tensor):
        ways: dict[str, Callable[[], Any]] = {
            "nan": lambda: torch.full_like(former.float(), float("nan")),
            "infinite": lambda: torch.full_like(former.float(), float("inf")),
            "sparse": lambda: former.to_sparse(),
            "meta": lambda: former.to("meta"),
            "expanded": lambda: former.flatten()[:1].expand(former.numel(), 3).T,
            "complex": lambda: former.to(torch.complex64),
            "boolean": lambda: torch.zeros(former.shape, dtype=torch.bool),
            "huge": lambda: torch.zeros(1).expand(1 << 40),
            "one row more": lambda: torch.cat([former.flatten(), former.flatten()[:1]]),
            "empty": lambda: former.flatten()[:0],
            "three wide": lambda: torch.zeros(3, 3, 3),
            "negative": lambda: -(former.abs() + 1).long(),
            "text": lambda: "text",
            "None": lambda: None,
            "a number": lambda: 3,
        }
    else:
        ways = {
            "nan": lambda: float("nan"),
            "huge": lambda: 10**400,
            "-1000000": lambda: -1_000_000,
            "-5.5": lambda: -5.5,
            "text": lambda: "5",
            "None": lambda: None,
            "a list": lambda: [],
            "a tensor": lambda: torch.zeros(3),
            "infinite": lambda: float("inf"),
        }
    how = rng.choice(sorted(ways))
    torch.save(_with(content, at, ways[how]()), path)
    return f"{'.'.join(map(str, at))} is {how}"


def torch_keys(path: Path, rng: Random) -> str | None:
    """A key of a torch file renamed, left out or one too many; an entry of a list left out or doubled; another shape of
    all of it."""
    import torch

    if path.suffix not in TORCH:
        return None
    content = torch.load(path, weights_only=True)
    places = [()] + [at[:n] for at in _leaves(content) for n in range(1, len(at))]
    at = rng.choice(sorted(set(places), key=str))
    inside = content
    for key in at:
        inside = inside[key]
    where = ".".join(map(str, at)) or "all"
    if isinstance(inside, dict) and inside:
        name = rng.choice(sorted(inside, key=str))
        how = rng.choice(["renamed", "left out", "of another type"])
        new = {(f"{k}x" if how == "renamed" else 7) if k == name else k: v for k, v in inside.items()}
        if how == "left out":
            new = {k: v for k, v in inside.items() if k != name}
        torch.save(_with(content, at, new), path)
        return f"{where}: key {name} {how}"
    ways = [(None, "None"), ("text", "text"), ({}, "a mapping"), ([inside], "inside a list")]
    if not at or not isinstance(inside, list):  # a shorter list of tensors may be a right one
        ways.append(([], "empty"))
    new, how = rng.choice(ways)
    torch.save(_with(content, at, new), path)
    return f"{where} is {how}"


GENERIC: tuple[Corruptor, ...] = (
    flip_bit, flip_bits, truncate, zero_range, drop_range, append, twice, random_bytes, missing, folder, endless, pipe,
    loop, sibling, payload,
)  # fmt: skip
STRUCTURED: tuple[Corruptor, ...] = (
    bad_value, nested, keys, order, doubled_key, deflated, doubled_member, lost_member, bomb, torch_value, torch_keys,
)  # fmt: skip
