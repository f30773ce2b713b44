"""One name for every model: what is loaded under each kind of name is that model, and a wrong name is led back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loguru import logger

import interp_kit as ik
from interp_kit.models.checkpoints import CheckpointError, UnknownCheckpoint, provenance
from interp_kit.registry.twins import twin
from interp_kit.tasks.boolean import BooleanTask


@pytest.fixture(scope="module")
def tokens(task: BooleanTask) -> torch.Tensor:
    return task.batch(task.enumerate()[:4]).tokens


@torch.inference_mode()
def same(a, b, tokens: torch.Tensor) -> bool:
    return torch.equal(a(tokens), b(tokens))


def test_planted_models_by_name_and_seed(tokens: torch.Tensor) -> None:
    assert same(ik.load("boolean-latent"), ik.planted("boolean-latent"), tokens)
    assert same(ik.load("boolean-latent@3"), ik.planted("boolean-latent", seed=3), tokens)
    assert not same(ik.load("boolean-latent@3"), ik.load("boolean-latent"), tokens)
    assert provenance(ik.load("boolean-latent@3")).name == "boolean-latent@3"


def test_twins_by_name(tokens: torch.Tensor) -> None:
    assert same(ik.load("twin:boolean-via-token"), twin("boolean-via-token"), tokens)
    assert not same(ik.load("twin:boolean-via-token"), ik.load("boolean-via-token"), tokens)


@pytest.mark.parametrize("name", ["boolean-direct", "boolean-gpt2"])
def test_untrained_models_by_name_and_seed(name: str, tokens: torch.Tensor) -> None:
    trained, first, second = (ik.load(text) for text in (name, f"untrained:{name}", f"untrained:{name}@1"))
    assert first.cfg.n_layers == trained.cfg.n_layers
    assert not same(first, trained, tokens)
    assert not same(first, second, tokens)
    assert same(first, ik.load(f"untrained:{name}@0"), tokens)
    assert provenance(first).name.startswith(f"untrained:{provenance(trained).name}@")
    assert provenance(first).task == "boolean"


def test_a_group_of_checkpoints_is_named_as_a_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownCheckpoint, match=r"^did you mean one of culture/gpt_000, culture/gpt_001, .*gpt_004"):
        ik.load("culture")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("boolean-gpt", "boolean-gpt2"),
        ("boolean-latnet", "boolean-latent"),
        ("untrained:boolean-drect", "boolean-direct"),
    ],
)
def test_the_nearest_name_is_said(name: str, nearest: str) -> None:
    with pytest.raises(UnknownCheckpoint, match=rf"^did you mean '{nearest}'\? .*; planted: .*boolean-direct"):
        ik.load(name)


def test_a_name_like_none_is_led_to_all() -> None:
    with pytest.raises(UnknownCheckpoint, match=r"^unknown checkpoint 'qqqq'.*boolean-gpt2.*twin:NAME"):
        ik.load("qqqq")
    with pytest.raises(ValueError, match="no twin"):
        ik.load("twin:qqqq")


@pytest.mark.parametrize(
    "name", ["/no/such/nothere.pt", "nothere.pt", "./nothere", "nothere/", "untrained:/no/such.pt"]
)
def test_a_path_of_nothing_is_no_wrong_name(name: str) -> None:
    """No list of shipped names, and the hub is not asked."""
    path = name.removeprefix("untrained:")
    with pytest.raises(CheckpointError, match=rf"^no such file or folder: {path}$"):
        ik.load(name)


@pytest.mark.parametrize("name", ["boolean-direct", "twin:boolean-latent", "untrained:boolean-direct"])
def test_what_was_never_converted_says_so(name: str) -> None:
    found = ik.load(name)
    assert str(found.conversion).startswith("nothing to convert")
    assert found.conversion.tokens == 0
    assert str(ik.load("boolean-gpt2").conversion).startswith("conversion checked: logits differ")


def test_an_unknown_task_is_not_said_at_every_load(
    tiny_gpt2_dir: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    number = logger.add(print, level="DEBUG")
    try:
        ik.load(tiny_gpt2_dir())
    finally:
        logger.remove(number)
    said = capsys.readouterr().out
    assert "logits differ by at most" in said
    assert "the task is unknown" not in said
