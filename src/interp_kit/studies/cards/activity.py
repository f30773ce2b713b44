"""Strength and diversity of the response of a model's neurons and residual stream: what "activation intensity" and
"diversity" of published claims on reinforcement learning amount to here."""

from dataclasses import dataclass

import numpy as np

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.harvest import harvest
from interp_kit.models.hooked_model import HookedModel


@dataclass(frozen=True)
class Activity:
    """Of one model on one batch, at the position where the answer is predicted.

    Attributes:
        intensity: Mean absolute value of all neurons behind their nonlinearity.
        active: Mean share of neurons above zero.
        diversity: Effective number of directions of the last residual stream, the participation ratio of its
            covariance's eigenvalues (sum squared over sum of squares): 1 for a line, d_model for a ball.
        n: Texts.
    """

    intensity: float
    active: float
    diversity: float
    n: int


def activity(model: HookedModel, batch: TokenBatch) -> Activity:
    """Measure a model's activity on a batch."""
    last = model.cfg.n_layers - 1
    neurons = [f"mlp_post.{layer}" for layer in range(last + 1)]
    found = harvest(model, batch, [*neurons, f"resid_post.{last}"], positions=["answer?"], progress=False)
    values = np.concatenate([found[site][:, 0].numpy() for site in neurons], axis=1)
    return Activity(
        intensity=float(np.abs(values).mean()),
        active=float((values > 0).mean()),
        diversity=participation(found[f"resid_post.{last}"][:, 0].double().numpy()),
        n=len(batch),
    )


def participation(vectors: np.ndarray) -> float:
    """Participation ratio of (n, d) vectors: in how many directions they vary, 0 where they do not."""
    spread = np.linalg.eigvalsh(np.cov(vectors.T)).clip(0)
    return float(spread.sum() ** 2 / (spread**2).sum()) if spread.any() else 0.0
