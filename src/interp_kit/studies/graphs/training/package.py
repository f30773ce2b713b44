"""Turn what `train` wrote into Hugging Face GPT-2 folders that `interp_kit.load` reads.

python -m interp_kit.studies.graphs.training.package runs/direct checkpoints --arms full0
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from interp_kit.core.files import write_json
from interp_kit.core.folders import replacing_directory
from interp_kit.studies.graphs.training.stack import Shape

KIND = "packaged checkpoint"


def package(run: Path, out: Path, arms: Sequence[str] | None = None) -> list[Path]:
    """Write `out/graphs-FORM-ARM` for each network of a run, or those named; gives the folders.

    Raises ValueError for a run without weights, and for a name that it does not have.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = sorted(run.glob("*_[0-9].safetensors"))
    if not files:
        raise ValueError(f"{run} has no weights: expected direct_0.safetensors or trace_0.safetensors")
    where: dict[tuple[str, str], tuple[Path, list[str]]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                arm = key.partition("/")[0]
                where.setdefault((path.stem.rpartition("_")[0], arm), (path, []))[1].append(key)
    if unknown := set(arms or ()) - {arm for _, arm in where}:
        raise ValueError(
            f"{run} has no network {sorted(unknown)[0]!r}: expected one of {sorted({a for _, a in where})}"
        )
    made = []
    for (form, arm), (path, keys) in where.items():
        if arms is not None and arm not in arms:
            continue
        with safe_open(path, framework="pt") as file:
            state = {key.partition("/")[2]: file.get_tensor(key) for key in keys}
            shape = Shape(**json.loads(file.metadata()["shape"]))
        with replacing_directory(out / f"graphs-{form}-{arm}", KIND) as folder:
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
            write_json(folder / "config.json", shape.gpt2())
        made.append(out / f"graphs-{form}-{arm}")
    return made


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="*", default=None)
    chosen = parser.parse_args()
    for folder in package(chosen.run, chosen.out, chosen.arms):
        print(folder)


if __name__ == "__main__":
    main()
