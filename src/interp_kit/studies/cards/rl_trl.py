"""An RL arm of the card game at trl's cost: `python -m interp_kit.studies.cards.rl_trl --start S0 --out FOLDER`.

It reads the first of the prompts that all continuations of S0 of its seed read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from interp_kit.core.config import check_count, check_number
from interp_kit.core.program import ended
from interp_kit.core.showing import PROGRESS
from interp_kit.studies.cards.recipe import BUDGET, CONTINUED, TRL_COST, continuation_deals
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.deals import Deals
from interp_kit.tasks.cards.text import answer_text
from interp_kit.tasks.cards.verifier import Reward
from interp_kit.training.rl.trl_config import TRLConfig, VerifiedPrompts
from interp_kit.training.rl.trl_run import train_trl


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a policy of the card game through trl, from a checkpoint.

    `accelerate launch --multi_gpu --num_processes 2 -m interp_kit.studies.cards.rl_trl …` shares it among processes; on
    CPUs too, with `--device cpu` (but without accelerate's `--cpu`, which starts one process unless there is MPI).
    """

    start: str
    """folder of the start model, a Hugging Face GPT-2 of the card game"""
    out: Path
    """folder of the trained model"""
    prompts: int = BUDGET // TRL_COST
    """training prompts: the first of those that continuations of the seed read"""
    split: str = "train"
    """whose deals are learned from; the prompts of any other split than train are drawn from it by the seed"""
    format_bonus: float = 0.0
    """reward of an answer of the right kind, below 1"""
    work: Path | None = None
    """folder of unfinished work, from which a killed run goes on; default: OUT with .work added"""
    device: str | None = None
    """cpu, or by default what torch finds"""
    progress: bool = PROGRESS
    """show a progress bar"""
    training: Annotated[TRLConfig, tyro.conf.arg(name="")] = field(default_factory=TRLConfig)

    def __post_init__(self) -> None:
        check_count("prompts", self.prompts, most=CONTINUED if self.split == "train" else None)
        check_number("format_bonus", self.format_bonus, least=0, below=1)


def prompts_of(task: CardsTask, deals: Deals) -> VerifiedPrompts:
    """Deals as prompts, counted by rule."""
    text, answer, group = [], [], []
    for example in task.examples(deals):
        answer.append(example.labels["answer"])
        text.append(example.text.removesuffix(answer_text(answer[-1])))
        group.append(task.rules[example.labels["rule"]].name)
    return VerifiedPrompts(tuple(text), tuple(answer), tuple(group))


def run(options: Options) -> Path:
    """Train as the options say, and return the folder of the trained model."""
    o, seed = options, options.training.seed
    task = CardsTask(o.split)
    read = continuation_deals(seed).take(np.arange(o.prompts)) if o.split == "train" else task.deals(o.prompts, seed)
    return train_trl(
        task,
        prompts_of(task, read),
        o.start,
        o.out,
        o.training,
        reward=Reward(o.format_bonus),
        work=o.work,
        device=o.device,
        progress=o.progress,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""

    def work() -> None:
        options = tyro.cli(Options, args=argv, prog="python -m interp_kit.studies.cards.rl_trl")
        torch.set_num_threads(1)  # the models are too small to gain by more
        print(run(options))

    return ended("cards-rl-trl", work)


if __name__ == "__main__":
    raise SystemExit(main())
