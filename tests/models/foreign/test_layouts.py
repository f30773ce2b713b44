"""Files in the layouts of other libraries against forward passes written out in conftest.py."""

import base64
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import interp_kit as ik
from interp_kit.models.foreign.load import readers

HEADS = 3
Layouts = dict[str, Callable[[], Any]]
NAMES = ("nanogpt", "nanogpt-no-bias", "mingpt", "gpt2-file", "lecture", "llama", "llama-ungrouped")


def same(model: Any, expected: Tensor, tokens: Tensor) -> None:
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=1e-4)


def options(made: Any, name: str) -> dict[str, Any]:
    return made.config or ({} if name == "lecture" else {"n_heads": HEADS})


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, ".pt") for name in NAMES), ("lecture", ".pth"), ("llama", ".safetensors"), ("mingpt", ".json")],
)
def test_logits_are_the_layouts_own(layouts: Layouts, tokens: Tensor, tmp_path: Path, name: str, suffix: str) -> None:
    made = layouts[name]()
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        save_file({key: value.clone().contiguous() for key, value in made.state.items()}, path)
    elif suffix == ".json":
        path.write_text(
            json.dumps({"config": {}, "tensors": {key: as_json(value) for key, value in made.state.items()}})
        )
    else:
        torch.save(made.state, path)
    model = ik.load(path, config=options(made, name))
    same(model, made.logits(tokens), tokens)
    assert model.conversion.max_difference < 1e-4
    assert model.provenance.sha256


def as_json(value: Tensor) -> dict[str, Any]:
    data = base64.b64encode(value.numpy().astype("<f4").tobytes()).decode()
    return {"shape": list(value.shape), "dtype": "float32", "data": data}


@pytest.mark.parametrize("dtype", ["float16", "float64", "list", "nested"])
def test_json_of_other_numbers_and_nesting(layouts: Layouts, tokens: Tensor, tmp_path: Path, dtype: str) -> None:
    made, found = layouts["lecture"](), {}
    for key, value in made.state.items():
        *groups, last = key.split(".")
        at = found
        for part in groups:
            at = at.setdefault(part, {})
        if dtype == "nested":
            at[last] = value.tolist()
        elif dtype == "list":
            at[last] = {"shape": list(value.shape), "values": value.flatten().tolist()}
        else:
            kind = {"float16": "<f2", "float64": "<f8"}[dtype]
            data = base64.b64encode(value.numpy().astype(kind).tobytes()).decode()
            at[last] = {"shape": list(value.shape), "dtype": dtype, "base64": data}
    found["blocks"] = [found["blocks"][str(i)] for i in range(len(found["blocks"]))]
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(found))
    tolerance = 0.05 if dtype == "float16" else 1e-4
    torch.testing.assert_close(ik.load(path)(tokens), made.logits(tokens), atol=tolerance, rtol=tolerance)


def test_training_checkpoints_are_unwrapped(layouts: Layouts, tokens: Tensor, tmp_path: Path) -> None:
    """nanoGPT's own file: `_orig_mod.` before keys, model_args, an optimizer's state beside it."""
    made = layouts["nanogpt"]()
    args = {
        "n_layer": 2,
        "n_head": HEADS,
        "n_embd": 12,
        "block_size": 10,
        "bias": True,
        "vocab_size": 15,
        "dropout": 0.0,
    }
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}
    whole = {
        "model": {f"_orig_mod.{key}": value for key, value in made.state.items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95)}]},
        "model_args": args, "iter_num": 7, "best_val_loss": torch.tensor(1.5), "config": {"batch_size": 12},
    }  # fmt: skip
    for number, content in enumerate(
        (whole, {"state_dict": {f"module._orig_mod.{k}": v for k, v in made.state.items()}, "config": args},
         {"epoch": 3, "model_state_dict": {f"model.{k}": v for k, v in made.state.items()}, "hyper_parameters": args})
    ):  # fmt: skip
        torch.save(content, tmp_path / f"{number}.pt")
        same(ik.load(tmp_path / f"{number}.pt"), made.logits(tokens), tokens)


def test_settings_beside_the_file(layouts: Layouts, tokens: Tensor, tmp_path: Path) -> None:
    made = layouts["nanogpt"]()
    torch.save(made.state, tmp_path / "a.pt")
    with pytest.raises(ik.CheckpointError, match=r"n_heads stands neither in the file .* config=\{'n_heads'"):
        ik.load(tmp_path / "a.pt")
    (tmp_path / "a.json").write_text(json.dumps({"n_head": HEADS}))
    same(ik.load(tmp_path / "a.pt"), made.logits(tokens), tokens)


