"""A file or folder is written whole or not at all, and what stood there before outlives every failure."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from interp_kit.core.files import (
    FORMER,
    aside_prefix,
    check_writable,
    read_json,
    replacing,
    write_json,
    write_text,
)
from interp_kit.core.folders import MARK, check_folder, replacing_directory


class RemoteError(OSError):
    """An OSError with a constructor of its own, as HTTP libraries have."""

    def __init__(self, url: str, code: int) -> None:
        super().__init__(f"{url} answered {code}")


replacing_folder = partial(replacing_directory, kind="thing")
FAILURES = [ValueError("bad"), KeyboardInterrupt(), OSError(28, "No space left on device"), RemoteError("here", 500)]
failures = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
Writer = Callable[[Path], AbstractContextManager[Path]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "a.txt"
    for text in ("first", "second"):
        with replacing(path) as aside:
            aside.write_text(text)
            assert aside.parent.parent == path.parent  # A rename is atomic on one file system only.
            assert not path.exists() or path.read_text() != text
        assert path.read_text() == text
        assert names(path.parent) == ["a.txt"]


def test_what_another_writer_left_beside_the_file_when_it_was_killed_goes_with_the_next_write(tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        with replacing(tmp_path / "a.bin") as aside:
            (aside.parent / ".tmpAbCdEf").write_text("half")  # as safetensors' own temporary file
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert names(tmp_path) != []  # else nothing was left to sweep
    write_text(tmp_path / "b.txt", "text")
    assert names(tmp_path) == ["b.txt"]


@pytest.mark.parametrize("name", ["a" * 255, "\u00e9" * 127, "\u6f22" * 85], ids=["ascii", "two bytes", "three bytes"])
def test_every_name_that_a_file_system_allows_can_be_written(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        write_text(check_writable(tmp_path / "files" / name), "text")
        write_folder(check_folder(tmp_path / "folders" / name, "thing"), "text")
    assert names(tmp_path / "files") == names(tmp_path / "folders") == [name]


def test_a_name_that_is_too_long_is_refused_beforehand_by_the_same_message(tmp_path: Path) -> None:
    for ask in (check_writable, partial(check_folder, kind="thing")):
        with pytest.raises(OSError, match=f"cannot write {tmp_path}/a+: .*name too long"):
            ask(tmp_path / ("a" * 256))


def killed(path: Path, ending: str) -> Path:
    """The temporary folder that a writer of `path`, which is dead, left beside it."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    return path.parent / (aside_prefix(path).replace(f"-{os.getpid()}-", f"-{dead.pid}-") + ending)


@pytest.mark.parametrize("name", ["run", "r" * 255])
def test_a_former_folder_returns_to_its_name(tmp_path: Path, name: str) -> None:
    former = killed(tmp_path / name, "abcdefgh" + FORMER) / name
    former.mkdir(parents=True)
    (former / "kept").write_text("kept")
    write_text(tmp_path / "other", "text")
    assert names(tmp_path) == sorted(["other", name])
    assert (tmp_path / name / "kept").read_text() == "kept"


@pytest.mark.parametrize("ending", ["abcdefgh", "abcdefgh" + FORMER])
def test_what_cannot_be_swept_stops_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    left = killed(tmp_path / "run", ending)
    if ending.endswith(FORMER):
        (left / "run").mkdir(parents=True)
    else:
        left.write_text("another user's")
    original = os.replace

    def refused(source: Path, *rest: Path, **options: bool) -> None:
        if str(source).startswith(str(left)):
            raise PermissionError(1, "Operation not permitted", str(source))
        original(source, *rest)

    monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    write_text(tmp_path / "b.txt", "text")
    assert (tmp_path / "b.txt").read_text() == "text"
    assert left.exists()


def test_a_folder_has_the_permissions_of_an_ordinary_one_in_a_folder_of_a_group(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o2775)
    (shared / "ordinary").mkdir()
    write_folder(shared / "ours", "new")
    assert (shared / "ours").stat().st_mode == (shared / "ordinary").stat().st_mode


def test_replacing_gives_the_permissions_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_replacing_flushes_before_it_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a)))
    write_text(tmp_path / "a.txt", "text")
    assert calls == ["fsync", "replace"]


def write_folder(path: Path, name: str) -> None:
    with replacing_folder(path) as aside:
        (aside / name).write_text(name)


def fail(writer: Writer, path: Path, failure: BaseException) -> None:
    with writer(path) as aside:
        (aside / "new" if aside.is_dir() else aside).write_text("half of the n")
        raise failure


@failures
@pytest.mark.parametrize("standing", [True, False])
def test_failure_inside_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, failure: BaseException, standing: bool
) -> None:
    path = tmp_path / "a.txt"
    if standing:
        path.write_text("old")
    with pytest.raises(type(failure) if not isinstance(failure, OSError) else OSError):
        fail(replacing, path, failure)
    assert names(tmp_path) == (["a.txt"] if standing else [])
    assert not standing or path.read_text() == "old"


