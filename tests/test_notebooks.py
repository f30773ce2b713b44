"""The notebooks run from top to bottom."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"


QUICK = ("01_boolean.ipynb",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=() if path.name in QUICK else pytest.mark.slow)
        for path in sorted(FOLDER.glob("*.ipynb"))
    ],
)
def test_notebook_runs(name: str) -> None:
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    notebook = execute.execute(FOLDER / name)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
