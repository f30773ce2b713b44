"""Files of tensors, read without running anything: safetensors, and what `torch.save` writes.

A torch file holds a pickle. Its instructions are followed here, and only those that plain tensors, lists, dicts and
numbers need, the same as `torch.load(weights_only=True)` knows. Unlike that, sizes are held against the file before
memory is taken, and every byte against the zip's checksums. Files from before torch 1.6 are no zips and have no
checksums: their sizes are checked, but a changed number in them cannot be noticed, which is logged.
"""

import io
import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from interp_kit.core.files import check_regular

LIMIT = 2 * 2**20  # bytes of a pickle, and of a zip's list of members: enough for 10,000 tensors
SLACK = 64 * 2**20  # bytes by which a storage and its tensors may differ, besides a factor
CHUNK = 2**20
MEMBER = re.compile(r"data\.pkl|data/\d+|\.data/serialization_id|\.?[a-z_]+")
MAGIC = 0x1950A86A20F9469CFC6C  # of the format before torch 1.6
DTYPES = {
    f"torch {name}Storage": dtype
    for name, dtype in (
        ("Double", torch.float64),
        ("Float", torch.float32),
        ("Half", torch.float16),
        ("BFloat16", torch.bfloat16),
        ("Long", torch.int64),
        ("Int", torch.int32),
        ("Short", torch.int16),
        ("Char", torch.int8),
        ("Byte", torch.uint8),
        ("Bool", torch.bool),
    )
}
CALLED = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
)


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, hostile or contradicts itself; the message names file and reason."""


class Foreign(ValueError):
    """The pickle asks for more than plain tensors."""


def read_torch(path: str | Path, what: str = "") -> Any:
    """What `torch.save` wrote to a file: tensors (on the CPU), numbers and texts in lists, tuples and dicts.

    Args:
        path: A zip as torch writes it, or a file of the format before torch 1.6.
        what: The content, for the message of the error.

    Raises:
        CheckpointError: Naming the file: it is missing, not a regular file, cut short, compressed, of a wrong checksum,
            says sizes that it does not have, or holds more than plain tensors.
    """
    path = Path(path)
    try:
        with check_regular(path).open("rb") as file:
            size = path.stat().st_size
            if file.read(4) == b"PK\3\4":
                return _read_zip(file, size)
            file.seek(0)
            value = _read_old(file, size)
        logger.warning("{}: written before torch 1.6, without checksums; a changed number cannot be noticed", path)
        return value
    except Exception as error:  # Damage shows in a dozen ways.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, Foreign):
            reason += "; nothing in it was executed"
        raise CheckpointError(f"{path} cannot be read{what and f' as {what}'}: {reason}") from error


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError naming it: it is missing, not a regular file, damaged
    or of another format."""
    from safetensors.torch import load_file

    path, first = Path(path), b""
    try:
        with check_regular(path).open("rb") as file:
            first = file.read(1)
        return load_file(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if first in (b"\x80", b"P"):
            reason = "it is a pickle or a zip file, not safetensors; nothing in it was executed"
        raise CheckpointError(f"{path} cannot be read: {reason}") from error


@dataclass(frozen=True)
class Global:
    """A name that a pickle asks for."""

    name: str


@dataclass
class Storage:
    """Numbers that tensors show parts of. data: (n,) not filled before all of the pickle is read; shown: bytes of all
    tensors together; views: those of each distinct one, by offset, sizes and strides."""

    data: Tensor
    shown: int = 0
    views: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = field(default_factory=dict)

    def tensor(self, name: str, offset: Any, size: Any, stride: Any) -> Tensor:
        """A tensor that shows a part of the numbers. Raises ValueError, with its `name`, for a part that there is
        not."""
        numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (-1,)
        if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
            raise ValueError(f"{name} is no dense tensor of known size")
        n = math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if n > len(self.data) or (n and last >= len(self.data)):
            raise ValueError(f"{name} has shape {size}, more than the file stores for it")
        self.shown += n * self.data.itemsize
        self.views[offset, size, stride] = n * self.data.itemsize
        return self.data.as_strided(size, stride, offset)

    def fill(self, file: Any, name: str) -> None:
        """Read all numbers from here on, and no more. Raises ValueError if the file ends before, if most of them belong
        to no tensor, or if many tensors show the same ones."""
        stored, distinct = self.data.nbytes, sum(self.views.values())
        if stored > 2 * distinct + SLACK or self.shown > 4 * stored + SLACK:
            raise ValueError(f"{name} has {stored:,} bytes, its tensors {self.shown:,}")
        room = self.data.view(torch.uint8).numpy().data
        for at in range(0, len(room), CHUNK):
            part = room[at : at + CHUNK]
            if file.readinto(part) != len(part):
                raise ValueError(f"{name} is cut short")


class Pickle:
    """The pickles of one file, of `size` bytes, which share their storages."""

    def __init__(self, size: int) -> None:
        self.room = size
        self.storages: dict[str, Storage] = {}

    def read(self, file: io.BytesIO) -> Any:
        """The value of the pickle that begins here. Raises ValueError for what is no part of plain tensors."""
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[object, Any] = {}

        def marked() -> list[Any]:
            at = marks.pop()
            items = stack[at:]
            del stack[at:]
            return items

        for opcode, argument, _ in pickletools.genops(file):
            match opcode.name:
                case "PROTO":
                    pass
                case "STOP":
                    break
                case "MARK":
                    marks.append(len(stack))
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                    stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[opcode.name]())
                case "TUPLE":
                    stack.append(tuple(marked()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    n = int(opcode.name[-1])
                    stack[-n:] = [tuple(stack[-n:])]
                case "APPEND" | "APPENDS":
                    items = [stack.pop()] if opcode.name == "APPEND" else marked()
                    _of(list, stack[-1]).extend(items)
                case "SETITEM" | "SETITEMS":
                    items = [stack.pop(-2), stack.pop()] if opcode.name == "SETITEM" else marked()
                    _of(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    if argument not in CALLED and argument not in DTYPES:
                        name = str(argument).replace(" ", ".")
                        raise Foreign(f"{_name(stack)} holds {name}, no dense tensor or plain value")
                    stack.append(Global(str(argument)))
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE":
                    arguments, called = _of(tuple, stack.pop()), _of(Global, stack.pop())
                    stack.append(_called(called.name, arguments, _name(stack)))
                case "BUILD":  # what stands beside the entries of a state dict, as its version
                    stack.pop()
                    _of(dict, stack[-1])
                case _:
                    raise Foreign(f"it is not as torch writes it: {opcode.name} at byte {file.tell()}")
        if len(stack) != 1 or marks:
            raise ValueError("its pickle is damaged")
        return stack[0]

    def _storage(self, asked: Any) -> Storage:
        match asked:
            case ("storage", Global(kind), str(key), str(), int(n), *view) if view in ([], [None]):
                pass
            case _:
                raise ValueError("its pickle is damaged: a storage is not named as torch names it")
        if kind not in DTYPES or type(n) is not int or n < 0:
            raise ValueError(f"storage {key[:20]} holds {n if n < 2**64 else 'too many'} values of {kind[:40]}")
        dtype = DTYPES[kind]
        if key not in self.storages:
            self.room -= n * dtype.itemsize
            if self.room < 0:
                raise ValueError(f"storage {key[:20]} is said to have more values than the file has bytes")
            self.storages[key] = Storage(torch.empty(n, dtype=dtype))
        found = self.storages[key]
        if (found.data.dtype, len(found.data)) != (dtype, n):
            raise ValueError(f"storage {key[:20]} is said to be of two kinds")
        return found


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"its pickle is damaged: {type(value).__name__} in place of {kind.__name__}")
    return value


def _name(stack: list[Any]) -> str:
    """The entry of the state dict that is being read: the text that was read last."""
    return next((text[:100] for text in reversed(stack) if isinstance(text, str) and text != "storage"), "it")


def _called(function: str, arguments: tuple[Any, ...], name: str) -> Any:
    match function, arguments:
        case "collections OrderedDict", ():
            return {}
        case "torch Size", (tuple(size),):
            return size
        case "torch._utils _rebuild_parameter", (Tensor() as tensor, *_):
            return tensor
        case (("torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2"), (Storage() as found, *where)):
            return found.tensor(name, *where[:3])
    raise ValueError(f"{name} holds {function.split()[-1]}, no dense tensor or plain value")


def _read_zip(file: io.BufferedReader, size: int) -> Any:
    _check_end(file, size)
    with zipfile.ZipFile(file) as archive:
        folder, members = _members(archive, size)
        if "data.pkl" not in members:
            raise ValueError("it is a zip without data.pkl")

        def small(name: str) -> bytes:
            info = members.pop(name)
            if info.file_size > LIMIT:
                raise ValueError(f"{info.filename} has {info.file_size:,} bytes, more than {LIMIT:,}")
            try:
                return archive.read(info)  # checks its CRC
            except zipfile.BadZipFile as error:
                raise ValueError(f"{info.filename} is damaged: {error}") from error

        pickle = Pickle(size)
        value = pickle.read(io.BytesIO(small("data.pkl")))
        for key, storage in pickle.storages.items():
            info = members.pop(f"data/{key}", None)
            if info is None or info.file_size != storage.data.nbytes:
                found = f"{info.file_size:,} bytes" if info else "missing"
                raise ValueError(f"{folder}/data/{key[:20]} is {found}, expected {storage.data.nbytes:,} bytes")
            with archive.open(info) as member:
                storage.fill(member, info.filename)
        if unused := [name for name in members if name.startswith("data/")]:
            raise ValueError(f"{folder}/{unused[0]} belongs to no tensor")
        for name in list(members):
            if small(name) != b"little" and name == "byteorder":
                raise ValueError("its numbers are not little-endian")
    return value


def _check_end(file: io.BufferedReader, size: int) -> None:
    """The list of members ends the file, as torch writes it, and is not too long to read."""
    end, locator, record = 22, 20, 56
    file.seek(max(0, size - end - locator - record))
    tail = file.read(end + locator + record)
    if len(tail) < end or tail[-end:][:4] != b"PK\5\6":
        raise ValueError("it is cut short, or more stands behind its end")
    lengths = [*struct.unpack("<L", tail[-end:][12:16])]
    if len(tail) == end + locator + record and tail[record:][:4] == b"PK\6\7":
        lengths += struct.unpack("<Q", tail[40:48])
    if max(lengths) > LIMIT:
        raise ValueError(f"its list of members is said to have {max(lengths):,} bytes")


def _members(archive: zipfile.ZipFile, size: int) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The one folder of a torch zip, and what lies in it by name."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    folder = infos[0].filename.partition("/")[0] if infos else ""
    for info in infos:
        shown = info.filename[:100]
        first, _, name = info.filename.partition("/")
        if first != folder or not MEMBER.fullmatch(name):
            raise ValueError(f"its member {shown!r} is no part of a file of tensors")
        if name in members:
            raise ValueError(f"its member {shown!r} is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ValueError(f"its member {shown!r} is compressed or encrypted; torch stores numbers as they are")
        members[name] = info
    if sum(info.file_size for info in infos) > size:
        raise ValueError("its members are said to be larger than the file")
    return folder, members


def _read_old(file: io.BufferedReader, size: int) -> Any:
    """Five pickles (a number, a version, the machine, the value, the keys), then the numbers of each storage."""
    head, pickle = io.BytesIO(file.read(LIMIT)), Pickle(size)
    try:
        magic = pickle.read(head)
    except Foreign:
        raise
    except Exception as error:
        raise ValueError("it is no file of torch's, or cut short") from error
    if magic != MAGIC or type(magic) is not int:
        raise Foreign("it is a pickle, or another file, but not as torch writes it")
    _version, machine, value, keys = (pickle.read(head) for _ in range(4))
    if not isinstance(machine, Mapping) or machine.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    if not isinstance(keys, list) or len(keys) != len(pickle.storages) or set(keys) != set(pickle.storages):
        raise ValueError("its storages are not those of its tensors")
    file.seek(head.tell())
    for key in keys:
        storage = pickle.storages[key]
        if file.read(8) != struct.pack("<q", len(storage.data)):
            raise ValueError(f"storage {key[:20]} is cut short, or not of {len(storage.data)} values")
        storage.fill(file, f"storage {key[:20]}")
    if file.read(1):
        raise ValueError("more stands behind its end")
    return value
