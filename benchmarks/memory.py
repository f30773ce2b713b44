"""Peak memory of a sweep beside what it was allowed, for more and more edits, and of edge scores for more pairs."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import interp_kit as ik
from benchmarks.patching import random_model, random_pairs
from interp_kit.engine.edits import Copy, Edit
from interp_kit.engine.sweep import sweep

ALLOWED = 2**26  # bytes
COUNTS = (1_000, 10_000, 100_000)
ROWS = 8
PAIRS = (64, 256, 1024)


def peak(edits: int) -> tuple[float, float]:
    """MiB by which the process grows while a sweep of so many edits runs, beside its result, and that its edits and
    result take, which `memory` is not for."""
    model, pairs = random_model(2, 64, 4), random_pairs(ROWS)
    copy, metric = Copy(pairs.clean), ik.logit_difference(pairs)
    sweep(model, pairs.corrupt, [Edit("resid_pre", 0, copy, position=0)], metric)  # what torch sets aside once
    before = _most()
    every = [Edit("resid_pre", i % 2, copy, position=i // 2 % 20) for i in range(edits)]
    listed = _most()
    values = sweep(model, pairs.corrupt, every, metric, memory=ALLOWED).values
    after = _most()
    held = values.nbytes / 2**20
    return (after - listed) / 1024 - held, (listed - before) / 1024 + held


def peak_of_edges(pairs: int) -> float:
    """MiB by which the process grows while the edges of a network are scored by gradients on so many pairs."""
    model = random_model(2, 64, 4)
    ik.score_edges(model, random_pairs(ROWS), steps=1)  # what torch sets aside once
    chosen = random_pairs(pairs)
    before = _most()
    ik.score_edges(model, chosen, steps=1, memory=ALLOWED)
    return (_most() - before) / 1024


def _most() -> int:
    """KiB that this process has had at most. Linux counts a parent's peak into a child's ru_maxrss, not into VmHWM."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table() -> str:
    """A Markdown table, each line of its own process."""
    lines = [
        f"Allowed: {ALLOWED / 2**20:.0f} MiB (`memory` of `sweep`), 2 layers, d 64, {ROWS} texts of 20 tokens.",
        "",
        "| edits | the process grows by, beside them | edits and values themselves |",
        "|---|---|---|",
    ]
    for edits in COUNTS:
        command = [sys.executable, "-m", "benchmarks.memory", str(edits)]
        grown, listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        lines.append(f"| {edits:,} | {float(grown):.0f} MiB | {float(listed):.0f} MiB |")
    lines += ["", "Edges by gradients (`memory` of `score_edges`), the same network.", ""]
    lines += ["| pairs | the process grows by |", "|---|---|"]
    for pairs in PAIRS:
        command = [sys.executable, "-m", "benchmarks.memory", "edges", str(pairs)]
        grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines.append(f"| {pairs:,} | {float(grown):.0f} MiB |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "edges":
        print(peak_of_edges(int(sys.argv[2])))
    else:
        print(*peak(int(sys.argv[1])))
