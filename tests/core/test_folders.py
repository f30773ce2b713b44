"""A folder is replaced only if everything in it was written there by the same kind of writer, and is unchanged."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from interp_kit.core.files import aside_prefix, replacing, write_json, write_text
from interp_kit.core.folders import MARK, check_folder, replacing_directory

KIND = "saved thing"


def write(path: Path, text: str = "new", kind: str = KIND) -> None:
    with replacing_directory(path, kind) as aside:
        (aside / "below").mkdir()
        (aside / "below" / "a.txt").write_text(text)
        (aside / "b.txt").write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): "" if path.is_dir() else path.read_bytes().decode(errors="replace")
        for path in folder.rglob("*")
    }


def kept(path: Path, message: str) -> None:
    """Neither the check nor the writer touches the folder, and the writer does not begin."""
    before = tree(path.parent)
    with pytest.raises(OSError, match=rf"(?s)cannot write {re.escape(str(path))}: .*{message}"):
        check_folder(path, KIND)
    with pytest.raises(OSError, match=message), replacing_directory(path, KIND):
        pytest.fail("work began")
    assert tree(path.parent) == before


ADDED: dict[str, Callable[[Path], object]] = {
    "notes.txt": lambda path: (path / "notes.txt").write_text("mine"),
    ".hidden": lambda path: (path / ".hidden").write_text("mine"),
    "below/notes.txt": lambda path: (path / "below" / "notes.txt").write_text("mine"),
    "mine": lambda path: (path / "mine").mkdir(),
    "link": lambda path: (path / "link").symlink_to("/etc/hostname"),
    "b.txt": lambda path: (path / "b.txt").write_text("worked on"),
    "below": lambda path: (
        (path / "below" / "a.txt").unlink(),
        (path / "below").rmdir(),
        (path / "below").write_text(""),
    ),
}


@pytest.mark.parametrize("name", ADDED)
def test_a_written_folder_with_something_of_the_users_is_kept(tmp_path: Path, name: str) -> None:
    write(tmp_path / "run")
    write(tmp_path / "run", "again")  # as it was written, it is replaced
    assert (tmp_path / "run" / "b.txt").read_text() == "again"
    ADDED[name](tmp_path / "run")
    kept(tmp_path / "run", f"it holds {name}, which was not written there as a saved thing")


def test_other_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    kept(tmp_path / "mine", "it holds thesis.txt")
    write(tmp_path / "other", kind="other thing")
    kept(tmp_path / "other", r"it holds \.interp_kit\.json, b\.txt, below")
    for damaged in ("[]", "{", '{"kind": "saved thing", "files": 1}', '{"kind": "saved thing"}'):
        (tmp_path / "other" / MARK).write_text(damaged)
        kept(tmp_path / "other", "it holds")
    (tmp_path / "file").write_text("mine")
    kept(tmp_path / "file", "it is a file")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")


def test_the_folders_that_a_user_stands_in_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here" / "below")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here" / "below")
    for path, message in (
        (Path("."), "it is the current folder"),
        (tmp_path / "link", "it is the current folder"),
        (Path(".."), "it holds the current folder"),
        (tmp_path / "home", "it is the home folder"),
        (tmp_path, "it holds the current folder"),
        (Path("/"), "it holds the current folder"),
        (Path("/proc"), "it is a mount point"),
    ):
        with pytest.raises(OSError, match=f"cannot write {path}: {message}"), replacing_directory(path, KIND):
            pytest.fail("work began")


def test_a_link_is_followed_and_what_it_leads_to_is_held_to_the_same_rule(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    for _ in range(2):
        write(tmp_path / "run")
        assert (tmp_path / "run").is_symlink()
        assert (tmp_path / "disk" / "run" / "b.txt").read_text() == "new"
    (tmp_path / "disk" / "run" / "notes.txt").write_text("mine")
    kept(tmp_path / "run", r"it holds notes\.txt")


def test_what_is_put_there_during_the_work_is_kept_and_so_is_the_work(tmp_path: Path) -> None:
    path = tmp_path / "run"
    write(path, "old")

    def work() -> None:
        with replacing_directory(path, KIND) as aside:
            (aside / "b.txt").write_text("hours of work")
            (path / "notes.txt").write_text("mine")

    with pytest.raises(OSError, match=r"meanwhile it holds notes\.txt.* is in \S*run-1$"):
        work()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run-1"}
    assert (path / "notes.txt").read_text() == "mine"
    assert (path / "b.txt").read_text() == "old"
    assert (tmp_path / "run-1" / "b.txt").read_text() == "hours of work"


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_a_file_is_not_written_in_the_place_of_a_device(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(OSError, match=f"cannot write {path}: it is not a regular file"):
        write_text(path, "text")
    assert path.is_fifo() or os.readlink(path) == "/dev/null"


KILLED = """
import os, sys, signal
from pathlib import Path
from interp_kit.core import files, folders
path = Path(sys.argv[1])
if sys.argv[2] == "swap":  # killed when the former folder is away, the new one not yet there
    replace = os.replace
    def kill(source, target):
        if Path(target) == path: os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = kill
