"""Starts `harness.py` on a list of cases, ends it where a case hangs, and starts it again behind one that killed it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from select import select
from typing import Any

HARNESS = Path(__file__).with_name("harness.py")
PATIENCE = 40  # seconds without a line: the limit of a case and some more; formats are written at the start


def watched(cases: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """One mapping per case: case, file, damage, outcome, detail, seconds."""
    found: list[dict[str, Any]] = []
    while len(found) < len(cases):
        left = [f"{name}:{number}" for name, number in cases[len(found) :]]
        process = subprocess.Popen(
            [sys.executable, str(HARNESS), *left], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        begun, fault = _follow(process, found)
        if fault:
            if begun is None:
                raise AssertionError(f"the harness ended before a case: {fault}")
            found.append({**begun, "outcome": fault.split()[0], "detail": fault, "seconds": PATIENCE})
    return found


def _follow(process: "subprocess.Popen[str]", found: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, str]:
    """Collect finished cases; the case in progress and how it went wrong, if one did."""
    assert process.stdout is not None
    assert process.stderr is not None
    begun: dict[str, Any] | None = None
    errors: list[str] = []
    try:
        while True:
            ready, _, _ = select([process.stdout, process.stderr], [], [], PATIENCE if begun else 120)
            if not ready:
                return begun, "time: no answer"
            if process.stderr in ready:
                errors.append(process.stderr.readline())
                if process.stdout not in ready and errors[-1]:
                    continue
            line = process.stdout.readline()
            if not line:
                code = process.wait()
                return begun, f"crash with status {code}: {''.join(errors)[-2000:]}" if code else ""
            told = json.loads(line)
            if "outcome" in told:
                found.append({**(begun or {}), **told})
                begun = None
            else:
                begun = told
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
