"""TransformerLens's own state dicts, with and without a config, against the model that they were taken from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import interp_kit as ik
from interp_kit.cli import main

TOKENS = torch.arange(20).remainder(15).reshape(2, 10)
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "attention": {"attn_only": True},
    "no norm": {"normalization_type": None},
    "folded": {"normalization_type": "LNPre"},
    "rms": {"normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu"},
    "rotary": {"positional_embedding_type": "rotary", "rotary_dim": 4, "rotary_base": 5000},
    "adjacent": {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True},
    "grouped": {"n_key_value_heads": 1, "normalization_type": "RMS", "positional_embedding_type": "rotary"},
    "parallel": {"parallel_attn_mlp": True, "positional_embedding_type": "rotary"},
}
# what shapes do not say of these
NAMED: dict[str, dict[str, Any]] = {
    "no norm": {"normalization_type": None},
    "folded": {"normalization_type": "LNPre"},
    "parallel": {"parallel_attn_mlp": True},
}


@pytest.mark.parametrize(("name", "suffix"), [*((name, ".pt") for name in CONFIGS), ("adjacent", ".safetensors")])
def test_state_dicts(tiny_model: Callable[..., Any], tmp_path: Path, name: str, suffix: str) -> None:
    model = tiny_model(d_vocab=15, **CONFIGS[name])
    path = tmp_path / f"model{suffix}"
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    act = {} if name == "attention" else {"act_fn": model.cfg.act_fn}
    found = ik.load(path, config=act | NAMED.get(name, {}))
    torch.testing.assert_close(found(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-5)
    assert found.cfg.n_ctx == model.cfg.n_ctx
    if act:
        with pytest.raises(ik.CheckpointError, match="act_fn stands neither"):
            ik.load(path, config=NAMED.get(name, {}))


@pytest.mark.parametrize("name", ["gpt2", "folded", "parallel", "grouped"])
def test_a_config_beside_the_weights_says_the_rest(tiny_model: Callable[..., Any], tmp_path: Path, name: str) -> None:
    model = tiny_model(d_vocab=15, **CONFIGS[name])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    config = {key: float(value) if key == "attn_scale" else value for key, value in model.cfg.to_dict().items()}
    config = {key: value for key, value in config.items() if isinstance(value, str | int | float | type(None))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(ik.load(tmp_path / "model.pt")(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-5)
    (tmp_path / "config.json").write_text(json.dumps(config | {"attn_scores_soft_cap": 30.0}))
    with pytest.raises(ik.CheckpointError, match=r"attn_scores_soft_cap is '30.0', which is not read"):
        ik.load(tmp_path / "model.pt")


def test_a_rotary_table_of_other_settings_is_refused(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(positional_embedding_type="rotary", rotary_base=5000)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ik.CheckpointError, match=r"rotary_(sin|cos) is not that of the settings"):
        ik.load(tmp_path / "model.pt", config={"act_fn": "gelu_new", "rotary_base": 10000})


def test_without_a_final_norm(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model()
    model.ln_final = torch.nn.Identity()
    model.setup()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = ik.load(tmp_path / "model.pt", config={"act_fn": "gelu_new"})
    torch.testing.assert_close(found(TOKENS), model(TOKENS), atol=1e-5, rtol=1e-5)


def test_a_pickled_config_is_refused_and_says_how(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model()
    torch.save({"model": model.state_dict(), "config": model.cfg}, tmp_path / "model.pt")
    with pytest.raises(ik.CheckpointError, match=r"nothing in it was executed; write torch.save\(model.state_dict"):
        ik.load(tmp_path / "model.pt")


def test_models_in_memory(tiny_model: Callable[..., Any], tiny_gpt2_dir: Callable[..., Path]) -> None:
    from transformers import GPT2LMHeadModel

    model = tiny_model()
    assert ik.load(model) is model
    hf = GPT2LMHeadModel.from_pretrained(tiny_gpt2_dir())
    torch.testing.assert_close(ik.load(hf)(TOKENS), hf(TOKENS).logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="taken as it is"):
        ik.load(model, fold=True)
    with pytest.raises(TypeError, match="a Linear; expected a HookedTransformer"):
        ik.load(torch.nn.Linear(2, 2))


@pytest.mark.slow  # TransformerLens's own imports for it take seconds
def test_bridges(tiny_gpt2_dir: Callable[..., Path], task: Any) -> None:
    from transformer_lens.model_bridge.sources.transformers import boot
    from transformers import GPT2LMHeadModel

    folder = tiny_gpt2_dir()
    hf = GPT2LMHeadModel.from_pretrained(folder).eval()
    expected = hf(TOKENS).logits
    bridge = boot(str(folder), hf_model=hf, tokenizer=None)
    found = ik.load(bridge)
    torch.testing.assert_close(found(TOKENS), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(TypeError, match=r"TransformerBridge.*interp_kit.load\(bridge\)"):
        ik.ablate(bridge, task.batch(task.enumerate()))
    bridge.enable_compatibility_mode()
    with pytest.raises(ik.CheckpointError, match="compatibility mode"):
        ik.load(bridge)


def test_nan_has_one_message_whatever_holds_it(
    tiny_model: Callable[..., Any], tiny_gpt2_dir: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import GPT2LMHeadModel

    model = tiny_model()
    model.blocks[1].mlp.W_in.data[3, 5] = torch.nan
    torch.save(model.state_dict(), tmp_path / "tl.pt")
    with pytest.raises(ik.CheckpointError, match=r"tl.pt: blocks.1.mlp.W_in has 1 nan or infinite value$"):
        ik.load(tmp_path / "tl.pt", config={"act_fn": model.cfg.act_fn})
    hf = GPT2LMHeadModel.from_pretrained(tiny_gpt2_dir())
    hf.transformer.h[1].mlp.c_fc.weight.data[0, :2] = torch.inf
    name = r"the GPT2LMHeadModel in memory: transformer.h.1.mlp.c_fc.weight has 2 nan or infinite values$"
    with pytest.raises(ik.CheckpointError, match=name):
        ik.load(hf)


def test_a_wrong_activation_lists_names(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    torch.save(tiny_model().state_dict(), tmp_path / "tl.pt")
    with pytest.raises(
        ik.CheckpointError, match=r"act_fn 'gelu_nwe' cannot be read; .*solu_ln.*mean 'gelu_new'\?$"
    ) as e:
        ik.load(tmp_path / "tl.pt", config={"act_fn": "gelu_nwe"})
    assert "function" not in str(e.value)


def test_a_shell_names_what_shapes_do_not_say(
    tiny_model: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = tiny_model(), str(tmp_path / "tl.pt")
    torch.save(model.state_dict(), path)
    assert main(["load", path]) == 1
    assert "or in a shell --config act_fn=…" in capsys.readouterr().err
    for wrong, message in (("act_fn", "--config holds 'act_fn'; expected name=value"), ("a=1", "no setting 'a'")):
        assert main(["load", path, "--config", wrong]) == 1
        assert message in capsys.readouterr().err
    assert main(["load", path, "--config", f"act_fn={model.cfg.act_fn}", "n_heads=2"]) == 0
    assert "conversion: nothing to convert" in capsys.readouterr().out


def test_untrained_has_the_scale_that_a_file_of_transformer_lens_names(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    """No gain of another distribution, which the file has under the same name."""
    model, path = tiny_model(initializer_range=0.3), tmp_path / "a.pt"
    torch.save(model.state_dict(), path)
    own = 0.8 / model.cfg.d_model**0.5
    named = {"act_fn": model.cfg.act_fn}
    assert ik.load(path, config=named).cfg.initializer_range == pytest.approx(own)
    for stored, expected in (
        ({"initializer_range": 0.3}, 0.3),
        ({"initializer_range": -1.0}, own),
        ({"initializer_range": 1.0, "init_mode": "xavier_normal"}, own),
    ):
        (tmp_path / "a.json").write_text(json.dumps(stored))
        assert ik.load(path, config=named).cfg.initializer_range == pytest.approx(expected)
