"""Supervised training of a small GPT-2 from scratch, through transformers.Trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from interp_kit.core.config import check_choice, check_count, check_flag, check_number, expect, to_mapping
from interp_kit.core.example import Example
from interp_kit.core.files import write_json
from interp_kit.core.folders import check_folder, replacing_directory
from interp_kit.core.showing import PROGRESS
from interp_kit.core.task import AbstractTask
from interp_kit.engine.inputs import check_length

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


KIND = "trained model"


@dataclass(frozen=True)
class SFTConfig:
    """A GPT-2 and how it is trained. The defaults are the documented recipe of the boolean task.

    n_ctx: positions of the model; loss_on: every token of the text, or the completion alone; seed: initialisation, data
    order and dropout. Raises ValueError naming an option that describes no model or no training.
    """

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_ctx: int = 64
    dropout: float = 0.1
    epochs: float = 3.0
    learning_rate: float = 5e-4
    batch_size: int = 16
    weight_decay: float = 0.0
    loss_on: Literal["all", "completion"] = "all"
    seed: int = 42

    def __post_init__(self) -> None:
        for option in ("d_model", "n_layers", "n_heads", "n_ctx", "batch_size"):
            check_count(option, getattr(self, option))
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model is {self.d_model}; expected a multiple of n_heads, which is {self.n_heads}")
        check_number("dropout", self.dropout, least=0, below=1)
        check_number("epochs", self.epochs, above=0)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_choice("loss_on", self.loss_on, ("all", "completion"))
        check_count("seed", self.seed, least=0, most=2**32 - 1)


class ExampleDataset(torch.utils.data.Dataset):
    """Examples as padded rows of token ids with labels; -100 where there is no loss."""

    def __init__(self, task: AbstractTask, examples: Sequence[Example], loss_on: Literal["all", "completion"]) -> None:
        batch = task.batch(examples)
        start = batch.prompt_length if loss_on == "completion" else torch.zeros_like(batch.prompt_length)
        learnt = batch.mask & (torch.arange(batch.tokens.shape[1]) >= start[:, None])
        self.tokens, self.mask = batch.tokens, batch.mask.long()
        self.labels = batch.tokens.masked_fill(~learnt, -100)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[i], "attention_mask": self.mask[i], "labels": self.labels[i]}


def new_gpt2(task: AbstractTask, config: SFTConfig) -> "GPT2LMHeadModel":
    """A randomly initialised GPT-2 over the task's closed vocabulary; the seed decides the weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(config.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(task.vocabulary),
            n_positions=config.n_ctx,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=task.pad,
            eos_token_id=task.pad,
        )
    )


@torch.inference_mode(False)  # training needs gradients, whatever the caller does
def train_sft(
    task: AbstractTask,
    examples: Sequence[Example],
    output: str | Path,
    config: SFTConfig | None = None,
    *,
    validation: Sequence[Example] | None = None,
    device: str | None = None,
    progress: bool = PROGRESS,
) -> Path:
    """Train on `examples` and write OUTPUT as a Hugging Face directory with tokenizer; returns OUTPUT.

    The folder appears only when training is complete. `training.json` in it holds the config, the number of examples
    and of distinct ones, and the losses. Raises ValueError for no examples or texts longer than the context; OSError,
    before training, for a folder that holds anything but a model that was trained there before.
    """
    expect("task", task, AbstractTask, "as interp_kit.task(name) gives")
    expect("examples", examples, (list, tuple), "as task.sample(n, seed) gives")
    for given, option in ((examples, "examples"), (validation or (), "validation")):
        for example in given:
            expect(f"one of {option}", example, Example, "as task.sample(n, seed) gives")
    config = SFTConfig() if config is None else config
    expect("config", config, SFTConfig)
    check_flag("progress", progress)
    check_folder(output, KIND)
    from transformers import Trainer, TrainingArguments

    data = ExampleDataset(task, examples, config.loss_on)
    check_length(data.tokens.shape[1], config.n_ctx)
    model = new_gpt2(task, config)
    with replacing_directory(output, KIND) as aside:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(aside / "trainer"),
                num_train_epochs=config.epochs,
                per_device_train_batch_size=config.batch_size,
                per_device_eval_batch_size=256,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                seed=config.seed,
                use_cpu=(device == "cpu"),
                save_strategy="no",
                eval_strategy="epoch" if validation else "no",
                logging_steps=250,
                report_to=[],
                disable_tqdm=not progress,
                dataloader_pin_memory=False,
            ),
            train_dataset=data,
            eval_dataset=ExampleDataset(task, validation, config.loss_on) if validation else None,
        )
        outcome = trainer.train()
        if not torch.isfinite(torch.tensor(outcome.training_loss)):
            raise FloatingPointError(f"training diverged: loss {outcome.training_loss} (seed {config.seed})")
        model.save_pretrained(aside)
        task.tokenizer().save_pretrained(aside)  # pyright: ignore[reportAttributeAccessIssue]
        write_json(
            aside / "training.json",
            {
                "task": task.name,
                "description": task.describe(),
                "config": to_mapping(config),
                "examples": len(examples),
                "distinct_examples": len({example.tokens for example in examples}),
                "history": [row for row in trainer.state.log_history if "loss" in row or "eval_loss" in row],
            },
        )
        trainer_files = aside / "trainer"
        if trainer_files.exists():
            import shutil

            shutil.rmtree(trainer_files)
    return Path(output)
