"""Recipe of the shipped graph models: the direct and the trace model, and the direct one trained on with three
objectives.

    python -m interp_kit.studies.graphs.training.train --form trace --arms shallow0 --graphs 20 --questions 4 \\
        --steps 4500 --out runs/graphs/trace
    python -m interp_kit.studies.graphs.training.train --form direct --arms shallow0 --graphs 32 --questions 8 \\
        --steps 1500 --flat 0.2 --curriculum 0.0001 --rate 0.01 --start runs/graphs/trace/trace_0.safetensors \\
        --out runs/graphs/direct
    python -m interp_kit.studies.graphs.checkpoints --work runs/graphs

An hour and a half of one core, then 20 minutes for the arms. The shipped direct model went on from the trace model's
weights after 2,400 of its steps: from scratch it came no further in 4,000 (docs/decisions/graphs.md).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro

from interp_kit.core.files import read_json, write_json
from interp_kit.core.folders import check_folder
from interp_kit.core.parallel import in_processes
from interp_kit.core.program import ended
from interp_kit.models.checkpoints import (
    TRAINING,
    Entry,
    deciding_files,
    digest_of,
    load,
    read_manifest,
    store,
    weights_hash,
    write_manifest,
)
from interp_kit.studies.graphs.accuracy import evaluate_graphs
from interp_kit.studies.graphs.arms import Arm, arms, train
from interp_kit.studies.graphs.training.package import KIND, package
from interp_kit.tasks.graphs.task import FORMS, CompactGraphsTask

RECIPE = "interp_kit.studies.graphs.checkpoints"
FOLDER = "graphs"
NETWORK = "shallow0"  # trained on depths 0 to 2, so that depth 3 is new
MEASURED = 2048  # questions
SHIPPED_SEEDS = (0,)  # of the arms; the others are measured, and in ARMS, but their weights are not shipped
ARMS = "arms.json"  # beside the models: model -> rows of its evaluation, the start among them


def from_run(run: Path, form: str, root: Path, revision: str) -> dict[str, Entry]:
    """Ship the network of a run of `training.train` as ROOT/graphs/FORM."""
    told = read_json(run / f"{form}.json")
    arm = next(arm for arm in told["arms"] if arm["name"] == NETWORK)
    at = told["arms"].index(arm)
    task = CompactGraphsTask(form, "train", range(arm["top"] + 1))
    facts = {
        "task": task.name,
        "description": task.describe(),
        "network": arm,
        "settings": told["settings"],
        "start": told.get("start"),
        "steps": told["steps"],
        "device": told["device"],
        "torch": told["torch"],
        "curve": [
            {"step": line["step"], "loss": round(line["loss"][at], 4), "accuracy": round(line["accuracy"][at], 4)}
            for line in told["curve"][:: max(1, len(told["curve"]) // 100)]
        ],
    }
    with TemporaryDirectory() as aside:
        source = package(run, Path(aside), [NETWORK])[0]
        task.tokenizer().save_pretrained(source)  # pyright: ignore[reportAttributeAccessIssue]
        return {f"{FOLDER}/{form}": _ship(source, form, form, facts, arm["seed"], root, revision)}


def measured(chosen: Sequence[Arm], work: Path, root: Path) -> Path:
    """Measure trained arms, and the model that they started from on the same questions, and write ROOT/graphs/ARMS."""
    folders = {f"{FOLDER}/direct": root / FOLDER / "direct"}
    folders |= {f"{FOLDER}/{arm.name}": work / arm.name for arm in chosen}
    rows = {}
    for name, folder in folders.items():
        frame = evaluate_graphs(load(folder), splits=("test",), n=MEASURED).to_frame()
        rows[name] = json.loads(str(frame.drop(columns=["whole_trace"]).to_json(orient="records")))  # None for nan
    return write_json(root / FOLDER / ARMS, {"questions": MEASURED, "split": "test", "models": rows})


def from_arm(arm: Arm, work: Path, root: Path, revision: str) -> dict[str, Entry]:
    """Ship a trained arm as ROOT/graphs/direct-OBJECTIVE-seedN, naming its start by its checkpoint."""
    start = f"{FOLDER}/direct"
    facts = read_json(work / arm.name / TRAINING) | {"start": {"name": start, "sha256": digest_of(root / start)}}
    return {f"{FOLDER}/{arm.name}": _ship(work / arm.name, arm.name, "direct", facts, arm.seed, root, revision)}


def _ship(source: Path, name: str, form: str, facts: Mapping[str, Any], seed: int, root: Path, revision: str) -> Entry:
    path = root / FOLDER / name
    store(source, path, KIND, facts)
    found = evaluate_graphs(load(path), form, splits=("test",), n=MEASURED).to_frame()
    metrics = {
        f"accuracy, {kind}, depth {depth}": {"value": round(float(accuracy), 4), "n": int(n)}
        for kind, depth, accuracy, n in found[["kind", "depth", "accuracy", "n"]].to_numpy().tolist()
    }
    return Entry(
        path=f"{FOLDER}/{name}",
        sha256=weights_hash(path),
        task="graphs",
        recipe=RECIPE,
        seed=seed,
        initialisation=f"gpt2-128x4x8-graphs-{form}-seed0",
        revision=revision,
        metrics={"dtype": "float32", **metrics},
        files=deciding_files(path),
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the arms that are missing, and write all graph models as checkpoints."""

    work: Path = Path("runs/graphs")
    """folder with the runs `direct` and `trace`, and of the arms' training, which resumes there"""
    out: Path = Path("checkpoints")
    """folder of the checkpoints and their manifest"""
    jobs: int = 1
    """arms trained at a time, one thread each"""
    revision: str = "unknown"
    """of the code that trained them, for the manifest"""
    no_arms: bool = False
    """ship the direct and the trace model only"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""

    def work() -> None:
        options = tyro.cli(Options, args=argv, prog="python -m interp_kit.studies.graphs.checkpoints")
        chosen = [] if options.no_arms else arms()
        for name in (*FORMS, *(arm.name for arm in chosen)):
            check_folder(options.out / FOLDER / name, KIND)
        torch.set_num_threads(1)
        entries: dict[str, Entry] = {}
        for form in FORMS:
            entries |= from_run(options.work / form, form, options.out, options.revision)
        start = options.out / FOLDER / "direct"
        jobs = [partial(train, arm, start, options.work / arm.name) for arm in chosen]
        in_processes(_call, jobs, options.jobs, name="models", progress=True)
        for arm in chosen:
            if arm.seed in SHIPPED_SEEDS:
                entries |= from_arm(arm, options.work, options.out, options.revision)
        if chosen:
            measured(chosen, options.work, options.out)
        write_manifest({**read_manifest(options.out), **entries}, options.out)
        for name, entry in entries.items():
            print(name, entry.metrics)

    return ended("graphs-checkpoints", work)


def _call(job: "partial[Path]") -> Path:
    return job()


if __name__ == "__main__":
    raise SystemExit(main())