def test_settings_count_for_the_digest_and_are_held_against_shapes(layouts: Layouts, tmp_path: Path) -> None:
    made = layouts["nanogpt"]()
    torch.save(made.state, tmp_path / "a.pt")
    one, two = (ik.load(tmp_path / "a.pt", config={"n_heads": n}) for n in (3, 2))
    assert one.provenance.digest != two.provenance.digest
    assert one.provenance.sha256 == two.provenance.sha256
    with pytest.raises(ik.CheckpointError, match="n_ctx is said to be 11, its shapes say 10"):
        ik.load(tmp_path / "a.pt", config={"n_heads": 3, "n_ctx": 11})
    with pytest.raises(ik.CheckpointError, match="n_heads is 5, which does not divide 12"):
        ik.load(tmp_path / "a.pt", config={"n_heads": 5})
    with pytest.raises(ValueError, match="no setting 'heads'; there are act_fn"):
        ik.load(tmp_path / "a.pt", config={"heads": 3})
    with pytest.raises(ValueError, match="n_heads is '3', expected a whole number"):
        ik.load(tmp_path / "a.pt", config={"n_heads": "3"})


def test_an_assumed_activation_is_said(layouts: Layouts, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from loguru import logger

    made, said = layouts["nanogpt"](), []
    torch.save(made.state, tmp_path / "a.pt")
    handler = logger.add(said.append, level=logging.INFO)
    try:
        ik.load(tmp_path / "a.pt", config={"n_heads": 3})
    finally:
        logger.remove(handler)
    assert re.search(r"act_fn='gelu'", "".join(line for line in said if "WARNING" in line))
    assert "positions; read with n_heads=3, which no weight can confirm" in "".join(said)


def test_an_unknown_layout_says_its_keys_and_what_to_do(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(2, 2), "rnn.bias": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(ik.CheckpointError, match=r"2 tensors: encoder.weight, rnn.bias; build a HookedTransformer"):
        ik.load(tmp_path / "a.pt")
    torch.save({"x": {"y": 3}}, tmp_path / "b.pt")
    with pytest.raises(ik.CheckpointError, match="'x' is dict, no tensor"):
        ik.load(tmp_path / "b.pt")


@pytest.mark.parametrize("name", NAMES)
def test_every_missing_extra_and_misshapen_tensor_is_named(layouts: Layouts, tmp_path: Path, name: str) -> None:
    made, path = layouts[name](), tmp_path / "a.pt"
    buffers = ("tril", "attn.bias") if name != "nanogpt" else ("tril",)
    for key in [key for key in made.state if not key.endswith(buffers)][::7]:
        optional = name == "gpt2-file" and key == "lm_head.weight"
        damaged = {other: value for other, value in made.state.items() if other != key}
        torch.save(damaged, path)
        if not optional:
            with pytest.raises(ik.CheckpointError):
                ik.load(path, config=options(made, name))
        torch.save(made.state | {key: torch.ones(7, 3)}, path)
        with pytest.raises(ik.CheckpointError):
            ik.load(path, config=options(made, name))
    for more, reason in (
        ({"odd": torch.ones(2)}, "odd"),
        ({next(iter(made.state)): torch.full((15, 12), torch.nan)}, "nan"),
    ):
        torch.save(made.state | more, path)
        with pytest.raises(ik.CheckpointError, match=reason):
            ik.load(path, config=options(made, name))


def test_each_layout_is_recognised_by_one_reader(layouts: Layouts) -> None:
    for make in layouts.values():
        assert sum(reader.recognises(make().state) for reader in readers()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_untrained_has_the_scale_of_the_same_network_whatever_holds_it(
    layouts: Layouts, tmp_path: Path, name: str
) -> None:
    """GPT-2's, which Hugging Face has by default too, if nothing says another; what the file or the caller names."""
    made = layouts[name]()
    path, given = tmp_path / "a.pt", options(made, name)
    torch.save(made.state, path)
    assert ik.untrained(ik.load(path, config=given)).W_E.std() == pytest.approx(0.02, rel=0.25)
    named = ik.load(path, config={**given, "initializer_range": 0.05})
    assert ik.untrained(named).W_E.std() == pytest.approx(0.05, rel=0.25)
    (tmp_path / "a.json").write_text(json.dumps({"initializer_range": 0.3}))
    assert ik.untrained(ik.load(path, config=given)).W_E.std() == pytest.approx(0.3, rel=0.25)
    for wrong, said in ((0, "is 0, expected more"), (True, "is True, expected a"), (-1.0, "expected a finite number")):
        with pytest.raises(ValueError, match=f"initializer_range {said}|{said}"):
            ik.load(path, config={**given, "initializer_range": wrong})
