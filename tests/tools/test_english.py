"""Habits that a native reader stumbles over are found, where they are, and what is right is left alone."""

import json
from pathlib import Path

import pytest

from tools.english import RULES, faults, files

BAD = {
    "start a docstring with a verb or a noun": 'def f():\n    """How many there are."""\n',
    '"per", not "a"': "# One row a split and field\n",
    '"is not a", not "is no"': 'raise ValueError(f"{x} is no number")\n',
    '"if", not "where", after an error': '"""Raises ValueError where there is nothing."""\n',
    "learned": "# what was learnt\n",
    '"about", not "some", before a number': "# some 80 hypotheses\n",
    '"after", not "behind"': "# what stands behind the prompt\n",
    '"compensates", "fixes", "skips", "reaches"': '"""How newD learns of newB"""\n',
    "say what is missing, not that something is none": "# a circuit of all edges is none\n",
    '"must be" or "will be", not "is to be"': "# what is to be written\n",
}


def test_there_are_examples_of_all_rules() -> None:
    assert set(BAD) == {rule for rule, _ in RULES}


@pytest.mark.parametrize("rule", BAD)
def test_a_fault_is_found_with_its_line(tmp_path: Path, rule: str) -> None:
    path = tmp_path / "module.py"
    path.write_text("x = 1\n" + BAD[rule])
    assert rule in [found for line, _, found in faults(path) if line == 1 + BAD[rule].count("\n")]


def test_good_english_and_code_are_left_alone(tmp_path: Path) -> None:
    program, page = tmp_path / "module.py", tmp_path / "page.md"
    program.write_text(
        '"""Number of rows, one row per split. There is no other; none of them is empty; it is no longer used."""\n'
        "learnt = x is no_more\n# Raises ValueError if the text after the prompt is empty\n"
    )
    page.write_text("A `learnt` name.\n\n```python\nlearnt = 1\n```\n")
    assert faults(program) == []
    assert faults(page) == []


def test_the_pages_of_a_notebook_are_checked_and_its_code_is_not(tmp_path: Path) -> None:
    cells = [
        ("markdown", ["# Title\n", "What was learnt.\n"]),
        ("code", ["learnt = 1"]),
        ("markdown", ["It is no list."]),
    ]
    notebook = tmp_path / "n.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": kind, "source": source} for kind, source in cells]}))
    assert [(line, words) for line, words, _ in faults(notebook)] == [(2, "learnt"), (4, "is no list")]


def test_the_library_and_its_pages_are_checked() -> None:
    names = {path.name for path in files()}
    assert "01_boolean.ipynb" in names
    assert {"README.md", "patching.py", "glossary.md", "own_gpt2.py"} <= names
