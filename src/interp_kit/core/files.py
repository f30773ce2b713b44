"""Files are written whole or not at all: write aside, flush, then rename."""

import contextlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JSON_LIMIT = 64 * 2**20  # bytes
DEPTH_LIMIT, COUNT_LIMIT = 100, 10**6
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{\]}]', re.DOTALL)  # strings first: what they hold is text


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    Raises OSError naming `path` where the folder cannot be made or written (no permission, full disk).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        os.chmod(aside, 0o666 & ~_umask())
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def check_writable(path: str | Path, *, folder: bool = False) -> Path:
    """The path, where a file (or a folder) can be written to it: to be asked before work begins. Raises OSError naming
    it where a folder (a file) stands there, or what it would lie in cannot be written."""
    path = Path(path)
    if path.exists() and path.is_dir() != folder:
        raise _cannot_write(path, OSError("it is a file" if folder else "it is a folder"))
    if path.resolve() == Path.cwd():
        raise _cannot_write(path, OSError("it is the current folder"))
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            return path
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, data: Any) -> Path:
    """Write `data` as indented JSON, whole or not at all. NaN is refused: it is not JSON."""
    return write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


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
        ValueError: It is not JSON (NaN, Infinity and numbers beyond float64 are not), nests deeper than 100 levels, or
            has over a million lists and objects.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        _check_nesting(text)
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
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


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


@contextlib.contextmanager
def replacing_directory(path: str | Path) -> Iterator[Path]:
    """Like `replacing` for a directory: yield an empty one beside `path` that takes its place on success.

    A former directory at `path` is kept until the new one stands in its place. Raises OSError naming `path` where a
    file stands there, or the folder cannot be made or written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"cannot write {path}: a file stands where the directory should be")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield aside
        os.chmod(aside, 0o777 & ~_umask())
        if path.exists():
            former = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            try:
                os.replace(path, former / path.name)
                os.replace(aside, path)
            except BaseException:
                if (former / path.name).exists():
                    os.replace(former / path.name, path)
                former.rmdir()
                raise
            shutil.rmtree(former, ignore_errors=True)
        else:
            os.replace(aside, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> OSError:
    """The error with `path` in its message, of the same kind (OSError picks the class by errno)."""
    reason = error.strerror if error.strerror and error.filename in (None, str(path)) else error
    message = f"cannot write {path}: {reason}"
    return OSError(message) if error.errno is None else OSError(error.errno, message)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
