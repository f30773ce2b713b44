"""Scripts that make a shell complete commands and their options."""

import contextlib
import io
from typing import Any

import tyro


def script(commands: Any, shell: str) -> str:
    """The script for "bash" or "zsh", as tyro writes it.

    Args:
        commands: The union of the commands.
        shell: Name of the shell.
    """
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        tyro.cli(commands, args=["--tyro-print-completion", shell], prog="interp-kit")
    return written.getvalue()
