"""A converted MyGPT computes what MyGPT computes: on the original network's logits, and on networks of any sizes."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp_kit.models import convert
from interp_kit.models.convert import convert_mygpt, untrained
from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, load_mygpt, sinusoidal

FIXTURE = Path(__file__).parents[1] / "fixtures" / "culture"
WIDE_VALUES = MyGPTConfig(d_vocab=15, d_model=11, d_key=3, d_value=5, d_mlp=9, n_heads=2, n_layers=2)
WIDE_KEYS = MyGPTConfig(d_vocab=9, d_model=10, d_key=6, d_value=2, d_mlp=7, n_heads=3, n_layers=1)

configs = st.builds(
    MyGPTConfig,
    d_vocab=st.integers(1, 17),
    d_model=st.integers(8, 19),  # a LayerNorm over few, nearly equal numbers makes much of float32's rounding
    d_key=st.integers(1, 7),
    d_value=st.integers(1, 7),
    d_mlp=st.integers(1, 23),
    n_heads=st.integers(1, 4),
    n_layers=st.integers(1, 3),
)


def perturbed(config: MyGPTConfig, seed: int = 0) -> MyGPT:
    """A network in eval mode whose biases and LayerNorms are not those of a fresh one."""
    model = MyGPT(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


def quizzes(config: MyGPTConfig, rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, config.d_vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def shifted(quiz: Tensor) -> Tensor:
    """[0] + quiz[:-1], what the converted model is given."""
    return torch.cat([torch.zeros_like(quiz[:, :1]), quiz[:, :-1]], dim=1)


@pytest.mark.parametrize("sae", [False, True])
def test_logits_of_the_original_network(sae: bool) -> None:
    source, _ = load_mygpt(FIXTURE / "gpt_000.pth")
    model = convert_mygpt(source, sae=sae)
    assert type(model).__name__ == ("HookedSAETransformer" if sae else "HookedTransformer")
    tokens, expected = torch.load(FIXTURE / "tokens.pt"), torch.load(FIXTURE / "logits_000.pt")
    with torch.inference_mode():
        assert (model(shifted(tokens)) - expected).abs().max() < 1e-3
    assert model.cfg.n_ctx == 405
    assert model.conversion.tokens == 2 * 405
    assert model.conversion.quantity == "logit"
    assert model.conversion.max_difference < 1e-3


@given(config=configs, n_ctx=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_any_sizes(config: MyGPTConfig, n_ctx: int, seed: int) -> None:
    source = perturbed(config, seed)
    model = convert_mygpt(source, n_ctx=n_ctx)
    tokens = quizzes(config, 2, n_ctx, seed)
    with torch.inference_mode():
        assert (model(shifted(tokens)) - source(tokens)).abs().max() < 1e-4
    assert model.conversion.max_difference < 1e-4


@pytest.mark.parametrize("config", [WIDE_VALUES, WIDE_KEYS])
def test_activations_are_the_networks_own(config: MyGPTConfig) -> None:
    source = perturbed(config)
    model, tokens = convert_mygpt(source, n_ctx=9), quizzes(config, 3, 9)
    with torch.inference_mode():
        logits, cache = model.run_with_cache(shifted(tokens))
        attention = source.attention(tokens)
        stream = source.embed(shifted(tokens)) + sinusoidal(9, config.d_model)
        for layer, block in enumerate(source.blocks):
            assert (cache["pattern", layer] - attention[layer]).abs().max() < 1e-5
            assert (cache["resid_pre", layer] - stream).abs().max() < 1e-5
            stream = block(stream)
    assert (logits - source.readout(stream)).abs().max() < 1e-5  # Nothing stands between the stream and the readout.
    assert not any("ln_final" in name for name in (*cache, *model.hook_dict))


@pytest.mark.parametrize("config", [WIDE_VALUES, WIDE_KEYS])
def test_what_is_padded_is_zero_and_everything_is_frozen(config: MyGPTConfig) -> None:
    model = convert_mygpt(perturbed(config), n_ctx=9)
    assert model.cfg.d_head == max(config.d_key, config.d_value)
    assert model.cfg.attn_scale == config.d_key**0.5
    for weight in (model.W_Q, model.W_K):
        assert (weight[..., config.d_key :] == 0).all()
        assert (weight[..., : config.d_key] != 0).all()
    assert (model.W_V[..., config.d_value :] == 0).all()
    assert (model.W_O[:, :, config.d_value :] == 0).all()
    assert torch.equal(model.W_pos, sinusoidal(9, config.d_model))
    assert isinstance(model.ln_final, nn.Identity)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_source_stays_as_it_is() -> None:
    source = MyGPT(WIDE_KEYS, dropout=0.5).train()
    before, state = copy.deepcopy(source.state_dict()), torch.get_rng_state()
    model = convert_mygpt(source, n_ctx=9)  # Compared without dropout,
    assert source.training  # and put back.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_double_precision() -> None:
    source = perturbed(WIDE_VALUES).double()
    model, tokens = convert_mygpt(source, n_ctx=9), quizzes(WIDE_VALUES, 3, 9)
    assert model.cfg.dtype == torch.float64
    with torch.inference_mode():
        assert (model(shifted(tokens)) - source(tokens)).abs().max() < 1e-12


WRONG = (
    "embed.W_E",
    "pos_embed.W_pos",
    "unembed.W_U",
    "unembed.b_U",
    "blocks.0.attn.W_Q",
    "blocks.1.attn.W_K",
    "blocks.1.attn.W_V",
    "blocks.0.attn.W_O",
    "blocks.1.ln1.w",
    "blocks.0.ln1.b",
    "blocks.0.ln2.w",
    "blocks.1.ln2.b",
    "blocks.0.mlp.W_in",
    "blocks.1.mlp.b_in",
    "blocks.0.mlp.W_out",
    "blocks.1.mlp.b_out",
)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_weight_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    source = perturbed(WIDE_VALUES)
    right: Callable[..., dict[str, Tensor]] = convert._mygpt_weights

    def wrong(*args: object) -> dict[str, Tensor]:
        weights = right(*args)
        weights[name] = weights[name].clone()
        weights[name][..., -1:] += 0.1
        if "attn" in name and "W_O" not in name:  # The last width of these is padding, for keys and queries.
            weights[name][..., 0] += 0.1
        return weights

    monkeypatch.setattr(convert, "_mygpt_weights", wrong)
    with pytest.raises(CheckpointError, match="the conversion is not exact: logits differ by at most"):
        convert_mygpt(source, n_ctx=9)


def test_the_last_position_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sinusoidal(405, 11)
    table[404] += 0.1
    monkeypatch.setattr(convert, "sinusoidal", lambda length, d_model: table)
    with pytest.raises(CheckpointError, match="over 810 positions"):
        convert_mygpt(perturbed(WIDE_VALUES))


def test_a_broken_network_is_refused() -> None:
    source = perturbed(WIDE_VALUES)
    with torch.no_grad():
        source.readout.bias[3] = torch.nan
    with pytest.raises(CheckpointError, match="differ by at most nan"):
        convert_mygpt(source, n_ctx=9)


@pytest.mark.parametrize("sae", [False, True])
def test_untrained(sae: bool) -> None:
    source = perturbed(WIDE_VALUES)
    model = convert_mygpt(source, sae=sae, n_ctx=9)
    fresh, again, other = untrained(model, 2**62), untrained(model, 2**62), untrained(model, 5)
    assert type(fresh) is type(model)
    assert isinstance(fresh.ln_final, nn.Identity)
    assert torch.equal(fresh.W_pos, model.W_pos)
    assert fresh.cfg.attn_scale == model.cfg.attn_scale
    for name, parameter in fresh.named_parameters():
        assert parameter.shape == model.get_parameter(name).shape
        assert torch.equal(parameter, again.get_parameter(name))
        assert not parameter.requires_grad
        if name.rsplit(".", 1)[-1] in ("W_E", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_U"):
            assert not torch.equal(parameter, model.get_parameter(name)), name
            assert not torch.equal(parameter, other.get_parameter(name)), name
            padding = parameter == 0
            assert torch.equal(padding, model.get_parameter(name) == 0), name  # Padding stays padding.
    assert torch.equal(untrained(fresh, 5).W_E, other.W_E)  # The control of a control.
    tokens = quizzes(WIDE_VALUES, 2, 9)
    drawn = MyGPT(WIDE_VALUES, seed=5)
    with torch.inference_mode():
        assert (other(shifted(tokens)) - drawn(tokens)).abs().max() < 1e-4


def test_untrained_of_a_model_without_final_norm_that_was_no_mygpt() -> None:
    model = convert_mygpt(perturbed(WIDE_VALUES), n_ctx=9)
    del model.__dict__["mygpt"]
    fresh = untrained(model, 1)
    assert isinstance(fresh.ln_final, nn.Identity)
    assert not any("ln_final" in name for name in fresh.hook_dict)
    with torch.inference_mode():
        _, cache = fresh.run_with_cache(torch.zeros(1, 5, dtype=torch.long))
        assert torch.equal(F.linear(cache["resid_post", 1], fresh.W_U.T, fresh.b_U), fresh(torch.zeros(1, 5).long()))
