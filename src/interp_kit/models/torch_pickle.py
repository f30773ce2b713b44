"""The pickle in a torch file, followed without `pickle`: only what plain tensors, lists, dicts and numbers need.

These are the instructions that `torch.load(weights_only=True)` knows, less those that make objects or call functions of
a name. Storages are taken from memory once it is known that the file holds as much, and filled by the caller.
"""

import io
import math
import pickletools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SLACK = 64 * 2**20  # bytes by which a storage and its tensors may differ, besides a factor
CHUNK = 2**20
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


class Foreign(ValueError):
    """The pickle asks for more than plain tensors."""


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
            raise ValueError(f"{name} is not a dense tensor of known size")
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
        """The value of the pickle that begins here. Raises ValueError for what is not part of plain tensors."""
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
