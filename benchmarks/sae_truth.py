"""Autoencoders of every architecture where the true features are known: `python -m benchmarks.sae_truth`.

Toy superposition (Elhage et al. 2022), and SAELens's SynthSAEBench-16k (Chanin and Garriga-Alonso 2026) rebuilt from
its config at a quarter of its size: features, dimensions, trees and width are divided alike, and the highest firing
probability by the root of that, which keeps the mean one, so that L0 per dimension, and with it the noise of
superposition, stays what it is. Published figures are of the whole one after 200 M samples; ours are of far fewer, and
say only which architectures come out ahead of which. Two rows of one step at no rate are the control: what fresh
weights score.
"""

import sys
import time
from dataclasses import replace
from typing import Any

import torch

from interp_kit.analysis.dictionaries.sae_config import ARCHITECTURES, Architecture, SAEConfig
from interp_kit.analysis.dictionaries.sae_training import fit_sae, import_sae_lens

PART = 4  # of SynthSAEBench-16k
KEPT, CLOSE = 0.95, 0.95  # share of features that must be found; cosine at which one is
FRESH: tuple[Architecture, ...] = ("topk", "standard")  # architectures that are also scored untrained
PUBLISHED = {"matryoshka": "0.879 / 0.793", "batchtopk": "0.732 / 0.757", "standard": "0.556 / 0.604"}
TOY = SAEConfig(width=80, k=2, l1_coefficient=2.5, training_samples=500_000, batch_size=512, learning_rate=5e-3)
SYNTH = SAEConfig(width=1024, k=8, l1_coefficient=2.5, training_samples=4_000_000, batch_size=1024, learning_rate=3e-3)


def toy_model() -> Any:
    """SAELens's generator of 64 features in 40 dimensions, each on in 3 % of the vectors."""
    import_sae_lens()
    from sae_lens.synthetic import ConstantFiringProbabilityConfig, SyntheticModel, SyntheticModelConfig

    chance = ConstantFiringProbabilityConfig(probability=0.03)
    return SyntheticModel(
        SyntheticModelConfig(64, 40, firing_probability=chance, std_firing_magnitudes=0.3, bias=0.5, seed=0)
    )


def synth_model(part: int = PART) -> Any:
    """SynthSAEBench-16k with its features, dimensions and trees divided by `part`."""
    import_sae_lens()
    from sae_lens import synthetic as s

    return s.SyntheticModel(
        s.SyntheticModelConfig(
            num_features=16_384 // part,
            hidden_dim=768 // part,
            firing_probability=s.ZipfianFiringProbabilityConfig(max_prob=0.4 / part**0.5, min_prob=5e-4, exponent=0.5),
            hierarchy=s.HierarchyConfig(
                total_root_nodes=128 // part,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
                scale_children_by_parent=True,
            ),
            mean_firing_magnitudes=s.LinearMagnitudeConfig(start=5.0, end=4.0),
            std_firing_magnitudes=s.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
            correlation=s.LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
            orthogonalization=s.OrthogonalizationConfig(num_steps=100, lr=3e-4),
            bias=0.5,
            seed=42,
        )
    )


def drawn(model: Any, count: int, seed: int = 0) -> torch.Tensor:
    """(count, d) vectors."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return torch.cat([model.sample(min(1024, count - first)) for first in range(0, count, 1024)])


def recovered(sae: Any, features: torch.Tensor, cosine: float = CLOSE) -> float:
    """Share of true features to which some decoder row has at least this cosine."""
    rows = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    return float(((rows @ features.T).max(0).values >= cosine).double().mean())


def runs(config: SAEConfig) -> list[tuple[str, SAEConfig]]:
    """Name and options of every row: fresh weights that are on k at a time or as they fall, then every architecture."""
    fresh = replace(config, training_samples=config.batch_size, learning_rate=1e-12)
    untrained = [(f"{name}, untrained", replace(fresh, architecture=name)) for name in FRESH]
    return [*untrained, *((name, replace(config, architecture=name)) for name in ARCHITECTURES)]


def table(model: Any, config: SAEConfig, count: int, published: dict[str, str] | None = None) -> list[str]:
    """One line of Markdown per row, printed as it is done."""
    from sae_lens.synthetic import eval_sae_on_synthetic_data

    vectors, lines = drawn(model, count), []
    features = model.feature_dict.feature_vectors.detach()
    for name, options in runs(config):
        began = time.process_time()
        sae = fit_sae(vectors, options, {"hook_name": "known"}, 0, False)
        seconds = time.process_time() - began
        with torch.random.fork_rng():
            torch.manual_seed(1)
            found = eval_sae_on_synthetic_data(
                sae, model.feature_dict, model.activation_generator, num_samples=20_480, batch_size=1024
            )
        cells = [
            name, f"{recovered(sae, features):.1%}", f"{found.classification.f1_score:.3f}", f"{found.mcc:.3f}",
            f"{found.explained_variance:.3f}", f"{found.sae_l0:.1f} of {found.true_l0:.1f}", str(found.dead_latents),
            f"{seconds:.0f} s", (published or {}).get(name, ""),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


HEADER = (
    f"| architecture | features at cosine {CLOSE} | F1 | MCC | variance explained | L0 | dead | CPU |"
    " published F1 / MCC |\n|---|---|---|---|---|---|---|---|---|"
)


def main(names: list[str]) -> None:
    """Print the tables that are named, or both."""
    torch.set_num_threads(1)
    for name in names or ["toy", "synth"]:
        print(f"\n{name}\n\n{HEADER}", flush=True)
        if name == "toy":
            table(toy_model(), TOY, 60_000)
        else:
            table(synth_model(), SYNTH, 500_000, PUBLISHED)


if __name__ == "__main__":
    main(sys.argv[1:])
