"""Decoding against transformers' own, against the original network's, and against the model run cell by cell."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel

from interp_kit.core.task import AbstractTask
from interp_kit.engine import decode as module
from interp_kit.engine.decode import complete, completer, decode
from interp_kit.engine.edits import Edit, Scale, Zero
from interp_kit.engine.sweep import editing
from interp_kit.models.checkpoints import load
from interp_kit.models.convert import convert_mygpt
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, load_mygpt
from interp_kit.tasks.boolean import BooleanTask

MakeModel = Callable[..., HookedTransformer]
MakeDirectory = Callable[..., Path]


def generated(hf: GPT2LMHeadModel, prompts: Tensor, length: int) -> Tensor:
    """transformers' greedy text of `length` tokens."""
    return hf.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_length=length,
        min_length=length,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


@pytest.mark.parametrize("seed", range(4))
def test_greedy_text_is_that_of_transformers(tiny_gpt2_dir: MakeDirectory, task: BooleanTask, seed: int) -> None:
    directory = tiny_gpt2_dir(seed=seed, n_layer=seed + 1, n_positions=23, tie_word_embeddings=False)
    hf, model = GPT2LMHeadModel.from_pretrained(directory).eval(), load(directory)
    batch = task.batch(task.enumerate())
    expected = generated(hf, batch.tokens[:, :9], 23)
    assert not torch.equal(expected, batch.tokens)  # The true text was not simply handed back,
    assert len(expected[:, 9:].unique(dim=0)) > 3  # and the models say different things to different prompts.
    assert torch.equal(complete(model, batch), expected)
    assert torch.equal(completer(model, 23)(batch.tokens[:, :9]), expected)


def test_true_text_is_not_seen(tiny_model: MakeModel, task: BooleanTask) -> None:
    model, batch = tiny_model(), task.batch(task.enumerate())
    other = batch.tokens.clone()
    other[:, 9:] = torch.randint(0, 15, (32, 14), generator=torch.Generator().manual_seed(0))
    before = batch.tokens.clone()
    assert torch.equal(complete(model, batch), complete(model, replace(batch, tokens=other)))
    assert torch.equal(batch.tokens, before)


@pytest.mark.parametrize("seed", range(3))
def test_ragged_rows_equal_each_row_alone(tiny_gpt2_dir: MakeDirectory, parity: AbstractTask, seed: int) -> None:
    directory = tiny_gpt2_dir(seed=seed, vocab_size=5, n_positions=6)
    hf, model = GPT2LMHeadModel.from_pretrained(directory).eval(), load(directory)
    examples = parity.enumerate()
    batch = parity.batch(examples)
    found = complete(model, batch)
    assert len({len(example.tokens) for example in examples}) > 1
    for row, example in enumerate(examples):
        alone = complete(model, parity.batch([example]))[0]
        n = len(example.tokens)
        assert torch.equal(found[row, :n], alone)
        prompt = torch.tensor([example.tokens[: example.prompt_length]])
        assert torch.equal(alone, generated(hf, prompt, n)[0])
        assert torch.equal(found[row, n:], batch.tokens[row, n:])  # Padding stays padding.


def test_completer_serves_pairs(tiny_model: MakeModel, task: BooleanTask) -> None:
    model = tiny_model(3)
    pairs = task.pairs("newB", "newD", completion="free", generate=completer(model, 23))
    own = task.pairs("newB", "newD")
    for side in ("clean", "corrupt"):
        assert torch.equal(getattr(pairs, side).tokens, complete(model, getattr(own, side)))


def test_completer_of_a_prompt_that_is_long_enough(tiny_model: MakeModel) -> None:
    prompts = torch.randint(0, 15, (3, 6))
    assert torch.equal(completer(tiny_model(), 6)(prompts), prompts)


def test_text_longer_than_the_context(tiny_model: MakeModel, task: BooleanTask) -> None:
    model = tiny_model(n_ctx=22)
    with pytest.raises(ValueError, match="texts of 23 tokens do not fit the model's context of 22"):
        completer(model, 23)
    with pytest.raises(ValueError, match="texts of 23 tokens do not fit the model's context of 22"):
        complete(model, task.batch(task.enumerate()))
    assert complete(tiny_model(n_ctx=23), task.batch(task.enumerate())).shape == (32, 23)


def test_decoding_keeps_no_gradient(tiny_model: MakeModel, task: BooleanTask) -> None:
    model = tiny_model()
    model.requires_grad_(True)
    assert not complete(model, task.batch(task.enumerate()[:2])).requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


# decode

