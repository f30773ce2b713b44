"""The shipped culture models: from a folder of training to `checkpoints/culture`, in the smallest exact form."""

import argparse
import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp_kit.core.config import from_mapping
from interp_kit.core.files import read_json, replacing
from interp_kit.core.identity import derive_seed
from interp_kit.core.program import ended
from interp_kit.models.checkpoints import Entry, read_manifest, weights_hash, write_manifest
from interp_kit.models.mygpt import MyGPT, load_mygpt, save_mygpt
from interp_kit.studies.culture.models import FOLDER, MODEL
from interp_kit.studies.culture.round import EVIDENCE
from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.studies.culture.training.draws import quiz_batch
from interp_kit.studies.culture.training.forward import answers
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.quiz_making import QUIZZES
from interp_kit.studies.culture.training.turns import RUN, model_seed, read_curve
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS


def package(
    source: str | Path, root: str | Path, revision: str = "unknown", n: int = 512, *, origin: str = ""
) -> dict[str, Entry]:
    """Write every model of a training folder to ROOT/culture, with its curve and its entry in the manifest.

    Weights are stored in float16 where that changes no argument of the maximum over the answers of n quizzes; the
    accuracy stored with a model, and in its entry, is that of the stored weights on those quizzes (with noise, mean
    probability of a right sample). A model that is in float16 already is copied as it is, with what the last evaluation
    of its run found. The seed is that of its training state, else what the run's config.json makes of its number, else
    its number. origin: in words, where and how it was trained. Raises ValueError for a folder without models.
    """
    source, folder = Path(source), Path(root) / FOLDER
    entries: dict[str, Entry] = {}
    points = {point.id: point for point in read_curve(source)}
    run = from_mapping(CultureConfig, read_json(source / RUN)) if (source / RUN).exists() else None
    for path in sorted(source.glob("gpt_*.pth")):
        match = MODEL.fullmatch(path.name)
        if match is None:
            continue
        id, target = int(match[1]), folder / path.name
        point, state = points.get(id), path.with_suffix(".state")
        model, accuracy = load_mygpt(path)
        half = copy.deepcopy(model).half().float()
        if run and point and all(map(torch.equal, model.parameters(), half.parameters())):
            stored, dtype, greedy, asked = half, torch.float16, point.greedy, run.tested
        else:
            noisy, clean = _quizzes(n)
            same = _argmax(model, noisy).equal(_argmax(half, noisy))
            stored, dtype = (half, torch.float16) if same else (model, torch.float32)
            right, sampled = answers(stored, noisy, clean)
            accuracy, greedy, asked = float(sampled.mean()), float(right.mean()), n
        save_mygpt(stored, accuracy, target, dtype=dtype)
        seed = Learner.load(state).seed if state.exists() else model_seed(run.seed, id) if run else id
        metrics: dict[str, Any] = {
            "dtype": str(dtype).removeprefix("torch."),
            "quizzes seen": point.seen if point else None,
            "seconds of training": point.spent if point else None,
            "sampled, noise 0.05": {"value": round(accuracy, 4), "n": asked},
            "greedy, noise 0.05": {"value": round(greedy, 4), "n": asked},
        }
        if origin:
            metrics["origin"] = origin
        entries[f"{FOLDER}/gpt_{match[1]}"] = Entry(
            path=f"{FOLDER}/{path.name}",
            sha256=weights_hash(target),
            task="culture",
            recipe="interp_kit.studies.culture.training.turns",
            seed=seed,
            initialisation=f"mygpt-{FOLDER}-seed{seed}",
            revision=revision,
            metrics=metrics,
        )
    if not entries:
        raise ValueError(f"{source} has no gpt_NNN.pth")
    if (source / QUIZZES).exists():
        (folder / EVIDENCE).unlink(missing_ok=True)  # of other quizzes
    for name in ("curve.jsonl", QUIZZES, EVIDENCE):
        if (source / name).exists():
            with replacing(folder / name) as aside:
                shutil.copy(source / name, aside)
    write_manifest({**read_manifest(root), **entries}, root)
    return entries


def _quizzes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 404) quizzes as they are read and as they should be: every task in every evaluated structure in turn."""
    task = np.arange(n) % len(TASKS)
    structure = np.array(grids.EVALUATED)[np.arange(n) // len(TASKS) % len(grids.EVALUATED)]
    rng = np.random.default_rng(derive_seed(0, "package"))
    noisy, clean = quiz_batch(task, structure, rng, grids.NOISE)
    return torch.as_tensor(noisy).long(), torch.as_tensor(clean).long()


@torch.inference_mode()
def _argmax(model: MyGPT, quizzes: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(rows)[:, -grids.CELLS :].argmax(-1) for rows in quizzes.split(8)])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the checkpoints of a training folder and their manifest entries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the folder that `interp-kit train-culture` wrote")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--revision", default="unknown", help="of the code that trained them")
    parser.add_argument("--origin", default="", help="in words, where and how they were trained")
    options = parser.parse_args(argv)
    for name, entry in package(options.source, options.out, options.revision, origin=options.origin).items():
        print(name, entry.metrics)
    return 0


if __name__ == "__main__":
    raise SystemExit(ended("culture_checkpoints", main))
