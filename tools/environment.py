"""Environments of their own for tools whose dependencies do not fit beside ours."""

import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def interpreter(name: str, *packages: str) -> Path:
    """The Python of the environment `name` in the repository, made with these packages if it is not there. torch is the
    one that our own tests run with.

    Raises:
        subprocess.CalledProcessError: pip cannot install them.
    """
    home = ROOT / name
    made = home / "bin" / "python"
    if not (home / ".installed").exists():
        venv.create(home, with_pip=True)
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        torch = next(line for line in lines if line.startswith("torch=="))
        for wanted in ((torch,), (*packages, torch)):
            subprocess.run([made, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (home / ".installed").touch()
    return made
