"""Attention at fixed lags against loops over the cached patterns, and on a head that is made to look one token back."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from interp_kit.analysis.behaviour.attention_lags import AttentionLags, attention_lags
from interp_kit.core.batch import TokenBatch
from interp_kit.tasks.boolean import BooleanTask

MakeModel = Callable[..., HookedTransformer]


@pytest.fixture(scope="module")
def ragged(parity) -> TokenBatch:
    return parity.batch(parity.enumerate())


def looped(model: HookedTransformer, batch: TokenBatch, lags: tuple[int, ...]) -> np.ndarray:
    _, cache = model.run_with_cache(batch.tokens)
    found = np.zeros((model.cfg.n_layers * model.cfg.n_heads, len(lags), len(batch)))
    for layer in range(model.cfg.n_layers):
        pattern = cache["pattern", layer]
        for row in range(len(batch)):
            first, last = int(batch.prompt_length[row]) - 1, int(batch.mask[row].sum()) - 1
            for k, lag in enumerate(lags):
                seen = [pattern[row, :, q, q - lag].numpy() for q in range(first, last) if q >= lag]
                found[layer * model.cfg.n_heads :][: model.cfg.n_heads, k, row] = np.mean(seen, axis=0)
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_mean_over_the_queries_that_predict_the_completion(
    tiny_model: MakeModel, ragged: TokenBatch, batch_size: int
) -> None:
    model = tiny_model(3, d_vocab=5)
    result = attention_lags(model, ragged, (0, 1, 2), batch_size=batch_size)
    assert result.attention == pytest.approx(looped(model, ragged, (0, 1, 2)), abs=1e-6)
    assert result.n == len(ragged)


def test_no_token_is_padding_whatever_tokenizer_there_is(
    tiny_model: MakeModel, ragged: TokenBatch, pads_with_0: SimpleNamespace
) -> None:
    model = tiny_model(3, d_vocab=5)
    expected = looped(model, ragged, (0, 1, 2))
    model.tokenizer = pads_with_0
    assert attention_lags(model, ragged, (0, 1, 2)).attention == pytest.approx(expected, abs=1e-6)


def test_named_queries_and_even_attention(tiny_model: MakeModel, batch: TokenBatch, task: BooleanTask) -> None:
    model = tiny_model(0)
    name = task.fields[0].predict
    result = attention_lags(model, batch, (0, 4), queries=[name])
    at = int(batch.position(name)[0])
    assert result.even == pytest.approx([1 / (at + 1)] * 2)
    assert result.plot().get_xlabel() == f"where the head looks, from {name}"
    _, cache = model.run_with_cache(batch.tokens)
    assert result.attention[0, 1] == pytest.approx(cache["pattern", 0][:, 0, at, at - 4].numpy(), abs=1e-6)


def test_a_head_that_looks_one_back_is_found_and_no_other(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(1)

    def one_back(scores: torch.Tensor, hook: object) -> torch.Tensor:
        scores = scores.clone()
        at = torch.arange(1, scores.shape[-1])
        scores[:, 1, at, at - 1] = 50.0
        return scores

    model.add_hook("blocks.0.attn.hook_attn_scores", one_back)
    try:
        result = attention_lags(model, batch, (0, 1))
    finally:
        model.reset_hooks()
    assert result.lag_heads(1, 0.9) == ("L0H1",)
    assert result.lag_heads(0, 0.9) == ()
    assert result.untrained.max() < 0.5  # the control has no such hook


def test_frame_figure_and_round_trip(tiny_model: MakeModel, batch: TokenBatch, tmp_path) -> None:
    result = attention_lags(tiny_model(2), batch, (0, 1))
    frame = result.to_frame()
    assert len(frame) == 4 * 2
    assert (frame["low"] <= frame["attention"]).all()
    assert (frame["attention"] <= frame["high"]).all()
    assert [t.get_text() for t in result.plot().get_xticklabels()] == ["0 back", "1 back"]
    assert AttentionLags.load(result.save(tmp_path / "lags")).to_frame().equals(frame)


def test_repeated_examples_count_once(tiny_model: MakeModel, batch: TokenBatch) -> None:
    once = attention_lags(tiny_model(2), batch.take(range(8)), (0, 1)).to_frame()
    with pytest.warns(UserWarning, match="24 of 32 rows repeat"):
        again = attention_lags(tiny_model(2), batch.take(list(range(8)) * 4), (0, 1)).to_frame()
    assert set(again["n"]) == {8}
    np.testing.assert_allclose(again["low"], once["low"], atol=1e-6)


@pytest.mark.parametrize(
    ("lags", "message"),
    [((), "name at least one"), ((-1,), "lags is -1"), ((500,), "lag 500"), (1, "lags is 1; expected")],
)
def test_lags_that_cannot_be_measured(
    tiny_model: MakeModel, batch: TokenBatch, unchecked: None, lags: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attention_lags(tiny_model(0), batch, lags)


def test_unmeasured_lag(tiny_model: MakeModel, batch: TokenBatch) -> None:
    with pytest.raises(ValueError, match="lag 7 was not measured; these were: 1"):
        attention_lags(tiny_model(0), batch, (1,)).lag_heads(7)
