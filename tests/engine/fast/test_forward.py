"""The executor against the hooked model it was made from, in one piece and in many; and what it refuses."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from interp_kit.engine.fast import matmul as products
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.fast.matmul import ACTIVATIONS, BLOCKS, LARGE, WIDE, _multiplies
from interp_kit.models.convert import convert_mygpt
from interp_kit.models.mygpt import MyGPT, MyGPTConfig

MakeModel = Callable[..., HookedTransformer]

CONFIGS: dict[str, dict[str, Any]] = {
    **{f"activation {name}": {"act_fn": name} for name in ACTIVATIONS},
    "folded norms": {"normalization_type": "LNPre"},
    "no norms": {"normalization_type": None},
    "attention alone": {"attn_only": True},
    "attention scale": {"attn_scale": 1.7},
    "no attention scale": {"use_attn_scale": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layers": 3},
    "large eps": {"eps": 0.5},
    "odd sizes": {"d_model": 21, "n_heads": 3, "d_head": 5, "d_mlp": 13, "d_vocab": 9},
    "other output vocabulary": {"d_vocab_out": 4},
    "one of each": {"n_layers": 1, "n_heads": 1, "d_head": 1, "d_mlp": 1, "d_vocab": 2, "n_ctx": 1},
    "no layers": {"n_layers": 0},
    "root mean square": {"normalization_type": "RMS", "eps": 0.1},
    "folded root mean square": {"normalization_type": "RMSPre"},
    "gated": {"gated_mlp": True, "act_fn": "silu"},
    "rotary": {"positional_embedding_type": "rotary", "rotary_dim": 4},
    "rotary, neighbours": {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True, "rotary_base": 100},
    "parallel": {"parallel_attn_mlp": True},
    "grouped": {"n_key_value_heads": 2, "n_heads": 4},
    "normed queries": {"use_qk_norm": True, "positional_embedding_type": "rotary"},
    "Llama": {
        "normalization_type": "RMS", "gated_mlp": True, "act_fn": "silu", "positional_embedding_type": "rotary",
        "n_heads": 4, "d_head": 6, "n_key_value_heads": 1, "final_rms": True,
    },
    "more hook points": {"use_attn_result": True, "use_split_qkv_input": True, "use_hook_mlp_in": True},
}  # fmt: skip


def random_tokens(model: HookedTransformer, rows: int, length: int) -> Tensor:
    return torch.randint(0, model.cfg.d_vocab, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_the_models(tiny_model: MakeModel, name: str, dtype: torch.dtype) -> None:
    model = tiny_model(**CONFIGS[name], dtype=dtype)
    tokens = random_tokens(model, 3, model.cfg.n_ctx)
    executor = Executor(model)
    with torch.inference_mode():
        expected = model(tokens)
    found = executor.prefill(tokens, every=True)
    assert found.dtype == dtype
    assert (found - expected).abs().max() < (2e-5 if dtype == torch.float32 else 1e-10)
    assert (executor.prefill(tokens) - expected[:, -1]).abs().max() < 2e-5
    assert expected.std() > 0.01


def test_logits_of_a_mygpt() -> None:
    config = MyGPTConfig(d_vocab=15, d_model=11, d_key=3, d_value=5, d_mlp=9, n_heads=2, n_layers=2)
    source = MyGPT(config)
    executor = Executor(convert_mygpt(source, n_ctx=30))
    quiz = torch.randint(0, 15, (2, 30))
    shifted = torch.cat([torch.zeros_like(quiz[:, :1]), quiz[:, :-1]], dim=1)
    with torch.inference_mode():
        assert (executor.prefill(shifted, every=True) - source(quiz)).abs().max() < 2e-5


@given(cuts=st.sets(st.integers(1, 23)), capacity=st.sampled_from([None, 24]))
@settings(max_examples=25)
def test_a_text_in_pieces_is_the_whole_text(tiny_model: MakeModel, cuts: set[int], capacity: int | None) -> None:
    model = tiny_model(dtype=torch.float64)
    tokens, executor = random_tokens(model, 2, 24), Executor(model)
    with torch.inference_mode():
        expected = model(tokens)
    bounds = [0, *sorted(cuts), 24]
    pieces = [executor.prefill(tokens[:, : bounds[1]], every=True, capacity=capacity)]
    for start, end in itertools.pairwise(bounds[1:]):
        pieces.append(executor.extend(tokens[:, start:end], every=True))
    assert (torch.cat(pieces, dim=1) - expected).abs().max() < 1e-12
    lasts = [executor.prefill(tokens[:, : bounds[1]], capacity=capacity)]
    for start, end in itertools.pairwise(bounds[1:]):
        lasts.append(executor.extend(tokens[:, start:end]))
    wanted = expected[:, [bound - 1 for bound in bounds[1:]]]
    assert (torch.stack(lasts, dim=1) - wanted).abs().max() < 1e-12
    other = random_tokens(model, 2, 24).flip(0)  # The memory is used again, nothing of the last text is left in it.
    executor.prefill(other[:, :7])
    with torch.inference_mode():
        assert (executor.step(other[:, 7]) - model(other)[:, 7]).abs().max() < 1e-12


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("rows", [3, 200, 700])  # two texts: below and above the blocks, with some left over
def test_large_products_take_their_activation_along(
    tiny_model: MakeModel, name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = Executor(tiny_model(0, act_fn=name, d_model=128, d_mlp=512), compare=False)
    calls = Counter[str]()
    plain = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *a: (calls.update(["plain"]), plain(*a))[1])
    mlp = executor.layers[0].mlp or pytest.fail("no MLP")
    weight, bias = mlp.into
    x = torch.randn(2, rows, 128, generator=torch.Generator().manual_seed(0))
    found = executor.linear(x, weight, bias, act=True)
    expected = ACTIVATIONS[name](x.double() @ weight.double().T + bias.double())
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert calls["plain"] == 1  # all of it, or what a block left over
    whole = 2 * rows // BLOCKS[-1] * BLOCKS[-1]
    if executor.linear.fused is not None and whole:
        monkeypatch.setattr(executor.linear, "fused", ("relu", ""))
        relu = (x.double() @ weight.double().T + bias.double()).relu().flatten(0, 1)[:whole]
        mixed = executor.linear(x, weight, bias, act=True).flatten(0, 1)[:whole]
        torch.testing.assert_close(mixed.double(), relu, atol=1e-5, rtol=1e-5)  # blocks do go there
    assert executor.linear(x, weight, bias).min() < -0.1


@pytest.mark.parametrize("rows", [3, 200, 700])
def test_products_of_large_weights_go_there_without_an_activation(
    tiny_model: MakeModel, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = Executor(tiny_model(0, d_model=WIDE), compare=False).linear
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=g) for s in ((2, rows, 512), (LARGE // 512, 512), (LARGE // 512,)))
    expected = x.double() @ weight.double().T + bias.double()
    found = linear(x, weight, bias)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-4)
    if linear.fused is not None:
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, *_: torch.full((len(x), 512), 7.0))
        blocks = 2 * rows // BLOCKS[-1] * BLOCKS[-1]
        there = (linear(x, weight, bias) == 7).flatten(0, 1).all(1)
        assert there.tolist() == [True] * blocks + [False] * (2 * rows - blocks)
        assert not (linear(x[..., :-1], weight[:, :-1], bias) == 7).all(-1).any()  # just below LARGE


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """Whether oneDNN multiplies is asked again, in the test and after it."""
    _multiplies.cache_clear()
    yield
    _multiplies.cache_clear()


has_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN")


@has_onednn
@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    "fault", ["of large blocks", "of small blocks", "nan", "no activation", "without activations alone"]
)
def test_products_that_are_wrong_are_not_used(
    tiny_model: MakeModel, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = torch.ops.mkldnn._linear_pointwise

    def product(x: Tensor, weight: Tensor, bias: Tensor, kind: str, scalars: list, algorithm: str) -> Tensor:
        if fault == "no activation":
            return right(x, weight, bias, "none", [], "")
        found = right(x, weight, bias, kind, scalars, algorithm)
        if fault == "without activations alone" and kind != "none":
            return found
        wrong = BLOCKS[-1:] if fault == "of small blocks" else BLOCKS[:1]
        return found * torch.nan if fault == "nan" else found + 0.1 * (len(x) in wrong)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", product)
    monkeypatch.setattr(products, "LARGE", 0)
    model = tiny_model(d_model=WIDE)
    tokens = random_tokens(model, sum(BLOCKS) // 24 + 1, 24)
    with torch.inference_mode():
        expected = model(tokens)
    found = Executor(model).prefill(tokens, every=True)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@has_onednn
@pytest.mark.usefixtures("asked_anew")
def test_a_process_asks_once_for_each_activation(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    right, asked = torch.ops.mkldnn._linear_pointwise, Counter[str]()

    def product(x: Tensor, weight: Tensor, bias: Tensor, kind: str, scalars: list, algorithm: str) -> Tensor:
        asked[kind] += 1
        return right(x, weight, bias, kind, scalars, algorithm)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", product)
    for name in ("relu", "gelu", "relu", "gelu"):
        assert Executor(tiny_model(d_model=WIDE, act_fn=name)).linear.fused is not None
    assert asked == {"relu": len(BLOCKS), "gelu": len(BLOCKS), "none": 2 * len(BLOCKS)}


def test_weights_are_those_of_the_moment(tiny_model: MakeModel) -> None:
    model, other = tiny_model(0), tiny_model(1)
    tokens = random_tokens(model, 2, 9)
    model.load_state_dict(other.state_dict())
    with torch.inference_mode():
        assert (Executor(model).prefill(tokens) - other(tokens)[:, -1]).abs().max() < 2e-5


def test_it_keeps_no_gradient(tiny_model: MakeModel) -> None:
    model = tiny_model().requires_grad_(True).train()
    executor = Executor(model)
    assert not executor.prefill(random_tokens(model, 2, 9)).requires_grad


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "alibi": ({"positional_embedding_type": "alibi"}, "positional_embedding_type is 'alibi'"),
    "shortformer": ({"positional_embedding_type": "shortformer"}, "positional_embedding_type is 'shortformer'"),
    "experts": ({"num_experts": 2, "experts_per_token": 1}, "MoE"),
    "local": ({"use_local_attn": True, "window_size": 3, "attn_types": ["local", "global"]}, "attn|window"),
    "both ways": ({"attention_dir": "bidirectional"}, "attention_dir is 'bidirectional'"),
    "soft cap": ({"output_logits_soft_cap": 5.0}, "output_logits_soft_cap is 5.0"),
    "ungrouped": ({"n_key_value_heads": 1, "ungroup_grouped_query_attention": True}, "ungroup_grouped_query_attention"),
    "norms of OLMo": ({"normalization_type": "RMS", "original_architecture": "Olmo2ForCausalLM"}, "Olmo2"),
    "clipped": ({"clip_qkv": 0.1}, "clip_qkv is 0.1"),
    "solu": ({"act_fn": "solu_ln"}, "act_fn is 'solu_ln'"),
    "half precision": ({"dtype": torch.bfloat16}, "dtype is torch.bfloat16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_alike_is_refused(tiny_model: MakeModel, name: str) -> None:
    config, message = REFUSED[name]
    with pytest.raises(Unsupported, match=message):
        Executor(tiny_model(**config))


def test_hooks_are_refused(tiny_model: MakeModel) -> None:
    model = tiny_model()
    hook = ("blocks.0.hook_mlp_out", lambda x, hook: x * 0)
    with model.hooks(fwd_hooks=[hook]), pytest.raises(Unsupported, match="hooks are active"):
        Executor(model)
    Executor(model)
    model.add_hook("hook_embed", lambda x, hook: x * 0, is_permanent=True)
    with pytest.raises(Unsupported, match="hooks are active"):
        Executor(model)
    model.reset_hooks(including_permanent=True)
    handle = model.blocks[1].mlp.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    with pytest.raises(Unsupported, match="hooks are active"):
        Executor(model)
    handle.remove()
    Executor(model)


def test_an_attached_sae_is_refused() -> None:
    from sae_lens import StandardSAE, StandardSAEConfig

    config = MyGPTConfig(d_vocab=15, d_model=11, d_key=3, d_value=5, d_mlp=9, n_heads=2, n_layers=1)
    model = convert_mygpt(MyGPT(config), sae=True, n_ctx=9)
    Executor(model)
    sae = StandardSAE(StandardSAEConfig(d_in=11, d_sae=13, apply_b_dec_to_input=False))
    sae.cfg.metadata.hook_name = "blocks.0.hook_mlp_out"
    model.add_sae(sae)
    with pytest.raises(Unsupported, match="SAE"):
        Executor(model)
    model.reset_saes()
    Executor(model)


def test_other_models_are_refused() -> None:
    class Other(nn.Linear):
        cfg = None
        run_with_hooks = run_with_cache = hooks = nn.Linear.forward

    with pytest.raises(Unsupported, match="Other is not a HookedTransformer"):
        Executor(Other(2, 2))


def test_a_model_that_computes_something_else_is_noticed(tiny_model: MakeModel) -> None:
    model = tiny_model()
    forward = model.blocks[1].mlp.forward
    model.blocks[1].mlp.forward = lambda x: 1.01 * forward(x)
    with pytest.raises(Unsupported, match=r"logits differ from the model's by 1\.\de-02, allowed \d\.\de-04"):
        Executor(model)
    broken = tiny_model()
    broken.b_U[2] = torch.nan
    with pytest.raises(Unsupported, match="logits differ from the model's by nan"):
        Executor(broken)


def test_tokens_that_do_not_fit(tiny_model: MakeModel) -> None:
    executor = Executor(tiny_model())
    tokens = torch.zeros(2, 24, dtype=torch.long)
    with pytest.raises(ValueError, match=r"\(2, 1\) tokens cannot follow 0: there is room for 0 in 0 texts"):
        executor.step(tokens[:, 0])
    with pytest.raises(ValueError, match="texts of 25 tokens do not fit the model's context of 24"):
        executor.prefill(tokens, capacity=25)
    with pytest.raises(ValueError, match=r"\(2, 0\) tokens cannot follow 0"):
        executor.prefill(tokens[:, :0])
    executor.prefill(tokens[:, :5], capacity=6)
    executor.step(tokens[:, 5])
    with pytest.raises(ValueError, match=r"\(2, 1\) tokens cannot follow 6: there is room for 6 in 2 texts"):
        executor.step(tokens[:, 6])
    executor.prefill(tokens[:, :5])
    with pytest.raises(ValueError, match=r"\(1, 1\) tokens cannot follow 5: there is room for 24 in 2 texts"):
        executor.step(tokens[:1, 6])
