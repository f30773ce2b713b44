"""Packaging of culture models: exact, in the manifest, and the shipped ones as it says."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from interp_kit.models.checkpoints import checkpoint_root, read_manifest
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, load_mygpt, save_mygpt
from interp_kit.studies.culture.checkpoints import _argmax, _quizzes, package
from interp_kit.studies.culture.models import load_culture
from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.studies.culture.training.learner import Learner
from interp_kit.studies.culture.training.presets import PRESETS
from interp_kit.studies.culture.training.turns import Point, model_seed

SIZES = MyGPTConfig(15, 16, 4, 8, 16, 2, 2)


def test_package(tmp_path: Path) -> None:
    source, root = tmp_path / "run", tmp_path / "checkpoints"
    model = MyGPT(SIZES, seed=0)
    save_mygpt(model, 0.5, source / "gpt_004.pth")
    point = Point(4, 96, 0.1, 0.5, 0.5, {"Cell": 0.5}, {"whole": 0.5}, [[0.5]], 1.0)
    (source / "curve.jsonl").write_text(json.dumps(dataclasses.asdict(point)) + "\n")
    entries = package(source, root, "abc", n=16)
    assert list(entries) == ["culture/gpt_004"]
    assert read_manifest(root) == entries
    assert entries["culture/gpt_004"].metrics["quizzes seen"] == 96
    stored, accuracy = load_mygpt(root / "culture" / "gpt_004.pth")
    assert accuracy == pytest.approx(entries["culture/gpt_004"].metrics["sampled, noise 0.05"]["value"], abs=1e-4)
    noisy, _ = _quizzes(16)
    assert _argmax(stored, noisy).equal(_argmax(model, noisy))
    assert (root / "culture" / "curve.jsonl").exists()
    assert entries["culture/gpt_004"].seed == 4
    Learner(PRESETS["17K"], seed=77, budget=10).save(source / "gpt_004.state")
    entry = package(source, root, "abc", n=16)["culture/gpt_004"]
    assert (entry.seed, entry.initialisation) == (77, "mygpt-culture-seed77")


def test_weights_that_half_precision_would_change_are_kept_whole(tmp_path: Path) -> None:
    model = MyGPT(SIZES, seed=0)
    with torch.no_grad():  # two colours a hair apart, which float16 cannot tell from one another
        model.readout.weight.zero_()
        model.readout.bias.zero_()
        model.readout.bias[3], model.readout.bias[7] = 1.0, 1.00001
    save_mygpt(model, 0.0, tmp_path / "run" / "gpt_000.pth")
    entry = package(tmp_path / "run", tmp_path / "out", n=16)["culture/gpt_000"]
    assert entry.metrics["dtype"] == "float32"


def test_a_model_in_half_precision_is_copied_as_it_is(tmp_path: Path) -> None:
    """With what its run found last; its seed is that of the run and its number."""
    source, root = tmp_path / "run", tmp_path / "out"
    model = save_mygpt(MyGPT(SIZES, seed=0), 0.625, source / "gpt_003.pth", dtype=torch.float16)
    shares = {"by_task": {"Cell": 0.5}, "by_structure": {"whole": 0.5}, "right": None, "seconds": 9.0, "spent": 9.5}
    points = [Point(3, seen, 0.1, accuracy, 0.75, **shares) for seen, accuracy in ((8, 0.5), (16, 0.625))]
    (source / "curve.jsonl").write_text("".join(json.dumps(dataclasses.asdict(p)) + "\n" for p in points))
    (source / "config.json").write_text(json.dumps(dataclasses.asdict(CultureConfig(ids=(3,), tested=64, seed=2026))))
    entry = package(source, root, origin="somewhere")["culture/gpt_003"]
    assert (root / "culture" / "gpt_003.pth").read_bytes() == model.read_bytes()
    assert entry.seed == model_seed(2026, 3) != 3
    assert entry.metrics == {
        "dtype": "float16", "quizzes seen": 16, "seconds of training": 9.5, "origin": "somewhere",
        "sampled, noise 0.05": {"value": 0.625, "n": 64}, "greedy, noise 0.05": {"value": 0.75, "n": 64},
    }  # fmt: skip


def test_nothing_to_package(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no gpt_NNN\.pth"):
        package(tmp_path, tmp_path / "out")


SHIPPED = sorted(name for name, entry in read_manifest().items() if entry.task == "culture")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_are_what_the_manifest_says(name: str) -> None:
    id = int(name.removeprefix("culture/gpt_"))
    model, entry = load_culture(id), read_manifest()[name]
    assert isinstance(model, MyGPT)
    path = checkpoint_root() / entry.path
    assert path.stat().st_size < 8_000_000
    noisy, clean = _quizzes(32)
    from interp_kit.studies.culture.training.forward import answers

    sampled = answers(model, noisy, clean)[1].mean()
    assert sampled == pytest.approx(entry.metrics["sampled, noise 0.05"]["value"], abs=0.15)


def test_some_are_shipped() -> None:
    assert SHIPPED
