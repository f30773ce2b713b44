"""Jobs on a real dask cluster of two workers on this machine: the same results, in order, also after a lost worker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROGRAM = """
import json, operator, os, sys
from functools import partial
from pathlib import Path

import joblib
from distributed import Client, LocalCluster

from interp_kit.core.parallel import in_processes
from interp_kit.models.planted import PLANTED_TASKS
from interp_kit.studies.audit.methods import METHODS
from interp_kit.studies.audit.study import audit, audit_shard

KILL = "__import__('os').kill(__import__('os').getpid(), 9)"
ONCE = "__import__('pathlib').Path({!r}).exists() or [__import__('pathlib').Path({!r}).touch(), " + KILL + "]"

if __name__ == "__main__":
    folder, found = Path(sys.argv[1]), {}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        with joblib.parallel_config(backend="dask"):
            found["order"] = in_processes(operator.neg, range(20), 2, name="n", progress=False)
            ask = [partial(eval, "(__import__('time').sleep(0.2), __import__('os').getpid())[1]")] * 6
            pids = in_processes(operator.call, ask, 2, name="n", progress=False)
            found["workers"] = sorted(set(pids) - {os.getpid()})
            try:
                in_processes(operator.call, [partial(eval, "1 / 0")] * 2, 2, name="n", progress=False)
            except ZeroDivisionError as error:
                found["error"] = str(error)
            lost = ONCE.format(str(folder / "once"), str(folder / "once"))
            jobs = [partial(eval, lost), *[partial(abs, -n) for n in range(5)]]
            found["lost"] = in_processes(operator.call, jobs, 2, name="n", progress=False)[1:]
            names = [name for name in PLANTED_TASKS if name.startswith("boolean")][:1]
            options = {"circuits": names, "methods": METHODS[:2], "seeds": (0, 1), "twins": (), "progress": False}
            for index in (1, 0):
                found["missing"] = audit_shard(folder / "audit", (index, 2), jobs=2, **options)
    merged, alone = audit(pieces=folder / "audit", **options), audit(**options)
    found["audit"] = [bool((getattr(merged, n) == getattr(alone, n)).all()) for n in ("auroc", "control", "forwards")]
    print(json.dumps(found))
"""


def test_two_workers_of_dask(tmp_path: Path) -> None:
    script = tmp_path / "on_dask.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["order"] == [-n for n in range(20)]
    assert len(found["workers"]) == 2
    assert found["error"] == "division by zero"
    assert (tmp_path / "once").exists()
    assert found["lost"] == [0, 1, 2, 3, 4]
    assert found["missing"] == []
    assert found["audit"] == [True, True, True]
