"""Are features universal: `python -m benchmarks.universal culture` or `cards`.

Trains one small autoencoder per shipped network, of one recipe, and matches features by `ik.universality`: of the five
culture networks, which share no start, or on cards of SFT and RL, which share one per seed. Then the same of neurons,
with CKA by layer.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

import interp_kit as ik
from interp_kit.analysis.comparison.universality_result import UniversalityResult
from interp_kit.analysis.dictionaries.sae import SAEResult

SEEDS = (0, 1, 2)
NETWORKS = {
    "culture": tuple(f"culture/gpt_{i:03d}" for i in range(5)),
    "cards": tuple(f"cards/{arm}-seed{i}" for i in SEEDS for arm in ("sft", "rl")),
}
SITES = {"culture": "blocks.1.hook_mlp_out", "cards": "blocks.0.hook_resid_post"}
CONFIG = ik.SAEConfig(width=128, k=16, training_samples=60_000, max_examples=64)
TEXTS, TOKENS = {"culture": 48, "cards": 512}, 3000


def autoencoders(models: Sequence[Any], task: ik.AbstractTask, site: str) -> list[SAEResult]:
    """One per network, of one recipe, on the same texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [ik.train_sae(model, task, site=site, config=CONFIG, progress=False) for model in models]


def _by_start(family: str, found: UniversalityResult) -> None:
    """SFT and RL of one seed began as one network: their excess beside that of other pairs."""
    if family == "cards":
        pairs = found.by_pair("excess")
        same = pairs["model"].str[-1] == pairs["in"].str[-1]
        pairs = pairs.assign(start=same.map({True: "the same", False: "another"}))
        print(pairs.groupby(["site", "start"])["excess"].agg(["mean", "min", "max", "count"]).round(3), flush=True)


def main(family: str) -> None:
    torch.set_num_threads(1)
    models = [ik.load(name) for name in NETWORKS[family]]
    task = ik.task_of(models[0])
    batch = task.batch(task.sample(TEXTS[family], 5))
    saes = autoencoders(models, task, SITES[family])
    print(
        "held-out variance explained", [round(one.variance_explained["held_out"].value, 2) for one in saes], flush=True
    )
    options: dict[str, Any] = {"within": "position", "tokens": TOKENS, "rotations": 2, "progress": False}
    features = ik.universality(models, batch, saes=saes, **options)
    print(features.to_frame().round(3).to_string(), flush=True)
    _by_start(family, features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = ik.train_sae(models[0], task, site=SITES[family], config=CONFIG, seed=1, progress=False)
    ceiling = ik.universality([models[0], models[0]], batch, saes=[saes[0], again], **options)
    print("two autoencoders of one network, the ceiling:", ceiling.by_pair("excess")["excess"].round(3).tolist())
    neurons = ik.universality(models, batch, site="mlp_post", **{**options, "tokens": 1500})
    _by_start(family, neurons)
    frame = neurons.to_frame()
    with pd.option_context("display.width", 200):
        print(frame[frame["measure"].isin(["excess", "CKA", "universal share"])].round(3).to_string(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
