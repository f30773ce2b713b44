"""Which features of a sparse autoencoder answer to one distribution alone, and how many would seem to by chance."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import fisher_exact

from interp_kit.analysis.dictionaries.sae import SAEResult, train_sae
from interp_kit.analysis.dictionaries.sae_training import SAEConfig
from interp_kit.engine.harvest import harvest
from interp_kit.models.hooked_model import HookedModel
from interp_kit.registry.models import load
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.catalogue import SPLITS, Split

DEALS = 400  # of each distribution
FALSE = 0.05  # share of false discoveries (Benjamini & Hochberg 1995)
ID = "id_test"


@dataclass(frozen=True)
class FeatureShift:
    """Features by distribution.

    Attributes:
        sae: The autoencoder, trained on all distributions together.
        alive: Features that are active in at least one deal.
        differing: Distribution -> features whose share of deals in which they are ever active differs from that of
            id_test; "id_test again" is other deals of id_test, the control.
        only: Distribution -> of those, features never active on one of the two sides.
        n: Deals of each distribution.
    """

    sae: SAEResult
    alive: int
    differing: dict[str, int]
    only: dict[str, int]
    n: int


def feature_shift(name: str) -> FeatureShift:
    """Train an autoencoder on the residual stream between the layers of a model, on deals of all test splits, and
    compare in how many deals of each split its features are active."""
    model = load(name)
    tested = [split for split in SPLITS.values() if split.name not in ("train", "val")]
    mixed = CardsTask(Split("all tests", tuple(part for split in tested for part in split.parts)))
    config = SAEConfig(architecture="topk", width=256, k=8, training_samples=200_000, max_examples=6000)
    sae = train_sae(model, mixed, site="resid_post.0", config=config, progress=False)
    known = _active(model, sae, ID, seed=21)
    found = {split.name: _active(model, sae, split.name, seed=22) for split in tested}
    found["id_test again"] = found.pop(ID)
    alive = int((known.any(0) | np.any([other.any(0) for other in found.values()], axis=0)).sum())
    differing = {split: _differing(known, other) for split, other in found.items()}
    only = {
        split: int((differing[split] & ((known.sum(0) == 0) | (other.sum(0) == 0))).sum())
        for split, other in found.items()
    }
    return FeatureShift(sae, alive, {split: int(mask.sum()) for split, mask in differing.items()}, only, DEALS)


def _active(model: HookedModel, sae: SAEResult, split: str, seed: int) -> np.ndarray:
    """(deal, feature) whether a feature is active at any token of the deal."""
    task = CardsTask(split)
    batch = task.batch(task.sample(DEALS, seed))
    vectors = harvest(model, batch, sae.hook, progress=False)[sae.hook]
    with torch.no_grad():
        on = (sae.to_sae_lens().encode(vectors) > 0).numpy()
    found = np.zeros((DEALS, on.shape[1]), dtype=bool)
    np.logical_or.at(found, batch.mask.nonzero()[:, 0].numpy(), on)
    return found


def _differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(feature,) whether the two shares of deals differ, at a false discovery rate of FALSE."""
    p = np.array([
        fisher_exact([[x, len(a) - x], [y, len(b) - y]])[1] for x, y in zip(a.sum(0), b.sum(0), strict=True)
    ])  # fmt: skip
    order = np.argsort(p)
    passed = np.flatnonzero(p[order] <= FALSE * np.arange(1, len(p) + 1) / len(p))
    differs = np.zeros(len(p), dtype=bool)
    differs[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return differs
