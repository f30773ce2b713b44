"""transformers.Trainer as `train_sft` runs it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, GPT2LMHeadModel, Trainer, TrainingArguments

from interp_kit.training.optimisers import MuonWithAdamW, learnt_loss, rate
from interp_kit.training.rows import NO_LOSS, ExampleDataset
from interp_kit.training.sft_config import SFTConfig


class SFTTrainer(Trainer):
    """A Trainer whose learning rates follow `rate`, with Muon where the config asks for it."""

    def __init__(self, config: SFTConfig, **options: Any) -> None:
        self.sft = config
        super().__init__(**options)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """See Trainer."""
        if self.optimizer is None and self.sft.optimiser == "muon":
            c = self.sft
            assert isinstance(self.model, torch.nn.Module)
            self.optimizer = MuonWithAdamW(self.model, c.matrix_learning_rate, c.learning_rate, c.weight_decay)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """See Trainer."""
        warm_up, flat = self.sft.warm_up, self.sft.flat
        if self.lr_scheduler is None:
            chosen = optimizer or self.optimizer
            assert chosen is not None
            self.lr_scheduler = LambdaLR(chosen, lambda step: rate(step, num_training_steps, warm_up, flat))
        return self.lr_scheduler  # pyright: ignore[reportReturnType]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """See Trainer. If the completion alone is learned, logits are made there alone."""
        whole = self.sft.loss_on == "all" or return_outputs or not isinstance(model, GPT2LMHeadModel)
        if whole:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        count = num_items_in_batch or (inputs["labels"] != NO_LOSS).sum()
        return learnt_loss(model, inputs["input_ids"], inputs["labels"], NO_LOSS) / count


def _first(batch: Any) -> Any:
    return batch


def _greedy(logits: Any, labels: Tensor) -> Tensor:
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of texts of which every learned token is the most probable one."""
    written, labels = np.asarray(prediction.predictions)[:, :-1], np.asarray(prediction.label_ids)[:, 1:]
    return {"accuracy": float(((written == labels) | (labels == NO_LOSS)).all(1).mean())}


def build_trainer(
    model: GPT2LMHeadModel,
    config: SFTConfig,
    folder: Path,
    data: ExampleDataset,
    validation: ExampleDataset | None,
    *,
    device: str | None,
    progress: bool,
    keep: bool,
) -> SFTTrainer:
    """The trainer of a run. keep: write checkpoints into `folder`, so that a killed run goes on."""
    best = config.keep == "best"
    between = config.check_every or 500  # Trainer's default, unused where it checks once per epoch
    every = "steps" if config.check_every else "epoch"
    return SFTTrainer(
        config,
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=256,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.clip,
            seed=config.seed,
            data_seed=config.data_seed,
            use_cpu=(device == "cpu"),
            save_strategy=every if keep or best else "no",
            eval_strategy=every if validation else "no",
            save_total_limit=2,
            load_best_model_at_end=best,
            metric_for_best_model="eval_accuracy" if best else None,
            greater_is_better=True if best else None,
            logging_steps=250,
            report_to=[],
            disable_tqdm=not progress,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            eval_steps=between,
            save_steps=between,
        ),
        data_collator=_first,
        train_dataset=data,
        eval_dataset=validation,
        compute_metrics=accuracy if validation else None,
        preprocess_logits_for_metrics=_greedy if validation else None,
    )
