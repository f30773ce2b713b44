"""Notebooks in Google Colab: the cell that installs the kit there, and the address that opens a notebook.

`python -m tools.colab` puts the cell into every notebook, after its title, in place of a former one. With the address
of a public copy, `python -m tools.colab https://github.com/NAME/interp_kit`, the cell installs from it, and each title
has a link that opens the notebook in Colab.
"""

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"
CELL_ID = "colab-install"
LINK = "[Open in Colab]"
CELL = """\
# Only in Google Colab, this cell installs the kit (about 3 minutes). Elsewhere it does nothing.
REPOSITORY = "{repository}"  # the public address of the kit

import importlib.util

if importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"):
    import os

    assert REPOSITORY, "Set REPOSITORY to the address of the kit, then run this cell again."
    os.environ["INTERP_KIT_CHECKPOINTS"] = "/content/interp_kit/checkpoints"
    !git clone --quiet --depth 1 {{REPOSITORY}} /content/interp_kit
    %pip install --quiet /content/interp_kit
    %cd -q /content/interp_kit/notebooks
"""


def address(repository: str, name: str) -> str:
    """Return where Colab opens the notebook `name` of a repository on GitHub.

    Raises:
        ValueError: The repository is not on GitHub.
    """
    host, _, path = repository.removesuffix("/").removesuffix(".git").partition("github.com/")
    if host != "https://" or path.count("/") != 1:
        raise ValueError(f"got {repository!r}, expected https://github.com/NAME/REPOSITORY: Colab opens no other")
    return f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}"


def with_cell(notebook: dict[str, Any], name: str, repository: str) -> dict[str, Any]:
    """Return the notebook with the cell after its title, and with a link under it if there is a repository."""
    title, *rest = [cell for cell in notebook["cells"] if cell.get("id") != CELL_ID]
    lines = [line for line in "".join(title["source"]).splitlines() if not line.startswith(LINK)]
    if repository:
        lines[1:1] = ["", f"{LINK}({address(repository, name)})"]
    title = {**title, "source": "\n".join(lines).replace("\n\n\n", "\n\n").splitlines(keepends=True)}
    cell = {
        "cell_type": "code", "execution_count": None, "id": CELL_ID, "metadata": {}, "outputs": [],
        "source": CELL.format(repository=repository).splitlines(keepends=True),
    }  # fmt: skip
    cell["source"][-1] = cell["source"][-1].rstrip("\n")
    return {**notebook, "cells": [title, cell, *rest]}


def main(repository: str = "") -> int:
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = with_cell(json.loads(path.read_text(encoding="utf-8")), path.name, repository)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