FIXTURE = Path(__file__).parents[1] / "fixtures" / "culture"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The library as its users have it: jaxtyping does not look at arguments, so its own errors come to light."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def cell_by_cell(model: HookedTransformer, text: Tensor, free: Tensor, end: int, hooks: list | None = None) -> Tensor:
    """(pos,) one text, greedily, by the definition: the model on what stands before each free cell."""
    text = text.clone()
    with torch.inference_mode():
        for t in range(end):
            if free[t]:
                text[t] = model.run_with_hooks(text[None, :t], fwd_hooks=hooks or [])[0, -1].argmax()
    return text


def ragged(rows: int, width: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens half of which are white (0), random free cells, random lengths: (rows, width), the same, (rows,)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocabulary, (rows, width), generator=generator)
    tokens[torch.rand(rows, width, generator=generator) < 0.5] = 0
    share = torch.rand(rows, 1, generator=generator)  # from hardly any free cell to nearly all
    free = torch.rand(rows, width, generator=generator) < share
    free[:, 0] = False
    return tokens, free, torch.randint(0, width + 1, (rows,), generator=generator)


def tiny_culture(seed: int = 0, n_ctx: int = 24, **sizes: int) -> HookedTransformer:
    """A converted random MyGPT in double precision, so that no two paths differ by rounding."""
    defaults = {"d_vocab": 15, "d_model": 12, "d_key": 4, "d_value": 3, "d_mlp": 16, "n_heads": 2, "n_layers": 2}
    return convert_mygpt(MyGPT(MyGPTConfig(**{**defaults, **sizes}), seed=seed).double(), n_ctx=n_ctx)


HOOK = ("blocks.0.attn.hook_z", lambda z, hook: z * torch.tensor([0.0, 1.0])[:, None])


@pytest.mark.parametrize("path", ["executor", "hooked", "uncached", "sae"])
def test_greedy_text_is_that_of_the_original_network(path: str) -> None:
    greedy = torch.load(FIXTURE / "greedy_000.pt")
    assert greedy["min_margin"] > 0.04
    model = convert_mygpt(load_mygpt(FIXTURE / "gpt_000.pth")[0], sae=path == "sae")
    tokens = torch.nn.functional.pad(greedy["prompt"], (1, 0))
    free = torch.arange(405) >= 305
    rows = slice(3, 4) if path == "uncached" else slice(None)  # 100 runs of the whole text
    assert (greedy["completed"][rows, 304:] == 0).any()  # Some cells are white, which is 0, which is padding elsewhere.
    if path == "hooked":
        model.add_hook("hook_embed", lambda x, hook: None)
    found = decode(model, tokens[rows], free, cached=path != "uncached")
    assert torch.equal(found.tokens[:, 1:], greedy["completed"][rows])
    logits = greedy["final_logits"][rows].log_softmax(-1)
    expected = logits.gather(-1, greedy["completed"][rows, 304:, None])[..., 0]
    assert (found.log_prob[:, 305:] - expected).abs().max() < 1e-3
    assert found.log_prob[:, :305].isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [None, 1.3])
def test_a_thousand_ragged_rows_cached_and_uncached(temperature: float | None) -> None:
    model = tiny_culture()
    tokens, free, lengths = ragged(1000, 24, 15)
    args = {"temperature": temperature, "lengths": lengths, "seed": 3}
    fast = decode(model, tokens, free, **args)
    slow = decode(model, tokens, free, **args, cached=False, batch_size=None)
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: None)]):
        hooked = decode(model, tokens, free, **args)
    for other in (slow, hooked):
        assert torch.equal(fast.tokens, other.tokens)
        assert torch.allclose(fast.log_prob, other.log_prob, atol=1e-6, equal_nan=True)
    written = free & (torch.arange(24) < lengths[:, None])
    assert torch.equal(fast.tokens[~written], tokens[~written])
    assert torch.equal(fast.log_prob.isnan(), ~written)
    assert (fast.tokens[written] != tokens[written]).float().mean() > 0.5
    assert (fast.tokens[written] == 0).any()
    with torch.inference_mode():  # Of the finished text, all at once.
        scores = model(fast.tokens)[:, :-1].log_softmax(-1).gather(-1, fast.tokens[:, 1:, None])[..., 0]
    assert (fast.log_prob[:, 1:] - scores)[written[:, 1:]].abs().max() < 1e-6
    if temperature is None:
        for row in range(0, 1000, 40):
            assert torch.equal(fast.tokens[row], cell_by_cell(model, tokens[row], free[row], int(lengths[row])))