@failures
@pytest.mark.parametrize("standing", [True, False])
def test_failure_inside_leaves_the_old_directory_and_nothing_else(
    tmp_path: Path, failure: BaseException, standing: bool
) -> None:
    path = tmp_path / "run"
    if standing:
        write_folder(path, "old")
    with pytest.raises(type(failure) if not isinstance(failure, OSError) else OSError):
        fail(replacing_folder, path, failure)
    assert names(tmp_path) == (["run"] if standing else [])
    assert not standing or names(path) == [MARK, "old"]


@pytest.mark.parametrize("writer", [replacing, replacing_folder])
@pytest.mark.parametrize("failure", FAILURES[2:], ids=lambda failure: type(failure).__name__)
def test_an_error_of_the_system_names_the_path_and_the_cause(tmp_path: Path, writer: Writer, failure: OSError) -> None:
    cause = "No space left" if failure.errno else "here answered 500"
    with pytest.raises(OSError, match=f"(?s){tmp_path / 'target'}.*{cause}"), writer(tmp_path / "target"):
        raise failure


@pytest.mark.parametrize("writer", [replacing, replacing_folder])
@pytest.mark.parametrize("below", ["x", "x/y"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path, writer: Writer, below: str) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(OSError, match=str(tmp_path / "file" / below)), writer(tmp_path / "file" / below):
        pytest.fail("there is nowhere to write")
    assert (tmp_path / "file").read_text() == "keep"
    assert names(tmp_path) == ["file"]


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep")
    with pytest.raises(OSError, match=str(tmp_path / "target")), replacing_folder(tmp_path / "target") as aside:
        (aside / "new").write_text("new")
    assert (tmp_path / "target").read_text() == "keep"
    assert names(tmp_path) == ["target"]


def test_a_directory_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "keep").write_text("keep")
    with pytest.raises(OSError, match=str(tmp_path / "target")):
        write_text(tmp_path / "target", "text")
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["keep"]


def test_replacing_directory_replaces_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    for name in ("first", "second"):
        with replacing_folder(path) as aside:
            assert names(aside) == []
            (aside / name).write_text(name)
        assert names(path) == [MARK, name]
        assert names(path.parent) == ["run"]
    (tmp_path / "ordinary").mkdir()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("at", [1, 2])
def test_replacing_directory_keeps_the_former_one_when_a_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    write_folder(tmp_path / "run", "old")
    original, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == at + 1:  # the first is of the mark
            raise PermissionError(13, "Permission denied")
        original(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with (
        pytest.raises(PermissionError, match=f"{tmp_path / 'run'}: Permission denied"),
        replacing_folder(tmp_path / "run") as aside,
    ):
        (aside / "new").write_text("new")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == [MARK, "old"]


def test_json_round_trip(tmp_path: Path) -> None:
    data = {"a": [1, 2.5, None, True], "é": {"nested": "ü"}}
    assert read_json(write_json(tmp_path / "a.json", data)) == data
    assert json.loads((tmp_path / "a.json").read_bytes().decode("utf-8")) == data


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object()])
def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path, bad: object) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"value": bad})
    assert names(tmp_path) == ["a.json"]
    assert read_json(tmp_path / "a.json") == 1


HOSTILE = {
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 400 + b"1" + b"}" * 400,
    "many lists": b"[" + b"[]," * 1_000_001 + b"[]]",
    "NaN": b'{"p": NaN}',
    "-Infinity": b"[-Infinity]",
    "beyond float64": b"[1e999]",
    "beyond what int() reads": b"[" + b"9" * 5000 + b"]",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_one_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'a.json'} is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_brackets_within_strings_are_no_levels(tmp_path: Path) -> None:
    data = {"[{" * 60: '\\"[' * 200, "b": [["]"] * 300]}
    assert read_json(write_json(tmp_path / "a.json", data)) == data


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    for name, why in (("pipe", "regular"), ("zero", "regular"), (".", "regular"), ("huge", "at most")):
        with pytest.raises(ValueError, match=f"(?s){tmp_path / name}.*{why}"):
            read_json(tmp_path / name)
    write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "link").symlink_to("a.json")
    assert read_json(tmp_path / "link") == {"a": 1}
    with pytest.raises(ValueError, match="at most 4"):
        read_json(tmp_path / "a.json", limit=4)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}", b"{'a': 1}"])
def test_bad_json_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'a.json'} is not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("folder", [False, True])
def test_what_can_be_written_is_known_beforehand_and_leaves_no_trace(tmp_path: Path, folder: bool) -> None:
    check = partial(check_folder, kind="thing") if folder else check_writable
    (tmp_path / "file").write_text("keep")
    (tmp_path / "folder").mkdir()
    for good in ("new", "new/below", "folder/new", "folder" if folder else "file"):
        assert check(tmp_path / good) == tmp_path / good
    for bad in ("file/below", "file" if folder else "folder"):
        with pytest.raises(OSError, match=f"cannot write {tmp_path / bad}: "):
            check(tmp_path / bad)
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


def test_a_full_or_closed_disk_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> None:
        assert dir == tmp_path  # the nearest folder that there is
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'new' / 'a.txt'}: No space left"):
        check_writable(tmp_path / "new" / "a.txt")
