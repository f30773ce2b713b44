"""Shards killed with -9 at random moments and started again: `python shards.py KIND:N …` prints JSON, a line per case.

A case makes everything once in one process, unkilled. Then N processes have a shard each; every one is killed twice at
a moment drawn anew, and then runs to its end. What they made together must be the same, byte for byte.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

KILLS = 2


def piece(number: int) -> dict[str, Any]:
    time.sleep(0.01)
    return {"values": np.random.default_rng(number).normal(size=(50, 3)), "none": float("nan")}


def pieces(folder: Path, index: int, count: int) -> None:
    from interp_kit.core.pieces import Pieces

    work = range(17)
    Pieces(folder, "numbers", tuple(map(str, work))).make(piece, work, shard=(index, count), progress=False)


def harvest(folder: Path, index: int, count: int) -> None:
    import interp_kit as ik

    model, task = ik.planted("boolean-direct"), ik.BooleanTask()
    batch = task.batch(task.enumerate())
    ik.harvest_to(folder, model, batch, ["resid_post.0", "z.1"], rows=2, shard=(index, count), progress=False)


def graphs(folder: Path, index: int, count: int) -> None:
    from interp_kit.tasks.graphs.data.config import GraphsConfig
    from interp_kit.tasks.graphs.data.files import generate

    config = GraphsConfig(graphs=(14, 7, 0), questions=(4, 4, 1), variables=4)
    if count == 1 and (folder / "manifest.json").exists():
        return  # killed when all was written: a whole data set that is there is refused
    generate(config, folder, shard=(index, count), jobs=1, progress=False)


def merged_graphs(folder: Path, count: int) -> None:
    from interp_kit.tasks.graphs.data.config import GraphsConfig
    from interp_kit.tasks.graphs.data.files import merge

    if count > 1:
        merge(GraphsConfig(graphs=(14, 7, 0), questions=(4, 4, 1), variables=4), folder, count)
        for path in folder.glob("*-of-*"):
            path.unlink()


def culture(folder: Path, index: int, count: int) -> None:
    from interp_kit.tasks.culture.data import CultureDataConfig, generate

    generate(CultureDataConfig(9 * 4096 - 5, file_rows=4096), folder, shard=(index, count), jobs=1, progress=False)


def nothing(folder: Path, count: int) -> None:
    """The files of all shards are the whole."""


KINDS: dict[str, tuple[Callable[[Path, int, int], None], Callable[[Path, int], None]]] = {
    "pieces": (pieces, nothing),
    "harvest": (harvest, nothing),
    "graphs": (graphs, merged_graphs),
    "culture": (culture, nothing),
}


def started(make: Callable[[Path, int, int], None], folder: Path, index: int, count: int) -> int:
    """Run a shard in a child of this process; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        make(folder, index, count)
        os._exit(0)
    except BaseException:  # noqa: BLE001 (it is shown, and the status says it)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def finished(pid: int) -> bool:
    """Wait for a shard: True if it ended well, False if it was killed. Raises AssertionError if it failed."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), "a shard that was started again failed"
    return status == 0


def content(folder: Path) -> dict[str, bytes]:
    """Every file, those too that a kill left behind."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def case(kind: str, count: int, folder: Path) -> dict[str, Any]:
    """One kind of work, by so many shards. Raises AssertionError where anything differs."""
    make, merge = KINDS[kind]
    make(folder / "warm", 0, 1)  # imports, and what is loaded once
    start = time.monotonic()
    assert finished(started(make, folder / "whole", 0, 1))
    seconds, rng, killed = time.monotonic() - start, random.Random(f"{kind} {count}"), 0
    for _ in range(KILLS):
        running = {index: started(make, folder / "parts", index, count) for index in range(count)}
        moments = sorted((rng.uniform(0.1, 0.9) * seconds, index) for index in range(count))
        begun = time.monotonic()
        for moment, index in moments:
            time.sleep(max(0.0, begun + moment / count - time.monotonic()))
            os.kill(running[index], signal.SIGKILL)  # nothing, if it has ended
        killed += sum(not finished(pid) for pid in running.values())
    for pid in [started(make, folder / "parts", index, count) for index in range(count)]:
        assert finished(pid)
    merge(folder / "parts", count)
    found, expected = content(folder / "parts"), content(folder / "whole")
    assert sorted(found) == sorted(expected), sorted(set(found) ^ set(expected))
    assert [name for name in found if found[name] != expected[name]] == []
    return {"case": f"{kind}:{count}", "killed": killed, "files": len(found), "seconds": round(seconds, 2)}


if __name__ == "__main__":
    for given in sys.argv[1:]:
        name, number = given.split(":")
        with tempfile.TemporaryDirectory() as temporary:
            print(json.dumps(case(name, int(number), Path(temporary))), flush=True)
