"""Universality: a network against a copy with its neurons permuted (all are found), against itself rotated (none is),
and against one that shares nothing; CKA and jackknife against their definitions."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats

import interp_kit as ik
from interp_kit.analysis.comparison.correlations import (
    best_match,
    correlations,
    debiased_cka,
    gram,
    jackknife,
    matched,
    one_to_one,
)
from interp_kit.analysis.comparison.universality_result import MEASURES, UniversalityResult
from interp_kit.models.convert import hooked_transformer

TASK = ik.BooleanTask()
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def batch() -> ik.TokenBatch:
    return TASK.batch(TASK.enumerate())


def small(seed: int) -> Any:
    return hooked_transformer(
        n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=64, n_ctx=24, d_vocab=len(TASK.vocabulary), seed=seed,
        act_fn="gelu_new",
    )  # fmt: skip


def shuffled(model: Any, seed: int) -> tuple[Any, list[torch.Tensor]]:
    """The same function with the neurons of every layer in another order, and the orders."""
    other, orders = copy.deepcopy(model), []
    for block in other.blocks:
        order = torch.randperm(block.mlp.W_in.shape[1], generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            block.mlp.W_in.copy_(block.mlp.W_in[:, order])
            block.mlp.b_in.copy_(block.mlp.b_in[order])
            block.mlp.W_out.copy_(block.mlp.W_out[order])
        orders.append(order)
    return other, orders


def values(found: UniversalityResult, measure: str) -> np.ndarray:
    return found.mean[..., MEASURES.index(measure)]


@pytest.fixture(scope="module")
def twins(batch: ik.TokenBatch) -> tuple[UniversalityResult, list[torch.Tensor]]:
    model = small(0)
    other, orders = shuffled(model, 1)
    return ik.universality([model, other], batch, site="mlp_post.1", rotations=2, progress=False), [orders[1]]


def test_neurons_in_another_order_are_found_and_rotated_ones_are_not(
    twins: tuple[UniversalityResult, list[torch.Tensor]],
) -> None:
    found, (order,) = twins
    assert found.hook == ("blocks.1.mlp.hook_post",)
    np.testing.assert_allclose(values(found, "best match"), 1, atol=1e-4)
    np.testing.assert_allclose(values(found, "one to one"), 1, atol=1e-4)
    np.testing.assert_allclose(values(found, "CKA"), 1, atol=1e-4)
    assert (values(found, "rotated") < 0.8).all()
    np.testing.assert_array_equal(found.match[0, 1][: len(order)], order.numpy())
    np.testing.assert_allclose(values(found, "excess"), values(found, "best match") - values(found, "rotated"))


def test_networks_that_learnt_nothing_are_not_universal(batch: ik.TokenBatch) -> None:
    models = [small(seed) for seed in (0, 1, 2, 3)]
    found = ik.universality(
        models, batch, site="mlp_post.1", within="position", rotations=2, tokens=200, progress=False
    )
    assert (np.abs(values(found, "excess")) < 0.1).all()
    assert found.universal.max() < 0.05
    value, low, high = found.over_models(0, "excess")
    assert low <= value <= high
    assert np.isnan(
        ik.universality(models[:2], batch, site="mlp_post.0", tokens=64, rotations=1).over_models(0, "CKA")[1]
    )


def test_only_the_half_that_units_are_not_matched_on_is_measured(batch: ik.TokenBatch) -> None:
    found = ik.universality(
        [ik.load("boolean-direct"), ik.load("boolean-direct@1")], batch, rotations=1, progress=False
    )
    assert found.texts == 16
    assert found.tokens < 400
    frame = found.to_frame()
    assert set(frame["site"]) == {"blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"}
    assert set(frame["n"]) == {16}


def test_noise_matches_only_where_it_was_matched() -> None:
    a, b = RNG.normal(size=(2, 40, 60))
    there = correlations(a[:20], b[:20])
    assert np.nanmax(there, 1).mean() > 0.5
    here = matched(a[20:], b[20:], best_match(there), np.arange(20) % 4)
    assert abs(here[0].mean()) < 0.1


def test_correlations_are_numpys_and_constant_units_are_left_out() -> None:
    a, b = RNG.normal(size=(30, 4)), RNG.normal(size=(30, 5))
    np.testing.assert_allclose(correlations(a, b), np.corrcoef(a.T, b.T)[:4, 4:], atol=1e-12)
    a[:, 2] = 7.0
    found = correlations(a, b)
    assert np.isnan(found[2]).all()
    assert best_match(found)[2] == -1
    single = one_to_one(found)
    assert single[2] == -1
    assert len(set(single[single >= 0])) == 3
    block, match = np.arange(30) % 3, best_match(found)
    left = matched(a, b, match, block)
    for k in range(3):
        kept = block != k
        expected = np.corrcoef(a[kept, 0], b[kept, match[0]])[0, 1]
        assert left[1 + k, 0] == pytest.approx(expected)


def test_cka_is_1_of_a_rotation_and_0_of_noise_however_wide() -> None:
    a = RNG.normal(size=(60, 8))
    turn = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    assert debiased_cka(gram(a), gram(3 * a @ turn)) == pytest.approx(1)
    unrelated = [debiased_cka(gram(RNG.normal(size=(40, 300))), gram(RNG.normal(size=(40, 300)))) for _ in range(20)]
    assert abs(np.mean(unrelated)) < 0.05
    x, y = RNG.normal(size=(2, 7, 3))
    n, k, m = 7, gram(x), gram(y)
    one = np.ones(n)
    brute = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
    selves = [
        np.trace(g @ g) + (one @ g @ one) ** 2 / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ g @ g @ one for g in (k, m)
    ]
    assert debiased_cka(k, m) == pytest.approx(brute / np.sqrt(selves[0] * selves[1]))


def test_the_jackknife_of_a_mean_is_students() -> None:
    x = RNG.normal(size=12)
    low, high = jackknife((x.sum() - x) / 11, x.mean())
    reach = stats.t.ppf(0.975, 11) * x.std(ddof=1) / np.sqrt(12)
    assert (low, high) == pytest.approx((x.mean() - reach, x.mean() + reach))
    assert np.isnan(jackknife(x[:3], 0.0)).all()


@pytest.fixture(scope="module")
def dictionaries() -> tuple[list[Any], list[Any]]:
    models = [ik.planted("boolean-latent", seed) for seed in (0, 1)]
    config = ik.SAEConfig(width=48, k=4, training_samples=10_000)
    with pytest.warns(UserWarning, match="may memorise"):
        saes = [ik.train_sae(m, TASK, site="blocks.1.hook_resid_pre", config=config, progress=False) for m in models]
    return models, saes


def test_features_of_other_bases_are_matched_by_what_they_do(
    dictionaries: tuple[list[Any], list[Any]], batch: ik.TokenBatch, tmp_path: Path, unchecked: None
) -> None:
    models, saes = dictionaries
    found = ik.universality(models, batch, saes=saes, rotations=2, progress=False)
    assert found.kind == "feature"
    assert (values(found, "best match") > values(found, "rotated") + 0.05).all()
    assert (values(found, "CKA") > 0.5).all()
    aligned = [
        ik.align_features(m, batch, sae, variables=["newB", "newC"], positions=["newB?", "newC?"], permutations=2)
        for m, sae in zip(models, saes, strict=True)
    ]
    frame = ik.universal_features(found, aligned)
    assert len(frame) == sum(len(one.variable) for one in aligned)
    newb = frame[(frame["class"] == "newB = 1") & (frame["position"] == "newB?")]
    assert bool(np.all(np.asarray(newb["correlation"]) > np.asarray(newb["rotated"])))
    with pytest.raises(ValueError, match="1 alignments for the features of 2 networks"):
        ik.universal_features(found, aligned[:1])
    with pytest.raises(ValueError, match="stands in the place of boolean-latent@0 and is of another autoencoder"):
        ik.universal_features(found, aligned[::-1])
    other = replace(aligned[0], config={**aligned[0].config, "sae": "of another width"})
    with pytest.raises(ValueError, match="is of another autoencoder"):
        ik.universal_features(found, [other, aligned[1]])
    with pytest.raises(TypeError, match="alignments is a AlignmentResult"):
        ik.universal_features(found, cast(Any, aligned[0]))
    with pytest.raises(TypeError, match="one of alignments is a int"):
        ik.universal_features(found, cast(Any, [aligned[0], 3]))
    with pytest.raises(ValueError, match="was trained on boolean-latent@1, not on boolean-latent@0"):
        ik.universality(models, batch, saes=saes[::-1])
    assert "CKA, which has no baseline" in found.caption()
    again = UniversalityResult.load(found.save(tmp_path / "u"))
    assert again.to_frame().equals(found.to_frame())
    assert len(found.by_pair()) == 2
    assert "n = 16 texts" in found.plot().get_title()
    with pytest.raises(ValueError, match=r"1 autoencoders of blocks.1.hook_resid_pre for 2 networks"):
        ik.universality(models, batch, saes=saes[:1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda m, b: ik.universality([m], b), "compares networks; give two or more"),
        (lambda m, b: ik.universality([m, m], b.take([0, 1, 2])), "3 distinct texts"),
        (lambda m, b: ik.universality([m, m], b, site="zz"), "zz"),
    ],
)
def test_what_cannot_be_compared_says_so(
    given: Callable[[Any, ik.TokenBatch], object], said: str, batch: ik.TokenBatch
) -> None:
    with pytest.raises(ValueError, match=said):
        given(ik.planted("boolean-latent"), batch)


def test_networks_with_the_same_weights_are_named(task: ik.BooleanTask) -> None:
    model, batch = ik.planted("boolean-direct"), task.batch(task.enumerate())
    options: dict[str, Any] = {"site": "mlp_post.0", "tokens": 64, "rotations": 1, "progress": False}
    with pytest.warns(UserWarning, match=r"untrained:boolean-direct@0@0 and .* have the same weights"):
        ik.universality([ik.untrained(model), ik.untrained(model)], batch, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ik.universality([ik.untrained(model, seed=1), ik.untrained(model, seed=2)], batch, **options)
