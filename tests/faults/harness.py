"""Damage files and read them: `python harness.py FORMAT:NUMBER …` prints a line of JSON before and after each case.

A case is one format, one damage and one seed. Its outcome is "refused" (one of the kit's declared errors), "same" (it
was read, and every figure is that of the intact file), or a fault: "other" (read, with other figures), "traceback" (an
error that the command line would not put into one line), "executed" (code in the file ran), "memory" (over 1 GB).
Whoever starts this program adds "time" (over 20 s) and "crash" (the process died).
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corruptors
from corruptors import GENERIC, MARKER, STRUCTURED, Corruptor
from formats import FORMATS, NAIVE, Format, fingerprint

MEMORY, SECONDS = 10**9, 20
NEVER_RIGHT = ("bad_value", "nested", "doubled_key", "torch_value", "payload")  # refused in files of any kind
BY_NAME = {format.name: format for format in (*FORMATS, *NAIVE)}


@dataclass(frozen=True)
class Intact:
    """A valid folder, that of another run, and the figures of the first."""

    folder: Path
    other: Path
    figures: str


def another_run(other: Path) -> Corruptor:
    """The same file of another run in a file's place."""

    def swap(path: Path, rng: random.Random) -> str | None:
        known = sorted(file for file in other.rglob(path.name) if file.is_file())
        if not known or known[0].read_bytes() == path.read_bytes():
            return None
        shutil.copyfile(known[0], path)
        return "that of another run in its place"

    return swap


def damage(format: Format, intact: Intact, folder: Path, rng: random.Random) -> tuple[str, str, str]:
    """Copy the valid folder to `folder` and damage one of its files: the name, the corruptor, and what was done."""
    while True:
        shutil.copytree(intact.folder, folder, dirs_exist_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = rng.choice(files)
        structured = [] if format.alone else [another_run(intact.other)]
        pool = [*GENERIC, *STRUCTURED, *structured] if rng.random() < 0.5 else [*STRUCTURED, *structured]
        corruptor = rng.choice(pool)
        done = corruptor(path, rng)
        if done is not None:
            return str(path.relative_to(folder)), corruptor.__name__, done
        shutil.rmtree(folder)


def peak() -> int:
    """Bytes of the largest resident set since the last `forget_peak`."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def forget_peak() -> int:
    """Start to measure anew; gives the bytes held now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak()


def limit_memory() -> None:
    """Let this process take 3 GB more than it has: enough to see what goes over the limit, and no more."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 3 * MEMORY, resource.RLIM_INFINITY))


def outcome(format: Format, folder: Path, figures: str, marker: Path) -> tuple[str, str]:
    """What becomes of reading a damaged folder, and details."""
    from interp_kit.core.program import AT_FAULT

    before = forget_peak()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = fingerprint(format.read(folder))
        result, detail = ("same", "") if found == figures else ("other", "")
    except AT_FAULT as error:
        result, detail = "refused", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 (that is what is looked for)
        result, detail = "traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if marker.exists():
        marker.rmdir()
        return "executed", detail
    if (used := peak() - before) > MEMORY:
        return "memory", f"{used >> 20} MiB, {detail}"
    return result, detail


def intact_of(format: Format, root: Path) -> Intact:
    """Write both runs of a format and read the first."""
    folders = []
    for seed in (0, 1):
        folder = root / f"{format.name}-{seed}"
        folder.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            format.write(folder, seed)
        folders.append(folder)
    figures = fingerprint(format.read(folders[0]))
    if fingerprint(format.read(folders[0])) != figures:
        raise AssertionError(f"{format.name}: two readings of one file differ")
    return Intact(*folders, figures)


def run(cases: list[tuple[str, int]], say: Callable[[dict[str, Any]], None], seed: int = 0) -> None:
    """Try cases (name of a format, number) one after the other."""
    import torch
    from loguru import logger

    logger.remove()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        marker = root / "executed"
        os.environ[MARKER] = str(marker)
        known: dict[str, Intact] = {}
        for name, number in cases:
            format = BY_NAME[name]
            if name not in known:
                known[name] = intact_of(format, root)
            folder = root / "case"
            file, corruptor, done = damage(format, known[name], folder, random.Random(f"{seed} {name} {number}"))
            say({"case": [name, number], "file": file, "corruptor": corruptor, "damage": done})
            limit_memory()
            started = time.process_time()
            result, detail = outcome(format, folder, known[name].figures, marker)
            seconds = time.process_time() - started
            if seconds > SECONDS:
                result = "time"
            if result == "other" and Path(file).name in format.unsealed and corruptor not in NEVER_RIGHT:
                result = "unsealed"
            say({"case": [name, number], "outcome": result, "detail": detail, "seconds": round(seconds, 3)})
            shutil.rmtree(folder)


def main(arguments: list[str]) -> None:
    """The program."""
    out = os.dup(1)  # what a reader prints is not mistaken for a line of ours
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        os.write(out, (json.dumps(line) + "\n").encode())

    pairs = [argument.split(":") for argument in arguments]
    run([(name, int(number)) for name, number in pairs], say)


if __name__ == "__main__":
    assert corruptors.BOMB << 26 > MEMORY
    main(sys.argv[1:])
