"""Reinforcement learning on the card game: `run_rl`, and `python -m interp_kit.studies.cards.rl`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from interp_kit.core.config import check_flag, expect
from interp_kit.core.program import ended
from interp_kit.core.showing import PROGRESS
from interp_kit.core.task import AbstractTask
from interp_kit.models.meeting import check_meeting
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.dataset import CardsConfig
from interp_kit.tasks.cards.deals import Deals
from interp_kit.tasks.cards.verifier import Reward
from interp_kit.training.rl.config import RLConfig
from interp_kit.training.rl.shared_prompt import Prompts, train_shared_prompt


@dataclass(frozen=True)
class CardsRLConfig:
    """Start, training and output of a policy.

    Attributes:
        out: Folder of the trained model, a Hugging Face GPT-2 with tokenizer.
        work: Folder of unfinished work, from which a killed run goes on; default: OUT with ".work" added.
        split: Whose deals are learned from; "train", or another to learn from other rules.
        progress: Show a progress bar.
        training: The training.
    """

    out: Path
    work: Path | None = None
    split: str = "train"
    progress: bool = PROGRESS
    training: Annotated[RLConfig, tyro.conf.arg(name="")] = field(default_factory=RLConfig)

    def __post_init__(self) -> None:
        check_flag("progress", self.progress)


def prompts_of(task: CardsTask, deals: Deals, format_bonus: float = 0.0) -> Prompts:
    """Deals as prompts, each rewarded by the task's verifier."""
    tokens, length = task.encode(deals)
    answer = task.labels(deals)["answer"]
    reward = Reward(format_bonus)
    known: dict[int, torch.Tensor] = {}

    def of(rows: np.ndarray) -> torch.Tensor:
        for value in set(answer[rows].tolist()) - set(known):
            known[value] = torch.tensor([reward(piece, value) for piece in task.vocabulary])
        return torch.stack([known[value] for value in answer[rows].tolist()])

    return Prompts(tokens, length, of, [task.rules[rule].name for rule in deals.rule.tolist()])


def facts(task: CardsTask) -> dict[str, Any]:
    """Entries of training.json about the task."""
    return {"task": task.name, "description": task.describe(), "split": task.split.name}


def run_rl(
    task_config: CardsConfig, training_config: CardsRLConfig, init_checkpoint: str | Path
) -> tuple[Path, dict[str, Any]]:
    """Train a policy from a checkpoint, or go on with a killed run of the same configuration.

    Args:
        task_config: Number and seed of the prompts.
        training_config: The training, and where it is written.
        init_checkpoint: A Hugging Face GPT-2 folder of the card game.

    Returns:
        The folder of the trained model, and what `evaluate_cards` measures of it.

    Raises:
        ValueError, OSError, FloatingPointError: As `train_shared_prompt` does.
    """
    expect("task_config", task_config, CardsConfig)
    expect("training_config", training_config, CardsRLConfig)
    task = CardsTask(training_config.split, cards=task_config.cards)
    deals = task.deals(task_config.train, task_config.seed)
    return train_on(task, deals, training_config, init_checkpoint, task_config)


def train_on(
    task: CardsTask, deals: Deals, config: CardsRLConfig, start: str | Path, tests: CardsConfig | None = None
) -> tuple[Path, dict[str, Any]]:
    """As `run_rl`, on these deals."""
    from interp_kit.models.checkpoints import load
    from interp_kit.studies.cards.evaluate import evaluate_cards

    t = config
    check_meeting(load(start), task, AbstractTask)
    train_shared_prompt(
        start,
        prompts_of(task, deals, t.training.format_bonus),
        t.out,
        t.training,
        tokenizer=task.tokenizer(),
        facts=facts(task),
        work=t.work,
        progress=t.progress,
    )
    return t.out, evaluate_cards(load(t.out), tests, trained_on=deals).to_json()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a policy of the card game from a checkpoint, and measure it on every split."""

    start: str
    data: Annotated[CardsConfig, tyro.conf.arg(name="")] = field(default_factory=CardsConfig)
    run: Annotated[CardsRLConfig, tyro.conf.arg(name="")]


def main(argv: Sequence[str] | None = None) -> int:
    """The command: train, and write `evaluation.json` beside the model's folder."""

    def work() -> None:
        from interp_kit.core.files import write_json

        options = tyro.cli(Options, args=argv, prog="python -m interp_kit.studies.cards.rl")
        path, metrics = run_rl(options.data, options.run, options.start)
        print(write_json(path.with_name(f"{path.name}.evaluation.json"), metrics))

    return ended("cards-rl", work)


if __name__ == "__main__":
    raise SystemExit(main())
