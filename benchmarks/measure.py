"""Timing of two sides against each other: alternately in one run, their results checked equal first."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

REPEATS = 5
MOST, SECONDS = 25, 10  # repetitions of what is over sooner than that: the shorter, the more the machine's noise shows


@dataclass(frozen=True)
class Row:
    """One line of RESULTS.md. ours, peer: (repeat,) seconds; difference: the largest between the two sides' results, as
    it is read; floor: seconds that the work takes at least, None where that says nothing."""

    work: str
    against: str
    ours: np.ndarray
    peer: np.ndarray
    difference: str
    floor: float | None = None

    @property
    def ratio(self) -> float:
        """Speed-up over the other side: ratio of medians."""
        return float(np.median(self.peer) / np.median(self.ours))

    def __str__(self) -> str:
        """As a row of a Markdown table."""
        pairs = self.peer / self.ours
        floor = "" if self.floor is None else f"{np.median(self.ours) / self.floor:.1f}x"
        spread = f"{pairs.min():.2f} to {pairs.max():.2f} (n = {len(pairs)})"
        return (
            f"| {self.work} | {self.against} | {self.ratio:.2f}x | {spread} |"
            f" {1e3 * np.median(self.ours):.1f} ms | {floor} | {self.difference} |"
        )


HEADER = (
    "| work | against | times faster (ratio of medians) | range | our time | our time over the floor"
    " | difference of results |\n|---|---|---|---|---|---|---|"
)


def compare(
    work: str,
    ours: Callable[[], object],
    peers: Mapping[str, Callable[[], object]],
    *,
    difference: str,
    floor: float | None = None,
    scale: float = 1.0,
    repeats: int = REPEATS,
) -> list[Row]:
    """Time `ours` and every peer in turn; the check of equal results has warmed them up.

    scale: what the peers' seconds are multiplied by, where they do a part of the work. repeats: how many times at
    least; MOST where all of it takes less than SECONDS.
    """
    rounds: list[list[float]] = []
    began = time.perf_counter()
    while len(rounds) < repeats or (len(rounds) < MOST and time.perf_counter() - began < SECONDS):
        stamps = [time.perf_counter()]
        for side in (ours, *peers.values()):
            side()
            stamps.append(time.perf_counter())
        rounds.append(np.diff(stamps).tolist())
    seconds = np.array(rounds).T
    return [
        Row(work, name, seconds[0], scale * theirs, difference, floor)
        for name, theirs in zip(peers, seconds[1:], strict=True)
    ]
