"""The examples run as they stand, each in an empty folder, and the tasks in them work from the command line."""

import json
import runpy
from pathlib import Path

import pytest

import interp_kit as ik
from interp_kit.cli import main
from interp_kit.registry import tasks

EXAMPLES = Path(__file__).parents[1] / "examples"
ADDITION = f"{EXAMPLES / 'modular_addition.py'}:ModularAddition"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


def run(name: str, *arguments: Path) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


@pytest.mark.slow
def test_modular_addition(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is learned, and then every command takes it by address, by its registered name, or not at all."""
    monkeypatch.setattr(tasks, "_registered", {})
    model = folder / "addition"
    run("modular_addition.py", model)
    assert "exact match    1.0" in capsys.readouterr().out
    assert ik.task_of(ik.load(model)).describe()["options"] == {"n": 5}
    monkeypatch.setattr(tasks, "_registered", {})  # as in a new process
    with pytest.raises(ValueError, match=r"learned task 'modular_addition', which is not among .*--task my_file"):
        ik.task_of(ik.load(model))
    assert ik.task_of(ik.load(model), ADDITION).name == "modular_addition"
    out = str(folder / "out.json")
    for command in (["patch", "--positions", "a", "="], ["interchange", "--positions", "=", "--limit", "16"], ["test"]):
        assert main([command[0], str(model), "--task", ADDITION, "--json", out, "--no-progress", *command[1:]]) == 0
        config = json.loads(Path(out).read_text())["config"]
        assert config["task"] == "modular_addition"
        if command[0] == "patch":
            assert (config["variable"], config["target"]) == ("a", "sum")
    assert main(["patch", str(model), "--task", "boolean"]) == 1
    assert "not among" in capsys.readouterr().err


def test_own_gpt2(folder: Path) -> None:
    run("own_gpt2.py", folder / "gpt2", folder / "gpt2.html")
    page = (folder / "gpt2.html").read_text()
    assert "third letter" in page
    assert "24 answers" in page or "n = 24" in page


@pytest.mark.slow
def test_other_equations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("other_equations.py", folder / "equations")
    out = capsys.readouterr().out
    assert "verdict on M -> Y: " in out
    assert "exact match    1.0" in out


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_says_how_it_is_run(name: str) -> None:
    source = (EXAMPLES / name).read_text()
    assert f"python examples/{name}" in source.split('"""')[1]
    assert f'{name}"' in Path(__file__).read_text(), f"{name} is not run by this file"
