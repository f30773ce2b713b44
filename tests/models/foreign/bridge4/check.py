"""`make bridge-check`: models of TransformerLens 4, in an environment of its own (.venv-bridge), read by interp_kit.

TransformerLens 4 has no HookedTransformer, which the kit's engine works on, and sae-lens keeps it below 4. The way
from there to here is a folder: `inside.py` writes the weights of a TransformerBridge as docs/howto/own-model.md says,
one of them edited there, with the bridge's own logits beside it; `ik.load` reads each and must give these logits.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import interp_kit as ik
from tools.environment import interpreter

BRIDGE = "transformer-lens>=4,<5"
TOLERANCE = 1e-4
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Print the largest difference of logits for every model; the exit status is 1 if one is above TOLERANCE."""
    python, worst = interpreter(".venv-bridge", BRIDGE), 0.0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-W", "ignore", HERE / "inside.py", folder], check=True)
        written = sorted(path for path in Path(folder).iterdir() if path.is_dir() and path.name[0] != ".")
        if not written:
            raise SystemExit("inside.py wrote no model")
        for path in written:
            theirs = load_file(f"{path}.safetensors")
            ours = ik.load(str(path))
            with torch.no_grad():
                off = float((ours(theirs["tokens"]) - theirs["logits"]).abs().max())
            print(f"{path.name}: largest difference of logits {off:.1e}")
            worst = max(worst, off)
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
