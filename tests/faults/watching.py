"""Starts `harness.py` on a list of cases, ends it where a case hangs, and starts it again behind one that killed it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from select import select
from typing import IO, Any

HARNESS = Path(__file__).with_name("harness.py")
SECONDS = 20  # of CPU time that a case may take
ASLEEP = 8  # seconds without any work after which a case is said to hang, however busy the machine is


def watched(cases: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """One mapping per case: case, file, damage, outcome, detail, seconds."""
    found: list[dict[str, Any]] = []
    while len(found) < len(cases):
        left = [f"{name}:{number}" for name, number in cases[len(found) :]]
        with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [sys.executable, str(HARNESS), *left], stdout=subprocess.PIPE, stderr=errors, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": folder},
            )  # fmt: skip
            assert process.stdout is not None
            try:
                begun, fault = _follow(process, process.stdout, found)
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            errors.seek(0)
            if fault and begun is None:
                raise AssertionError(f"the harness ended before a case: {fault}\n{errors.read()[-3000:]}")
            if begun is not None:
                found.append({**begun, "outcome": fault, "detail": errors.read()[-300:], "seconds": SECONDS})
    return found


def _follow(
    process: "subprocess.Popen[str]", out: IO[str], found: list[dict[str, Any]]
) -> tuple[dict[str, Any] | None, str]:
    """Collect finished cases until the program ends or hangs: the case in progress, and what went wrong."""
    begun: dict[str, Any] | None = None
    used, asleep = 0.0, 0
    while True:
        if not select([out], [], [], 1)[0]:
            state, now = _work(process.pid)
            asleep = asleep + 1 if state == "S" else 0
            if begun and (asleep > ASLEEP or now - used > SECONDS + 5):
                return begun, "time"
            continue
        line = out.readline()
        if not line:
            return begun, f"crash with status {process.wait()}" if begun or process.wait() else ""
        told = json.loads(line)
        if "outcome" in told:
            found.append({**(begun or {}), **told})
            begun = None
        else:
            begun = told
        used, asleep = _work(process.pid)[1], 0


def _work(pid: int) -> tuple[str, float]:
    """A process's state, and the CPU seconds that it has used."""
    try:
        parts = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return "Z", 0.0
    return parts[0], (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
