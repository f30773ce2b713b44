"""SynthSAEBench rebuilt offline keeps its proportions, and an autoencoder finds its common features."""

import pytest
import torch

from benchmarks.sae_truth import drawn, recovered, synth_model
from interp_kit.analysis.dictionaries.sae_training import SAEConfig, fit_sae

PUBLISHED_L0, PUBLISHED_D = 34, 768


def test_a_part_of_the_benchmark_keeps_its_sparsity_and_its_common_features_are_found() -> None:
    model = synth_model(16)
    assert (model.cfg.num_features, model.cfg.hidden_dim) == (1024, 48)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, on = model.sample_with_features(2048)
    assert float((on > 0).double().sum(1).mean()) / 48 == pytest.approx(PUBLISHED_L0 / PUBLISHED_D, rel=0.35)
    config = SAEConfig(width=64, k=2, training_samples=51_200, batch_size=512, learning_rate=5e-3)
    sae = fit_sae(drawn(model, 10_240), config, {"hook_name": "known"}, 0, False)
    features = model.feature_dict.feature_vectors.detach()
    common = features[model.activation_generator.firing_probabilities.argsort(descending=True)[:8]]
    assert recovered(sae, common, 0.8) > recovered(sae, features, 0.8)
    assert recovered(sae, common, 0.8) >= 0.5
