"""Features of a sparse autoencoder that answer to one kind of example alone, and the number expected by chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import fisher_exact

from interp_kit.analysis.dictionaries.origin import check_sae
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.core.batch import TokenBatch
from interp_kit.engine.harvest import harvest
from interp_kit.models.hooked_model import HookedModel

FALSE = 0.05  # share of false discoveries (Benjamini & Hochberg 1995)


@dataclass(frozen=True)
class FeatureShift:
    """Features by kind of example.

    Attributes:
        sae: The autoencoder.
        alive: Features that are active in at least one example.
        differing: Kind -> features whose share of examples in which they are ever active differs from that of the
            reference.
        only: Kind -> of those, features never active on one of the two sides.
        n: Examples of the reference.
    """

    sae: SAEResult
    alive: int
    differing: dict[str, int]
    only: dict[str, int]
    n: int


def feature_shift(
    model: HookedModel, sae: SAEResult, reference: TokenBatch, others: Mapping[str, TokenBatch]
) -> FeatureShift:
    """Compare in how many examples each feature is active.

    Args:
        model: The model whose activations the autoencoder reads.
        sae: Trained on examples of all kinds.
        reference: What the others are compared with.
        others: Kind -> examples. Put further examples of the reference's own kind among them: they are the control.

    Raises:
        ValueError: The autoencoder is of another model.
    """
    check_sae(model, sae)
    known = _active(model, sae, reference)
    found = {name: _active(model, sae, batch) for name, batch in others.items()}
    alive = int((known.any(0) | np.any([other.any(0) for other in found.values()], axis=0)).sum())
    differing = {name: _differing(known, other) for name, other in found.items()}
    only = {
        name: int((differing[name] & ((known.sum(0) == 0) | (other.sum(0) == 0))).sum())
        for name, other in found.items()
    }
    return FeatureShift(sae, alive, {name: int(mask.sum()) for name, mask in differing.items()}, only, len(known))


def _active(model: HookedModel, sae: SAEResult, batch: TokenBatch) -> np.ndarray:
    """(example, feature) whether a feature is active at any token of the example."""
    vectors = harvest(model, batch, sae.hook, progress=False)[sae.hook]
    with torch.no_grad():
        on = (sae.to_sae_lens().encode(vectors) > 0).numpy()
    found = np.zeros((len(batch.tokens), on.shape[1]), dtype=bool)
    np.logical_or.at(found, batch.mask.nonzero()[:, 0].numpy(), on)
    return found


def _differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(feature,) whether the two shares of examples differ, at a false discovery rate of FALSE."""
    p = np.array([
        fisher_exact([[x, len(a) - x], [y, len(b) - y]])[1] for x, y in zip(a.sum(0), b.sum(0), strict=True)
    ])  # fmt: skip
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] <= FALSE * np.arange(1, len(p) + 1) / len(p))
    differs = np.zeros(len(p), dtype=bool)
    differs[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return differs
