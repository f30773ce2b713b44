"""Every architecture of SAELens, and transcoders: what is saved is what plain sae-lens reads, rebuilds alike, and has
the sparsity that was trained for; known features are found."""

import dataclasses
import math
import warnings
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp_kit.analysis.dictionaries.architectures import TRANSCODERS
from interp_kit.analysis.dictionaries.sae import SAEResult, train_sae, train_saes
from interp_kit.analysis.dictionaries.sae_config import ARCHITECTURES, BY_K, SAEConfig
from interp_kit.analysis.dictionaries.sae_training import fit_sae, read_sae, unsettled
from interp_kit.registry.models import planted
from interp_kit.tasks.boolean import BooleanTask

SITE, TARGET = "resid_pre.1", "mlp_out.1"
SHORT = SAEConfig(
    width=16, k=3, training_samples=12_800, batch_size=128, learning_rate=1e-2, l1_coefficient=2.0, max_examples=32
)
KINDS = [(architecture, None) for architecture in ARCHITECTURES] + [(name, TARGET) for name in TRANSCODERS]
kinds = pytest.mark.parametrize(("architecture", "target"), KINDS)


@lru_cache
def toy() -> tuple[torch.Tensor, torch.Tensor]:
    """(vector, d) vectors and (feature, d) features: 24 in 16 dimensions, about one on at a time."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(24, 16, generator=generator)
    features /= features.norm(dim=1, keepdim=True)
    on = torch.rand(6000, 24, generator=generator) < 0.05
    return (on * (0.7 + 0.6 * torch.rand(on.shape, generator=generator))) @ features + 0.5, features


@lru_cache
def fitted(architecture: str) -> Any:
    config = SAEConfig(
        architecture=architecture, width=32, k=2, training_samples=128_000, learning_rate=1e-2, l1_coefficient=2.0
    )  # pyright: ignore[reportArgumentType]
    return fit_sae(toy()[0], config, {"hook_name": "toy"}, 0, False)


@lru_cache
def here() -> SimpleNamespace:
    return SimpleNamespace(model=planted("boolean-direct"), task=BooleanTask())


@lru_cache
def trained(architecture: str, target: str | None) -> SAEResult:
    config = dataclasses.replace(SHORT, architecture=architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return train_sae(here().model, here().task, site=SITE, target_site=target, config=config, progress=False)


@kinds
def test_plain_sae_lens_reads_what_is_saved_and_rebuilds_alike(
    tmp_path: Path, architecture: str, target: str | None
) -> None:
    from sae_lens import SAE

    found = trained(architecture, target)
    found.save_sae(tmp_path / "sae")
    x = torch.randn(64, found.weights["W_enc"].shape[0], generator=torch.Generator().manual_seed(0)) * 3
    ours = found.to_sae_lens()
    with torch.no_grad():
        for read in (SAE.load_from_disk(tmp_path / "sae"), read_sae(tmp_path / "sae")):
            assert torch.equal(read.encode(x) > 0, ours.encode(x) > 0)
            torch.testing.assert_close(read(x), ours(x), rtol=0, atol=1e-6)
            assert read.cfg.metadata.hook_name == found.hook
            if target is not None:
                assert read.cfg.metadata.hook_name_out == found.target_hook != found.hook
    again = SAEResult.load(found.save(tmp_path / "result"))
    assert again.to_frame().equals(found.to_frame())
    assert torch.equal(again.to_sae_lens()(x), ours(x))


def share_found(architecture: str) -> float:
    """Share of the known features to which a decoder row has a cosine above 0.95."""
    rows = fitted(architecture).W_dec
    rows = rows / rows.norm(dim=1, keepdim=True)
    return float(((rows @ toy()[1].T).max(0).values > 0.95).double().mean())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_known_features_in_superposition_are_found(architecture: str) -> None:
    vectors, features = toy()
    sae, centred = fitted(architecture), vectors - vectors.mean(0)
    l0 = float((sae.encode(vectors) > 0).double().sum(1).mean())
    rank = math.ceil(l0)
    spread = torch.linalg.svdvals(centred).square()
    explained = 1 - float((sae(vectors) - vectors).square().sum() / centred.square().sum())
    assert explained > 0.2 + float(spread[:rank].sum() / spread.sum())  # a PCA of as many directions
    random = torch.randn(32, 16, generator=torch.Generator().manual_seed(2))
    random /= random.norm(dim=1, keepdim=True)
    assert share_found(architecture) > 0.2 > float(((random @ features.T).max(0).values > 0.95).double().mean())
    assert sae.cfg.metadata.l0 == pytest.approx(l0, rel=0.2)
    if architecture in BY_K:
        assert 0.5 < l0 < 3


def test_the_best_architecture_finds_all_but_one_in_twenty() -> None:
    assert max(map(share_found, ARCHITECTURES)) >= 0.95


def test_a_threshold_that_did_not_settle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = fitted("batchtopk")
    monkeypatch.setattr("interp_kit.analysis.dictionaries.architectures.THRESHOLD_RATE", 1e-4)
    config = SAEConfig(architecture="batchtopk", width=32, k=2, training_samples=12_800)
    with pytest.warns(UserWarning, match=r"L0 is \d+\.\d, but was 2\.0 in the last steps of training"):
        sae = fit_sae(toy()[0], config, {"hook_name": "toy"}, 0, False)
    assert unsettled(sae, toy()[0]) is not None
    assert unsettled(settled, toy()[0]) is None


@pytest.mark.parametrize("architecture", TRANSCODERS)
def test_a_transcoder_rebuilds_the_target_and_not_what_it_reads(architecture: str) -> None:
    vectors, features = toy()
    turn = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(1)))[0][:16]
    targets = 5 * vectors @ turn - 2
    config = SAEConfig(architecture=architecture, width=32, k=2, training_samples=128_000, learning_rate=1e-2)
    sae = fit_sae(vectors, config, {"hook_name": "toy"}, 0, False, targets=targets)
    assert sae.cfg.architecture() == TRANSCODERS[architecture]
    left = (sae(vectors) - targets).square().sum() / (targets - targets.mean(0)).square().sum()
    assert float(left) < 0.4
    rows = sae.W_dec / sae.W_dec.norm(dim=1, keepdim=True)
    assert float(((rows @ (features @ turn).T).max(0).values > 0.9).double().mean()) > 0.25


def test_a_transcoder_is_measured_on_its_target() -> None:
    model, task = here().model, here().task
    found = trained("standard", TARGET)
    acts = ik_harvest(model, task, found)
    rebuilt = found.to_sae_lens()(acts[found.hook])
    targets = acts[found.target_hook]
    assert rebuilt.shape == targets.shape
    assert "transcoder" in found.caption()
    assert found.target_hook in found.caption()
    alone = train_sae(model, task, site=TARGET, config=dataclasses.replace(SHORT, width=4), progress=False)
    assert found.ce_mean["train"] == alone.ce_mean["train"]  # ablations of the target
    assert found.pca_variance_explained["train"].value <= 1


def ik_harvest(model: Any, task: BooleanTask, found: SAEResult) -> dict[str, torch.Tensor]:
    from interp_kit.engine.harvest import harvest

    return harvest(model, task.batch(task.enumerate()), [found.hook, found.target_hook], progress=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_several_are_those_that_are_trained_alone_on_one_harvest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp_kit.analysis.dictionaries import activations

    model, task = here().model, here().task
    configs = [dataclasses.replace(SHORT, training_samples=640, architecture=a) for a in ("topk", "gated")]
    calls, real = [], activations.harvest_to
    monkeypatch.setattr(activations, "harvest_to", lambda *a, **o: calls.append(a) or real(*a, **o))
    found = train_saes(model, task, configs, site=SITE, store=tmp_path / "store", progress=False)
    assert len(calls) == 1
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    for config, one in zip(configs, found, strict=True):
        alone = train_sae(model, task, site=SITE, config=config, progress=False)
        again = train_sae(model, task, site=SITE, config=config, store=tmp_path / "store", progress=False)
        for name, value in alone.weights.items():
            np.testing.assert_array_equal(value, one.weights[name])
            np.testing.assert_array_equal(value, again.weights[name])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == written
    with pytest.raises(ValueError, match="another harvest"):
        train_sae(model, task, site=TARGET, config=configs[0], store=tmp_path / "store", progress=False)


def test_what_goes_together_in_no_way_is_refused(tmp_path: Path) -> None:
    model, task = here().model, here().task
    for options, message in (
        ({"target_site": SITE}, "target_site is blocks.1.hook_resid_pre, which is the site"),
        ({"target_site": TARGET, "config": SAEConfig()}, "architecture is 'topk'; transcoders of SAELens are standard"),
        ({"target_site": "nonsense"}, "no site 'nonsense'"),
    ):
        with pytest.raises(ValueError, match=message):
            train_sae(model, task, site=SITE, progress=False, **options)
    for configs, message in (
        ([], "configs is empty"),
        ([SHORT, dataclasses.replace(SHORT, held_out=0.5)], "differ in"),
    ):
        with pytest.raises(ValueError, match=message):
            train_saes(model, task, configs, site=SITE, progress=False)
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no autoencoder in SAELens's format: sae_weights"):
        read_sae(tmp_path)
    save_file({"W_enc": torch.zeros(2)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    ("levels", "message"),
    [((2, 8), "rise to the width of 16"), ((8, 4, 16), "rise to"), ((0, 16), "is 0"), ([4, 16], "a tuple")],
)
def test_nested_widths_that_do_not_rise_to_the_whole_are_refused(levels: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message if isinstance(levels, tuple) else ""):
        SAEConfig(architecture="matryoshka", width=16, matryoshka_widths=levels)
    assert SAEConfig(architecture="matryoshka", width=16).levels == [2, 4, 8, 16]
    assert SAEConfig(architecture="matryoshka", width=3, k=1).levels == [1, 3]


def test_weights_in_the_file_are_those_of_the_result(tmp_path: Path) -> None:
    found = trained("matryoshka", None)
    found.save_sae(tmp_path / "sae")
    for name, value in load_file(tmp_path / "sae" / "sae_weights.safetensors").items():
        np.testing.assert_array_equal(value.numpy(), found.weights[name])
    assert len(set(found.weights["threshold"].tolist())) == 1
