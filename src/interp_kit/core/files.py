"""Files are written whole or not at all: write aside, flush, then rename."""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

FORMER = ".former"  # ends the temporary name of a folder that is being replaced
JSON_LIMIT = 64 * 2**20  # bytes
NAME_BYTES = 100  # of a name, in the temporary names beside it
DEPTH_LIMIT, COUNT_LIMIT = 100, 10**6
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{\]}]', re.DOTALL)  # strings first: what they hold is text


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path in a temporary folder beside `path`; on success it is renamed to `path`, and the folder goes in any
    case.

    A folder, because writers of other libraries make temporary files of their own beside what they write (safetensors
    0.8 does). What killed writers left beside `path` is removed first. A link at `path` is replaced, not what it leads
    to.

    Raises:
        OSError: `path` is a folder or a device, or cannot be written (no permission, full disk). It names `path`.
    """
    path = Path(path)
    _check_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        folder = Path(tempfile.mkdtemp(prefix=aside_prefix(path), dir=path.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    aside = folder / path.name
    try:
        aside.touch()
        mode = stat.S_IMODE(aside.stat().st_mode)
        yield aside
        os.chmod(aside, mode)  # some writers put a file of their own there, which only the owner may read
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except Exception as error:
        if (found := of_the_disk(path, error)) is not None:
            raise found from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: str | Path) -> Path:
    """Return the path if a file can be written to it; to be asked before work begins.

    Raises:
        OSError: A folder or a device stands there, or the folder that it would lie in cannot be written.
    """
    path = Path(path)
    _check_file(path)
    check_parent(path, path)
    return path


def check_new(paths: Iterable[Path]) -> None:
    """Raise OSError, before work begins, if one of the files is there already or cannot be written."""
    for path in paths:
        if path.exists():
            raise cannot_write(path, FileExistsError("it is there already; remove it, or name another folder"))
        check_writable(path)


def _check_file(path: Path) -> None:
    try:
        folder, other = path.is_dir(), path.exists() and not path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise cannot_write(path, error) from error
    if folder:
        raise cannot_write(path, IsADirectoryError("it is a folder"))
    if other:
        raise cannot_write(path, OSError("it is not a regular file"))


def check_parent(path: Path, named: Path) -> None:
    """Raise OSError naming `named` if the nearest folder above `path` that there is cannot be written, or is full."""
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(b"0")
    except OSError as error:
        raise cannot_write(named, error) from error


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, data: Any) -> Path:
    """Write `data` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    return write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def signed(text: str, line: str) -> str:
    """The text with a last line by which `is_signed` knows it, unless it was changed: `line` with a hash for `{}`."""
    return f"{text}\n{line.format(hashlib.sha256(text.encode()).hexdigest())}\n"


def is_signed(path: str | Path, line: str, limit: int = JSON_LIMIT) -> bool:
    """True if a file of at most `limit` bytes is as `signed` gave it with the same line."""
    try:
        text = read_bytes(path, limit).decode()
    except ValueError:
        return False
    return text == signed(text.rpartition("\n" + line.partition("{}")[0])[0], line)


def check_regular(path: str | Path, limit: int | None = None) -> Path:
    """Return the path if a regular file of at most `limit` bytes lies there: not a device, pipe or folder, which may
    have no end. Links are followed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a regular file, or larger than `limit`.
    """
    path = Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if limit is not None and found.st_size > limit:
        raise ValueError(f"{path} has {found.st_size:,} bytes; at most {limit:,} are read")
    return path


def read_bytes(path: str | Path, limit: int = JSON_LIMIT) -> bytes:
    """Read a regular file of at most `limit` bytes. Raises as `check_regular` does."""
    with check_regular(path, limit).open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:  # files of /proc say that they are empty
        raise ValueError(f"{path} has more than {limit:,} bytes")
    return data


def read_json(path: str | Path, limit: int = JSON_LIMIT) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a regular file of at most `limit` bytes, or `parse_json` refuses its text.
    """
    return parse_json(read_bytes(path, limit), path)


def parse_json(text: str | bytes, source: object) -> Any:
    """The value of a JSON text; `source` names it in errors.

    Raises:
        ValueError: It is not JSON (NaN, Infinity and numbers beyond float64 are not), gives a key twice, nests deeper
            than 100 levels, or has over a million lists and objects.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        _check_nesting(text)
        return json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not valid JSON: {error}") from error


def _check_nesting(text: str) -> None:
    """Raise ValueError for a text that would take gigabytes to hold, or more levels than can be walked."""
    opened = text.count("[") + text.count("{")
    if opened <= DEPTH_LIMIT:
        return
    depth = count = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in "[{":
            depth, count = depth + 1, count + 1
            if depth > DEPTH_LIMIT:
                raise ValueError(f"nested deeper than {DEPTH_LIMIT} levels")
            if count > COUNT_LIMIT:
                raise ValueError(f"more than {COUNT_LIMIT:,} lists and objects")
        elif found[0] in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)[:60]!r} is given twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def aside_prefix(path: Path) -> str:
    """Prefix of the temporary names beside `path`: with what tells whether their writer still lives. Of a long name it
    holds the beginning, as file systems allow 255 bytes, or 143."""
    return f".{os.fsencode(path.name)[:NAME_BYTES].decode(errors='ignore')}.{_machine()}-{os.getpid()}-"


@cache
def _machine() -> str:
    """A token of this machine and container: elsewhere, the same number is another process."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def sweep(folder: Path) -> None:
    """Remove what writers on this machine left in a folder when they were killed. A former folder that one had moved
    away returns. What cannot be removed (another user's, or another process sweeps it just now) stays."""
    pattern = re.compile(rf"\..+\.{_machine()}-(\d+)-\w{{8}}({re.escape(FORMER)})?", re.DOTALL)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in names:
        found = pattern.fullmatch(name)
        if found is None or _alive(int(found[1])):
            continue
        left = folder / name
        with contextlib.suppress(OSError):
            if found[2]:
                for former in left.iterdir():
                    if not (folder / former.name).exists():
                        os.replace(former, folder / former.name)
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if os.name != "posix":  # signal 0 would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def of_the_disk(path: Path, error: Exception) -> OSError | None:
    """The OSError, with `path` in its message, that an error of a writer stands for, which may be in Rust or C++; None
    for an error that is not of the disk."""
    if isinstance(error, OSError):
        return cannot_write(path, error)
    if not isinstance(error, ValueError | TypeError | LookupError):
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors, tokenizers
            return cannot_write(path, OSError(int(found[1]), os.strerror(int(found[1]))))
        if re.search("PytorchStreamWriter|inline_container|iostream error|file write failed|I/O error", str(error)):
            return cannot_write(path, OSError(f"no room, or no permission ({str(error).splitlines()[0]})"))
    return None


def cannot_write(path: Path, error: OSError) -> OSError:
    """The error with `path` in its message, of the same kind (OSError picks the class by errno)."""
    reason = error.strerror if error.strerror and error.filename in (None, str(path)) else error
    message = f"cannot write {path}: {reason}"
    return OSError(message) if error.errno is None else OSError(error.errno, message)
