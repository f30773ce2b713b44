"""SAELens's training classes for each architecture, and those of transcoders, which SAELens saves but does not train.

A transcoder (Dunefsky et al. 2024) reads one site and rebuilds another. SAELens has two formats for them, of ReLU and
of thresholds; both are trained here by the losses of its autoencoders, on inputs and targets side by side.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp_kit.analysis.dictionaries.sae_config import SAEConfig

if TYPE_CHECKING:
    from sae_lens import TrainingSAE

L0_COEFFICIENT, BANDWIDTH = 0.3, 0.5  # of jumprelu, at a mean squared activation of 1 per dimension
THRESHOLD_RATE = 0.1  # SAELens's 0.01 leaves the threshold of batchtopk far behind after few hundred steps
TRANSCODERS = {"standard": "transcoder", "batchtopk": "jumprelu_transcoder", "matryoshka": "jumprelu_transcoder",
               "jumprelu": "jumprelu_transcoder"}  # fmt: skip


def training_sae(
    config: SAEConfig, d_in: int, device: str, metadata: Mapping[str, Any], steps: int, d_out: int | None = None
) -> "TrainingSAE[Any]":
    """SAELens's training class with fresh weights.

    Args:
        config: Architecture and options.
        d_in: Size of a vector.
        device: Where the weights are.
        metadata: For SAELens's config, `hook_name` among it.
        steps: Length of the training, of which warm-ups are a share.
        d_out: Size of what a transcoder rebuilds; None for an autoencoder.

    Raises:
        ValueError: SAELens has no transcoder of this architecture.
    """
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    warm_up = steps // 20
    topk: dict[str, Any] = {"k": config.k}
    batch = {**topk, "topk_threshold_lr": THRESHOLD_RATE}
    l1 = {"l1_coefficient": config.l1_coefficient, "l1_warm_up_steps": warm_up}
    l0 = {
        "jumprelu_sparsity_loss_mode": "quadratic",
        "target_l0": float(config.k),
        "l0_coefficient": L0_COEFFICIENT,
        "l0_warm_up_steps": steps // 5,
        "jumprelu_bandwidth": BANDWIDTH,
        "jumprelu_init_threshold": 0.1,
    }
    name, options = {
        "standard": ("Standard", l1),
        "topk": ("TopK", topk),
        "batchtopk": ("BatchTopK", batch),
        "jumprelu": ("JumpReLU", l0),
        "gated": ("Gated", l1),
        "matryoshka": ("MatryoshkaBatchTopK", {**batch, "matryoshka_widths": config.levels}),
    }[config.architecture]
    made, options_of = getattr(sae_lens, f"{name}TrainingSAE"), getattr(sae_lens, f"{name}TrainingSAEConfig")
    heads = d_out is None and metadata["hook_name"].endswith("hook_z")
    found = options_of(
        d_in=d_in,
        d_sae=config.width,
        device=device,
        reshape_activations="hook_z" if heads else "none",
        metadata=SAEMetadata(**metadata),
        **options,
    )
    if d_out is None:
        return made(found)
    if config.architecture not in TRANSCODERS:
        raise ValueError(
            f"SAELens has no transcoder of architecture {config.architecture!r}; there are {', '.join(TRANSCODERS)}"
        )
    return _transcoder_class(made)(found, d_out)


def _transcoder_class(base: type[Any]) -> type[Any]:
    """A training class that rebuilds targets, which stand after the inputs of every vector that it is given."""

    class TrainingTranscoder(base):
        def __init__(self, cfg: Any, d_out: int) -> None:
            self.sizes = (cfg.d_in, d_out)
            super().__init__(replace(cfg, apply_b_dec_to_input=False))
            whole = self.mse_loss_fn
            self.mse_loss_fn = lambda rebuilt, given: whole(rebuilt, given.split(self.sizes, -1)[1])

        def initialize_weights(self) -> None:
            super().initialize_weights()
            decoder = torch.empty(self.cfg.d_sae, self.sizes[1], dtype=self.dtype, device=self.device)
            nn.init.kaiming_uniform_(decoder)
            decoder *= self.cfg.decoder_init_norm / decoder.norm(dim=-1, keepdim=True)
            self.W_dec = nn.Parameter(decoder)
            self.b_dec = nn.Parameter(torch.zeros(self.sizes[1], dtype=self.dtype, device=self.device))

        def process_sae_in(self, sae_in: Tensor) -> Tensor:
            return sae_in.to(self.dtype).split(self.sizes, -1)[0]

        def calculate_aux_loss(self, step_input: Any, **options: Any) -> Any:
            targets = replace(step_input, sae_in=step_input.sae_in.split(self.sizes, -1)[1])
            return super().calculate_aux_loss(step_input=targets, **options)

    TrainingTranscoder.__name__ = f"{base.__name__}Transcoder"
    return TrainingTranscoder


def fold_scales(sae: "TrainingSAE[Any]", scale: float, scale_out: float | None) -> None:
    """Change the weights so that they read and give vectors that are not scaled.

    Args:
        sae: Trained on inputs times `scale`.
        scale: What the inputs were multiplied by.
        scale_out: What the targets of a transcoder were multiplied by; None for an autoencoder.
    """
    sae.fold_activation_norm_scaling_factor(scale)
    if scale_out is not None:
        sae.W_dec.data.mul_(scale / scale_out)
        sae.b_dec.data.mul_(scale / scale_out)
        threshold = getattr(sae, "topk_threshold", None)  # in units of decoder norms
        if threshold is not None:
            threshold.mul_(scale / scale_out)


def inference_config(sae: "TrainingSAE[Any]", architecture: str, d_out: int | None) -> dict[str, Any]:
    """The config of SAELens's inference class, as JSON has it."""
    found = sae.cfg.get_inference_sae_cfg_dict()
    if d_out is None:
        return found
    from sae_lens import TranscoderConfig

    names = {field.name for field in fields(TranscoderConfig)}
    found = {name: value for name, value in found.items() if name in names | {"metadata"}}
    return {**found, "architecture": TRANSCODERS[architecture], "d_out": d_out, "apply_b_dec_to_input": False}
