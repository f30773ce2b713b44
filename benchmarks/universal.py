"""Are features universal: `python -m benchmarks.universal culture`, `boolean` or `cards`.

Trains one small autoencoder per shipped network, of one recipe, and matches features by `ik.universality`: of the five
culture or boolean networks, which share no start, or on cards of SFT and RL, which share one per seed. Names the
variable that each feature tells best, and says if its matches tell the same. Then the same of the networks untrained,
and of neurons, with CKA by layer, of both.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

import interp_kit as ik
from interp_kit.analysis.comparison.universality_result import UniversalityResult
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.registry.models import untrained

SEEDS = (0, 1, 2)
NETWORKS = {
    "culture": tuple(f"culture/gpt_{i:03d}" for i in range(5)),
    "boolean": ("boolean-gpt2", *(f"boolean-gpt2-seed{i}" for i in range(1, 5))),
    "cards": tuple(f"cards/{arm}-seed{i}" for i in SEEDS for arm in ("sft", "rl")),
}
SITES = {
    "culture": "blocks.1.hook_mlp_out",
    "boolean": "blocks.2.hook_resid_post",
    "cards": "blocks.0.hook_resid_post",
}
CONFIG = ik.SAEConfig(width=128, k=16, training_samples=60_000, max_examples=64)
TEXTS, TOKENS = {"culture": 48, "boolean": 64, "cards": 512}, 3000
LATENTS = {"culture": ("task", "direction", "step", "growth", "half", "polarity")}
PLACES = {"culture": ("B", "f_B")}
SHOWN = ("excess", "one to one", "CKA", "universal share")  # of neurons
TOLD = 0.9  # area under the ROC curve at which a feature counts as telling a class
ALIGNED = 160  # texts on which features are given their variable


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


def _named(family: str, models: Sequence[Any], saes: Sequence[SAEResult], features: UniversalityResult) -> None:
    """Print which variable each feature tells, and if it is universal."""
    task = ik.task_of(models[0])
    batch = task.batch(task.sample(ALIGNED, 6))  # a batch: nothing is exchanged
    aligned = [
        ik.align_features(
            model, batch, sae, variables=LATENTS.get(family), positions=PLACES.get(family), permutations=20,
            progress=False,
        )
        for model, sae in zip(models, saes, strict=True)
    ]  # fmt: skip
    named = ik.universal_features(features, aligned)
    named = named.assign(excess=named["correlation"] - named["rotated"])
    told = named.query("AUROC >= @TOLD")
    which, carried = told.drop_duplicates(["model", "feature"]), told["match carries it"].mean()
    print(
        f"{len(which)} features of {len(models)} networks tell a class with AUROC {TOLD} or more; universal:"
        f" {which['universal'].to_numpy().sum()}; excess {which['excess'].mean():.3f} in the mean,"
        f" {which['excess'].max():.3f} at most; best match tells the same class in {carried:.2f} of the other networks"
        f" (any one feature: {1 / CONFIG.width:.3f}); largest excess of any feature"
        f" {np.nanmax(features.correlation - features.rotated):.3f}",
        flush=True,
    )
    how = {"AUROC": "mean", "correlation": "mean", "excess": "mean", "match carries it": "mean", "model": "nunique"}
    table = told.groupby(["class", "position"], sort=False).agg(how)
    print(table.sort_values("excess", ascending=False).head(24).round(2).to_string(), flush=True)


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
    _named(family, models, saes, features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = ik.train_sae(models[0], task, site=SITES[family], config=CONFIG, seed=1, progress=False)
    ceiling = ik.universality([models[0], models[0]], batch, saes=[saes[0], again], **options)
    print("two autoencoders of one network, the ceiling:", ceiling.by_pair("excess")["excess"].round(3).tolist())
    blank = [untrained(model, seed) for seed, model in enumerate(models)]
    control = ik.universality(blank, batch, saes=autoencoders(blank, task, SITES[family]), **options)
    print("features of the networks untrained")
    print(control.to_frame().round(3).to_string(), flush=True)
    for name, networks in (("trained", models), ("untrained", blank)):
        neurons = ik.universality(networks, batch, site="mlp_post", **{**options, "tokens": 1500})
        print("neurons of the networks", name)
        _by_start(family, neurons)
        frame = neurons.to_frame()
        with pd.option_context("display.width", 200):
            print(frame[frame["measure"].isin(SHOWN)].round(3).to_string(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