@pytest.mark.parametrize("cached", [True, False])
def test_hooks_are_active(tiny_model: MakeModel, cached: bool) -> None:
    model = tiny_model(dtype=torch.float64)
    tokens, free, lengths = ragged(60, 24, 15, seed=1)
    intact = decode(model, tokens, free, lengths=lengths).tokens
    with model.hooks(fwd_hooks=[HOOK]):
        found = decode(model, tokens, free, lengths=lengths, cached=cached)
        uncached = decode(model, tokens, free, lengths=lengths, cached=False)
    assert torch.equal(found.tokens, uncached.tokens)
    assert torch.allclose(found.log_prob, uncached.log_prob, atol=1e-6, equal_nan=True)
    assert (found.tokens != intact).any(1).float().mean() > 0.5
    for row in range(0, 60, 6):
        expected = cell_by_cell(model, tokens[row], free[row], int(lengths[row]), [HOOK])
        assert torch.equal(found.tokens[row], expected)
    assert torch.equal(decode(model, tokens, free, lengths=lengths).tokens, intact)  # And gone with the context.
    model.add_hook(*HOOK, is_permanent=True)
    assert torch.equal(decode(model, tokens, free, lengths=lengths, cached=cached).tokens, found.tokens)


def test_edits_at_named_positions(tiny_model: MakeModel, parity: AbstractTask) -> None:
    model = tiny_model(d_vocab=5, n_ctx=6)
    batch = parity.batch(parity.enumerate())
    free = torch.arange(batch.tokens.shape[1]) >= batch.prompt_length[:, None]
    lengths, intact = batch.mask.sum(1), complete(model, batch)
    with editing(model, batch, Edit("resid_pre", 1, position="parity?", source=Zero())):
        found = decode(model, batch.tokens, free, lengths=lengths, cached=False, batch_size=None).tokens
        assert torch.equal(found, complete(model, batch))
    assert not torch.equal(found, intact)
    for row in range(len(batch)):
        one = batch.take([row])
        with editing(model, one, Edit("resid_pre", 1, position="parity?", source=Zero())):
            assert torch.equal(complete(model, one)[0], found[row])


def test_edited_weights_are_the_ones_that_decode(tiny_model: MakeModel, task: BooleanTask) -> None:
    model, batch = tiny_model(), task.batch(task.enumerate())
    free = torch.arange(23) >= 9
    intact = decode(model, batch.tokens, free).tokens
    with editing(model, batch, Edit("W_out", 1, source=Scale(-3.0))):
        found = decode(model, batch.tokens, free).tokens
        assert torch.equal(found, decode(model, batch.tokens, free, cached=False).tokens)
    assert not torch.equal(found, intact)
    assert torch.equal(decode(model, batch.tokens, free).tokens, intact)


@pytest.mark.parametrize(
    "config",
    [
        {"positional_embedding_type": "rotary", "rotary_dim": 4},
        {"positional_embedding_type": "alibi"},
        {"parallel_attn_mlp": True},
        {"gated_mlp": True},
        {"n_key_value_heads": 1},
        {"use_local_attn": True, "window_size": 3, "attn_types": ["local", "global"]},
        {"normalization_type": "RMS"},
        {"act_fn": "solu_ln"},
    ],
)
def test_other_architectures_are_decoded_cell_by_cell(tiny_model: MakeModel, config: dict[str, Any]) -> None:
    model = tiny_model(**config, dtype=torch.float64)
    tokens, free, lengths = ragged(20, 24, 15, seed=2)
    found = decode(model, tokens, free, lengths=lengths).tokens
    for row in range(20):
        assert torch.equal(found[row], cell_by_cell(model, tokens[row], free[row], int(lengths[row])))


@pytest.mark.parametrize("path", ["executor", "hooked", "uncached"])
def test_no_token_is_padding_whatever_tokenizer_there_is(tiny_model: MakeModel, path: str) -> None:
    model = tiny_model(dtype=torch.float64)
    tokens, free, lengths = ragged(40, 24, 15, seed=3)
    expected = decode(model, tokens, free, lengths=lengths).tokens
    model.tokenizer = SimpleNamespace(padding_side="left", pad_token_id=0, bos_token_id=1, eos_token_id=1)
    if path == "hooked":
        model.add_hook("hook_embed", lambda x, hook: None)
    assert torch.equal(decode(model, tokens, free, lengths=lengths, cached=path != "uncached").tokens, expected)


