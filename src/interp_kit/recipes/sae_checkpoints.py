"""Recipe of the autoencoders that come with the package, one per task.

Rerun with `python -m interp_kit.recipes.sae_checkpoints` (a minute on one core for each).
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from interp_kit.analysis.dictionaries.sae import train_sae
from interp_kit.analysis.dictionaries.sae_training import SAEConfig
from interp_kit.analysis.dictionaries.shipped import FOLDER, KIND, store_sae
from interp_kit.core.folders import check_folder
from interp_kit.core.program import ended
from interp_kit.registry.models import load, task_of

# Name -> model, site, how it is trained.
SAES = {
    "boolean": (
        "boolean-gpt2",
        "blocks.2.hook_resid_post",
        SAEConfig(width=64, k=8, training_samples=100_000, batch_size=512),
    ),
    "cards": (
        "cards/sft-seed0",
        "blocks.0.hook_resid_post",
        SAEConfig(width=256, k=16, training_samples=150_000, batch_size=512, max_examples=400),
    ),
    "culture": (
        "culture/gpt_000",
        "blocks.1.hook_mlp_out",
        SAEConfig(width=512, k=32, training_samples=240_000, batch_size=1024, max_examples=64),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train the autoencoders and write them with what made them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SAES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"), help="where the checkpoints are written")
    parser.add_argument("--revision", default="unknown", help="of the code that trained them")
    options = parser.parse_args(argv)
    names = options.names or list(SAES)
    if unknown := set(names) - set(SAES):
        raise ValueError(f"no autoencoder {', '.join(sorted(unknown))}; there are {', '.join(SAES)}")
    for name in names:
        check_folder(options.out / FOLDER / name, KIND)
    for name in names:
        model_name, site, config = SAES[name]
        start, model = time.process_time(), load(model_name)
        result = train_sae(model, task_of(model), site=site, config=config)
        seconds = round(time.process_time() - start)
        print(store_sae(result, name, options.out, cpu_seconds=seconds, revision=options.revision), result)
    return 0


if __name__ == "__main__":
    raise SystemExit(ended("sae_checkpoints", main))
