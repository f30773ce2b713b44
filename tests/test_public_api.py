"""`import interp_kit` is instant, and everything that it promises is there."""

import subprocess
import sys

import pytest

import interp_kit


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_brings_in_nothing_heavy() -> None:
    code = (
        "import sys, interp_kit; interp_kit.__all__;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_the_command_line_and_its_help_know_no_torch() -> None:
    code = (
        "import sys\nfrom interp_kit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as stop: assert stop.code in (0, None)\n"
        "print('heavy:', [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert run(code).strip().endswith("heavy: []")


@pytest.mark.parametrize("name", interp_kit.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    assert getattr(interp_kit, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        interp_kit.nonsense  # noqa: B018


def test_the_version_is_said_by_package_and_program() -> None:
    """`ik.__version__`, `interp-kit --version` and `python -m interp_kit --version` agree."""
    assert interp_kit.__version__.split(".")[0].isdigit()
    said = subprocess.run([sys.executable, "-m", "interp_kit", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"interp-kit {interp_kit.__version__}\n"
    assert run("from interp_kit.cli import main; main(['--version'])") == said.stdout
