"""Every notebook begins with a cell that installs the kit in Colab and does nothing here."""

import json
import sys
import types
from pathlib import Path

import pytest

from tools.colab import CELL, CELL_ID, FOLDER, address, with_cell

NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_one_install_cell_after_its_title(name: str) -> None:
    notebook = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert [i for i, cell in enumerate(notebook["cells"]) if cell.get("id") == CELL_ID] == [1]
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")
    assert "".join(notebook["cells"][1]["source"]) == CELL.format(repository="").rstrip("\n")


def ran(monkeypatch: pytest.MonkeyPatch, repository: str) -> list[str]:
    """Commands that the cell gives, as Python."""
    given: list[str] = []
    lines = CELL.format(repository=repository).splitlines()
    code = []
    for line in filter(str.strip, lines):
        words = line.lstrip()
        code.append(line.replace(words, f"given.append({words!r})") if words[0] in "!%" else line)
    monkeypatch.setenv("INTERP_KIT_CHECKPOINTS", "before")
    exec("\n".join(code), {"given": given})
    return given


def test_it_installs_in_colab_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(monkeypatch, "https://github.com/a/b") == []
    for name in ("google", "google.colab"):
        module = types.ModuleType(name)
        module.__spec__ = __import__("importlib.machinery", fromlist=["ModuleSpec"]).ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    assert [line.split()[0] for line in ran(monkeypatch, "https://github.com/a/b")] == ["!git", "%pip", "%cd"]
    with pytest.raises(AssertionError, match="Set REPOSITORY"):
        ran(monkeypatch, "")


def test_a_public_copy_has_links_and_putting_the_cell_twice_changes_nothing() -> None:
    notebook = json.loads((FOLDER / NAMES[0]).read_text(encoding="utf-8"))
    url = "https://github.com/me/interp_kit"
    once = with_cell(notebook, NAMES[0], url)
    text = "".join(once["cells"][0]["source"])
    assert f"]({address(url, NAMES[0])})" in text
    assert (
        address(url, "n.ipynb") == "https://colab.research.google.com/github/me/interp_kit/blob/main/notebooks/n.ipynb"
    )
    assert with_cell(once, NAMES[0], url) == once
    assert with_cell(once, NAMES[0], "")["cells"][1:] == notebook["cells"][1:]
    assert Path(FOLDER / NAMES[0]).exists()
    with pytest.raises(ValueError, match="Colab opens no other"):
        address("https://example.org/a/b", "n.ipynb")
