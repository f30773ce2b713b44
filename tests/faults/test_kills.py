"""Commands killed with -9 at random moments: the same command then ends as if nothing had happened, nothing is corrupt,
and neither a process nor a file is left behind. `kills.py COMMAND:NUMBER` repeats one kill.

Eighty were tried at once with `python tests/faults/kills.py train:{0..7} retrain:{0..3} train-culture:{0..5}
harvest:{0..8} save:{0..8} report:{0..6} study:{0..2} round:{0..6} rl:{0..14} rl-trl:{0..11}`; the ones here are
a part of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
PROGRAM = Path(__file__).with_name("kills.py")


@pytest.mark.parametrize(
    "cases", [["save:1", "harvest:1", "round:1", "report:1"], ["retrain:1", "train-culture:1", "rl:6", "rl:12"]]
)
def test_a_killed_command_goes_on(cases: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *cases],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    assert [f"{name}:{number}" for name, number in (kill["case"] for kill in found)] == cases
    assert [kill["fault"] for kill in found] == [""] * len(cases)
    assert not any(kill["finished"] for kill in found), "a kill came too late to be one"
