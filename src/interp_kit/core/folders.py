"""Folders are written whole or not at all, and only a folder that the same writer wrote is ever replaced."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from interp_kit.core.files import (
    FORMER,
    aside_prefix,
    cannot_write,
    check_parent,
    of_the_disk,
    read_json,
    sweep,
    write_json,
)

MARK = ".interp_kit.json"


def check_folder(path: str | Path, kind: str) -> Path:
    """Return the path if a folder can be written to it without loss; to be asked before work begins.

    A folder may stand there if it is empty, or holds exactly what was last written there as this `kind`, unchanged.

    Raises:
        OSError: Any other folder or a file stands there; it is the current folder, the home folder, or one that holds
            them; it is a mount point; or it cannot be written.
    """
    path = Path(path)
    real = Path(os.path.realpath(path))
    try:
        other = real.exists() and not real.is_dir()
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise cannot_write(path, error) from error
    if other:
        raise cannot_write(path, NotADirectoryError("it is a file"))
    for name, kept in (("current", Path.cwd()), ("home", Path(os.path.realpath(os.path.expanduser("~"))))):
        if real == kept or real in kept.parents:
            raise cannot_write(path, OSError(f"it {'is' if real == kept else 'holds'} the {name} folder"))
    if os.path.ismount(real):
        raise cannot_write(path, OSError("it is a mount point; name a folder in it"))
    if real.exists() and (foreign := _foreign(real, kind)):
        raise cannot_write(path, FileExistsError(_of_others(kind, foreign)))
    check_parent(real, path)
    return path


@contextlib.contextmanager
def replacing_directory(path: str | Path, kind: str) -> Iterator[Path]:
    """Like `replacing` for a folder: yield an empty one beside `path` that takes its place on success.

    kind: what is written, in words ("saved result"). The folder gets a file `.interp_kit.json`, which says so and holds
    the hashes of all others: only a folder with nothing but those is ever replaced, see `check_folder`. The former one
    is kept until the new one stands in its place. A link at `path` is followed.

    Raises:
        OSError: As `check_folder`, before anything is done; or the folder cannot be written. It names `path`. If the
            folder at `path` changes meanwhile, the new content is left beside it, and named.
    """
    path = Path(path)
    check_folder(path, kind)
    real = Path(os.path.realpath(path))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        sweep(real.parent)
        aside = Path(tempfile.mkdtemp(prefix=aside_prefix(real), dir=real.parent))
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        mode = _mode_of_new(aside)
        yield aside
        os.chmod(aside, mode)
        files = {file.relative_to(aside).as_posix(): _sha256(file) for file in aside.rglob("*") if not file.is_dir()}
        write_json(aside / MARK, {"kind": kind, "files": files})
        if real.exists():
            _exchange(aside, real, kind)
        else:
            os.replace(aside, real)
    except Exception as error:
        if (found := of_the_disk(path, error)) is not None:
            raise found from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _mode_of_new(folder: Path) -> int:
    """The permissions that a new folder in `folder` is given, by the umask and by what it inherits (setgid)."""
    new = folder / "new"
    new.mkdir()
    try:
        return stat.S_IMODE(new.stat().st_mode)
    finally:
        new.rmdir()


def _exchange(aside: Path, path: Path, kind: str) -> None:
    """Put the folder `aside` in the place of that at `path`, and remove that."""
    former = Path(tempfile.mkdtemp(prefix=aside_prefix(path), suffix=FORMER, dir=path.parent))
    try:
        os.replace(path, former / path.name)
        if foreign := _foreign(former / path.name, kind):
            kept = next(new for i in range(1, 10**6) if not (new := path.with_name(f"{path.name}-{i}")).exists())
            os.replace(aside, kept)
            raise FileExistsError(f"meanwhile {_of_others(kind, foreign)}. The new content is in {kept}")
        os.replace(aside, path)
    except BaseException:
        if (former / path.name).exists():
            os.replace(former / path.name, path)
        former.rmdir()
        raise
    shutil.rmtree(former, ignore_errors=True)


def _foreign(folder: Path, kind: str) -> list[str]:
    """Names in a folder that the last writer of this kind did not put there; empty if there are none."""
    try:
        mark = read_json(folder / MARK)
    except (OSError, ValueError):
        mark = None
    files = mark.get("files") if isinstance(mark, dict) and mark.get("kind") == kind else None
    if not isinstance(files, dict):
        return sorted(islice((entry.name for entry in os.scandir(folder)), 5))
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    found = []
    for entry in folder.rglob("*"):
        name = entry.relative_to(folder).as_posix()
        if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
            ours = False
        elif entry.is_dir():
            ours = name in folders
        else:
            ours = name == MARK or files.get(name) == _sha256(entry)
        if not ours:
            found.append(name)
    return sorted(found)[:5]


def _of_others(kind: str, foreign: list[str]) -> str:
    return (
        f"it holds {', '.join(foreign)}, which was not written there as a {kind}, or was changed since. Name another"
        " folder, or delete it"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
