"""Recipe of the shipped boolean checkpoints: five seeds on all 32 inputs, and five omission sets each of 4 and of 8
inputs.

The omission sets are drawn here by committed seeds, before any training, and none is discarded. Rerun with
`python -m interp_kit.studies.boolean.checkpoints --work runs/boolean --jobs 2` (about 3 minutes a model and core);
finished models are kept, so an interrupted run goes on.
"""

import argparse
import copy
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from interp_kit.core.folders import check_folder, replacing_directory
from interp_kit.core.identity import derive_seed
from interp_kit.core.parallel import in_processes
from interp_kit.core.program import ended
from interp_kit.models.checkpoints import Entry, deciding_files, load, read_manifest, weights_hash, write_manifest
from interp_kit.models.gpt2 import read_gpt2
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.boolean.dataset import Input, splits

KIND = "packaged checkpoint"
DATA_SEED = 42


@dataclass(frozen=True)
class Run:
    """One model: its name, the training seed, and which inputs no file of its data contains."""

    name: str
    seed: int
    omit: tuple[Input, ...] = ()


def omission_set(size: int, index: int) -> tuple[Input, ...]:
    """The committed omission set number `index` of `size` inputs, drawn uniformly without replacement."""
    rng = random.Random(derive_seed(0, "boolean omission", size, index))
    everything = [tuple(int(v) for v in row) for row in BooleanTask().model.all_inputs()]
    return tuple(sorted(rng.sample(everything, size)))


def runs() -> list[Run]:
    """All fifteen models, in training order."""
    seeds = [Run("boolean-gpt2", 42), *(Run(f"boolean-gpt2-seed{seed}", seed) for seed in (1, 2, 3, 4))]
    omitted = [
        Run(f"boolean-gpt2-omit{size}-set{index}", 100 * size + index, omission_set(size, index))
        for size in (4, 8)
        for index in range(5)
    ]
    return [*seeds, *omitted]


def train(run: Run, work: Path, threads: int = 1) -> Path:
    """Train one model by the documented recipe into WORK/<name>; a finished one is kept."""
    from interp_kit.training.sft import SFTConfig, train_sft

    directory = work / run.name
    if directory.exists():
        return directory
    torch.set_num_threads(threads)
    task = BooleanTask()
    data = splits(task, omit=frozenset(run.omit), seed=DATA_SEED)
    return train_sft(
        task,
        task.examples(data["train"]),
        directory,
        SFTConfig(seed=run.seed),
        validation=task.examples(data["valid"]),
        device="cpu",
        progress=False,
    )


def train_all(work: Path, jobs: int = 2) -> list[Path]:
    """Train every model that WORK does not hold yet, `jobs` at a time with one thread each."""
    return in_processes(partial(train, work=work), runs(), jobs, name="models", progress=True)


def package(work: Path, root: Path, revision: str) -> dict[str, Entry]:
    """Write every trained model to ROOT in the smallest exact form, measure it, and write the manifest."""
    entries = {}
    for run in runs():
        digest, metrics = _store(run, work / run.name, root / run.name)
        entries[run.name] = Entry(
            path=run.name,
            sha256=digest,
            task="boolean",
            recipe="interp_kit.studies.boolean.checkpoints",
            seed=run.seed,
            initialisation=f"gpt2-128x4x4-vocabulary15-seed{run.seed}",
            revision=revision,
            omitted=tuple(",".join(map(str, row)) for row in run.omit),
            metrics=metrics,
            files=deciding_files(root / run.name),
        )
    others = {name: entry for name, entry in read_manifest(root).items() if entry.task != "boolean"}
    write_manifest({**entries, **others}, root)
    return entries


def _store(run: Run, source: Path, target: Path) -> tuple[str, dict[str, Any]]:
    """Store one model in float16 where no argmax changes, and evaluate what was stored."""
    from interp_kit.analysis.behaviour.evaluation import evaluate

    task = BooleanTask()
    model = read_gpt2(source)
    half = copy.deepcopy(model).half().float()
    texts = [task.batch(task.enumerate()), task.conflict_pairs("newB", "newD").corrupt]
    with torch.inference_mode():
        same = all(torch.equal(model(b.tokens).logits.argmax(-1), half(b.tokens).logits.argmax(-1)) for b in texts)
    with replacing_directory(target, KIND) as aside:
        (model.half() if same else model).save_pretrained(aside)
        task.tokenizer().save_pretrained(aside)
        shutil.copy(source / "training.json", aside / "training.json")
    result = evaluate(load(target), task, omitted=task.examples(list(run.omit)) if run.omit else ())
    metrics: dict[str, Any] = {"dtype": "float16" if same else "float32"}
    for split in result.splits:
        found = result.estimate(split)
        metrics[f"exact match, {split}"] = {"value": found.value, "n": found.n}
    return weights_hash(target), metrics


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then write the checkpoints and their manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/boolean"), help="where training happens and resumes")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="where the checkpoints are written")
    parser.add_argument("--jobs", type=int, default=2, help="models trained at a time, one thread each")
    parser.add_argument("--revision", default="unknown", help="of the code that trained them, for the manifest")
    options = parser.parse_args(argv)
    for run in runs():
        check_folder(options.out / run.name, KIND)
    train_all(options.work, options.jobs)
    for name, entry in package(options.work, options.out, options.revision).items():
        print(name, entry.metrics)
    return 0


if __name__ == "__main__":
    raise SystemExit(ended("boolean_checkpoints", main))