# Sampling


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
def test_samples_are_the_models_distribution(tiny_model: MakeModel, temperature: float) -> None:
    model = tiny_model(d_vocab=5, n_ctx=3)
    n = 20_000
    tokens = torch.full((n, 3), 2)
    found = decode(
        model, tokens, torch.tensor([False, True, True]), temperature=temperature, seed=1, batch_size=5000
    ).tokens
    with torch.inference_mode():  # Both cells together, so that a dependence between rows or cells would be seen.
        first = (model(tokens[:1, :1])[0, 0].double() / temperature).softmax(-1)
        texts = torch.stack([torch.full((5,), 2), torch.arange(5)], dim=1)
        second = (model(texts)[:, 1].double() / temperature).softmax(-1)
    expected = (first[:, None] * second).flatten().numpy() * n
    counts = np.bincount((found[:, 1] * 5 + found[:, 2]).numpy(), minlength=25)
    assert expected.min() > 5
    assert chisquare(counts, expected).pvalue > 1e-3
    wrong = (first[:, None] ** 1.2 * second).flatten().numpy()  # The test has the power to see a wrong temperature.
    assert chisquare(counts, wrong / wrong.sum() * n).pvalue < 1e-3


def test_sampling_does_not_depend_on_the_batch() -> None:
    model = tiny_culture(seed=1)
    tokens, free, lengths = ragged(50, 24, 15, seed=4)

    def sampled(rows: slice = slice(None), **changed: Any) -> Tensor:
        args = {"temperature": 1.0, "seed": 7, "lengths": lengths[rows], **changed}
        return decode(model, tokens[rows], free[rows], **args).tokens

    expected = sampled()
    for size in (1, 7, 49, 50, 1000, None):
        assert torch.equal(sampled(batch_size=size), expected)
    assert torch.equal(sampled(slice(0, 20)), expected[:20])  # Nor do the first rows on how many follow.
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert not torch.equal(sampled(seed=8), expected)
    assert torch.equal(torch.get_rng_state(), state)
    same = torch.ones(50, 24, dtype=torch.long)
    rows = decode(model, same, torch.arange(24) > 0, temperature=1.0).tokens
    assert len(rows.unique(dim=0)) == 50  # Equal rows are sampled apart.


def test_temperature_may_differ_by_position() -> None:
    model = tiny_culture(seed=2)
    tokens, free, _ = ragged(200, 24, 15, seed=5)
    heat = torch.full((24,), 1e-8, dtype=torch.float64)
    greedy = decode(model, tokens, free).tokens
    assert torch.equal(decode(model, tokens, free, temperature=heat).tokens, greedy)
    heat[12:] = 2
    found = decode(model, tokens, free, temperature=heat).tokens
    assert torch.equal(found[:, :12], greedy[:, :12])
    assert (found[:, 12:] != greedy[:, 12:])[free[:, 12:]].float().mean() > 0.3
    assert torch.equal(
        decode(model, tokens, free, temperature=2, seed=4).tokens,
        decode(model, tokens, free, temperature=torch.full((24,), 2.0), seed=4).tokens,
    )


