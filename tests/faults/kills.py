"""Kill commands at random moments: `python kills.py COMMAND:NUMBER …` prints a line of JSON per kill.

Everything is imported once; each run is a child of this process. A command is run to its end twice, to learn what it
writes and how long it takes. Then, for each number, it is started in a fresh folder, killed with -9 at a moment drawn
by the number, looked at, and started again: it must go on and end as it would have, with nothing left behind.
"""

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from commands import ALL_OR_NOTHING, COMMANDS, WITH_WORKERS, Killed
from formats import fingerprint

SUBREAPER = 36  # of prctl: orphans become children of this process
PATIENCE = 300  # seconds of a run
ORPHANS = 30  # seconds within which the workers of a killed process end


EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "tempfile.mkstemp", "tempfile.mkdtemp")


def count_events(folder: Path, die_at: int | None) -> Callable[[], int]:
    """Count what this process does with files of the folder, and kill it at one of these events."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS and any(str(part).startswith(str(folder)) for part in arguments[:2]):
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: seen


def started(killed: Killed, folder: Path, die_at: int | None = None) -> int:
    """Run a command in a child of its own session, which kills itself at a file event if told so; its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        events = count_events(folder, die_at)
        killed.run(folder)
        (folder.parent / "events").write_text(str(events()))
        status = 0
    except BaseException:  # noqa: BLE001 (it goes into the log)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(pid: int, folder: Path) -> None:
    """Wait for a run. Raises AssertionError with its log where it fails."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, (folder.parent / "log").read_text()[-3000:]
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the run hangs: {(folder.parent / 'log').read_text()[-2000:]}")


def session(leader: int) -> set[int]:
    """The living processes of a session."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parts = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(parts[3]) == leader and parts[0] not in "ZX":
                    found.add(int(entry.name))
    return found


def left_alone(leader: int) -> float:
    """Seconds until all processes of a killed session are gone. Raises AssertionError where some stay."""
    started = time.monotonic()
    while orphans := session(leader):
        if time.monotonic() - started > ORPHANS:
            lines = [Path(f"/proc/{pid}/cmdline").read_text()[:200] for pid in orphans]
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"orphans: {lines}")
        time.sleep(0.02)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return time.monotonic() - started


def names(folder: Path) -> set[str]:
    """Everything in a folder, without what is drawn anew in each run."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: its figures, its files, its seconds, its file events, and the figures before it."""

    figures: str
    files: set[str]
    seconds: float
    events: int
    before: str


def whole(killed: Killed, folder: Path) -> Whole:
    """Run a command to its end."""
    folder.mkdir(parents=True)
    killed.prepare(folder)
    before, begun = fingerprint(killed.between(folder)), time.monotonic()
    ended(started(killed, folder), folder)
    seconds, events = time.monotonic() - begun, int((folder.parent / "events").read_text())
    return Whole(fingerprint(killed.after(folder)), names(folder), seconds, events, before)


def kill(killed: Killed, known: Whole, folder: Path, moment: float, by_event: bool) -> dict[str, Any]:
    """Kill a command at a share of its file events or its time, and run it again.

    Raises AssertionError with what is wrong.
    """
    folder.mkdir(parents=True)
    killed.prepare(folder)
    pid = started(killed, folder, max(1, round(known.events * moment)) if by_event else None)
    workers = 0
    if not by_event:
        time.sleep(known.seconds * moment)
        workers = len(session(pid)) - 1
        os.kill(pid, signal.SIGKILL)
    finished = os.waitpid(pid, 0)[1] == 0
    gone = left_alone(pid)
    aside = sorted(names(folder) - known.files)
    there = fingerprint(killed.between(folder))
    if killed.name in ALL_OR_NOTHING:
        assert there in (known.before, known.figures), "what was there before is damaged"
    ended(started(killed, folder), folder)
    assert fingerprint(killed.after(folder)) == known.figures, "it ends otherwise than an uninterrupted run"
    left = names(folder) - known.files
    assert not left, f"left behind: {sorted(left)}"
    return {"finished": finished, "workers": max(workers, 0), "gone": round(gone, 2), "aside": aside[:3]}


def main(arguments: list[str]) -> None:
    """The program."""
    import interp_kit.cli
    import interp_kit.studies.boolean.page
    import interp_kit.studies.boolean.study  # noqa: F401 (children find it imported)

    if any(argument.startswith(("train:", "retrain:")) for argument in arguments):
        from transformers import Trainer  # noqa: F401
    if any(argument.startswith("rl-trl:") for argument in arguments):
        import trl  # noqa: F401

    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        known: dict[str, Whole] = {}
        for argument in arguments:
            name, _, number = argument.partition(":")
            killed, root = COMMANDS[name], Path(directory) / argument.replace(":", "-")
            if name not in known:
                first = whole(killed, Path(directory) / f"{name}-whole" / "work")
                known[name] = whole(killed, Path(directory) / f"{name}-again" / "work")  # warm, it is faster
                assert known[name].figures == first.figures, f"{name}: two runs differ"
            moment = random.Random(f"kill {argument}").uniform(0.02, 0.8 if name in WITH_WORKERS else 1.0)
            line: dict[str, Any] = {"case": [name, int(number)], "moment": round(moment, 3), "fault": ""}
            try:
                by_event = name not in WITH_WORKERS and int(number) % 4 > 0
                line |= kill(killed, known[name], root / "work", moment, by_event)
            except (AssertionError, ValueError, OSError) as error:
                line["fault"] = f"{type(error).__name__}: {error}"
            print(json.dumps(line), flush=True)
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
