"""The objective against all samples that there could be: its mean is the gradient of the expected reward."""

import itertools
from typing import Any

import pytest
import torch

from interp_kit.training.rl.config import RLConfig
from interp_kit.training.rl.objective import advantages, objective

VOCAB, SAMPLES = 4, 3


def mean_gradient(logits: torch.Tensor, reward: torch.Tensor, kind: Any, temperature: float) -> torch.Tensor:
    """The gradient of the loss, averaged over every draw of SAMPLES tokens with its probability."""
    total = torch.zeros_like(logits)
    chance = (logits / temperature).softmax(-1).detach()
    for draw in itertools.product(range(VOCAB), repeat=SAMPLES):
        sampled = torch.tensor([draw])
        better = advantages(reward[sampled], kind)
        found = objective(logits, None, sampled, better, temperature=temperature)
        total += chance[0, sampled[0]].prod() * torch.autograd.grad(found.loss, logits)[0]
    return total


@pytest.mark.parametrize(("kind", "share"), [("rloo", 1.0), ("dr_grpo", 1 - 1 / SAMPLES)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_over_all_draws_it_climbs_the_expected_reward(kind: str, share: float, temperature: float) -> None:
    """Leaving a sample out of its own baseline makes it unbiased; with it, the step is 1 - 1/K as long."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, VOCAB, generator=generator, dtype=torch.float64).requires_grad_()
    reward = torch.rand(VOCAB, generator=generator, dtype=torch.float64)
    expected = ((logits / temperature).softmax(-1) * reward).sum()
    wanted = -share * torch.autograd.grad(expected, logits)[0]
    assert torch.allclose(mean_gradient(logits, reward, kind, temperature), wanted, atol=1e-12)


def test_the_divergence_is_right_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, reference = (torch.randn(1, VOCAB, generator=generator, dtype=torch.float64) for _ in range(2))
    tokens = torch.arange(VOCAB)[:, None]
    policy, other = logits.log_softmax(-1)[0], reference.log_softmax(-1)[0]
    each = torch.stack([
        objective(logits, reference, one[None], torch.zeros(1, 1, dtype=torch.float64)).kl for one in tokens
    ])  # fmt: skip
    assert float((policy.exp() * each).sum()) == pytest.approx(float((policy.exp() * (policy - other)).sum()))
    same = objective(logits, logits.clone(), tokens[:1], torch.zeros(1, 1, dtype=torch.float64)).kl
    assert same is not None
    assert float(same) == 0


def test_beta_weighs_the_divergence() -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    reference, sampled, better = logits.flip(-1), torch.tensor([[0, 1], [2, 2]]), torch.zeros(2, 2, dtype=torch.float64)
    found = objective(logits, reference, sampled, better, beta=0.3)
    assert found.kl is not None
    assert float(found.loss) == pytest.approx(0.3 * float(found.kl))


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert advantages(rewards, "dr_grpo").tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]
    assert advantages(rewards, "rloo")[0].tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert advantages(rewards, "grpo")[0].tolist() == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-3)
    assert advantages(rewards, "grpo")[1].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("option", "value"),
    [("samples", 1), ("samples", 2.0), ("batch_size", 0), ("temperature", 0.0), ("advantage", "ppo"), ("beta", -0.1),
     ("learning_rate", float("nan")), ("matrix_learning_rate", 0.0), ("flat", 1.0), ("clip", -1.0), ("seed", -1),
     ("format_bonus", 1.0), ("save_every", 0), ("log_every", True)],
)  # fmt: skip
def test_options_that_describe_no_training_are_refused(option: str, value: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match=option):
        RLConfig(**{option: value})
