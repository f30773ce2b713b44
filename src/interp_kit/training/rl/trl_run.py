"""Reinforcement learning with a verifier through trl, with completions of any length: GRPO (Shao et al. 2024) with its
losses, and RLOO (Ahmadian et al. 2024).

trl scores GPT-2 at wrong positions under left padding, in the policy and in the reference model, which it loads itself;
both are hooked here. Several processes (`accelerate launch`) share a step.
"""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp_kit.core.config import check_flag, expect, to_mapping
from interp_kit.core.files import write_json
from interp_kit.core.folders import check_folder, replacing_directory
from interp_kit.core.showing import PROGRESS
from interp_kit.core.task import AbstractTask
from interp_kit.engine.inputs import check_length
from interp_kit.models.checkpoints import digest_of
from interp_kit.models.gpt2 import read_gpt2
from interp_kit.training.optimisers import MuonWithAdamW, rate
from interp_kit.training.resume import close_work, open_work
from interp_kit.training.rl.policy import hook_positions
from interp_kit.training.rl.trl_config import TRLConfig, VerifiedPrompts
from interp_kit.training.sft import KIND, check_start, folder_of

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

CISPO_CLIP = 5.0  # trl's default of 0.2 would scale every on-policy gradient of CISPO by 0.2
SUCCESS = "success/"


@torch.inference_mode(False)  # training needs gradients, whatever the caller does
def train_trl(
    task: AbstractTask,
    prompts: VerifiedPrompts,
    start: str | Path,
    output: str | Path,
    config: TRLConfig | None = None,
    *,
    reward: Callable[[str, int], float],
    work: str | Path | None = None,
    device: str | None = None,
    progress: bool = PROGRESS,
) -> Path:
    """Train a GPT-2 against a verifier and write OUTPUT as a Hugging Face directory with tokenizer.

    The folder appears only when training is complete. `training.json` in it holds the config, the cost and the history:
    reward, success per group, KL from the start in nats per token, entropy.

    Args:
        task: Its vocabulary is the tokenizer's.
        prompts: What is learned from, in an order that the seed decides; a last incomplete batch is left out.
        start: Checkpoint to start from (name, path or hub id), and the reference.
        output: The folder to write.
        config: How it is trained.
        reward: (completion, answer) -> 1 or more for the right answer, less than 1 for any other.
        work: Folder of unfinished work, from which a killed run goes on; default: OUTPUT with ".work" added.
        device: "cpu", or None for what torch finds.
        progress: Show a progress bar.

    Returns:
        OUTPUT.

    Raises:
        ValueError: Too few prompts for a batch, prompts longer than the context, a batch that the processes cannot
            share, or a start that does not fit.
        OSError: Before training, if OUTPUT holds anything but a model that was trained there before, or WORK anything
            but this run.
        FloatingPointError: A weight, or a logit that is sampled from, is not finite.
    """
    config = TRLConfig() if config is None else config
    expect("task", task, AbstractTask, "as interp_kit.task(name) gives")
    expect("prompts", prompts, VerifiedPrompts)
    expect("config", config, TRLConfig)
    check_flag("progress", progress)
    output = check_folder(output, KIND)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    folder = folder_of(start)
    model = read_gpt2(folder)
    check_start(task, start, folder, model.config.vocab_size)
    steps = _steps(task, prompts, config, model, state.num_processes)
    run = {
        "task": task.name,
        "description": task.describe(),
        "method": "policy gradient, trl",
        "config": to_mapping(config),
        "reward": repr(reward) if not hasattr(reward, "__qualname__") else reward.__qualname__,
        "start": {"name": str(start), "sha256": digest_of(folder)},
        "prompts": len(prompts.text),
        "processes": state.num_processes,
    }
    work = Path(work) if work is not None else output.with_name(f"{output.name}.work")
    with state.main_process_first():
        latest = open_work(work, {**run, "data": prompts.digest}, state.num_processes)
    configs = copy.deepcopy((model.config, model.generation_config))
    model.config._name_or_path = str(folder)  # trl loads its reference model from there
    trainer = build_trainer(task, prompts, model, config, work, reward, steps, device=device, progress=progress)
    try:
        trainer.train(resume_from_checkpoint=str(latest) if latest else None)
    except RuntimeError as error:
        if "probability tensor" not in str(error):  # torch's, of a distribution that cannot be sampled
            raise
        step = trainer.state.global_step
        raise FloatingPointError(
            f"training diverged after step {step}: no finite logits (seed {config.seed})"
        ) from error
    if state.is_main_process:
        history = [_line(row, config) for row in trainer.state.log_history if "reward" in row]
        cost = {"forwards_a_prompt": config.forwards, "backwards_a_prompt": config.samples}
        model.config, model.generation_config = configs  # trl changes some of it
        with replacing_directory(output, KIND) as aside:
            model.save_pretrained(aside)
            task.tokenizer().save_pretrained(aside)  # pyright: ignore[reportAttributeAccessIssue]
            write_json(aside / "training.json", {**run, "steps": steps, **cost, "history": history})
        (work / "README.md").unlink(missing_ok=True)  # trl's model card
        close_work(work)
    state.wait_for_everyone()
    return output


