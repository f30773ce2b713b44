"""Train sparse autoencoders (Bricken et al. 2023; TopK: Gao et al. 2024) and transcoders (Dunefsky et al. 2024) on a
task's activations, and measure them on examples that they were not trained on."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from interp_kit.analysis.dictionaries.activations import Activations, harvest_sites, source, split_examples
from interp_kit.analysis.dictionaries.architectures import TRANSCODERS
from interp_kit.analysis.dictionaries.origin import weights_of
from interp_kit.analysis.dictionaries.sae_evaluation import evaluate_sae
from interp_kit.analysis.dictionaries.sae_result import KIND as KIND
from interp_kit.analysis.dictionaries.sae_result import SAEResult
from interp_kit.analysis.dictionaries.sae_training import SAEConfig, fit_sae
from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_flag, check_seed, expect
from interp_kit.core.showing import PROGRESS, caution
from interp_kit.core.task import AbstractTask
from interp_kit.engine.sites import find_hook
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel, model_name
from interp_kit.models.meeting import check_meeting

SITE = "blocks.1.hook_resid_post"


@on_model()
def train_sae(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    *,
    site: str = SITE,
    target_site: str | None = None,
    config: SAEConfig | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> SAEResult:
    """Train a sparse autoencoder on a site's activations over the task's own texts, and measure it on held-out ones.

    Activations are scaled by one number, so that their mean squared distance from their mean is d_in; the decoder bias
    starts at that mean, and the scale is folded into the weights afterwards.

    Args:
        model: What is read.
        task: Or a batch, of which the distinct rows are divided; it needs an answer, by which the autoencoder is
            measured.
        site: A hook name, or "mlp_out.2".
        target_site: What a transcoder rebuilds from `site`; None for an autoencoder.
        config: Architecture, width, sparsity, length; by default SAEConfig().
        store: Folder where the activations are kept, or are read from if it holds them: those of the same model, task,
            sites and seed. None keeps them in memory alone.
        seed: Random seed.
        progress: Whether to show bars.

    Returns:
        The autoencoder and what it explains.

    Raises:
        ValueError: An unknown site, too few examples, activations that are nan, infinite or all equal, a training that
            diverges, a transcoder of an architecture that SAELens has none of, or a store of other activations.

    Warns:
        UserWarning: The latents are more than a quarter of the distinct activation vectors: each may then simply stand
            for a few inputs. Or L0 is not that of training.
    """
    config = SAEConfig() if config is None else config
    expect("config", config, SAEConfig)
    return _train(model, task, [config], site, target_site, store, seed, progress)[0]


@on_model()
def train_saes(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    configs: Sequence[SAEConfig],
    *,
    site: str = SITE,
    target_site: str | None = None,
    store: str | Path | None = None,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> tuple[SAEResult, ...]:
    """Train several sparse autoencoders on activations that are harvested once; each is the one of `train_sae`.

    Args:
        model: What is read.
        task: As of `train_sae`.
        configs: One per autoencoder, all of the same `held_out` and `max_examples`.
        site: As of `train_sae`.
        target_site: As of `train_sae`.
        store: As of `train_sae`.
        seed: Random seed, the same for all.
        progress: Whether to show bars.

    Returns:
        One result per config.

    Raises:
        ValueError: As `train_sae`; there is no config, or they divide the examples in different ways.
    """
    expect("configs", configs, (list, tuple))
    for config in configs:
        expect("a config", config, SAEConfig)
    if not configs:
        raise ValueError("configs is empty; expected one SAEConfig or more")
    divided = {(config.held_out, config.max_examples) for config in configs}
    if len(divided) > 1:
        raise ValueError(
            f"configs differ in (held_out, max_examples): {sorted(divided)}; give all the same, or call train_sae"
        )
    return tuple(_train(model, task, configs, site, target_site, store, seed, progress))


def _train(
    model: HookedModel,
    task: AbstractTask | TokenBatch,
    configs: Sequence[SAEConfig],
    site: str,
    target_site: str | None,
    store: str | Path | None,
    seed: int,
    progress: bool,
) -> list[SAEResult]:
    """Harvest once, then fit and measure each."""
    check_meeting(model, task, AbstractTask, TokenBatch)
    if not task.fields:
        raise ValueError(
            "the batch asks for no answer, by which an autoencoder is measured; give from_tokens(answer=…)"
        )
    check_seed(seed)
    check_flag("progress", progress)
    if store is not None and not isinstance(store, str | Path):
        raise ValueError(f"store is {store!r}; expected the path of a folder, or None")
    hook = find_hook(model, site)
    target_hook = hook if target_site is None else find_hook(model, target_site)
    names = {"model_name": model_name(model), "hook_name": hook, "task": source(task)}
    if target_site is not None:
        check_transcoders(configs, hook, target_hook)
        names["hook_name_out"] = target_hook
    train, test = split_examples(task, configs[0].held_out, configs[0].max_examples, seed)
    with torch.inference_mode(False):
        found = harvest_sites(model, task, (hook, target_hook), train, test, store=store, progress=progress)
        acts, targets = found[hook], None if target_site is None else found[target_hook]
        if not acts.unseen.any():
            raise ValueError(f"every text of the {len(test)} held-out examples begins a training example")
        made_by = {
            "model": model_name(model), "weights": weights_of(model), "task": source(task),
            "task_fingerprint": task.identity.fingerprint, "site": site, "target_site": target_site,
        }  # fmt: skip
        results = []
        for config in configs:
            made = {**made_by, "seed": seed, **asdict(config)}
            results.append(_measured(model, acts, targets, config, names, made, progress))
        return results


def check_transcoders(configs: Sequence[SAEConfig], hook: str, target_hook: str) -> None:
    """Raises ValueError if SAELens has no such transcoder, or it would rebuild what it reads."""
    if hook == target_hook:
        raise ValueError(f"target_site is {hook}, which is the site; leave it out for an autoencoder")
    for config in configs:
        if config.architecture not in TRANSCODERS:
            raise ValueError(
                f"architecture is {config.architecture!r}; transcoders of SAELens are {', '.join(TRANSCODERS)}"
            )


def _measured(
    model: HookedModel,
    acts: Activations,
    targets: Activations | None,
    config: SAEConfig,
    names: dict[str, str],
    made_by: dict[str, Any],
    progress: bool,
) -> SAEResult:
    """Fit one autoencoder to harvested activations and measure it."""
    distinct, notes, training = acts.distinct(), [], acts.training
    if config.width > distinct / 4:
        notes.append(
            f"{config.width} latents for {distinct} distinct activation vectors at {acts.hook}: over a quarter, so that"
            " latents may memorise inputs"
        )
        caution(notes[-1])
    rebuilt = None if targets is None else targets.vectors[training]
    sae = fit_sae(acts.vectors[training], config, names, made_by["seed"], progress, targets=rebuilt)
    return evaluate_sae(model, acts, sae, config=made_by, notes=notes, targets=targets)
