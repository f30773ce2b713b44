"""A converted GPT-2 computes what its source computes: measured here on raw logits, for every option that there is."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import GPT2Config, GPT2LMHeadModel

from interp_kit.models.checkpoints import load
from interp_kit.models.convert import ACTIVATIONS, ConversionCheck, convert_gpt2, gpt2_config, untrained, verify
from interp_kit.models.gpt2 import CheckpointError, read_gpt2

MakeModel = Callable[..., HookedTransformer]
MakeDirectory = Callable[..., Path]


@torch.inference_mode()
def logits(model: HookedTransformer | GPT2LMHeadModel, vocabulary: int, length: int, rows: int = 4) -> Tensor:
    """(rows, length, vocab) raw logits on random tokens."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, vocabulary, (rows, length), generator=generator)
    out = model(tokens)
    return out if isinstance(out, Tensor) else out.logits


def source_of(directory: Path) -> GPT2LMHeadModel:
    """The checkpoint as transformers itself reads it, in float32."""
    return GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wide MLP": {"n_inner": 40},
    "narrow MLP": {"n_inner": 5},
    "large eps": {"layer_norm_epsilon": 0.5},
    "tiny eps": {"layer_norm_epsilon": 1e-12},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 4},
    "no attention scale": {"scale_attn_weights": False},
    "both scales": {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "untied": {"tie_word_embeddings": False},
    "odd sizes": {"n_embd": 21, "n_head": 3, "vocab_size": 37, "n_positions": 11, "n_layer": 3, "n_inner": 13},
    "one of each": {"n_embd": 8, "n_head": 1, "n_layer": 1, "vocab_size": 2, "n_positions": 3},
    "upcast": {"reorder_and_upcast_attn": True},
    "no layers": {"n_layer": 0},
    "dropout": {"resid_pdrop": 0.9, "embd_pdrop": 0.9, "attn_pdrop": 0.9},
    "everything at once": {
        "activation_function": "silu",
        "n_inner": 24,
        "layer_norm_epsilon": 0.1,
        "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False,
        "tie_word_embeddings": False,
        "n_embd": 15,
        "n_head": 5,
        "n_layer": 4,
        "vocab_size": 53,
    },
    **{f"activation {name}": {"activation_function": name} for name in ACTIVATIONS},
}
# The options that change what is computed, so that a conversion which ignored them would be seen.
SAME_WEIGHTS = ("large eps", "scaled by layer", "no attention scale", "activation relu", "activation silu")


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(tiny_gpt2_dir: MakeDirectory, name: str) -> None:
    directory = tiny_gpt2_dir(**CONFIGS[name])
    hf, model = source_of(directory), load(directory)
    size, length = hf.config.vocab_size, hf.config.n_positions
    difference = (logits(model, size, length) - logits(hf, size, length)).abs().max()
    assert difference < 1e-4
    assert model.conversion.quantity == "logit"
    assert model.conversion.tokens == 2 * length  # Full context, so that every position is compared.
    assert model.conversion.max_difference < 1e-4
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())

    folded = convert_gpt2(hf, fold=True)
    found, expected = (logits(m, size, length).log_softmax(-1) for m in (folded, hf))
    assert (found - expected).abs().max() < 1e-4
    assert folded.conversion.quantity == "log-prob"
    assert folded.conversion.max_difference < 1e-4
    assert folded.W_E.mean(-1).abs().max() < 1e-6  # Centred, and not before.
    assert model.W_E.mean(-1).abs().max() > 1e-3


@pytest.mark.parametrize("name", SAME_WEIGHTS)
def test_options_matter(tiny_gpt2_dir: MakeDirectory, name: str) -> None:
    option = CONFIGS[name]
    plain = load(tiny_gpt2_dir(name="plain", n_layer=option.get("n_layer", 2)))
    changed = load(tiny_gpt2_dir(name="changed", **option))
    assert torch.equal(plain.W_E, changed.W_E)
    assert (logits(plain, 15, 24) - logits(changed, 15, 24)).abs().max() > 0.01


def test_activations_are_the_trained_models_own(tiny_gpt2_dir: MakeDirectory) -> None:
    directory = tiny_gpt2_dir(n_layer=3)
    hf, model = source_of(directory), load(directory)
    tokens = torch.arange(12)[None]
    with torch.inference_mode():
        hidden = hf(tokens, output_hidden_states=True).hidden_states
        _, cache = model.run_with_cache(tokens)
    for layer in range(3):
        assert (cache["resid_pre", layer] - hidden[layer]).abs().max() < 1e-5


