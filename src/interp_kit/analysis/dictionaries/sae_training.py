"""Training of sparse autoencoders by SAELens (StandardTrainingSAE and TopKTrainingSAE under its SAETrainer).

The only code that knows SAELens's version. Where 6.54 needs care: wandb is on by default; `lr_end=None` trips an
assertion; sparse activations crash in backward, so they stay off; BatchTopK loads back as JumpReLU with another L0, so
it is not offered, while TopK loads back as TopK, its decoder norms folded in.
"""

import importlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_kit.core.config import check_choice, check_count, check_number
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import bar

if TYPE_CHECKING:
    from sae_lens import SAE as SAE
    from sae_lens import TrainingSAE


@dataclass(frozen=True)
class SAEConfig:
    """Options for training and evaluating a sparse autoencoder.

    architecture: "topk" keeps the `k` largest latents of a vector, "standard" is ReLU with an L1 penalty of
    `l1_coefficient` (activations are scaled so that it means the same at every site); width: latents; training_samples:
    vectors seen in training, repeats counted; held_out: share of the examples kept for evaluation; max_examples: a
    larger task is cut, or sampled, to so many examples. Raises ValueError for values that make no autoencoder.
    """

    architecture: Literal["standard", "topk"] = "topk"
    width: int = 64
    k: int = 8
    l1_coefficient: float = 1.0
    training_samples: int = 500_000
    batch_size: int = 256
    learning_rate: float = 2e-3
    held_out: float = 0.25
    max_examples: int = 2048

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, ("standard", "topk"))
        check_count("width", self.width)
        check_count("k", self.k, most=self.width if self.architecture == "topk" else None)
        check_number("l1_coefficient", self.l1_coefficient, least=0)
        check_count("training_samples", self.training_samples)
        check_count("batch_size", self.batch_size, most=self.training_samples)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("held_out", self.held_out, above=0, below=1)
        check_count("max_examples", self.max_examples, least=4)


class _Later(ModuleType):
    """wandb, imported when SAELens first uses it."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_sae_lens() -> None:
    """Import SAELens so that it leaves the process as it was: without the warning filters that its imports add, and
    without the temporary folders of wandb, which it imports and which is off."""
    later = None if "wandb" in sys.modules else sys.modules.setdefault("wandb", _Later("wandb"))
    try:
        with warnings.catch_warnings():
            importlib.import_module("sae_lens")
    finally:
        if sys.modules.get("wandb") is later is not None:
            del sys.modules["wandb"]


def fit_sae(
    vectors: Float[Tensor, "vector d_in"], config: SAEConfig, metadata: Mapping[str, str], seed: int, progress: bool
) -> "SAE":
    """Train on these vectors and return SAELens's inference class, for vectors as they are: the scale is folded in.

    metadata: for SAELens's config, `hook_name` among it. Raises ValueError if all vectors are equal, or
    training diverges.
    """
    import_sae_lens()
    from sae_lens import LoggingConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    mean, steps = vectors.mean(0), config.training_samples // config.batch_size
    spread = float((vectors - mean).square().sum(1).mean())
    if spread <= 1e-12 * float(mean.square().sum()):
        raise ValueError(f"{metadata['hook_name']}: all {len(vectors)} training activations are equal")
    scale = (vectors.shape[1] / spread) ** 0.5
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(derive_seed(seed, "sae", "weights"))
        sae = _training_sae(config, vectors.shape[1], str(vectors.device), metadata, steps)
        sae.b_dec.data = mean * scale
        stream = _stream(vectors, config.batch_size, derive_seed(seed, "sae", "order"))
        options = SAETrainerConfig(
            total_training_samples=steps * config.batch_size,
            train_batch_size_samples=config.batch_size,
            lr=config.learning_rate,
            lr_end=config.learning_rate,  # unused by the constant schedule, but None trips an assertion
            lr_decay_steps=steps // 5,
            device=str(vectors.device),
            dead_feature_window=max(1, min(1000, steps // 10)),
            logger=LoggingConfig(log_to_wandb=False),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler", category=UserWarning)
            trainer = SAETrainer(options, sae, stream)
        trainer.activation_scaler.scaling_factor = scale
        # not trainer.fit(): that always draws a bar of its own
        with bar(steps, f"SAE at {metadata['hook_name']}", progress) as shown:
            for _ in range(steps):
                trainer.step(next(stream))
                trainer.n_training_steps += 1
                shown.update()
    if not all(torch.isfinite(value).all() for value in sae.parameters()):
        raise ValueError(f"training diverged: learning_rate {config.learning_rate} is too high for these activations")
    sae.fold_activation_norm_scaling_factor(scale)
    weights = {name: value.clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    return inference_sae(sae.cfg.get_inference_sae_cfg_dict(), weights)


def _training_sae(
    config: SAEConfig, d_in: int, device: str, metadata: Mapping[str, str], steps: int
) -> "TrainingSAE[Any]":
    """SAELens's training class with fresh weights."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    common: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": config.width,
        "device": device,
        "reshape_activations": "hook_z" if metadata["hook_name"].endswith("hook_z") else "none",
        "metadata": SAEMetadata(**metadata),
    }
    if config.architecture == "topk":
        return TopKTrainingSAE(TopKTrainingSAEConfig(**common, k=config.k))
    return StandardTrainingSAE(
        StandardTrainingSAEConfig(**common, l1_coefficient=config.l1_coefficient, l1_warm_up_steps=steps // 20)
    )


def _stream(vectors: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """(batch_size, d_in) batches without end: every vector once, in a new random order each time round."""
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    while True:
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(vectors), generator=generator)])
        yield vectors[order[:batch_size].to(vectors.device)]
        order = order[batch_size:]


def inference_sae(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "SAE":
    """SAELens's inference class from its config and parameters."""
    import_sae_lens()
    from sae_lens import SAE

    with torch.random.fork_rng():  # its throw-away initial weights must not move the caller's random stream
        sae = SAE.from_dict(json.loads(json.dumps({**config, "device": str(weights["b_dec"].device)})))
    sae.load_state_dict(dict(weights))
    return sae.requires_grad_(False)
