"""Jobs in processes: results in order, errors as they are, and no process that outlives its parent."""

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from operator import call, neg
from pathlib import Path

import joblib
import pytest

from interp_kit.core.parallel import LOST, Pool, in_processes, processes

SUBREAPER = 36  # of prctl: orphans of a process become ours, so that they can be found


def test_results_come_in_the_order_of_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp_kit.core.showing.SECONDS", 0.0)
    assert in_processes(neg, range(7), 2, name="numbers", progress=True) == [0, -1, -2, -3, -4, -5, -6]
    said = capsys.readouterr().err
    assert "numbers: 100%" in said
    assert "7/7" in said


def test_one_process_is_this_one() -> None:
    assert in_processes(call, [os.getpid], 1, name="", progress=False) == [os.getpid()]
    assert os.getpid() not in in_processes(call, [os.getpid] * 3, 2, name="", progress=False)


def test_a_worker_keeps_to_one_thread_in_torch_and_numpy() -> None:
    ask = (
        "__import__('torch').get_num_threads(),"
        " [pool['num_threads'] for pool in __import__('threadpoolctl').threadpool_info()]"
    )
    script = (
        "import functools, operator, os\n"
        "from interp_kit.core.parallel import in_processes\n"
        "if __name__ == '__main__':\n"
        f"    jobs = [functools.partial(eval, {ask!r}), os.getpid]\n"
        "    threads, pools = in_processes(operator.call, jobs, 2, name='', progress=False)[0]\n"
        "    print({threads, *pools})\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "{1}\n"


def test_an_error_in_a_worker_is_raised_as_it_is_and_ends_the_others() -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="math domain error"):
        in_processes(call, [partial(math.sqrt, -1), *[partial(time.sleep, 300)] * 3], 2, name="", progress=False)
    assert time.monotonic() - started < 60


def test_a_worker_that_dies_is_one_declared_error() -> None:
    with pytest.raises(OSError, match=LOST):
        in_processes(os._exit, [3, 3], 2, name="", progress=False)
    with pytest.raises(OSError, match=LOST), Pool(1) as pool:
        pool.submit(os._exit, 3).result()


def test_another_backend_gets_the_same_jobs() -> None:
    with joblib.parallel_config(backend="threading"):
        assert set(in_processes(call, [os.getpid] * 3, 2, name="", progress=False)) == {os.getpid()}


def test_no_process_is_none() -> None:
    with pytest.raises(ValueError, match="at least one process, not 0"):
        in_processes(neg, [1], 0, name="", progress=False)
    assert 1 <= processes(None) <= 4


def test_a_pool_that_is_left_by_an_error_does_not_wait_for_its_jobs() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Pool(1) as pool:  # noqa: PT012 (what is left is the block)
        assert pool.submit(neg, 1).result() == -1
        pool.submit(time.sleep, 300)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 60


def test_a_program_that_imports_it_has_no_torch() -> None:
    names = "parallel, program, folders, files"
    script = f"import sys\nfrom interp_kit.core import {names}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


PROGRAM = """
import sys, time
from interp_kit.core.parallel import Pool, in_processes
from interp_kit.core.program import ended

def work():
    if sys.argv[1] == "pool":
        with Pool(2) as pool:
            for job in [pool.submit(time.sleep, 0.2), pool.submit(time.sleep, 600)]:
                job.result()
                print("one", flush=True)
    else:
        print("one", flush=True)
        in_processes(time.sleep, [0.2, 600, 600], 2, name="", progress=False)

if __name__ == "__main__":
    sys.exit(ended("study", work))
"""


MOMENTS = pytest.mark.parametrize(("kind", "moment"), [("pool", 3), ("joblib", 0.3), ("joblib", 3)])


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program whose workers sleep. Processes that it leaves behind become children of this one."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def descendants(pid: int) -> set[int]:
    """The processes below one, of Linux."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return set()
    return {int(child) for child in children}.union(*(descendants(int(child)) for child in children))


def alive(pids: set[int]) -> set[int]:
    """Those that are neither gone nor waiting to be collected."""
    stat = {pid: Path(f"/proc/{pid}/stat") for pid in pids}
    return {
        pid for pid, path in stat.items() if path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"
    }


def gone(pids: set[int], seconds: float = 20) -> bool:
    """Whether all end within some time."""
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@MOMENTS
def test_workers_end_with_a_parent_that_is_killed(kind: str, moment: float, program: Path) -> None:
    process = subprocess.Popen([sys.executable, str(program), kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(moment)
    below = descendants(process.pid)
    assert below or moment < 3
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(below)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@MOMENTS
def test_an_interrupt_ends_all_with_one_line(kind: str, moment: float, program: Path) -> None:
    """As a terminal sends it: to every process of the group. Where workers are just starting, joblib's own resource
    tracker may warn that it found less, or more, to tidy up than it expected; that is not a line of ours."""
    process = subprocess.Popen(
        [sys.executable, str(program), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore::UserWarning"},
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(moment)
    below = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.decode().splitlines() == ["study: interrupted"]
    assert process.returncode == 130
    assert gone(below)
