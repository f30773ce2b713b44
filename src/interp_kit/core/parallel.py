"""Many jobs in processes of one thread each, on joblib.

Here they run in joblib's own worker processes (loky). Under `joblib.parallel_config(backend="dask")`, or "ray", the
same jobs go to that cluster. The workers of this machine end with their parent, also if it is killed, and leave Ctrl-C
to it. Jobs that share nothing, on many machines, take a shard each: a pair (i, n), the i-th of n, counted from 0.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import active_children, get_context, resource_tracker
from typing import Any, Generic, TypeVar

from loguru import logger
from threadpoolctl import threadpool_limits

from interp_kit.core.config import check_count
from interp_kit.core.showing import bar, show_no_bars

Work = TypeVar("Work")
Done = TypeVar("Done")

Shard = tuple[int, int]
WHOLE: Shard = (0, 1)
MOST_SHARDS = 99_999
IDLE_SECONDS = 60  # that a worker waits for more work
PR_SET_PDEATHSIG = 1  # of prctl, in <linux/prctl.h>
LOST = "a worker process was lost, perhaps for lack of memory: fewer jobs at a time need less"


def check_shard(shard: Shard) -> None:
    """Raise ValueError if there is no such shard."""
    index, count = shard
    check_count("the number of shards", count, 1, MOST_SHARDS)
    check_count("the shard", index, 0, count - 1)


def parse_shard(text: str) -> Shard:
    """The shard of an option such as "0/4"; WHOLE for no text. Raises ValueError for any other."""
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if text and found is None:
        raise ValueError(f"--shard is {text!r}; expected i/n, as in 0/4 for the first of four")
    return WHOLE if found is None else (int(found[1]), int(found[2]))


def numbered(index: int, count: int) -> str:
    """The end of a name, of the index-th of `count` files."""
    return f"-{index:05d}-of-{count:05d}"


def processes(jobs: int | None) -> int:
    """The number of processes for an option `--jobs`.

    Args:
        jobs: How many; None for one per core and at most four.

    Raises:
        ValueError: For less than one.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"work needs at least one process, not {jobs}")
    return jobs or min(4, os.cpu_count() or 1)


def in_processes(
    function: Callable[[Work], Done], work: Sequence[Work], jobs: int | None, *, name: str, progress: bool
) -> list[Done]:
    """Apply a function to each piece of work.

    Args:
        function: Applied in a worker, so it is a function of a module; with one process, it is applied in this one.
        work: The pieces.
        jobs: Number of processes, see `processes`.
        name: What the pieces are called beside the progress bar.
        progress: Whether there is a bar.

    Returns:
        What the function gives, in the order of the work.

    Raises:
        ValueError: For less than one process.
        OSError: Where a worker dies. An error in a worker ends all of them and is raised here as it is.
    """
    jobs = processes(jobs)
    if jobs == 1:
        results = []
        with bar(len(work), name, progress) as shown:
            for one in work:
                results.append(function(one))
                shown.update()
        return results
    from joblib import Parallel, delayed, parallel_config
    from joblib.parallel import LokyBackend, get_active_backend

    backend = get_active_backend()[0]
    parent, here = os.getpid(), isinstance(backend, LokyBackend)
    # Ray's gives everything at the end
    given = "generator" if getattr(backend, "supports_return_generator", False) else "list"
    job = delayed(_Job(function, parent))
    options: dict[str, Any] = {"initializer": begin_worker, "initargs": (parent, _in_main_thread())}
    options |= {"inner_max_num_threads": 1, "idle_worker_timeout": IDLE_SECONDS}
    with parallel_config(backend="loky", **options) if here else nullcontext():
        run = Parallel(jobs, return_as=given, batch_size=1, pre_dispatch="all", max_nbytes=None)  # pyright: ignore[reportArgumentType]
        done: Any = (one for one in ())
        try:
            with interrupts_held():
                done = run(job(one) for one in work)
            done = (one for one in done) if given == "list" else done
            results = []
            with bar(len(work), name, progress) as shown:
                for one in done:
                    results.append(one)
                    shown.update()
            return results
        except BrokenProcessPool as error:
            raise OSError(LOST) from error
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that jobs are cancelled is known
                done.close()


@dataclass(frozen=True)
class _Job(Generic[Work, Done]):
    """A function, and the process that wants its results."""

    function: Callable[[Work], Done]
    parent: int

    def __call__(self, work: Work) -> Done:
        if os.getpid() != self.parent:
            one_thread()
        return self.function(work)


class Pool(ProcessPoolExecutor):
    """Worker processes like those of `in_processes`, for work in which the next job depends on what the last one gave.

    As a context manager; where its block is left by an error, running jobs are ended.
    """

    def __init__(self, workers: int, threads: int = 1) -> None:
        self._others = set(active_children())
        initial = (os.getpid(), _in_main_thread(), threads)
        super().__init__(workers, get_context("spawn"), initializer=begin_worker, initargs=initial)

    def submit(self, function: Callable[..., Done], /, *args: Any, **options: Any) -> "Future[Done]":
        """See ProcessPoolExecutor."""
        with interrupts_held():  # this may start a worker
            return super().submit(function, *args, **options)

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> bool | None:
        if kind is not None:
            for child in set(active_children()) - self._others:
                child.terminate()
        super().__exit__(kind, *others)  # pyright: ignore[reportArgumentType]
        if kind is not None and issubclass(kind, BrokenProcessPool):
            raise OSError(LOST)
        return None


def begin_worker(parent: int, in_main_thread: bool, threads: int = 1) -> None:
    """Set up a worker process: it ends with its parent, is quiet, and keeps to its threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent, at_once=in_main_thread)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    one_thread(threads)


def one_thread(threads: int = 1) -> None:
    """Keep this worker to one thread, in torch and in numpy (processes that share cores get in each other's way, and
    matrices this small gain nothing from a second thread), and quiet: the parent draws a progress bar."""
    logger.disable("interp_kit")
    show_no_bars()
    threadpool_limits(threads)
    if torch := sys.modules.get("torch"):  # else it reads OMP_NUM_THREADS when it is imported
        torch.set_num_threads(threads)


def end_with(parent: int, *, at_once: bool = True, seconds: float = 0.5) -> None:
    """End this process when its parent process is gone.

    Args:
        parent: Process id of the parent.
        at_once: Whether Linux may kill this process with its parent. It does so when the thread that started it ends,
            so that must be the main thread.
        seconds: How often a thread looks for the parent, on every system.
    """

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    if at_once and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while worker processes are started: they inherit that, and only the parent hears it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its own start would let Ctrl-C through again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
