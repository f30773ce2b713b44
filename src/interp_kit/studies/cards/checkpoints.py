"""Recipe of the shipped card models: S0, its SFT and RL continuations and the small-data arms, three seeds each.

`python -m interp_kit.studies.cards.checkpoints --work runs/cards` trains what is missing (about 40 CPU-minutes in all;
a killed run goes on where it was) and writes `checkpoints/cards`, their evaluations and their entries in the manifest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from interp_kit.studies.cards.evaluate import evaluate_cards
from interp_kit.studies.cards.recipe import FOLDER, Arm, arms
from interp_kit.studies.cards.rl import facts, prompts_of
from interp_kit.studies.cards.sft import rows_of
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.dataset import CardsConfig
from interp_kit.training.rl.config import RLConfig
from interp_kit.training.rl.trl_config import TRLConfig

KIND = "packaged checkpoint"
RECIPE = "interp_kit.studies.cards.checkpoints"
TESTS = CardsConfig(test=400)  # deals per split
EVALUATIONS = "evaluations.json"  # beside the models: name -> evaluation


def train(arm: Arm, work: Path) -> Path:
    """Train one arm into WORK/<name>; a finished one is kept, an unfinished one goes on."""
    from interp_kit.training.rl.shared_prompt import train_shared_prompt
    from interp_kit.training.sft import train_sft

    out = work / arm.name
    if out.exists():
        return out
    if arm.method == "rl-trl":
        from interp_kit.studies.cards import rl_trl

        training = TRLConfig(seed=arm.seed)
        options = rl_trl.Options(
            start=str(work / str(arm.start)),
            out=out,
            prompts=arm.prompts,
            device="cpu",
            progress=False,
            training=training,
        )
        return rl_trl.run(options)
    if arm.method == "rl":
        task = CardsTask("train")
        return train_shared_prompt(
            work / str(arm.start), prompts_of(task, arm.deals()), out, RLConfig(seed=arm.seed),
            tokenizer=task.tokenizer(), facts=facts(task), progress=False,
        )  # fmt: skip
    task, val = CardsTask("train"), CardsTask("val")
    config = arm.config(out, None if arm.start is None else work / arm.start)
    return train_sft(
        task,
        rows_of(task, arm.deals()),
        out,
        config.training,
        validation=rows_of(val, val.deals(TESTS.val, TESTS.seed)),
        start=config.start,
        work=out.with_name(f"{out.name}.work"),
        device="cpu",
        progress=False,
    )


def train_all(chosen: Sequence[Arm], work: Path, jobs: int = 1) -> None:
    """Train the arms that WORK does not hold yet, `jobs` at a time, those that others continue first."""
    continued = {arm.start for arm in chosen}
    for first in (True, False):
        now = [arm for arm in chosen if (arm.name in continued) == first]
        in_processes(partial(train, work=work), now, jobs, name="models", progress=True)


def package(chosen: Sequence[Arm], work: Path, root: Path, revision: str) -> dict[str, Entry]:
    """Write the trained arms to ROOT/cards, measure them, and enter both in the manifest.

    Weights stay in float32: differences between arms are what is studied.
    """
    entries: dict[str, Entry] = {}
    path = root / FOLDER / EVALUATIONS
    evaluations: dict[str, Any] = read_json(path) if path.exists() else {}
    for arm in chosen:
        name = f"{FOLDER}/{arm.name}"
        _store(arm, work / arm.name, root)
        found = evaluate_cards(load(root / name), TESTS, trained_on=arm.deals())
        evaluations[name] = found.to_json() | {"model": name}
        metrics: dict[str, Any] = {"dtype": "float32"}
        for split, score in found.splits.items():
            metrics[f"accuracy, {split}"] = {"value": round(score.accuracy, 4), "n": score.n}
        entries[name] = Entry(
            path=name,
            sha256=weights_hash(root / name),
            task="cards",
            recipe=RECIPE,
            seed=arm.seed,
            initialisation=f"gpt2-64x2x4-cards-seed{arm.seed}",
            revision=revision,
            metrics=metrics,
            files=deciding_files(root / name),
        )
    kept = {name: entry for name, entry in read_manifest(root).items() if name not in entries}
    write_manifest({**kept, **entries}, root)
    write_json(path, dict(sorted(evaluations.items())))
    return entries


def _store(arm: Arm, source: Path, root: Path) -> None:
    """Ship a trained arm, naming the arm that it continues by its checkpoint."""
    facts = None
    if arm.start is not None:
        start = f"{FOLDER}/{arm.start}"
        facts = read_json(source / TRAINING) | {"start": {"name": start, "sha256": digest_of(root / start)}}
        if arm.method != "sft":  # with the share of right answers by rule: half of the lines are below 1 MB
            facts["history"] = facts["history"][1::2]
    store(source, root / FOLDER / arm.name, KIND, facts)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the card models that are missing, and write them as checkpoints."""

    work: Path = Path("runs/cards")
    """folder of training, which resumes there"""
    out: Path = Path("checkpoints")
    """folder of the checkpoints and their manifest"""
    only: tuple[str, ...] = ()
    """kinds of arms: s0, sft, sft-reordered, small-100, …; default: all"""
    jobs: int = 1
    """models trained at a time, one thread each"""
    revision: str = "unknown"
    """of the code that trained them, for the manifest"""
    no_package: bool = False
    """train only"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""

    def work() -> None:
        options = tyro.cli(Options, args=argv, prog="python -m interp_kit.studies.cards.checkpoints")
        kinds = sorted({arm.kind for arm in arms()})
        if unknown := sorted(set(options.only) - set(kinds)):
            raise ValueError(f"--only names {', '.join(unknown)}; the arms are {', '.join(kinds)}")
        chosen = [arm for arm in arms() if not options.only or arm.kind in options.only]
        for arm in chosen:
            check_folder(options.out / FOLDER / arm.name, KIND)
        torch.set_num_threads(1)
        train_all(chosen, options.work, options.jobs)
        if not options.no_package:
            for name, entry in package(chosen, options.work, options.out, options.revision).items():
                print(name, entry.metrics)

    return ended("cards-checkpoints", work)


if __name__ == "__main__":
    raise SystemExit(main())
