"""Training of a TopK autoencoder beside SAELens's SAETrainer, from the same start on the same batches."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Row, compare
from interp_kit.analysis.dictionaries.sae_training import import_sae_lens
from interp_kit.analysis.dictionaries.topk_loop import TopKLoop

D_IN, WIDTH, K, BATCH = 128, 1024, 16, 4096
STEPS, CHECKED = 500, 40  # steps of the schedule; those that are taken and compared before both sides are timed
FEATURES, RATE = 512, 2e-3


def sae(steps: int = CHECKED) -> Iterator[Row]:
    """Steps of training on planted features, a dead-feature window of 10 steps, so that dead latents are revived.

    Args:
        steps: Steps on which the losses of both sides are compared first; the whole curve takes STEPS.
    """
    import_sae_lens()
    from sae_lens import LoggingConfig, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    options = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=RATE,
        lr_end=RATE,
        lr_decay_steps=STEPS // 5,
        device="cpu",
        dead_feature_window=10,
        logger=LoggingConfig(log_to_wandb=False),
    )

    def start() -> Any:
        torch.manual_seed(0)
        return TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=WIDTH, k=K))

    batches = planted(torch.Generator().manual_seed(1))
    trainer, loop = SAETrainer(options, start(), batches), TopKLoop(start(), options)
    worst = 0.0
    for _ in range(steps):
        batch = next(batches)
        theirs = float(trainer.step(batch).losses["mse_loss"].detach())
        trainer.n_training_steps += 1
        worst = max(worst, abs(float(loop.step(batch).mse) / theirs - 1))
    batch = next(batches)
    dead = int(trainer.dead_neurons.sum())
    yield from compare(
        f"a step of TopK training, d {D_IN}, width {WIDTH:,}, k {K}, batch {BATCH:,} ({dead} latents dead)",
        lambda: loop.step(batch),
        {"SAELens's SAETrainer": lambda: trainer.step(batch)},
        difference=f"loss within {worst:.0e} over {steps} steps",
    )


def planted(generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of about 15 of 512 features, the rarer the later, at a mean squared length of D_IN."""
    features = torch.randn(FEATURES, D_IN, generator=generator)
    features /= features.norm(dim=1, keepdim=True)
    chance = 0.35 / torch.arange(1, FEATURES + 1) ** 0.5
    while True:
        on = torch.rand(BATCH, FEATURES, generator=generator) < chance
        yield (on * (1 + torch.rand(BATCH, FEATURES, generator=generator))) @ features * 1.9
