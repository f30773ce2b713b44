"""Training of sparse autoencoders and transcoders: TopK by a loop of our own, all else under SAELens's SAETrainer.

This module, `architectures` and `topk_loop` alone know SAELens's version. Where 6.54 needs care: wandb is on by
default; `lr_end=None` trips an assertion; sparse activations crash in backward, so they stay off; BatchTopK and
Matryoshka load back as JumpReLU with one moving threshold, so that their L0 is measured again on what is loaded.
"""

import importlib
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_kit.analysis.dictionaries.architectures import fold_scales, inference_config, training_sae
from interp_kit.analysis.dictionaries.sae_config import SAEConfig as SAEConfig
from interp_kit.analysis.dictionaries.topk_loop import TopKLoop
from interp_kit.core.identity import derive_seed
from interp_kit.core.showing import bar, caution

if TYPE_CHECKING:
    from sae_lens import SAE as SAE
    from sae_lens import SAETrainer
    from sae_lens.config import SAETrainerConfig

LAST, SAMPLE = 20, 8192  # steps whose L0 is that of training; vectors on which that of the loaded one is measured
APART = 0.2  # share of L0 by which the two may differ


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
    vectors: Float[Tensor, "vector d_in"],
    config: SAEConfig,
    metadata: Mapping[str, str],
    seed: int,
    progress: bool,
    *,
    targets: Float[Tensor, "vector d_out"] | None = None,
) -> "SAE":
    """Train on these vectors and return SAELens's inference class, for vectors as they are: the scale is folded in.

    Args:
        vectors: What is read, and rebuilt if there are no targets.
        config: Architecture, width, sparsity, length.
        metadata: For SAELens's config, `hook_name` among it.
        seed: Random seed.
        progress: Whether to show a bar.
        targets: What a transcoder rebuilds from the vectors.

    Raises:
        ValueError: All vectors, or all targets, are equal, training diverges, or SAELens has no such transcoder.

    Warns:
        UserWarning: The L0 of what is returned is not that of training.
    """
    import_sae_lens()
    steps = config.training_samples // config.batch_size
    mean, scale = _mean_and_scale(vectors, metadata["hook_name"])
    aim, scale_out = (mean, None) if targets is None else _mean_and_scale(targets, "the target")
    d_out = None if targets is None else targets.shape[1]
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(derive_seed(seed, "sae", "weights"))
        sae = training_sae(config, vectors.shape[1], str(vectors.device), metadata, steps, d_out)
        sae.b_dec.data = aim * (scale_out or scale)
        if targets is not None:
            sae.b_enc.data = -scale * mean @ sae.W_enc.data
        stream = _stream(len(vectors), config.batch_size, derive_seed(seed, "sae", "order"))
        loop = _loop(sae, _options(config, steps, str(vectors.device)))
        l0: list[float] = []
        with bar(steps, f"SAE at {metadata['hook_name']}", progress) as shown:
            for step in range(steps):
                rows = next(stream).to(vectors.device)
                batch = vectors[rows] * scale
                if targets is not None and scale_out is not None:
                    batch = torch.cat([batch, targets[rows] * scale_out], 1)
                loop.step(batch)
                if step >= steps - LAST:
                    l0.append(float(loop.l0))
                shown.update()
    loop.finish()
    if not all(torch.isfinite(value).all() for value in sae.parameters()):
        raise ValueError(f"training diverged: learning_rate {config.learning_rate} is too high for these activations")
    fold_scales(sae, scale, scale_out)
    sae.cfg.metadata.l0 = sum(l0) / len(l0)
    sae.cfg.metadata.num_dead_features = int(loop.dead.sum())
    weights = {name: value.clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    made = inference_sae(inference_config(sae, config.architecture, d_out), weights)
    if note := unsettled(made, vectors):
        caution(note)
    return made


@torch.no_grad()
def unsettled(sae: "SAE", vectors: Float[Tensor, "vector d_in"]) -> str | None:
    """Warning for where the L0 of an autoencoder is not that of its training, which its metadata hold; else None."""
    trained = getattr(sae.cfg.metadata, "l0", None)
    if trained is None:
        return None
    heads = sae.hook_z_reshaping_mode
    sae.turn_off_forward_pass_hook_z_reshaping()
    found = float((sae.encode(vectors[:: math.ceil(len(vectors) / SAMPLE)]) > 0).double().sum(-1).mean())
    if heads:
        sae.turn_on_forward_pass_hook_z_reshaping()
    if abs(found - trained) <= APART * max(trained, 1.0):
        return None
    return (
        f"L0 is {found:.1f}, but was {trained:.1f} in the last steps of training: its threshold has not settled; train"
        " on more samples"
    )


def _mean_and_scale(vectors: Tensor, what: str) -> tuple[Tensor, float]:
    """The mean, and what makes the mean squared distance from it the number of dimensions."""
    mean = vectors.mean(0)
    spread = float((vectors - mean).square().sum(1).mean())
    if spread <= 1e-12 * float(mean.square().sum()):
        raise ValueError(f"{what}: all {len(vectors)} training activations are equal")
    return mean, (vectors.shape[1] / spread) ** 0.5


def _options(config: SAEConfig, steps: int, device: str) -> "SAETrainerConfig":
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=steps * config.batch_size,
        train_batch_size_samples=config.batch_size,
        lr=config.learning_rate,
        lr_end=config.learning_rate,  # unused by the constant schedule, but None trips an assertion
        lr_decay_steps=steps // 5,
        device=device,
        dead_feature_window=max(1, min(1000, steps // 10)),
        logger=LoggingConfig(log_to_wandb=False),
    )


class _SAELensLoop:
    """SAETrainer, step by step; its `fit` always draws a bar of its own."""

    def __init__(self, trainer: "SAETrainer[Any, Any]") -> None:
        self.trainer, self.l0 = trainer, torch.zeros(())

    @property
    def dead(self) -> Tensor:
        return self.trainer.dead_neurons

    def step(self, x: Tensor) -> None:
        found = self.trainer.step(x)
        self.trainer.n_training_steps += 1
        self.l0 = (found.feature_acts.detach() > 0).sum() / len(x)

    def finish(self) -> None:
        """Its class holds the weights already."""


def _loop(sae: Any, options: "SAETrainerConfig") -> TopKLoop | _SAELensLoop:
    """Our own loop for TopK, SAETrainer for all else."""
    from sae_lens import SAETrainer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler", category=UserWarning)
        if sae.cfg.architecture() == "topk":
            return TopKLoop(sae, options)
        return _SAELensLoop(SAETrainer(options, sae, iter(())))


def _stream(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of row numbers without end: every row once, in a new random order each time round."""
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    while True:
        while len(order) < batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:batch_size]
        order = order[batch_size:]


def inference_sae(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "SAE":
    """SAELens's inference class from its config and parameters."""
    import_sae_lens()
    from sae_lens import SAE

    with torch.random.fork_rng():  # its throw-away initial weights must not move the caller's random stream
        sae = SAE.from_dict(json.loads(json.dumps({**config, "device": str(weights["b_dec"].device)})))
    sae.load_state_dict(dict(weights))
    return sae.requires_grad_(False)


def read_sae(directory: str | Path) -> "SAE":
    """Read an autoencoder or a transcoder in SAELens's format, as `save_sae` and SAELens itself write it.

    Args:
        directory: Folder of cfg.json and sae_weights.safetensors.

    Returns:
        SAELens's inference class on the CPU, without gradients.

    Raises:
        ValueError: A file is missing or damaged. It names the folder.
    """
    import_sae_lens()
    from sae_lens import SAE

    folder = Path(directory)
    missing = [name for name in ("cfg.json", "sae_weights.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no autoencoder in SAELens's format: {', '.join(missing)} is not there")
    try:
        sae = SAE.load_from_disk(folder, device="cpu")
    except Exception as error:  # of JSON, safetensors, torch and SAELens, which has no class of its own
        raise ValueError(f"{folder} is damaged, or of a SAELens that this one does not read: {error}") from error
    return sae.requires_grad_(False)
