"""Result of a trained sparse autoencoder: what it explains, beside a PCA of as many directions, with its notes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes

from interp_kit.analysis.dictionaries.sae_training import inference_sae
from interp_kit.core.folders import replacing_directory
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import numbered
from interp_kit.core.stats.intervals import Estimate
from interp_kit.reports.plotting import intervals

if TYPE_CHECKING:
    from sae_lens import SAE

KIND = "sparse autoencoder"
Splits = Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class SAEResult(AbstractResult):
    """A trained sparse autoencoder and what it explains. Every Splits maps "train" and "held_out" to an Estimate over
    distinct examples; held-out vectors count only where their text up to there stands in no training example.

    A transcoder reads `hook` and rebuilds `target_hook`; what is said of reconstructions and ablations is then of the
    target, and the PCA is the target's own: no linear map of that rank from the input comes closer in training.

    Attributes:
        hook: The site that is read.
        target_hook: The site that is rebuilt; of an autoencoder the same one.
        weights: SAELens's parameters by name, W_enc (d_in, width), W_dec (width, d_out), b_dec (d_out,) and those of
            the architecture, for raw activations.
        sae_config: SAELens's config.
        distinct_vectors: Different vectors trained on.
        frequency: (width,) share of all vectors on which a latent is active.
        dead: Share of latents that never are.
        variance_explained: 1 - sum |x - x_hat|^2 / sum |x - training mean|^2.
        l0: Active latents per vector.
        ce_clean: Cross-entropy of the task's answers in nats, of the model as it is.
        ce_sae: The same with the reconstruction written at every token.
        ce_mean: The same with the training mean of the named position.
        ce_zero: The same with zero.
        ce_recovered: (ce_mean - ce_sae) / (ce_mean - ce_clean), nan if the gap is below 0.0001 nats (`notes` say so).
        ce_recovered_over_zero: The same over zero.
        pca_rank: Directions that the control keeps, a PCA of the training vectors: the training L0 rounded up.
        pca_variance_explained: Of the control.
        ce_pca: Of the control.
        pca_ce_recovered: Of the control.
        notes: What to mind.
    """

    hook: str
    target_hook: str
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

    @property
    def _kind(self) -> str:
        return "sparse autoencoder" if self.target_hook == self.hook else "transcoder"

    @property
    def _sites(self) -> str:
        return self.hook if self.target_hook == self.hook else f"{self.target_hook}, read from {self.hook},"

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
            f"What a {self._kind} of {len(self.frequency)} latents keeps of {self._sites}: variance, and the"
            f" cross-entropy of the answers between mean ablation (0) and the model as it is (1), over n ="
            f" {numbered(train.n, train.unit)} trained on and {test.n} held out (95 % intervals), beside a PCA of the"
            f" {self.pca_rank} directions that its L0 of {train.value:.1f} amounts to."
            f" {self.distinct_vectors} distinct vectors were trained on; {self.dead.value:.0%} of the latents are dead."
            + "".join(f" Note: {note}." for note in self.notes)
        )

    def heading(self) -> str:
        """See AbstractResult."""
        return f"{self._kind}: {self._sites.rstrip(',')} ({self.config.get('model', 'a model')})"

    def findings(self) -> tuple[str, ...]:
        """See AbstractResult: what is kept of held-out examples, more or less than by PCA, and how much is dead."""
        kept, by_pca = self.variance_explained["held_out"], self.pca_variance_explained["held_out"]
        loss, loss_pca = self.ce_recovered["held_out"], self.pca_ce_recovered["held_out"]
        answer = (
            f"the cross-entropy of answers {loss.short()} (PCA {loss_pca.short()})"
            if np.isfinite(loss.value)
            else "no share of the cross-entropy, as ablation costs none"
        )
        return (
            f"On held-out examples the {self._kind} keeps {kept.short()} of the variance of {self._sites},"
            f" {_beside(kept, by_pca)} a PCA of {self.pca_rank} directions ({by_pca.short()}), and of {answer}"
            f" (n = {numbered(kept.n, kept.unit)}).",
            f"{self.dead.value:.0%} of its {len(self.frequency)} latents never fire.",
        )

    def highlights(self) -> pd.DataFrame:
        """See AbstractResult: held-out shares, beside PCA."""
        frame = self.to_frame()
        kept = frame["split"].isin(["held_out", "both"]) & (frame["metric"] != "cross-entropy") & frame["value"].notna()
        return pd.DataFrame(frame[kept])

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
            f"{self.config.get('architecture', self.sae_config['architecture'])} {self._kind} of"
            f" {len(self.frequency)} latents at {self._sites}\n"
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


def _beside(kept: Estimate, other: Estimate) -> str:
    """Say whether one share is more or less than another, if their intervals leave each other out."""
    if kept.low > other.high:
        return "more than"
    return "less than" if kept.high < other.low else "which cannot be told from"
