"""Supervised training on the card game: `run_sft`, and `python -m interp_kit.studies.cards.sft`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from interp_kit.core.config import check_flag, expect
from interp_kit.core.program import ended
from interp_kit.core.showing import PROGRESS
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.dataset import CardsConfig
from interp_kit.tasks.cards.deals import Deals
from interp_kit.training.rows import TextRows
from interp_kit.training.sft_config import SFTConfig

NETWORK: dict[str, Any] = {
    "d_model": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_ctx": 48,
    "dropout": 0.0,
    "initializer_range": 0.05,
}


@dataclass(frozen=True)
class CardsSFTConfig:
    """Start, training and output of a model of the card game.

    Attributes:
        out: Folder of the trained model, a Hugging Face GPT-2 with tokenizer.
        start: Checkpoint to continue from (name, path or hub id); None starts from scratch.
        work: Folder of unfinished work, from which a killed run goes on; default: OUT with ".work" added.
        distinct: Let no two training prompts be the same deal in the same words.
        device: "cpu", "cuda", …; default: what torch finds.
        progress: Show a progress bar.
        training: The network and its training.
    """

    out: Path
    start: str | None = None
    work: Path | None = None
    distinct: bool = False
    device: str | None = None
    progress: bool = PROGRESS
    training: Annotated[SFTConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SFTConfig(
            **NETWORK,
            epochs=1.0,
            batch_size=128,
            loss_on="completion",
            optimiser="muon",
            learning_rate=0.003,
            matrix_learning_rate=0.02,
            warm_up=100,
            flat=0.4,
            check_every=100,
            keep="best",
            seed=0,
        )
    )

    def __post_init__(self) -> None:
        check_flag("distinct", self.distinct)
        check_flag("progress", self.progress)


def deals_of(task: CardsTask, n: int, seed: int, *, distinct: bool = False) -> Deals:
    """n deals of the task's split; `distinct` drops those that repeat an earlier one, wording included.

    Raises:
        ValueError: n is below 1, or the split does not hold so many distinct deals in 20 draws per deal.
    """
    if not distinct:
        return task.deals(n, seed)
    drawn = task.deals(20 * n, seed)
    keys = np.column_stack([drawn.rule, drawn.style, drawn.colour, drawn.value])
    first = np.sort(np.unique(keys, axis=0, return_index=True)[1])[:n]
    if len(first) < n:
        raise ValueError(f"{task.split.name} gave only {len(first)} distinct deals of {20 * n}; ask for fewer than {n}")
    return drawn.take(first)


def rows_of(task: CardsTask, deals: Deals) -> TextRows:
    """Deals as training texts: the prompt, the answer and end-of-text."""
    tokens, prompts = task.encode(deals)
    return TextRows(tokens, prompts, prompts + 2)


def run_sft(task_config: CardsConfig, training_config: CardsSFTConfig) -> tuple[Path, dict[str, Any]]:
    """Train a model of the card game, or go on with a killed run of the same configuration.

    Args:
        task_config: Sizes and seed of the data.
        training_config: The training, and where it is written.

    Returns:
        The folder of the trained model (the best by validation accuracy, if the training keeps that), and metrics:
        what `evaluate_cards` measures on all splits and on training deals.

    Raises:
        ValueError, OSError, FloatingPointError: As `train_sft` does.
    """
    from interp_kit.models.checkpoints import load
    from interp_kit.studies.cards.evaluate import evaluate_cards
    from interp_kit.training.sft import train_sft

    expect("task_config", task_config, CardsConfig)
    expect("training_config", training_config, CardsSFTConfig)
    t = training_config
    task, val = (CardsTask(split, cards=task_config.cards) for split in ("train", "val"))
    deals = deals_of(task, task_config.train, task_config.seed, distinct=t.distinct)
    train_sft(
        task,
        rows_of(task, deals),
        t.out,
        t.training,
        validation=rows_of(val, val.deals(task_config.val, task_config.seed)),
        start=t.start,
        work=t.work or t.out.with_name(f"{t.out.name}.work"),
        device=t.device,
        progress=t.progress,
    )
    found = evaluate_cards(load(t.out), task_config, trained_on=deals)
    return t.out, found.to_json()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a model of the card game and measure it on every split."""

    data: CardsConfig = field(default_factory=CardsConfig)
    run: Annotated[CardsSFTConfig, tyro.conf.arg(name="")]


def main(argv: Sequence[str] | None = None) -> int:
    """The command: train, and write `evaluation.json` beside the model's folder."""

    def work() -> None:
        from interp_kit.core.files import write_json

        options = tyro.cli(Options, args=argv, prog="python -m interp_kit.studies.cards.sft")
        path, metrics = run_sft(options.data, options.run)
        print(write_json(path.with_name(f"{path.name}.evaluation.json"), metrics))

    return ended("cards-sft", work)


if __name__ == "__main__":
    raise SystemExit(main())
