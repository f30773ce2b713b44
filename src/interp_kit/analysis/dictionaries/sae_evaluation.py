"""Share that a sparse autoencoder explains of examples that it was not trained on, beside a PCA of as many directions.

A second control is the same training on `models.convert.untrained(model)`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_kit.analysis.dictionaries.activations import Activations, answer_cross_entropy
from interp_kit.analysis.dictionaries.sae_result import SAEResult
from interp_kit.analysis.dictionaries.sae_training import unsettled
from interp_kit.core.stats.intervals import Estimate, mean_interval, ratio_interval
from interp_kit.models.hooked_model import HookedModel

if TYPE_CHECKING:
    from sae_lens import SAE

NO_GAP, SMALL_GAP = 1e-4, 1e-2  # nats that an ablation costs: nothing to recover; too little to say much
# field of the result, reconstruction, ablation
RECOVERIES = (
    ("ce_recovered", "sae", "mean"),
    ("ce_recovered_over_zero", "sae", "zero"),
    ("pca_ce_recovered", "pca", "mean"),
)


@torch.no_grad()
def evaluate_sae(
    model: HookedModel,
    acts: Activations,
    sae: "SAE",
    *,
    config: Mapping[str, Any],
    notes: Sequence[str] = (),
    targets: Activations | None = None,
) -> SAEResult:
    """Measure a SAELens autoencoder, or transcoder, on harvested activations.

    Args:
        model: What they were harvested from.
        acts: What it reads.
        sae: SAELens's inference class.
        config: Kept in the result.
        notes: Kept in the result; it adds one if L0 is not that of training, and if ablation costs next to nothing.
        targets: What a transcoder rebuilds, of the same examples; None for an autoencoder.

    Raises:
        ValueError: Its width does not fit the site.
    """
    target = acts if targets is None else targets
    for sizes, of, what in ((sae.cfg.d_in, acts, "inputs"), (sae.b_dec.shape[0], target, "outputs")):
        if sizes != of.vectors.shape[1]:
            raise ValueError(f"an autoencoder of {sizes} {what} at {of.hook}, which has {of.vectors.shape[1]}")
    active, rebuilt = _reconstruct(acts, sae)
    if note := unsettled(sae, acts.vectors[acts.training]):
        notes = [*notes, note]
    frequency, distinct, hook = active.double().mean(0).cpu().numpy(), acts.distinct(), acts.hook
    acts = target
    mean = acts.vectors[acts.training].mean(0)
    rank = min(math.ceil(float(active[acts.training].sum(1).double().mean())), len(mean))
    written = {"sae": rebuilt, "pca": _project(acts, mean, rank), "mean": acts.position_means()}
    loss = {
        "clean": answer_cross_entropy(model, acts),
        "zero": answer_cross_entropy(model, acts, torch.zeros_like(rebuilt)),
    }
    loss |= {name: answer_cross_entropy(model, acts, vectors) for name, vectors in written.items()}

    found: dict[str, dict[str, Estimate]] = {f"ce_{name}": {} for name in loss}
    found |= {name: {} for name in ("l0", "variance_explained", "pca_variance_explained", *(r[0] for r in RECOVERIES))}
    kept = list(notes)
    for split, which, rows in (("train", acts.training, acts.train), ("held_out", acts.unseen, ~acts.train)):
        spread = _per_example(acts, (acts.vectors - mean).square().sum(1), which)
        count = _per_example(acts, torch.ones_like(acts.row), which)
        found["l0"][split] = _ratio(_per_example(acts, active.sum(1), which), count)
        for prefix, name in (("", "sae"), ("pca_", "pca")):
            error = _per_example(acts, (acts.vectors - written[name]).square().sum(1), which)
            found[f"{prefix}variance_explained"][split] = _ratio(spread - error, spread)
        here = {name: values[rows.cpu().numpy()] for name, values in loss.items()}
        for name, values in here.items():
            found[f"ce_{name}"][split] = _estimate(mean_interval(values[None], bounds=(0.0, math.inf)), len(values))
        for field, by, ablation in RECOVERIES:
            found[field][split] = _recovered(here["clean"], here[by], here[ablation])
        for ablation in ("mean", "zero"):
            kept += _gap_note(here["clean"], here[ablation], f"{split}: {ablation}")
    return SAEResult(
        config=config,
        hook=hook,
        target_hook=acts.hook,
        weights={name: value.cpu().numpy() for name, value in sae.state_dict().items()},
        sae_config={**sae.cfg.to_dict(), "device": "cpu"},
        distinct_vectors=distinct,
        frequency=frequency,
        dead=Estimate(float((frequency == 0).mean()), math.nan, math.nan, len(frequency), "latents"),
        pca_rank=rank,
        notes=tuple(kept),
        **found,
    )


def _reconstruct(acts: Activations, sae: "SAE") -> tuple[Bool[Tensor, "vector width"], Float[Tensor, "vector d_in"]]:
    """(vector, width) which latents are active, and (vector, d_in) the reconstructions."""
    active, rebuilt = [], []
    heads = sae.cfg.reshape_activations == "hook_z"
    for vectors in acts.vectors.split(8192):
        codes = sae.encode(vectors.unflatten(1, acts.shape) if heads else vectors)
        active.append(codes > 0)
        rebuilt.append(sae.decode(codes).flatten(1))
    return torch.cat(active), torch.cat(rebuilt)


def _project(acts: Activations, mean: Float[Tensor, " d_in"], rank: int) -> Float[Tensor, "vector d_in"]:
    """(vector, d_in) every vector projected on the first `rank` principal components of the training vectors."""
    centred = (acts.vectors - mean).double()
    training = centred[acts.training]
    directions = torch.linalg.eigh(training.T @ training)[1].flip(1)[:, :rank]
    return mean + (centred @ directions @ directions.T).float()


def _per_example(acts: Activations, values: Tensor, which: Bool[Tensor, " vector"]) -> Float[np.ndarray, " example"]:
    """(example,) sum of `values` over the vectors of each example that are in `which`, for the examples with any."""
    row = acts.row[which]
    sums = torch.zeros(len(acts.batch), dtype=torch.float64, device=row.device)
    sums.index_add_(0, row, values[which].double())
    return sums[row.unique()].cpu().numpy()


def _ratio(numerator: Float[np.ndarray, " example"], denominator: Float[np.ndarray, " example"]) -> Estimate:
    return _estimate(ratio_interval(numerator[None], denominator), len(denominator))


def _estimate(interval: tuple[np.ndarray, np.ndarray, np.ndarray], n: int) -> Estimate:
    value, low, high = (float(part[0]) for part in interval)
    return Estimate(value, low, high, n, "examples")


def _recovered(clean: np.ndarray, new: np.ndarray, ablated: np.ndarray) -> Estimate:
    """Share of the ablation's cross-entropy that is not lost; nan where the ablation costs nothing."""
    if float((ablated - clean).mean()) < NO_GAP:
        return Estimate(math.nan, math.nan, math.nan, len(clean), "examples")
    return _ratio(ablated - new, ablated - clean)


def _gap_note(clean: np.ndarray, ablated: np.ndarray, what: str) -> list[str]:
    gap = float((ablated - clean).mean())
    if gap >= SMALL_GAP:
        return []
    why = "nothing to recover" if gap < NO_GAP else "a share of so little says little"
    return [f"{what} ablation costs {gap:.5f} nats: {why}"]
