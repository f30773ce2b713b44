"""Pages: their Python uses names and options that exist, tutorials print what they say, commands exist, and every
public name stands in the reference."""

import inspect
import re
import shlex
from ast import AST, Attribute, Call, Name, parse, walk
from pathlib import Path

import pytest

import interp_kit as ik
from tools.tutorials import Ran, blocks, run, written

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "decisions"),
]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


def wrong_uses(code: str) -> list[str]:
    """Names of the kit that do not exist, and options that its functions do not have."""
    tree, wrong = parse(code), []
    calls: dict[AST, Call] = {node.func: node for node in walk(tree) if isinstance(node, Call)}
    for node in walk(tree):
        if not (isinstance(node, Attribute) and isinstance(node.value, Name) and node.value.id == "ik"):
            continue
        if not hasattr(ik, node.attr):
            wrong.append(f"ik.{node.attr}")
        elif node in calls:
            known = inspect.signature(getattr(ik, node.attr)).parameters
            wrong += [f"ik.{node.attr}({k.arg}=)" for k in calls[node].keywords if k.arg and k.arg not in known]
    return wrong


def commands(page: str) -> list[list[str]]:
    """The words of every line of an indented block, or of inline code, that calls `interp-kit`."""
    lines = re.findall(r"^ {4}(interp-kit [a-z][^#\n]*)", page, re.MULTILINE) + re.findall(
        r"`(interp-kit [a-z][^`]*)`", page
    )
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_a_page_use_what_there_is(page: Path) -> None:
    for code, _ in blocks(page.read_text(encoding="utf-8")):
        assert wrong_uses(code) == []


def test_a_wrong_name_or_option_in_a_block_is_found() -> None:
    assert wrong_uses("ik.patchh(model); ik.patch(model, pairs, wide=3); ik.patch(model, pairs, by='all')") == [
        "ik.patchh",
        "ik.patch(wide=)",
    ]


def test_commands_on_pages_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    from interp_kit.cli import main

    asked = {
        tuple(words[1:3] if words[1] in ("generate", "study") else words[1:2]): []
        for page in PAGES
        for words in commands(page.read_text())
    }
    for page in PAGES:
        for words in commands(page.read_text(encoding="utf-8")):
            asked[tuple(words[1:3] if words[1] in ("generate", "study") else words[1:2])] += [
                word for word in words if word.startswith("--")
            ]
    assert len(asked) > 15
    for command, options in asked.items():
        with pytest.raises(SystemExit) as ended:
            main([*command[:1], "--help"])
        said = capsys.readouterr().out
        assert ended.value.code == 0, command
        assert [option for option in options if option not in said] == [], command


def test_every_public_name_is_in_the_reference() -> None:
    told = {
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: interp_kit\.(\w+)$", page.read_text(), re.MULTILINE)
    }
    new, gone = set(ik.__all__) - told, told - set(ik.__all__)
    assert not new, f"add `::: interp_kit.NAME` to a page of docs/reference for {sorted(new)}"
    assert not gone, f"docs/reference tells of {sorted(gone)}, which interp_kit does not export"


def test_outputs_agree_up_to_rounding() -> None:
    page = "```python\nprint('a', 0.50)\n```\n\n```text\na 0.51\n```\n\nand\n\n```python\nx = 1\n```\n"
    ran = run(page)
    assert [one.agrees() for one in ran] == [True, True]
    assert not Ran("", "a 0.55", "a 0.50").agrees()
    assert not Ran("", "b 0.50", "a 0.50").agrees()
    assert not Ran("", "a", "a 0.50").agrees()
    assert "```text\na 0.5\n```" in written(page, ran)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page: Path) -> None:
    for one in run(page.read_text(encoding="utf-8")):
        assert one.agrees(), f"{one.code}\nprinted\n{one.printed}\nnot\n{one.expected}"
