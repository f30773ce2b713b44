"""`make verl-check`: what a CPU can show of the files for verl, in an environment of verl's own (.venv-verl).

Makes a small data set, writes the files, and lets verl read them: its option parser every setting of the three
launch scripts, its data sets both parquets, its reward manager both reward files. Not shown: rollout and training,
which need GPUs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from interp_kit.tasks.graphs.data.config import GraphsConfig
from interp_kit.tasks.graphs.data.files import generate
from interp_kit.training.verl import write_verl
from tools.environment import interpreter

VERL = ("verl==0.9.1", "fastapi", "uvicorn")  # the last two are imported by its SFT trainer, and not required
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run every check; the exit status is 1 if one fails."""
    python = interpreter(".venv-verl", *VERL)
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "verl"
        generate(GraphsConfig(graphs=(8, 4, 4), questions=(8, 4, 4)), data, progress=False)
        write_verl(data, out)
        found = subprocess.run([python, HERE / "inside.py", out], check=False)
    return found.returncode


if __name__ == "__main__":
    sys.exit(main())
