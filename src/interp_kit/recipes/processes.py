"""Work for several processes of one thread each."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import torch
from loguru import logger
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

Work = TypeVar("Work")
Done = TypeVar("Done")


def one_thread() -> None:
    """Keep this worker to one thread, in torch and in numpy (processes that share cores get in each other's way, and
    matrices this small gain nothing from a second thread), and quiet: the parent draws a progress bar."""
    logger.disable("interp_kit")
    torch.set_num_threads(1)
    threadpool_limits(1)


def processes(jobs: int | None) -> int:
    """How many processes: so many, by default one a core and at most four. Raises ValueError for none."""
    if jobs is not None and jobs < 1:
        raise ValueError(f"work needs at least one process, not {jobs}")
    return jobs or min(4, os.cpu_count() or 1)


def in_processes(
    function: Callable[[Work], Done], work: Sequence[Work], jobs: int | None, *, name: str, progress: bool
) -> list[Done]:
    """What `function` makes of each piece of work, in order. jobs: processes, see `processes`; with one, all is done in
    this one. name: of the pieces, beside the progress bar."""
    jobs = processes(jobs)
    if jobs == 1:
        return [function(one) for one in tqdm(work, desc=name, disable=not progress)]
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=one_thread) as pool:
        return list(tqdm(pool.map(function, work), desc=name, total=len(work), disable=not progress))
