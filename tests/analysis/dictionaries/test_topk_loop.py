"""The TopK loop against SAELens's own trainer: the same start and batches give the same losses, dead latents and
weights."""

from collections.abc import Iterator

import pytest
import torch
from sae_lens import LoggingConfig, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig

from interp_kit.analysis.dictionaries.topk_loop import TopKLoop

D_IN, WIDTH, K, BATCH = 16, 64, 4, 128


def start(**options: object) -> TopKTrainingSAE:
    torch.manual_seed(0)
    return TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=WIDTH, k=K, **options))


def planted() -> Iterator[torch.Tensor]:
    """Batches of rare and common features about a mean that is not zero."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(48, D_IN, generator=generator)
    features /= features.norm(dim=1, keepdim=True)
    chance = 0.3 / torch.arange(1, 49) ** 0.5
    while True:
        on = torch.rand(BATCH, 48, generator=generator) < chance
        yield 2 * (on * (1 + torch.rand(BATCH, 48, generator=generator))) @ features + 1


@pytest.mark.parametrize(("window", "steps", "bias"), [(20, 500, 0.0), (1000, 100, 0.0), (20, 60, -3.0)])
def test_losses_dead_latents_and_weights_are_those_of_saelens(window: int, steps: int, bias: float) -> None:
    """With a low bias fewer than k latents are positive; those that are chosen for want of others have not fired."""
    options = SAETrainerConfig(
        total_training_samples=steps * BATCH, train_batch_size_samples=BATCH, lr=2e-3, lr_end=2e-3,
        lr_decay_steps=steps // 5, device="cpu", dead_feature_window=window, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    theirs, ours, batches = start(), start(), planted()
    for sae in (theirs, ours):
        sae.b_enc.data += bias
    trainer, loop = SAETrainer(options, theirs, batches), TopKLoop(ours, options)
    revived, fewest = 0, float(K)
    for _ in range(steps):
        batch = next(batches)
        expected = trainer.step(batch)
        trainer.n_training_steps += 1
        losses = loop.step(batch)
        assert float(losses.mse) == pytest.approx(float(expected.losses["mse_loss"].detach()), rel=0.01)
        auxiliary = float(expected.losses["auxiliary_reconstruction_loss"].detach())
        assert float(losses.auxiliary) == pytest.approx(auxiliary, rel=0.01)
        assert loop.l0 == pytest.approx(float((expected.feature_acts > 0).sum()) / BATCH)
        revived, fewest = max(revived, int(trainer.dead_neurons.sum())), min(fewest, loop.l0)
    assert torch.equal(loop.since_fired, trainer.n_forward_passes_since_fired)
    assert torch.equal(loop.dead, trainer.dead_neurons)
    assert fewest < K - 0.5 if bias else fewest > K - 0.5
    assert revived > D_IN // 2 if window == 20 else revived == 0  # both ways to choose the latents that are revived
    assert loop.optimizer.param_groups[0]["lr"] == trainer.optimizer.param_groups[0]["lr"]
    loop.finish()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0.01, atol=0.01)


def test_in_double_precision_the_curves_are_the_same_to_rounding() -> None:
    """In single precision near-ties of the top k fall otherwise after some hundred steps, and so they do between two
    runs of SAETrainer from starts that differ by one rounding (docs/decisions/statistics.md)."""
    steps = 300
    options = SAETrainerConfig(
        total_training_samples=steps * BATCH, train_batch_size_samples=BATCH, lr=2e-3, lr_end=2e-3, device="cpu",
        lr_decay_steps=steps // 5, dead_feature_window=20, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    theirs, ours, batches = start(dtype="float64"), start(dtype="float64"), planted()
    trainer, loop = SAETrainer(options, theirs, batches), TopKLoop(ours, options)
    for _ in range(steps):
        batch = next(batches).double()
        expected = float(trainer.step(batch).losses["mse_loss"].detach())
        trainer.n_training_steps += 1
        assert float(loop.step(batch).mse) == pytest.approx(expected, rel=1e-12)
    assert loop.encoder.dtype == torch.float64
    loop.finish()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-9)


def test_a_start_that_is_not_scaled_by_decoder_norms_is_refused() -> None:
    options = SAETrainerConfig(
        total_training_samples=BATCH, train_batch_size_samples=BATCH, lr_end=1e-3, device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    with pytest.raises(ValueError, match="rescale_acts_by_decoder_norm"):
        TopKLoop(start(rescale_acts_by_decoder_norm=False), options)
