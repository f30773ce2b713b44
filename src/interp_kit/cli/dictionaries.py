"""Commands that train a sparse autoencoder or a transcoder, and that name its features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from interp_kit.cli.common import Common, Model, Seed


@dataclass(frozen=True, kw_only=True)
class Sae(Common):
    """Train a sparse autoencoder or a transcoder (SAELens) on one site over the task's stream."""

    model: Annotated[Model, tyro.conf.Positional]
    site: str = "blocks.1.hook_resid_post"
    """TransformerLens's name of the site"""
    target_site: str | None = None
    """the site that a transcoder rebuilds; an autoencoder if none"""
    architecture: Literal["standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka"] = "topk"
    """by k: topk, batchtopk, jumprelu, matryoshka; by an L1 penalty: standard, gated"""
    width: int = 64
    """latents"""
    k: int = 8
    """latents that are on at once (topk, batchtopk, jumprelu, matryoshka)"""
    l1_coefficient: float = 1.0
    """weight of the L1 penalty (standard, gated)"""
    training_samples: int = 100_000
    """tokens"""
    seed: Seed = 0
    out: Path | None = None
    """write the autoencoder in SAELens's format to this folder"""

    def execute(self) -> None:
        from interp_kit.analysis.dictionaries.sae_training import SAEConfig

        config = SAEConfig(
            architecture=self.architecture,
            width=self.width,
            k=self.k,
            l1_coefficient=self.l1_coefficient,
            training_samples=self.training_samples,
        )
        model, task = self.open(self.model)
        from interp_kit.analysis.dictionaries.sae import train_sae

        result = train_sae(
            model,
            task,
            site=self.site,
            target_site=self.target_site,
            config=config,
            seed=self.seed,
            progress=self.progress,
        )
        self.finish(result)
        if self.out is not None:
            result.save_sae(self.out)
            self.say(f"wrote {self.out}")

    def folders(self) -> dict[Path, str]:
        """See Common."""
        from interp_kit.analysis.dictionaries.sae import KIND

        asked = super().folders()
        if self.out in asked:
            raise ValueError(f"two results would be written to one path: --save and --out are {self.out}")
        return asked if self.out is None else {**asked, self.out: KIND}


@dataclass(frozen=True, kw_only=True)
class Align(Common):
    """Name the feature of an autoencoder that tells each variable of the task, and say if the model uses it."""

    sae: Annotated[str, tyro.conf.Positional]
    """name of a shipped autoencoder (boolean, cards, culture)"""
    variables: tuple[str, ...] = ()
    """default: all of the task"""
    positions: tuple[str, ...] = ()
    """named positions that every text has; default: the last eight that predict a field"""
    target: str | None = None
    """the field whose answer an exchange is to move; default: the one that the position predicts"""
    limit: int = 1024
    """texts, at most"""
    pairs: int = 128
    """pairs per variable whose features are exchanged, at most"""
    permutations: int = 100
    """of the labels, for the level of chance"""
    seed: Seed = 0

    def execute(self) -> None:
        from interp_kit.analysis.dictionaries.shipped import load_sae, sae_origin

        model, task = self.open(sae_origin(self.sae)["model"])
        from interp_kit.analysis.dictionaries.alignment.align import align_features

        result = align_features(
            model,
            task,
            load_sae(self.sae),
            variables=self.variables or None,
            positions=self.positions or None,
            target=self.target,
            limit=self.limit,
            pairs=self.pairs,
            permutations=self.permutations,
            seed=self.seed,
            progress=self.progress,
        )
        self.finish(result, [result.summary().to_string(index=False, float_format=lambda v: f"{v:.2f}"), ""])
