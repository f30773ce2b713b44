"""What features of a culture model are good for: changed cells, steering, the vocabulary, against planted answers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import interp_kit as ik
from interp_kit.analysis.dictionaries.shipped import load_sae
from interp_kit.models.convert import hooked_transformer
from interp_kit.registry.models import untrained
from interp_kit.studies.culture.features.steering import FEATURES, RANDOM, UNTRAINED, steer_colours, steer_rules
from interp_kit.studies.culture.features.transform import ANSWER, seen, transform_cells
from interp_kit.studies.culture.features.vocabulary import vocabulary
from interp_kit.studies.culture.rules.exchange import exchange_within, rule_pairs
from interp_kit.tasks.culture.grids import CELLS, COLOURS, quiz_diff_mask

TASK, D = ik.CultureTask(), 32


def model_of(layers: int) -> Any:
    return hooked_transformer(
        n_layers=layers, d_model=D, n_heads=2, d_head=16, d_mlp=32, n_ctx=405, d_vocab=len(TASK.vocabulary), seed=1,
        act_fn="gelu_new",
    )  # fmt: skip


def sae_of(hook: str, decoder: np.ndarray) -> Any:
    """An autoencoder whose features are read along their own decoder vectors, all of them kept."""
    width, shipped = len(decoder), load_sae("culture")
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": np.zeros(width), "b_dec": np.zeros(D)}
    return replace(
        shipped, hook=hook, frequency=np.ones(width), weights={k: v.astype(np.float32) for k, v in weights.items()},
        sae_config={**shipped.sae_config, "d_in": D, "d_sae": width, "k": width},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    drawn = [e for e in TASK.sample(150, 3) if e.labels["structure"] == 0]
    return TASK.batch(drawn).tokens.numpy()


def test_the_feature_of_changed_cells_is_found_and_stands_above_what_is_seen(tokens: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((len(tokens), CELLS, 6))
    values[..., 4] += 2 * quiz_diff_mask(tokens)[:, -CELLS:]
    found = transform_cells({"features": values, "noise": rng.random((len(tokens), CELLS, 6))}, tokens)
    assert found.chosen[0] == 4
    assert found.of("features").value == 1.0
    assert found.above("features").low > 0
    assert found.of("noise").low < 0.55
    assert found.above("noise").high < 0
    copied = transform_cells({"features": seen(tokens)[0]}, tokens)
    assert copied.name[1] == seen(tokens)[1][copied.chosen[0]]
    assert copied.above("features").value == 0  # a feature that is what is seen is not above it


def test_what_is_seen_holds_nothing_of_the_cell_itself(tokens: np.ndarray) -> None:
    """Another colour in the last cell, or in one more, moves what is seen of later cells alone."""
    cell = 57
    other = tokens.copy()
    other[:, -CELLS + cell] = (other[:, -CELLS + cell] + 1) % COLOURS
    same = (seen(tokens)[0] == seen(other)[0]).all((0, 2))
    assert same[: cell + 1].all()
    assert not same[cell + 1]
    assert slice(-CELLS - 1, -1) == ANSWER
    with pytest.raises(ValueError, match="at least 4"):
        transform_cells({"features": np.zeros((2, CELLS, 1))}, tokens[:2])


def test_features_that_write_a_colour_steer_to_it_and_random_ones_do_not() -> None:
    model = model_of(1)
    with torch.no_grad():
        for name in ("attn.W_O", "mlp.W_out"):
            dict(model.blocks[0].named_parameters())[name].zero_()
        model.unembed.W_U.zero_()
        model.unembed.W_U[:COLOURS, :COLOURS] = torch.eye(COLOURS)
    sae = sae_of("blocks.0.hook_mlp_out", np.eye(D))
    rng = np.random.default_rng(0)
    batch = TASK.batch([e for e in TASK.sample(150, 5) if e.labels["structure"] == 0][:24])
    unembedding = model.unembed.W_U.detach().numpy()
    effects = unembedding - unembedding.mean(1, keepdims=True)
    found = steer_colours(model, untrained(model, 3), sae, batch, 3 * rng.random((4, 9, D)), effects)
    shares, p = found.held_out()
    assert shares[FEATURES].value == 1.0
    assert shares[RANDOM].high < 0.5
    assert shares[UNTRAINED].high < 0.7
    assert p < 0.01
    assert (found.unedited == 2).mean() < 0.3
    null = steer_colours(model, untrained(model, 3), sae, batch, 3 * rng.random((4, 9, D)), np.roll(effects, 1, 1))
    assert null.held_out()[0][FEATURES].high < 0.5  # features of the wrong colours


@pytest.mark.slow
def test_all_features_of_a_rule_are_its_constant_direction() -> None:
    """With a complete autoencoder, all features at factor 1 add the difference of the rules' means and nothing else."""
    model = model_of(2)
    sae = sae_of("blocks.1.hook_resid_pre", np.concatenate([np.eye(D), -np.eye(D)]))
    pairs, fitted = rule_pairs(20, 1), rule_pairs(40, 2)
    found = steer_rules(model, untrained(model, 3), sae, pairs, fitted)
    assert found.sizes == (1, 4, 16, 64)
    expected = exchange_within(model, pairs, fitted, 1)
    for factor in (1, 4):
        constant = expected.answers[expected.at(f"constant direction x {factor}", "f_A cells")]
        np.testing.assert_array_equal(found.answers[0, -1, found.factors.index(factor)], constant)
    np.testing.assert_array_equal(found.unedited, expected.unedited)
    assert found.length.argmax() == 3


def test_moments_and_cosines_against_scipy_and_random_directions() -> None:
    rng = np.random.default_rng(0)
    unembedding, decoder = rng.standard_normal((D, 15)), rng.standard_normal((400, D))
    found = vocabulary(decoder, unembedding)
    effects = decoder @ (unembedding - unembedding.mean(1, keepdims=True))
    expected = np.stack([effects.std(1), stats.skew(effects, 1), stats.kurtosis(effects, 1, fisher=False)], 1)
    np.testing.assert_allclose(found.moments, expected)
    assert found.aligned.low < 0.05 < found.aligned.high
    tokens = vocabulary((unembedding - unembedding.mean(1, keepdims=True)).T, unembedding)
    np.testing.assert_allclose(tokens.cosine, 1)
    assert tokens.aligned.value == 1
