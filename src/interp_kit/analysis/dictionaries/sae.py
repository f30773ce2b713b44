"""Sparse autoencoders (Bricken et al. 2023; TopK: Gao et al. 2024) on a task's activations, and what they explain.

Measured on examples that they were not trained on, beside a PCA of as many directions. A second control is the same
call on `models.convert.untrained(model)`.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from torch import Tensor

from interp_kit.analysis.dictionaries.activations import (
    Activations,
    answer_cross_entropy,
    harvest,
    source,
    split_examples,
)
from interp_kit.analysis.dictionaries.sae_training import SAEConfig, fit_sae, inference_sae
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_flag, check_seed, expect
from interp_kit.core.folders import replacing_directory
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import PROGRESS
from interp_kit.core.stats import Estimate, mean_interval, ratio_interval
from interp_kit.core.task import AbstractTask
from interp_kit.engine.sites import find_hook
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting
from interp_kit.reports.plotting import intervals

if TYPE_CHECKING:
    from sae_lens import SAE

KIND = "sparse autoencoder"
NO_GAP, SMALL_GAP = 1e-4, 1e-2  # nats that an ablation costs: nothing to recover; too little to say much
# field of the result, reconstruction, ablation
RECOVERIES = (
    ("ce_recovered", "sae", "mean"),
    ("ce_recovered_over_zero", "sae", "zero"),
    ("pca_ce_recovered", "pca", "mean"),
)
Splits = Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class SAEResult(AbstractResult):
    """A trained sparse autoencoder and what it explains. Every Splits maps "train" and "held_out" to an Estimate over
    distinct examples; held-out vectors count only where their text up to there stands in no training example.

    hook: the site; weights: SAELens's parameters by name, W_enc (d_in, width), b_enc (width,), W_dec (width, d_in),
    b_dec (d_in,), for raw activations; sae_config: SAELens's config; distinct_vectors: different vectors trained on;
    frequency: (width,) share of all vectors on which a latent is active; dead: share of latents that never are.

    variance_explained: 1 - sum |x - x_hat|^2 / sum |x - training mean|^2; l0: active latents a vector; ce_*:
    cross-entropy of the task's answers in nats, of the model as it is, with the reconstruction written at every token,
    with the training mean of the named position, with zero; ce_recovered: (ce_mean - ce_sae) / (ce_mean - ce_clean)
    and the same over zero, nan where the gap is below 0.0001 nats (`notes` say so). pca_*: the control, a PCA of the
    training vectors that keeps `pca_rank` directions, the training L0 rounded up.
    """

    hook: str
    weights: Mapping[str, np.ndarray]
    sae_config: Mapping[str, Any]
    distinct_vectors: int
    frequency: Float[np.ndarray, " width"]
    dead: Estimate
    variance_explained: Splits
    l0: Splits
    ce_clean: Splits
    ce_sae: Splits
    ce_mean: Splits
    ce_zero: Splits
    ce_recovered: Splits
    ce_recovered_over_zero: Splits
    pca_rank: int
    pca_variance_explained: Splits
    ce_pca: Splits
    pca_ce_recovered: Splits
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per split, metric and source (the SAE, its PCA control, or the run that it is compared with)."""
        pca = f"PCA, rank {self.pca_rank}"
        table = [
            ("variance explained", "SAE", self.variance_explained),
            ("variance explained", pca, self.pca_variance_explained),
            ("L0", "SAE", self.l0),
            ("cross-entropy recovered", "SAE", self.ce_recovered),
            ("cross-entropy recovered", pca, self.pca_ce_recovered),
            ("cross-entropy recovered over zero", "SAE", self.ce_recovered_over_zero),
            ("cross-entropy", "clean", self.ce_clean),
            ("cross-entropy", "SAE", self.ce_sae),
            ("cross-entropy", pca, self.ce_pca),
            ("cross-entropy", "mean ablation", self.ce_mean),
            ("cross-entropy", "zero ablation", self.ce_zero),
            ("dead share", "SAE", {"both": self.dead}),
        ]
        rows = [(split, metric, by, *asdict(e).values()) for metric, by, splits in table for split, e in splits.items()]
        return pd.DataFrame(rows, columns=["split", "metric", "source", "value", "low", "high", "n", "unit"])

    def caption(self) -> str:
        """See AbstractResult."""
        train, test = self.l0["train"], self.l0["held_out"]
        return (
            f"What a sparse autoencoder of {len(self.frequency)} latents keeps of {self.hook}: variance, and the"
            f" cross-entropy of the answers between mean ablation (0) and the model as it is (1), over n = {train.n}"
            f" {train.unit} trained on and {test.n} held out (95 % intervals), beside a PCA of the"
            f" {self.pca_rank} directions that its L0 of {train.value:.1f} amounts to."
            f" {self.distinct_vectors} distinct vectors were trained on; {self.dead.value:.0%} of the latents are dead."
            + "".join(f" Note: {note}." for note in self.notes)
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Variance explained and cross-entropy recovered, on both splits, beside PCA."""
        shown = (("variance explained", "variance_explained"), ("CE recovered", "ce_recovered"))
        series = {}
        for label, prefix in (("SAE", ""), (f"PCA, rank {self.pca_rank}", "pca_")):
            found = [e for _, field in shown for e in getattr(self, prefix + field).values()]
            series[label] = tuple(np.array([getattr(e, part) for e in found]) for part in ("value", "low", "high"))
        names = [
            f"{label}, {split.replace('_', ' ')} (n = {e.n})"
            for label, field in shown
            for split, e in getattr(self, field).items()
        ]
        title = (
            f"{self.sae_config['architecture']} SAE of {len(self.frequency)} latents at {self.hook}\n"
            f"held-out L0 {self.l0['held_out'].value:.1f}, dead {self.dead.value:.0%},"
            f" {self.distinct_vectors} distinct training vectors"
        )
        return intervals(names, series, ax=ax, title=title, x_label="share", reference={"perfect": 1.0})

    def to_sae_lens(self) -> "SAE":
        """The autoencoder as SAELens's own inference class. At hook_z it takes (…, head, d_head), as SAELens's do; at
        any other site with heads they are flattened."""
        return inference_sae(self.sae_config, {name: torch.from_numpy(w.copy()) for name, w in self.weights.items()})

    def save_sae(self, directory: str | Path) -> Path:
        """Write what `SAE.load_from_disk` reads, cfg.json and sae_weights.safetensors, whole or not at all.

        Raises OSError for a folder that holds anything but an autoencoder that was saved there before.
        """
        with replacing_directory(directory, KIND) as aside:
            self.to_sae_lens().save_model(aside)
        return Path(directory)


@on_model()
def train_sae(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    *,
    site: str = "blocks.1.hook_resid_post",
    config: SAEConfig | None = None,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> SAEResult:
    """Train a sparse autoencoder on a site's activations over the task's own texts, and measure it on held-out ones.

    task: or a batch, of which the distinct rows are divided; it needs an answer, by which the autoencoder is measured.
    site: a hook name, or "mlp_out.2". Activations are scaled by one number, so that their mean squared distance from
    their mean is d_in; the decoder bias starts at that mean, and the scale is folded into the weights afterwards.

    Warns (UserWarning) if the latents are more than a quarter of the distinct activation vectors: each may then
    simply stand for a few inputs. Raises ValueError for an unknown site, too few examples, activations that are nan,
    infinite or all equal, and a training that diverges.
    """
    check_meeting(model, task, AbstractTask, TokenBatch)
    if not task.fields:
        raise ValueError(
            "the batch asks for no answer, by which an autoencoder is measured; give from_tokens(answer=…)"
        )
    config = SAEConfig() if config is None else config
    expect("config", config, SAEConfig)
    check_seed(seed)
    check_flag("progress", progress)
    hook, notes = find_hook(model, site), []
    train, test = split_examples(task, config.held_out, config.max_examples, seed)
    with torch.inference_mode(False):
        acts = harvest(model, task, hook, train, test, progress=progress)
        if not acts.unseen.any():
            raise ValueError(f"every text of the {len(test)} held-out examples begins a training example")
        distinct = acts.distinct()
        if config.width > distinct / 4:
            notes.append(
                f"{config.width} latents for {distinct} distinct activation vectors at {hook}: over a quarter, so that"
                " latents may memorise inputs"
            )
            warnings.warn(notes[-1], UserWarning, stacklevel=3)  # past `on_model`
        names = {"model_name": model_name(model), "hook_name": hook, "task": source(task)}
        sae = fit_sae(acts.vectors[acts.training], config, names, seed, progress)
        made_by = {"model": model_name(model), "task": source(task), "site": site, "seed": seed, **asdict(config)}
        return evaluate_sae(model, acts, sae, config=made_by, notes=notes)


@torch.no_grad()
def evaluate_sae(
    model: HookedModel, acts: Activations, sae: "SAE", *, config: Mapping[str, Any], notes: Sequence[str] = ()
) -> SAEResult:
    """Measure a SAELens autoencoder on harvested activations; `config` and `notes` are kept in the result.

    Raises ValueError if its width does not fit the site.
    """
    if sae.cfg.d_in != acts.vectors.shape[1]:
        raise ValueError(f"an autoencoder of {sae.cfg.d_in} inputs at {acts.hook}, which has {acts.vectors.shape[1]}")
    mean = acts.vectors[acts.training].mean(0)
    active, rebuilt = _reconstruct(acts, sae)
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
            found[f"ce_{name}"][split] = _estimate(mean_interval(values[None]), len(values))
        for field, by, ablation in RECOVERIES:
            found[field][split] = _recovered(here["clean"], here[by], here[ablation])
        for ablation in ("mean", "zero"):
            kept += _gap_note(here["clean"], here[ablation], f"{split}: {ablation}")
    frequency = active.double().mean(0).cpu().numpy()
    return SAEResult(
        config=config,
        hook=acts.hook,
        weights={name: value.cpu().numpy() for name, value in sae.state_dict().items()},
        sae_config={**sae.cfg.to_dict(), "device": "cpu"},
        distinct_vectors=acts.distinct(),
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