def test_sharded(tiny_gpt2_dir: MakeDirectory) -> None:
    directory = tiny_gpt2_dir(n_layer=3, save={"max_shard_size": "8KB"})
    assert len(list(directory.glob("model-*.safetensors"))) > 3
    assert not (directory / "model.safetensors").exists()
    assert (logits(load(directory), 15, 24) - logits(source_of(directory), 15, 24)).abs().max() < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_keys_without_prefix_and_with_old_masks(tiny_gpt2_dir: MakeDirectory, tied: bool) -> None:
    directory = tiny_gpt2_dir(tie_word_embeddings=tied)
    expected = logits(source_of(directory), 15, 24)
    state = load_file(directory / "model.safetensors")
    state = {key.removeprefix("transformer."): value for key, value in state.items()}
    assert "wte.weight" in state
    for layer in range(2):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, directory / "model.safetensors")
    assert (logits(load(directory), 15, 24) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file(tiny_gpt2_dir: MakeDirectory, zipped: bool) -> None:
    directory = tiny_gpt2_dir()
    expected = logits(source_of(directory), 15, 24)
    state = source_of(directory).state_dict()
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert (logits(load(directory), 15, 24) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_on_disk_are_read_as_float32(tiny_gpt2_dir: MakeDirectory, dtype: torch.dtype) -> None:
    directory = tiny_gpt2_dir(dtype=dtype)
    assert {value.dtype for value in load_file(directory / "model.safetensors").values()} == {dtype}
    model = load(directory)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (logits(model, 15, 24) - logits(source_of(directory), 15, 24)).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_precision_may_be_asked_for(tiny_gpt2_dir: MakeDirectory, dtype: torch.dtype) -> None:
    directory = tiny_gpt2_dir()
    model = load(directory, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    difference = (logits(model, 15, 24).double() - logits(source_of(directory), 15, 24)).abs().max()
    assert difference < (1e-4 if dtype == torch.float64 else 1.0)


@pytest.mark.slow
def test_gpt2_small_size() -> None:
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    assert (hf.config.n_layer, hf.config.n_embd, hf.config.n_head, hf.config.vocab_size) == (12, 768, 12, 50257)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model = convert_gpt2(hf)
    assert (logits(model, 50257, 1024, rows=1) - logits(hf, 50257, 1024, rows=1)).abs().max() < 1e-4


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "mish"])
def test_activation_that_cannot_be_converted_is_named(tiny_gpt2_dir: MakeDirectory, activation: str) -> None:
    with pytest.raises(CheckpointError, match=f"activation_function '{activation}' cannot be converted.*gelu_new"):
        load(tiny_gpt2_dir(activation_function=activation))


def test_cross_attention_is_refused() -> None:
    with pytest.raises(CheckpointError, match="add_cross_attention=True"):
        gpt2_config(GPT2Config(add_cross_attention=True))
    hf = GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=5, n_positions=4, add_cross_attention=True)
    )
    with pytest.raises(CheckpointError, match="add_cross_attention=True"):
        convert_gpt2(hf)


def test_heads_that_do_not_divide_the_width() -> None:
    config = GPT2Config()
    config.n_head = 7
    with pytest.raises(CheckpointError, match="n_embd 768 is not a multiple of n_head 7"):
        gpt2_config(config)


WEIGHTS = {
    "blocks.0.attn.W_Q": (0, 3, 2),
    "blocks.1.attn.W_K": (1, 0, 0),
    "blocks.1.attn.b_V": (1, 4),
    "blocks.0.attn.b_O": (7,),
    "blocks.0.mlp.W_out": (5, 3),
    "blocks.1.mlp.b_in": (9,),
    "blocks.1.ln2.w": (2,),
    "ln_final.b": (1,),
    "unembed.W_U": (3, 14),
    "pos_embed.W_pos": (23, 4),  # Seen at the last position of the context alone.
    "embed.W_E": (14, 0),
}


State = dict[str, Tensor]


def sabotage(monkeypatch: pytest.MonkeyPatch, change: Callable[[State], object]) -> None:
    """Let TransformerLens's conversion make a mistake."""
    from transformer_lens.pretrained.weight_conversions import gpt2

    original = gpt2.convert_gpt2_weights

    def wrong(hf: GPT2LMHeadModel, cfg: Any) -> State:
        state = {key: value.clone() for key, value in original(hf, cfg).items()}
        change(state)
        return state

    for module in (
        "transformer_lens.pretrained.weight_conversions.gpt2",
        "transformer_lens.pretrained.weight_conversions",
    ):
        monkeypatch.setattr(f"{module}.convert_gpt2_weights", wrong)


@pytest.fixture(scope="module")
def hf(tiny_gpt2_dir: MakeDirectory) -> GPT2LMHeadModel:
    """A random GPT-2 in memory."""
    return read_gpt2(tiny_gpt2_dir())


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", WEIGHTS)
def test_self_check_catches_one_wrong_weight(
    hf: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch, name: str, fold: bool
) -> None:
    sabotage(monkeypatch, lambda state: state[name][WEIGHTS[name]].add_(0.05))
    with pytest.raises(CheckpointError, match="the conversion is not exact: log"):
        convert_gpt2(hf, fold=fold)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["blocks.1.attn.b_V", "unembed.W_U"])
