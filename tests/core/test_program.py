"""How commands end."""

import os
import subprocess
import sys
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
