"""The policy-gradient objective for completions of one token, as trl defines it for completions of any length."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from interp_kit.training.rl.config import Advantage


class Objective(NamedTuple):
    """The loss to descend, and what is logged of a step; kl: None where no reference was given."""

    loss: Tensor
    kl: Tensor | None
    entropy: Tensor


def advantages(rewards: Float[Tensor, "prompt sample"], kind: Advantage) -> Float[Tensor, "prompt sample"]:
    """Advantage of each sample over those of the same prompt."""
    centred = rewards - rewards.mean(1, keepdim=True)
    match kind:
        case "dr_grpo":
            return centred
        case "rloo":
            return centred * (rewards.shape[1] / (rewards.shape[1] - 1))
        case "grpo":
            return centred / (rewards.std(1, keepdim=True) + 1e-4)
    raise ValueError(f"no advantage {kind!r}; there are grpo, dr_grpo, rloo")


def objective(
    logits: Float[Tensor, "prompt vocab"],
    reference: Float[Tensor, "prompt vocab"] | None,
    sampled: Int[Tensor, "prompt sample"],
    advantage: Float[Tensor, "prompt sample"],
    *,
    temperature: float = 1.0,
    beta: float = 0.0,
) -> Objective:
    """Loss of one on-policy step: minus advantage times log-probability, and beta times the divergence, over samples.

    The policy is the one that sampled, so the ratio of probabilities is 1 and clipping does nothing.

    Args:
        logits: Of the policy where the answer is predicted.
        reference: Of the start model; None where no divergence is wanted.
        sampled: Token ids.
        advantage: Of each.
        temperature: The logits are divided by it.
        beta: Weight of the divergence, by exp(d) - d - 1 with d the log-ratio of reference to policy.
    """
    policy = (logits / temperature).log_softmax(-1)
    chosen = policy.gather(1, sampled)
    entropy = -(policy.exp() * policy).sum(-1).mean().detach()
    loss, kl = -(advantage * (chosen - chosen.detach()).exp()).mean(), None
    if reference is not None:
        d = (reference / temperature).log_softmax(-1).gather(1, sampled) - chosen
        divergence = (d.exp() - d - 1).mean()
        loss, kl = loss + beta * divergence, divergence.detach()
    return Objective(loss, kl, entropy)