def test_an_impossible_token_is_never_sampled() -> None:
    logits = torch.tensor([[-1e9, 0.0, -1e9, 1.0, -1e9]], dtype=torch.float64).expand(4, 5)
    chance = torch.tensor([0.0, 0.2, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert module._sample(logits, chance).tolist() == [1, 1, 3, 3]


# What is given


def test_stop() -> None:
    model = tiny_culture()
    tokens, free, _ = ragged(30, 24, 15, seed=6)
    whole = decode(model, tokens, free).tokens
    assert torch.equal(decode(model, tokens, free, stop=23).tokens, whole)
    found = decode(model, tokens, free, stop=11).tokens
    assert torch.equal(found, torch.cat([whole[:, :12], tokens[:, 12:]], dim=1))
    stops = torch.arange(30) % 24
    found = decode(model, tokens, free, stop=stops).tokens
    assert torch.equal(found, torch.where(torch.arange(24) <= stops[:, None], whole, tokens))


def test_one_pattern_for_all_rows() -> None:
    model = tiny_culture()
    tokens, free, _ = ragged(30, 24, 15, seed=7)
    pattern = free[20]
    assert torch.equal(decode(model, tokens, pattern).tokens, decode(model, tokens, pattern.expand(30, 24)).tokens)


def test_nothing_free() -> None:
    model, (tokens, free, lengths) = tiny_culture(), ragged(5, 24, 15)
    model.forward = None  # It is not even run.
    for result in (
        decode(model, tokens, free & False),
        decode(model, tokens, free, lengths=lengths * 0),
        decode(model, tokens, free, stop=0, cached=False),
    ):
        assert torch.equal(result.tokens, tokens)
        assert result.log_prob.isnan().all()
    assert decode(model, tokens[:0], free[:0]).tokens.shape == (0, 24)


def test_what_stands_in_free_cells_and_padding_is_not_read() -> None:
    model = tiny_culture()
    tokens, free, lengths = ragged(30, 24, 15, seed=8)
    expected, before = decode(model, tokens, free, lengths=lengths).tokens, tokens.clone()
    unread = free | (torch.arange(24) >= lengths[:, None])
    written = free & (torch.arange(24) < lengths[:, None])
    for junk in (-1, 3, 15, 10**12):
        other = torch.where(unread, junk, tokens)
        for cached in (True, False):
            found = decode(model, other, free, lengths=lengths, cached=cached).tokens
            assert torch.equal(found, torch.where(written, expected, other))
    assert torch.equal(tokens, before)


def test_result_may_be_trained_on() -> None:
    model, (tokens, free, _) = tiny_culture(), ragged(5, 24, 15)
    for cached in (True, False):
        result = decode(model, tokens, free, cached=cached)
        MyGPT(MyGPTConfig(15, 4, 2, 2, 4, 1, 1))(result.tokens).sum().backward()
        assert not result.log_prob.is_inference()


def test_whole_numbers_of_any_width() -> None:
    model, (tokens, free, _) = tiny_culture(), ragged(5, 24, 15)
    found = decode(model, tokens.to(torch.int16), free)
    assert found.tokens.dtype == torch.int64
    assert torch.equal(found.tokens, decode(model, tokens, free).tokens)


@pytest.mark.parametrize("cached", [True, False])
def test_logits_that_are_no_numbers(cached: bool) -> None:
    model = tiny_culture()
    model.W_E[9] = torch.inf
    tokens, free = torch.ones(8, 24, dtype=torch.long), torch.zeros(8, 24, dtype=torch.bool)
    free[:, 1:4] = free[5, 12] = True
    if cached:  # Behind the last free cell, so that it is not run. (In a whole text, 0 times infinity is nan.)
        tokens[2, 23] = 9
    decode(model, tokens, free, cached=cached)
    tokens[5, 9] = 9
    if not cached:
        free[:, 1:4] = False
    with pytest.raises(FloatingPointError, match="row 5, position 11: the model gives nan or infinite logits"):
        decode(model, tokens, free, cached=cached, batch_size=3)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_decoded() -> None:
    model = tiny_culture()
    tokens, free = torch.ones(4, 24, dtype=torch.long), torch.zeros(4, 24, dtype=torch.bool)
    free[:, 5:9] = True

    def message(**changed: Any) -> str:
        args = {"model": model, "tokens": tokens, "free": free, **changed}
        with pytest.raises(ValueError, match=r"\w") as error:
            decode(**args)
        return str(error.value)

    wrong, start = tokens.clone(), free.clone()
    wrong[2, 11], start[3, 0] = 15, True
    assert message(tokens=wrong) == "row 2, position 11: token 15 of a vocabulary of 15"
    wrong[2, 11] = -1
    assert message(tokens=wrong) == "row 2, position 11: token -1 of a vocabulary of 15"
    assert message(free=start) == "row 3: position 0 cannot be free, nothing stands before it"
    assert message(tokens=torch.ones(4, 25).long()) == "texts of 25 tokens do not fit the model's context of 24"
    assert message(free=free[:, 1:]) == "free is torch.bool (4, 23), not bool (4, 24) or (24,)"
    assert message(free=free.long()) == "free is torch.int64 (4, 24), not bool (4, 24) or (24,)"
    assert message(lengths=torch.tensor([1, 2, 3])) == "lengths must be 4 numbers from 0 to 24"
    assert message(lengths=torch.tensor([1, 2, 3, 25])) == "lengths must be 4 numbers from 0 to 24"
    assert message(stop=torch.tensor([1, 2, 3])) == "stop is one position or 4, not (3,)"
    assert message(temperature=torch.ones(4)) == "temperature is one number or 24, not (4,)"
    for heat in (0, -1.0, torch.nan, torch.inf):
        assert message(temperature=heat).startswith("a temperature must be finite and above 0; None takes")
    assert message(batch_size=0) == "batch_size is 0; expected a whole number of 1 or more"


def test_progress_counts_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_kit.core.showing.SECONDS", 0.0)
    model, tokens = tiny_culture(), torch.ones(5, 24, dtype=torch.long)
    free = torch.arange(24) >= 20
    decode(model, tokens, free, batch_size=2, progress=False)
    assert capsys.readouterr().err == ""
    decode(model, tokens, free, batch_size=2, progress=True)
    assert "12/12" in capsys.readouterr().err
