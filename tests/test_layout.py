"""The layout: no circles, small files, small folders; everything that is documented can be imported.

Which folder may import which is for import-linter (`make check`).
"""

import importlib
import statistics
import subprocess
import sys
from pathlib import Path

import grimp
import networkx
import pytest

import interp_kit
import interp_kit.causal_experiment
import interp_kit.culture

ROOT = Path(interp_kit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LINES = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
DOORS = sorted(path.stem for path in (ROOT / "recipes").glob("[!_]*.py"))


def circles(edges: list[tuple[str, str]]) -> list[list[str]]:
    """Modules that import each other, directly or through others."""
    parts = networkx.strongly_connected_components(networkx.DiGraph(edges))
    return [sorted(part) for part in parts if len(part) > 1]


def test_no_modules_import_each_other() -> None:
    graph = grimp.build_graph("interp_kit", cache_dir=None)
    edges = [(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)]
    assert len(edges) > 500
    assert circles(edges) == []


def test_a_circle_is_found() -> None:
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == [["a", "b", "c"]]


def test_files_are_small() -> None:
    assert {name: lines for name, lines in LINES.items() if lines > 350} == {}, "split files of over 350 lines"
    assert statistics.median(LINES.values()) < 150


def test_folders_are_small() -> None:
    folders = {path.parent for path in FILES}
    sizes = {folder.name: len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > 15} == {}, "move files of one topic to a sub-folder"


@pytest.mark.parametrize(
    "module", [interp_kit, interp_kit.culture, interp_kit.causal_experiment], ids=lambda m: m.__name__
)
def test_every_documented_name_is_there(module: object) -> None:
    names = getattr(module, "__all__")  # noqa: B009
    assert names
    assert [name for name in names if getattr(module, name, None) is None] == []


def test_tasks_know_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, importlib, pkgutil, interp_kit.tasks as t\n"
        "names = [m.name for m in pkgutil.walk_packages(t.__path__, 'interp_kit.tasks.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names), [m for m in ('torch', 'transformers', 'transformer_lens', 'sae_lens') if m in sys.modules])"
    )
    number, heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=1)
    assert int(number) > 20
    assert heavy.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("name", DOORS)
def test_every_recipe_is_a_door_that_shows_its_help(name: str) -> None:
    module = f"interp_kit.recipes.{name}"
    assert f"python -m {module}" in (importlib.import_module(module).__doc__ or "")
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
