"""Supervised training of a small GPT-2, from scratch or from a checkpoint, through transformers.Trainer."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp_kit.core.config import check_flag, expect, to_mapping
from interp_kit.core.example import Example
from interp_kit.core.files import write_json
from interp_kit.core.folders import check_folder, replacing_directory
from interp_kit.core.identity import Identity, fingerprint
from interp_kit.core.showing import PROGRESS
from interp_kit.core.task import AbstractTask
from interp_kit.engine.inputs import check_length
from interp_kit.models.checkpoints import checkpoint_root, digest_of, read_description, read_manifest, verify_entry
from interp_kit.models.gpt2 import fetch, read_gpt2
from interp_kit.training.resume import close_work, open_work
from interp_kit.training.rows import ExampleDataset, TextRows
from interp_kit.training.sft_config import SFTConfig

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

    from interp_kit.training.trainer import SFTTrainer

KIND = "trained model"


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
            initializer_range=config.initializer_range,
            bos_token_id=task.pad,
            eos_token_id=task.pad,
        )
    )


def folder_of(start: str | Path) -> Path:
    """The folder of a checkpoint by name in `checkpoints/` (verified), path or hub id.

    Raises:
        CheckpointError: There is none, or a shipped one was changed.
    """
    entry = read_manifest().get(str(start))
    if entry is None:
        return fetch(start)
    folder = checkpoint_root() / entry.path
    verify_entry(entry, folder, f"checkpoint {str(start)!r}")
    return folder


def check_start(task: AbstractTask, start: str | Path, folder: Path, vocab_size: int) -> None:
    """Raises ValueError if the model in `folder` has another vocabulary than the task, or learned another task."""
    if vocab_size != len(task.vocabulary):
        raise ValueError(
            f"{start} has {vocab_size} tokens, {task.name} has {len(task.vocabulary)}; start from a"
            " checkpoint of the task's own tokenizer"
        )
    description = read_description(folder)
    if description is not None:
        mine = Identity(task.name, fingerprint(task.describe()))
        theirs = Identity(description["name"], fingerprint(description))
        if theirs.differs(mine):
            raise ValueError(f"{start} learned the task {theirs}, these examples are of {mine}")


def started_gpt2(task: AbstractTask, config: SFTConfig, start: str | Path) -> "GPT2LMHeadModel":
    """The GPT-2 of a checkpoint, to be trained on.

    Raises:
        CheckpointError: No such checkpoint, or a damaged one.
        ValueError: It has another vocabulary or learned another task, or the config describes another network.
    """
    from transformers import set_seed

    folder = folder_of(start)
    set_seed(config.seed)
    model = read_gpt2(folder)
    check_start(task, start, folder, model.config.vocab_size)
    names = {"d_model": "n_embd", "n_layers": "n_layer", "n_heads": "n_head", "n_ctx": "n_positions"}
    for option, key in {**names, "dropout": "resid_pdrop"}.items():
        found, asked = getattr(model.config, key), getattr(config, option)
        if found != asked:
            raise ValueError(f"{option} is {asked}, but {start} has {found}; give the config that value")
    return model.train()


@torch.inference_mode(False)  # training needs gradients, whatever the caller does
def train_sft(
    task: AbstractTask,
    examples: Sequence[Example] | TextRows,
    output: str | Path,
    config: SFTConfig | None = None,
    *,
    validation: Sequence[Example] | TextRows | None = None,
    start: str | Path | None = None,
    work: str | Path | None = None,
    device: str | None = None,
    progress: bool = PROGRESS,
) -> Path:
    """Train a GPT-2 and write OUTPUT as a Hugging Face directory with tokenizer.

    The folder appears only when training is complete. `training.json` in it holds the config, the number of examples
    and of distinct ones, and the losses.

    Args:
        task: What is learned; its vocabulary is the tokenizer's.
        examples: Of the task, or their arrays.
        output: The folder to write.
        config: The network and its training.
        validation: Examples whose loss and accuracy are logged, and by which the best weights are chosen.
        start: Checkpoint to continue from (name, path or hub id), with a fresh optimizer; None starts from scratch.
        work: Folder for unfinished work: a killed run that is called again goes on from there. It is removed at the
            end. None keeps none.
        device: "cpu", or None for what torch finds.
        progress: Show a progress bar.

    Returns:
        OUTPUT.

    Raises:
        ValueError: No examples, texts longer than the context, a start that does not fit, or keep="best" without
            validation.
        OSError: Before training, if OUTPUT holds anything but a model that was trained there before, or WORK anything
            but this run.
        FloatingPointError: The loss is not finite.
    """
    config = _checked(task, examples, validation, config, progress)
    check_folder(output, KIND)
    data = ExampleDataset(task, examples, config.loss_on)
    check_length(data.tokens.shape[1], config.n_ctx)
    held_out = ExampleDataset(task, validation, config.loss_on) if validation else None
    model = new_gpt2(task, config) if start is None else started_gpt2(task, config, start)
    origin = None if start is None else {"name": str(start), "sha256": digest_of(folder_of(start))}
    run = {
        "task": task.name,
        "description": task.describe(),
        "config": to_mapping(config),
        "start": origin,
        "examples": len(data),
        "distinct_examples": data.rows.distinct,
    }
    digests = [rows and rows.rows.digest for rows in (data, held_out)]
    with replacing_directory(output, KIND) as aside:
        held = Path(work) if work is not None else aside / "trainer"
        latest = open_work(held, {**run, "data": digests})
        from interp_kit.training.trainer import build_trainer

        trainer = build_trainer(
            model, config, held, data, held_out, device=device, progress=progress, keep=work is not None
        )
        outcome = trainer.train(resume_from_checkpoint=str(latest) if latest else None)
        if not torch.isfinite(torch.tensor(outcome.training_loss)):
            raise FloatingPointError(f"training diverged: loss {outcome.training_loss} (seed {config.seed})")
        model.save_pretrained(aside)
        task.tokenizer().save_pretrained(aside)  # pyright: ignore[reportAttributeAccessIssue]
        write_json(aside / "training.json", {**run, **_history(trainer)})
        if work is None:
            shutil.rmtree(held)
    if work is not None:
        close_work(Path(work))
    return Path(output)


def _checked(
    task: object, examples: object, validation: object, config: SFTConfig | None, progress: object
) -> SFTConfig:
    expect("task", task, AbstractTask, "as interp_kit.task(name) gives")
    expect("examples", examples, (list, tuple, TextRows), "as task.sample(n, seed) gives")
    for given, option in ((examples, "examples"), (validation or (), "validation")):
        for example in () if isinstance(given, TextRows) else given:  # pyright: ignore[reportGeneralTypeIssues]
            expect(f"one of {option}", example, Example, "as task.sample(n, seed) gives")
    config = SFTConfig() if config is None else config
    expect("config", config, SFTConfig)
    check_flag("progress", progress)
    if config.keep == "best" and not validation:
        raise ValueError("keep is 'best', but there is no validation; give validation examples, or keep 'last'")
    return config


def _history(trainer: "SFTTrainer") -> dict[str, Any]:
    found: dict[str, Any] = {"steps": trainer.state.global_step}
    if trainer.sft.keep == "best":
        found |= {"kept_step": trainer.state.best_global_step, "kept_accuracy": trainer.state.best_metric}
    return {**found, "history": [row for row in trainer.state.log_history if "loss" in row or "eval_loss" in row]}
