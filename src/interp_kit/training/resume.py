"""A work folder of unfinished training: of which run it is, and which checkpoints of transformers.Trainer are whole."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp_kit.core.files import cannot_write, read_json, sweep, write_json

RUN = "run.json"  # what is trained there; a work folder without it is not ours
PARTS = ("model.safetensors", "optimizer.pt", "scheduler.pt", "training_args.bin")
STATE = "trainer_state.json"  # written last


def open_work(folder: Path, run: dict[str, Any], processes: int = 1) -> Path | None:
    """Prepare the work folder of a training run and return the checkpoint to go on from, None for a fresh start.

    Checkpoints that a killed process left in parts are removed.

    Args:
        folder: The work folder; new, empty, or of the same run.
        run: What is trained, as JSON values.
        processes: That train together; each keeps a random state of its own in a checkpoint.

    Raises:
        OSError: The folder holds something else, or another run.
    """
    return None if claim_work(folder, run) else _latest_whole(folder, processes)


def claim_work(folder: Path, run: dict[str, Any]) -> bool:
    """Write into a new work folder what is trained there, or check that this run left it.

    Returns:
        Whether it is new.

    Raises:
        OSError: The folder holds something else, or another run.
    """
    if folder.exists() and not folder.is_dir():
        raise cannot_write(folder, NotADirectoryError("it is a file"))
    if not (folder / RUN).exists():
        if folder.exists():
            sweep(folder)  # a run killed in its first write left that file aside
            if any(folder.iterdir()):
                raise cannot_write(
                    folder, FileExistsError("it holds other files; name a new folder for unfinished work")
                )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, run)
        return True
    found = read_json(folder / RUN)
    if found != run:
        known = found if isinstance(found, dict) else {}
        differ = [key for key in {**run, **known} if run.get(key) != known.get(key)]
        raise cannot_write(
            folder, FileExistsError(f"it holds another training run (other {', '.join(differ)}); name another folder")
        )
    return False


def _latest_whole(folder: Path, processes: int) -> Path | None:
    whole = []
    for path in folder.glob("checkpoint-*"):
        if _is_whole(path, processes):
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def _is_whole(path: Path, processes: int) -> bool:
    random = ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    if not all((path / name).is_file() for name in (*PARTS, *random, STATE)):
        return False
    try:
        read_json(path / STATE)
    except ValueError:
        return False
    return True


def close_work(folder: Path, states: Sequence[str] = ()) -> None:
    """Remove what a finished run left in its work folder, and the folder if nothing else is in it.
    states: files of its own loop's."""
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    for name in states:
        (folder / name).unlink(missing_ok=True)
    (folder / RUN).unlink()  # last: without it the folder is not ours
    sweep(folder)
    if not any(folder.iterdir()):
        folder.rmdir()
