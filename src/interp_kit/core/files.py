"""Files are written whole or not at all: write aside, flush, then rename."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises ValueError naming the file where it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


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
