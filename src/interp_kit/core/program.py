"""End of a command: its exit status, and one line on standard error where something is at fault."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

AT_FAULT = (ValueError, OSError, FloatingPointError)  # what input, files and models are to blame for
SCRIPTS = ("interp-kit", "causal-experiment")  # the commands that are installed
INTERRUPTED = 130


def ended(name: str, work: Callable[[], int | None]) -> int:
    """The exit status of command `name` that does `work`: what that gives, or 0; 1 after a line that says what is
    wrong with the input; 130 where it was interrupted. Other errors are faults of ours and keep their traceback."""
    importing_is_done()
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except AT_FAULT as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def stop_quietly_while_importing() -> None:
    """Let Ctrl-C end a command of ours with one line while its modules are imported, which can take seconds.

    Nothing happens unless this process is `interp-kit`, `causal-experiment` or `python -m interp_kit…`. It
    holds until `ended` begins the work of the command: from there on, KeyboardInterrupt is raised as usual.
    """
    name = _command()
    if name is None or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Stop(name))


class _Stop:
    """A handler of SIGINT that ends this process at once: there is nothing to tidy up yet."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, number: int, frame: FrameType | None) -> None:
        os.write(2, f"{self.name}: interrupted\n".encode())
        os._exit(INTERRUPTED)


def importing_is_done() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt."""
    if isinstance(signal.getsignal(signal.SIGINT), _Stop):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _command() -> str | None:
    """The command that this process was started as, if it is one of ours."""
    if "multiprocessing" in sys.modules:  # a worker has its parent's arguments, and leaves Ctrl-C to it
        from multiprocessing import current_process

        if current_process().name != "MainProcess":
            return None
    started = Path(sys.argv[0]).stem if sys.argv else ""
    if started in SCRIPTS:
        return started
    if started == "-m":  # as long as Python looks for the module that it was asked to run
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv else ""
        if module.partition(".")[0] == "interp_kit":
            return module.removesuffix(".__main__").rpartition(".")[2]
    return None