with (files.replacing(path) if sys.argv[2] == "file" else folders.replacing_directory(path, "saved thing")) as aside:
    (aside / "b.txt" if aside.is_dir() else aside).write_text("half of it")
    if sys.argv[2] != "swap": os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("at", ["file", "folder", "swap"])
def test_what_a_killed_writer_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path, at: str) -> None:
    path = tmp_path / "run"
    if at == "swap":
        write(path, "old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), at]).returncode == -9
    assert [name for name in os.listdir(tmp_path) if name.startswith(".run.")]
    mine = (".run.abcd", ".run.12345678-999999999-notours", f".run.12345678-{2**22 + 1}-abcdefgh")
    for name in mine:  # of the user, and of another machine
        (tmp_path / name).write_text("mine")
    with replacing(tmp_path / "living") as living:
        write_text(tmp_path / "next", "")
        assert living.exists()
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "living", "next", *(["run"] if at == "swap" else [])])
    assert at != "swap" or (path / "b.txt").read_text() == "old"  # the former folder returned


def test_processes_of_other_users_and_containers_count_as_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: int, signal: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    left = tmp_path / f"{aside_prefix(tmp_path / 'run')}abcdefgh"
    left.write_text("half of it")
    monkeypatch.setattr(os, "kill", refuse)
    write_text(tmp_path / "next", "")
    assert left.exists()


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file grows over `size` bytes: what the system says then, it says of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda file: save_file({"a": np.zeros(10**5)}, file),
    "torch": lambda file: torch.save(torch.zeros(10**5), file),
    "python": lambda file: file.write_bytes(bytes(10**5)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_os_error_of_whatever_writes(tmp_path: Path, name: str) -> None:
    with limited(8192):
        with (
            pytest.raises(OSError, match=f"cannot write {tmp_path / 'run'}: ") as folder,
            replacing_directory(tmp_path / "run", KIND) as aside,
        ):
            WRITERS[name](aside / "file")
        with (
            pytest.raises(OSError, match=f"cannot write {tmp_path / 'file'}: ") as file,
            replacing(tmp_path / "file") as aside,
        ):
            WRITERS[name](aside)
    assert len(str(folder.value).splitlines()) == len(str(file.value).splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error", [ValueError("x (os error 28)"), RuntimeError("bad shape"), KeyError("iostream error")]
)
def test_errors_that_are_not_of_the_disk_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), replacing_directory(tmp_path / "run", KIND):
        raise error


def test_json_beside_a_mark_is_no_trouble(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "run", KIND) as aside:
        write_json(aside / "a.json", 1)
    assert sorted(os.listdir(tmp_path / "run")) == [MARK, "a.json"]
    check_folder(tmp_path / "run", KIND)