def test_self_check_catches_what_is_no_number(
    hf: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    sabotage(monkeypatch, lambda state: state[name][WEIGHTS[name]].fill_(value))
    with pytest.raises(CheckpointError, match="the conversion is not exact: log"):
        convert_gpt2(hf)


def test_self_check_catches_swapped_and_missing_weights(hf: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap(state: State) -> None:
        state["blocks.0.attn.W_Q"], state["blocks.1.attn.W_Q"] = state["blocks.1.attn.W_Q"], state["blocks.0.attn.W_Q"]

    with monkeypatch.context() as patch:
        sabotage(patch, swap)
        with pytest.raises(CheckpointError, match="the conversion is not exact: log"):
            convert_gpt2(hf)
    for name in ("blocks.1.mlp.W_in", "blocks.1.mlp.b_in", "blocks.1.ln1.w"):
        with monkeypatch.context() as patch:
            sabotage(patch, lambda state, name=name: state.pop(name))
            with pytest.raises(ValueError, match=r"not exact|missing"):
                convert_gpt2(hf)
    convert_gpt2(hf)


def test_verify_measures_the_difference(hf: GPT2LMHeadModel) -> None:
    model = convert_gpt2(hf)
    exact = verify(model, hf, folded=False)
    assert exact.max_difference < 1e-5
    model.b_U[3] += 5e-5
    shifted = verify(model, hf, folded=False)
    assert shifted.max_difference == pytest.approx(5e-5, abs=1e-5)
    assert (
        str(shifted) == f"conversion checked: logits differ by at most {shifted.max_difference:.2e} over 48 positions"
    )
    model.b_U[3] += 0.1
    with pytest.raises(CheckpointError, match=r"logits differ by at most 1.00e-01 over 48 positions, allowed"):
        verify(model, hf, folded=False)


def test_verify_is_not_appeased_by_an_infinite_logit(hf: GPT2LMHeadModel) -> None:
    model, overflowing = convert_gpt2(hf), copy.deepcopy(hf)
    with torch.no_grad():
        overflowing.transformer.ln_f.bias[0] = 3e38
        overflowing.transformer.wte.weight[5, 0] = 2
    assert logits(overflowing, 15, 24).isinf().any()
    with pytest.raises(
        CheckpointError, match=r"differ by at most (inf|nan)"
    ):  # Relative to infinity, nothing is large.
        verify(model, overflowing, folded=False)


def test_conversion_check_is_data() -> None:
    assert ConversionCheck(1e-6, "logit", 4) == ConversionCheck(1e-6, "logit", 4)


def test_conversion_leaves_its_source_and_the_random_state_alone(tiny_gpt2_dir: MakeDirectory) -> None:
    directory = tiny_gpt2_dir()
    before = torch.get_rng_state()
    hf = read_gpt2(directory)
    weights = copy.deepcopy(hf.state_dict())
    model = convert_gpt2(hf, fold=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[key]) for key, value in hf.state_dict().items())


@pytest.mark.parametrize("config", [{}, {"normalization_type": "LNPre"}, {"act_fn": "relu", "n_layers": 1}])
def test_untrained_has_the_same_shapes_and_other_weights(tiny_model: MakeModel, config: dict[str, Any]) -> None:
    model = tiny_model(**config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = untrained(model, 3)
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    for name, parameter in fresh.named_parameters():
        assert not torch.equal(parameter, model.get_parameter(name)), name
        kind = name.rsplit(".", 1)[-1]
        if kind == "w":
            assert (parameter == 1).all()
        elif kind.startswith("b"):
            assert (parameter == 0).all()
        else:
            assert parameter.std() == pytest.approx(fresh.cfg.initializer_range, rel=0.3)
            assert parameter.mean().abs() < 0.4 * fresh.cfg.initializer_range
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fresh.parameters())
    assert not fresh.training
    with torch.inference_mode():
        assert fresh(torch.zeros(1, 5, dtype=torch.long)).isfinite().all()


def test_untrained_is_decided_by_its_seed(tiny_model: MakeModel) -> None:
    model = tiny_model()
    torch.manual_seed(0)
    first = untrained(model, 1)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    again, other = untrained(model, 1), untrained(model, 2)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # The global stream is not drawn from.
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.W_E, other.W_E)
    assert not torch.equal(first.W_Q[0], first.W_Q[1])


def test_untrained_of_a_loaded_model_bears_none_of_its_origin(tiny_gpt2_dir: MakeDirectory) -> None:
    model = load(tiny_gpt2_dir(initializer_range=0.1))
    fresh = untrained(model)
    assert not hasattr(fresh, "conversion")
    assert not hasattr(fresh, "provenance")
    assert fresh.W_E.std() == pytest.approx(0.1, rel=0.2)
    assert fresh.cfg.eps == model.cfg.eps
