"""Commands that run one analysis on a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from interp_kit.cli.common import MODEL_HELP, Common, Model


@dataclass(frozen=True, kw_only=True)
class Probe(Common):
    """Linear probes at every layer and named position, with baselines and controls."""

    model: Annotated[Model, tyro.conf.Positional]
    labels: tuple[str, ...] = ()
    """variables; default: all that the model answers"""
    sites: tuple[str, ...] = ("resid_post",)
    positions: tuple[str, ...] = ()
    permutations: int = 0
    """of the labels, for the max-statistic over cells"""
    seed: int = 0

    def execute(self) -> None:
        from interp_kit.analysis.probing import probe

        model, task = self.open(self.model)
        labels = self.labels or tuple(field.name for field in task.fields)
        result = probe(
            model,
            task.batch(task.pool(), self.device),
            labels,
            sites=self.sites,
            positions=self.positions or None,
            permutations=self.permutations,
            seed=self.seed,
            progress=self.progress,
        )
        self.finish(result)


@dataclass(frozen=True, kw_only=True)
class Patch(Common):
    """Activation patching between pairs of inputs that differ in one variable."""

    model: Annotated[Model, tyro.conf.Positional]
    variable: str = "newB"
    target: str = "newD"
    hold: tuple[str, ...] | None = None
    """variables that must agree; default: pairs that differ in the fewest inputs"""
    completion: Literal["own", "clean"] = "own"
    sites: tuple[str, ...] = ("resid_pre",)
    by: Literal["position", "all"] = "position"
    direction: Literal["denoise", "noise"] = "denoise"
    senders: bool = False
    """path patching by sender position into the target's prediction, in place of sites"""
    metric: Literal["logit_difference", "probability"] = "logit_difference"

    def execute(self) -> None:
        from interp_kit.analysis.metrics import METRICS
        from interp_kit.analysis.patching import patch, patch_senders

        model, task = self.open(self.model)
        pairs = task.pairs(self.variable, self.target, hold=self.hold, completion=self.completion).to(self.device)
        options: dict[str, Any] = {
            "metric": METRICS[self.metric],
            "direction": self.direction,
            "progress": self.progress,
        }
        if self.senders:
            self.finish(patch_senders(model, pairs, **options))
        else:
            self.finish(patch(model, pairs, sites=self.sites, by=self.by, **options))


@dataclass(frozen=True, kw_only=True)
class Ablate(Common):
    """Importance of every head and MLP; with more than one model, the overlap of their top-k sets."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help=MODEL_HELP)]
    kind: Literal["zero", "mean", "resample"] = "mean"
    units: tuple[Literal["head", "mlp", "layer"], ...] = ("head", "mlp")
    metric: Literal["logit_difference", "probability", "kl", "accuracy"] = "logit_difference"
    k: int = 5
    """size of the compared sets"""

    def execute(self) -> None:
        from interp_kit.analysis.ablation import ablate
        from interp_kit.analysis.metrics import METRICS
        from interp_kit.analysis.similarity import jaccard

        if not self.models:
            raise ValueError("name at least one model")
        results = []
        for name in self.models:
            model, task = self.open(name)
            batch = task.batch(task.pool(), self.device)
            result = ablate(
                model, batch, kind=self.kind, units=self.units, metric=METRICS[self.metric], progress=self.progress
            )
            results.append(result)
        self.finish(results[0] if len(results) == 1 else jaccard(*results, k=self.k))


@dataclass(frozen=True, kw_only=True)
class Mechanism(Common):
    """By which path a prediction uses an intermediate variable: its token, directly, or a latent."""

    model: Annotated[Model, tyro.conf.Positional]
    mediator: str = "newB"
    target: str = "newD"

    def execute(self) -> None:
        from interp_kit.analysis.mediation import mechanism

        model, task = self.open(self.model)
        result = mechanism(model, task, mediator=self.mediator, target=self.target)
        self.finish(result, [f"verdict: {result.verdict}"])


@dataclass(frozen=True, kw_only=True)
class Sae(Common):
    """Train a sparse autoencoder (SAELens) on one site over the task's stream."""

    model: Annotated[Model, tyro.conf.Positional]
    site: str = "blocks.1.hook_resid_post"
    architecture: Literal["standard", "topk"] = "topk"
    width: int = 64
    k: int = 8
    training_samples: int = 100_000
    seed: int = 0
    out: Path | None = None
    """write the autoencoder in SAELens's format to this folder"""

    def execute(self) -> None:
        from interp_kit.analysis.sae import train_sae
        from interp_kit.analysis.sae_training import SAEConfig

        model, task = self.open(self.model)
        config = SAEConfig(
            architecture=self.architecture, width=self.width, k=self.k, training_samples=self.training_samples
        )
        result = train_sae(model, task, site=self.site, config=config, seed=self.seed, progress=self.progress)
        self.finish(result)
        if self.out is not None:
            result.save_sae(self.out)
            print(f"wrote {self.out}")
