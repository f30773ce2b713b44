"""How commands end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp_kit.core.program import ended


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("noise is 2,\n  it is a probability"), 1, "study: noise is 2, it is a probability\n"),
        (FileNotFoundError(2, "No such file or directory", "a.pth"), 1, "a.pth"),
        (FloatingPointError("row 3: nan"), 1, "study: row 3: nan\n"),
        (KeyboardInterrupt(), 130, "study: interrupted\n"),
    ],
)
def test_what_is_at_fault_is_one_line(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    assert ended("study", work) == status
    out, said_here = capsys.readouterr()
    assert said in said_here
    assert said_here.count("\n") == 1
    assert not out


def test_what_work_gives_is_the_status() -> None:
    assert [ended("study", lambda status=status: status) for status in (None, 0, 1, 2)] == [0, 0, 1, 2]


def test_faults_of_ours_are_not_hidden() -> None:
    def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        ended("study", work)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["boolean_checkpoints", "circuit_twins", "culture_checkpoints", "culture_round"])
def test_recipes_say_what_is_wrong_in_one_line(recipe: str, tmp_path: Path) -> None:
    wrong = {
        "boolean_checkpoints": ["--work", "a_file"],
        "circuit_twins": ["nobody"],
        "culture_checkpoints": ["nowhere"],
        "culture_round": ["--maker", "nowhere.pth", "--out", "made"],
    }
    (tmp_path / "a_file").write_text("")
    found = subprocess.run(
        [sys.executable, "-m", f"interp_kit.recipes.{recipe}", *wrong[recipe]],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 1, found.stderr
    assert found.stderr.strip().splitlines()[-1].startswith(f"{recipe}: ")
    assert "Traceback" not in found.stderr


INTERP_KIT = ["-c", "import sys\nsys.argv[0] = 'interp-kit'\nfrom interp_kit.cli import main\nsys.exit(main())"]
EXPERIMENT = ["-c", INTERP_KIT[1].replace("interp-kit", "causal-experiment").replace(".cli", ".causal_experiment")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("command", "library", "name"),
    [
        ([*INTERP_KIT, "mechanism", "boolean-direct"], "_multiarray_umath", "interp-kit"),
        ([*INTERP_KIT, "mechanism", "boolean-direct"], "libtorch_cpu", "interp-kit"),
        ([*EXPERIMENT, "--test", "1,0,1,0,1", "--log-dir", "{}"], "libtorch_cpu", "causal-experiment"),
        (["-m", "interp_kit.culture", "0"], "libtorch_cpu", "culture"),
        (["-m", "interp_kit.recipes.culture_round", "--maker", "nowhere.pth"], "libtorch_cpu", "culture_round"),
        (["-m", "interp_kit.recipes.boolean_checkpoints"], "_multiarray_umath", "boolean_checkpoints"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_an_interrupt_while_a_command_imports_is_one_line(
    command: list[str], library: str, name: str, tmp_path: Path
) -> None:
    """The interrupt comes as soon as a library is mapped into the process, so in the middle of its import."""
    process = subprocess.Popen(
        [sys.executable, *(part.format(tmp_path) if part == "{}" else part for part in command)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    maps, deadline = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 60
    while library not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.splitlines()[-1] == f"{name}: interrupted"
    assert "Traceback" not in said
    assert process.returncode == 130


def test_a_program_of_others_keeps_its_own_interrupt() -> None:
    script = "import interp_kit, signal\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", script], check=True)
