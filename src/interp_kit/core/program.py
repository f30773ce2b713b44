"""How a command ends: its exit status, and one line on standard error where something is at fault."""

import sys
from collections.abc import Callable

AT_FAULT = (ValueError, OSError, FloatingPointError)  # what input, files and models are to blame for


def ended(name: str, work: Callable[[], int | None]) -> int:
    """The exit status of command `name` that does `work`: what that gives, or 0; 1 after a line that says what is
    wrong with the input; 130 where it was interrupted. Other errors are faults of ours and keep their traceback."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except AT_FAULT as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
