"""1, 2 and 7 shards, killed with -9 at random moments and started again, make the same bytes (`shards.py`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")
PROGRAM = Path(__file__).with_name("shards.py")


@pytest.mark.parametrize(
    "kind", ["pieces", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("harvest", "graphs", "culture"))]
)
def test_killed_shards_make_the_same_bytes(kind: str) -> None:
    cases = [f"{kind}:{count}" for count in (1, 2, 7)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *cases],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["case"] for one in found] == cases
    assert sum(one["killed"] for one in found) > 5, "kills came too late to be any"
