"""Features of a sparse autoencoder that answer to one distribution of deals alone."""

from interp_kit.analysis.dictionaries import feature_shift as shifts
from interp_kit.analysis.dictionaries.sae import train_sae
from interp_kit.analysis.dictionaries.sae_training import SAEConfig
from interp_kit.core.batch import TokenBatch
from interp_kit.registry.models import load
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.catalogue import SPLITS, Split

DEALS = 400  # of each distribution
ID = "id_test"


def feature_shift(name: str) -> shifts.FeatureShift:
    """Train an autoencoder on the residual stream between the layers of a model, on deals of all test splits, and
    compare in how many deals of each split its features are active; "id_test again" is the control."""
    model = load(name)
    tested = [split for split in SPLITS.values() if split.name not in ("train", "val")]
    mixed = CardsTask(Split("all tests", tuple(part for split in tested for part in split.parts)))
    config = SAEConfig(architecture="topk", width=256, k=8, training_samples=200_000, max_examples=6000)
    sae = train_sae(model, mixed, site="resid_post.0", config=config, progress=False)
    others = {f"{ID} again" if split.name == ID else split.name: _deals(split.name, seed=22) for split in tested}
    return shifts.feature_shift(model, sae, _deals(ID, seed=21), others)


def _deals(split: str, seed: int) -> TokenBatch:
    task = CardsTask(split)
    return task.batch(task.sample(DEALS, seed))
