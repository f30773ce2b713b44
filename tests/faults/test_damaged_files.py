"""Damaged files of every format: none executes code, none ends in a traceback, none is taken for an intact one with
other figures, and none takes 1 GB or 20 s. Each case is seeded; `harness.py FORMAT:NUMBER` repeats one."""

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("memory and time are measured by /proc", allow_module_level=True)

FORMATS = (
    "gpt2", "gpt2-shards", "gpt2-bin", "llama", "nanogpt", "transformer-lens", "json-weights", "mygpt", "mygpt-named",
    "twin", "state", "curve", "quizzes", "round", "patch", "evaluation", "sae", "harvest", "mib", "split",
)  # fmt: skip
QUICK, ALL = 10, 70  # cases of each format: 200 files in every run, 1,400 with those that are slow
NAIVE = (1, 2, 4, 7, 9, 11, 12, 14, 16, 18)
FINE = ("refused", "same", "unsealed")


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    """The modules beside this file, which run as programs and not as a package."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        import formats
        import watching

        return {"formats": formats, "watching": watching}
    finally:
        sys.path.remove(folder)


def faults(found: list[dict[str, Any]]) -> list[str]:
    """One line per case that is not fine."""
    return [
        f"{case['case']} {case['file']}: {case['damage']} -> {case['outcome']} {case['detail']}"
        for case in found
        if case["outcome"] not in FINE
    ]


def test_every_format_is_tried(modules: dict[str, ModuleType]) -> None:
    assert tuple(format.name for format in modules["formats"].FORMATS) == FORMATS


@pytest.fixture(scope="module")
def tried(modules: dict[str, ModuleType]) -> list[dict[str, Any]]:
    """The cases of every run, and those of a reader that does everything wrong."""
    cases = [(name, number) for name in FORMATS for number in range(QUICK)]
    return modules["watching"].watched([*cases, *(("naive", number) for number in NAIVE)])


@pytest.mark.slow
def test_damaged_files_are_refused_or_give_the_same_figures(tried: list[dict[str, Any]]) -> None:
    found = [case for case in tried if case["case"][0] in FORMATS]
    assert not faults(found), "\n".join(faults(found))
    assert len(found) == QUICK * len(FORMATS)
    refused = Counter(case["case"][0] for case in found if case["outcome"] == "refused")
    assert set(refused) == set(FORMATS)
    assert refused.total() > 0.6 * len(found)


def test_a_reader_that_does_everything_wrong_is_found_out(tried: list[dict[str, Any]]) -> None:
    """It unpickles what it finds: the harness sees code run, tracebacks, and other figures."""
    found = [case for case in tried if case["case"][0] == "naive"]
    assert len(found) == len(NAIVE)
    assert {"executed", "traceback", "other"} <= {case["outcome"] for case in found}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_many_damaged_files(part: int, modules: dict[str, ModuleType]) -> None:
    names = FORMATS[part::3]
    found = modules["watching"].watched([(name, number) for name in names for number in range(QUICK, ALL)])
    assert not faults(found), "\n".join(faults(found))
    assert len(found) == (ALL - QUICK) * len(names)
