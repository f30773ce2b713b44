"""Autoencoders that come with the package: what is stored is loaded, by plain SAELens too, and damage is told."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.analysis.dictionaries.sae import SAEResult
from interp_kit.analysis.dictionaries.shipped import PROVENANCE, WEIGHTS, sae_origin, saes, store_sae


@pytest.fixture(scope="module")
def result(task: ik.BooleanTask) -> SAEResult:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*may memorise")
        config = ik.SAEConfig(width=16, k=4, training_samples=2048)
        return ik.train_sae(ik.planted("boolean-latent"), task, site="resid_pre.1", config=config, progress=False)


@pytest.fixture(scope="module")
def root(result: SAEResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    store_sae(result, "small", folder, seconds=3)
    return folder


def test_what_is_stored_is_loaded(result: SAEResult, root: Path) -> None:
    again = ik.load_sae("small", root)
    assert saes(root) == ("small",)
    for name, value in result.weights.items():
        np.testing.assert_allclose(again.weights[name], value, rtol=1e-3, atol=1e-6)
    assert again.to_frame().equals(result.to_frame())
    np.testing.assert_allclose(again.frequency, result.frequency, atol=1e-6)
    origin = sae_origin("small", root)
    assert (origin["model"], origin["seconds"]) == ("boolean-latent@0", 3)
    assert ik.align_features(
        ik.load(origin["model"]), ik.BooleanTask(), again, variables="newB", positions="newB?", permutations=2
    ).config["hook"] == result.hook  # fmt: skip


def test_plain_saelens_loads_it_and_gives_the_same(root: Path) -> None:
    from sae_lens import SAE

    theirs, ours = SAE.load_from_disk(root / "sae" / "small"), ik.load_sae("small", root).to_sae_lens()
    x = torch.randn(20, ours.cfg.d_in, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(x), ours(x), atol=1e-6, rtol=0)


def test_unknown_names_and_damage_are_told(result: SAEResult, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no autoencoder 'zz'; there are none"):
        ik.load_sae("zz", tmp_path)
    folder = store_sae(result, "a", tmp_path)
    with pytest.raises(ValueError, match="no autoencoder 'zz'; there are a"):
        ik.load_sae("zz", tmp_path)
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ValueError, match="damaged or was changed"):
        ik.load_sae("a", tmp_path)
    (folder / PROVENANCE).write_text("{}")
    with pytest.raises(ValueError, match=r"provenance.json is damaged"):
        ik.load_sae("a", tmp_path)


@pytest.mark.parametrize("name", saes())
def test_those_that_come_with_the_package_fit_their_models(name: str) -> None:
    found: Any = ik.load_sae(name)
    model = ik.load(found.config["model"])
    assert found.weights["W_enc"].shape == (model.cfg.d_model, len(found.frequency))
    folder = Path(ik.__file__).parents[2] / "checkpoints" / "sae" / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2**20
