"""The wheel, installed into an empty folder, has models, templates and commands; and says what it has not."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import interp_kit as ik

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel. It is built from a copy, so that the tree stays as it is."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    leave_out = shutil.ignore_patterns("culture", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "checkpoints", copy / "checkpoints", ignore=leave_out)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", str(copy), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    subprocess.run(wheel, check=True, capture_output=True, text=True)
    (built,) = out.glob("*.whl")
    installed = tmp_path_factory.mktemp("target")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(installed), str(built)], check=True)
    return installed


def run(target: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in an empty folder that sees the target, and of the environment the installed libraries alone: the
    `.pth` of an editable install is not read from PYTHONPATH."""
    path = os.pathsep.join([str(target), sysconfig.get_paths()["purelib"]])
    known = {name: value for name, value in os.environ.items() if not name.startswith(("INTERP_KIT", "PYTHON"))}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env={**known, "PYTHONPATH": path}, capture_output=True, text=True
    )


STUDY = """
import sys
from pathlib import Path
import interp_kit as ik
from interp_kit.cli import main
assert Path(ik.__file__).is_relative_to(sys.argv[1]), ik.__file__

if __name__ == "__main__":
    model = ik.load("boolean-gpt2")
    assert Path(model.provenance.path).is_relative_to(sys.argv[1]), model.provenance.path
    ik.load("twin:boolean-latent")
    assert main(["load", "boolean-gpt2-seed1"]) == 0
    from interp_kit.studies.boolean.study import examine
    found = examine("boolean-gpt2", full=False)
    assert found.mechanism.verdict
    assert main(["playground", "boolean-gpt2", "--out", "page/playground.html"]) == 0
    print(ik.report([found.evaluation, found.mechanism], "page/boolean.html"))
    for arguments in (["load", "culture/gpt_000"], ["culture-report"]):
        assert main(arguments) == 1
"""


def test_an_installed_wheel_works_in_an_empty_folder(target: Path, tmp_path: Path) -> None:
    said = run(target, tmp_path, "-m", "interp_kit", "--version")
    assert said.stdout == f"interp-kit {ik.__version__}\n", said.stderr
    (tmp_path.parent / "study.py").write_text(STUDY)
    done = run(target, tmp_path, str(tmp_path.parent / "study.py"), str(target))
    assert done.returncode == 0, done.stderr
    assert "boolean-gpt2-seed1" in done.stdout
    assert (tmp_path / "page" / "boolean.html").stat().st_size > 10_000
    for line in ("checkpoint 'culture/gpt_000': ", "culture is not a folder of checkpoints: it is missing; "):
        found = next(text for text in done.stderr.splitlines() if line in text)
        assert "from a clone of the repository ($INTERP_KIT_CHECKPOINTS names its folder" in found
        assert "hub id" in found


def test_the_command_is_installed(target: Path, tmp_path: Path) -> None:
    said = run(target, tmp_path, str(target / "bin" / "interp-kit"), "--version")
    assert said.stdout == f"interp-kit {ik.__version__}\n", said.stderr
    assert not (target / "interp_kit" / "checkpoints" / "culture").exists()
