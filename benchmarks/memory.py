"""Peak memory of a sweep beside what it was allowed, for more and more edits."""

import resource
import subprocess
import sys

import interp_kit as ik
from benchmarks.patching import random_model, random_pairs
from interp_kit.analysis.sites import Copy, Edit
from interp_kit.analysis.sweep import sweep

ALLOWED = 2**26  # bytes
COUNTS = (1_000, 10_000, 100_000)
ROWS = 8


def peak(edits: int) -> tuple[float, float]:
    """MiB by which the process grows while a sweep of so many edits runs, and that its edits and result take."""
    model, pairs = random_model(2, 64, 4), random_pairs(ROWS)
    copy, metric = Copy(pairs.clean), ik.logit_difference(pairs)
    sweep(model, pairs.corrupt, [Edit("resid_pre", 0, copy, position=0)], metric)  # what torch sets aside once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    every = [Edit("resid_pre", i % 2, copy, position=i // 2 % 20) for i in range(edits)]
    listed = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = sweep(model, pairs.corrupt, every, metric, memory=ALLOWED).values
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - listed) / 1024, (listed - before) / 1024 + values.nbytes / 2**20


def table() -> str:
    """A Markdown table, each line of its own process."""
    lines = [
        f"Allowed: {ALLOWED / 2**20:.0f} MiB (`memory` of `sweep`), 2 layers, d 64, {ROWS} texts of 20 tokens.",
        "",
        "| edits | the process grows by | edits and values themselves |",
        "|---|---|---|",
    ]
    for edits in COUNTS:
        command = [sys.executable, "-m", "benchmarks.memory", str(edits)]
        grown, listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        lines.append(f"| {edits:,} | {float(grown):.0f} MiB | {float(listed):.0f} MiB |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(*peak(int(sys.argv[1])))
