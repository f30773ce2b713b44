"""Recipe of the circuit twins: trained networks that compute in the nodes of a planted one.

A planted model is cleaner than any that was trained: its weights are written. A twin has the same architecture, random
initial weights and the same circuit, found by interchange-intervention training (InterpBench, Gupta et al. 2024,
arXiv:2407.14494). So a method that finds the circuit of the planted model can be asked for it once more where weights
look like those of a trained network. How far a twin keeps to the circuit is measured, and stands in its manifest.

The interchange fixes what stands in each node and where, not whether a head brings it by its keys or its values, so the
edges of a twin are not all those of the planted model. A twin of induction is not shipped: trained on interchanges of
whole outputs of one node (6,000 steps) it answered right, but L0H0 reached the queries of L1H1 more than its keys, and
it followed its planted model in 42 % of the answers that L0H0 changes.

Rerun with `python -m interp_kit.studies.audit.twins` (three to ten minutes on one core for each of the six).
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp_kit.core.batch import TokenBatch
from interp_kit.core.files import write_json
from interp_kit.core.folders import check_folder, replacing_directory
from interp_kit.core.program import ended
from interp_kit.core.showing import PROGRESS
from interp_kit.core.task import AbstractTask
from interp_kit.models.checkpoints import (
    Entry,
    deciding_files,
    read_manifest,
    weights_hash,
    write_manifest,
)
from interp_kit.models.convert import untrained
from interp_kit.models.planted import PLANTED_TASKS, planted_model
from interp_kit.registry.tasks import task as task_named
from interp_kit.registry.twins import FOLDER, written
from interp_kit.registry.twins import TWINS as NAMED
from interp_kit.training.interchange import Fidelity, InterchangeConfig, fidelity, train_interchange

if TYPE_CHECKING:
    from interp_kit.models.hooked_model import HookedTransformer

KIND = "trained twin"
# Twin -> the planted model that it follows, and how it is trained.
TWINS = {name: (planted, InterchangeConfig(seed=seed)) for name, (planted, seed) in NAMED.items()}
TRAINED_ON, TESTED_ON = 8192, 1024  # texts of a task that is too large to list
TRAIN_SEED, BASE_SEED, SOURCE_SEED = 7, 99, 98


def train_twin(
    name: str, config: InterchangeConfig | None = None, *, progress: bool = PROGRESS
) -> "tuple[HookedTransformer, Fidelity]":
    """Train a twin, one of TWINS by name, or of any planted model by its name, and measure it on pairs of texts: all of
    them where the task can be listed, else pairs of fresh texts. Raises ValueError for an unknown name."""
    planted, settings = TWINS.get(name, (name, InterchangeConfig()))
    if planted not in PLANTED_TASKS:
        raise ValueError(f"no planted model {name!r}; there are {', '.join(PLANTED_TASKS)}")
    settings, task = config or settings, task_named(PLANTED_TASKS[planted])
    teacher = planted_model(planted, task).requires_grad_(False)
    student = untrained(teacher, settings.seed)
    train_interchange(student, teacher, _texts(task), settings, progress=progress)
    return student, fidelity(student, teacher, *_pairs(task))


def _texts(task: AbstractTask) -> TokenBatch:
    try:
        return task.batch(task.enumerate())
    except ValueError:
        return task.batch(task.sample(TRAINED_ON, TRAIN_SEED))


def _pairs(task: AbstractTask) -> tuple[TokenBatch, TokenBatch]:
    try:
        everything = task.batch(task.enumerate())
    except ValueError:
        return task.batch(task.sample(TESTED_ON, BASE_SEED)), task.batch(task.sample(TESTED_ON, SOURCE_SEED))
    every = torch.arange(len(everything))
    return everything.take(every.repeat_interleave(len(every))), everything.take(every.repeat(len(every)))


def store(name: str, model: "HookedTransformer", measured: Fidelity, root: str | Path, revision: str) -> Entry:
    """Write a twin and its line of the manifest."""
    from safetensors.torch import save_file

    folder, (_, config) = Path(root) / FOLDER, TWINS[name]
    with replacing_directory(folder / name, KIND) as aside:
        save_file({key: value.contiguous() for key, value in model.named_parameters()}, aside / "model.safetensors")
        write_json(aside / "training.json", asdict(config))
    entry = Entry(
        **written(name),
        sha256=weights_hash(folder / name),
        revision=revision,
        metrics=_metrics(measured),
        files=deciding_files(folder / name),
    )
    write_manifest({**read_manifest(folder), name: entry}, folder)
    return entry


def _metrics(measured: Fidelity) -> dict[str, Any]:
    """For the manifest: what JSON has no number for (a node that changes nothing) is left out."""
    followed = {node: round(value, 4) for node, value in measured.followed.items() if measured.changes[node]}
    return {
        "followed": followed,
        "kept": {node: round(value, 4) for node, value in measured.kept.items()},
        "pairs": measured.pairs,
        "changes": {node: n for node, n in measured.changes.items() if n},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train the twins, and write them with their manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TWINS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="where the checkpoints are written")
    parser.add_argument("--revision", default="unknown", help="of the code that trained them, for the manifest")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in options.names or TWINS:
        check_folder(options.out / FOLDER / name, KIND)
    for name in options.names or TWINS:
        model, measured = train_twin(name)
        print(name, store(name, model, measured, options.out, options.revision).metrics)
    return 0


if __name__ == "__main__":
    raise SystemExit(ended("circuit_twins", main))