def build_trainer(
    task: AbstractTask,
    prompts: VerifiedPrompts,
    model: "GPT2LMHeadModel",
    config: TRLConfig,
    folder: Path,
    reward: Callable[[str, int], float],
    steps: int,
    *,
    device: str | None = None,
    progress: bool = False,
) -> "GRPOTrainer | RLOOTrainer":
    """The trl trainer of a run, with positions of policy and reference hooked.

    Args:
        task: As `train_trl`.
        prompts: As `train_trl`.
        model: The start model; `config._name_or_path` names the folder that it was read from.
        config: As `train_trl`.
        folder: For checkpoints.
        reward: As `train_trl`.
        steps: In all.
        device: As `train_trl`.
        progress: As `train_trl`.
    """
    from datasets import Dataset
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import PrinterCallback
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    c = config
    tokenizer: Any = task.tokenizer()
    tokenizer.padding_side = "left"
    if c.optimiser == "muon":
        optimiser = MuonWithAdamW(model, c.matrix_learning_rate, c.learning_rate)
    else:
        optimiser = torch.optim.AdamW(model.parameters(), lr=c.learning_rate, weight_decay=0.0)
    hook_positions(model)
    trainer = (RLOOTrainer if c.loss == "rloo" else GRPOTrainer)(
        model=model,
        reward_funcs=_reward_function(reward),
        args=_arguments(c, folder, steps, device, progress),
        train_dataset=Dataset.from_dict({"prompt": prompts.text, "answer": prompts.answer, "group": prompts.group}),
        processing_class=tokenizer,
        optimizers=(optimiser, LambdaLR(optimiser, lambda step: rate(step, steps, c.warm_up, c.flat))),
        callbacks=[_finite()],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.ref_model is not None:
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        reference.load_state_dict(model.state_dict())  # whatever trl made of the folder
        hook_positions(reference)
    return trainer


def _arguments(c: TRLConfig, folder: Path, steps: int, device: str | None, progress: bool) -> Any:
    from accelerate import PartialState
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.rloo_config import RLOOConfig

    completions = c.batch_size * c.samples // PartialState().num_processes
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": completions,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
        "num_generations": c.samples,
        "max_completion_length": c.longest,
        "temperature": c.temperature,
        "beta": c.beta,
        "disable_dropout": True,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": device == "cpu",
        "max_grad_norm": c.clip,
        "logging_steps": c.log_every,
        "save_strategy": "steps",
        "save_steps": c.save_every,
        "save_total_limit": 2,
        "seed": c.seed,
        "report_to": "none",
        "disable_tqdm": not progress,
        "dataloader_pin_memory": False,
    }
    if c.loss == "rloo":
        return RLOOConfig(**options)
    scale = "none" if c.loss == "dr_grpo" else "group"
    high = CISPO_CLIP if c.loss == "cispo" else None
    return GRPOConfig(
        **options,
        loss_type=c.loss,
        scale_rewards=scale,
        epsilon_high=high,
        use_bias_correction_kl=False,  # the divergence of the paper, whose gradient no importance ratio weighs
    )


def _reward_function(reward: Callable[[str, int], float]) -> Callable[..., list[float | None]]:
    """The reward as trl calls it; counts right answers by group."""

    def verified(
        completions: list[str], answer: list[int], group: list[str], log_metric: Callable[..., None], **_: Any
    ) -> list[float | None]:
        found = [float(reward(text, right)) for text, right in zip(completions, answer, strict=True)]
        for name, value in zip(group, found, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"a reward of {name!r} is {value}; expected a finite number")
            log_metric(f"{SUCCESS}{name}", float(value >= 1))
        return [*found]

    return verified


def _finite() -> Any:
    """A callback that ends a training of which a weight is not finite."""
    from transformers import TrainerCallback

    class Finite(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
                raise FloatingPointError(f"training diverged at step {state.global_step} (seed {args.seed})")

    return Finite()


def _steps(
    task: AbstractTask, prompts: VerifiedPrompts, config: TRLConfig, model: "GPT2LMHeadModel", processes: int
) -> int:
    """Steps of the training. Raises ValueError if there is none that the model and the processes can do."""
    if len(prompts.text) < config.batch_size:
        raise ValueError(
            f"{len(prompts.text)} prompts make no batch of {config.batch_size}; give more, or smaller ones"
        )
    if config.batch_size % processes:
        raise ValueError(f"batch_size is {config.batch_size}; expected a multiple of the {processes} processes")
    ids = task.tokenizer()(list(prompts.text))["input_ids"]  # pyright: ignore[reportCallIssue]
    check_length(max(len(row) for row in ids) + config.longest, model.config.n_positions)
    return config.epochs * (len(prompts.text) // config.batch_size)


def _line(row: dict[str, Any], config: TRLConfig) -> dict[str, Any]:
    """One line of the history from trl's log of the steps since the last."""
    kept = {name: row[name] for name in ("reward", "kl", "entropy", "grad_norm") if name in row}
    success = {name.removeprefix(SUCCESS): row[name] for name in sorted(row) if name.startswith(SUCCESS)}
    return {"step": row["step"], "prompts": row["step"] * config.batch_size, **kept, "success": success}
