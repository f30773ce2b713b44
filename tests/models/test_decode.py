"""Greedy decoding against transformers' own, token for token, and every ragged row against itself alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import GPT2LMHeadModel

from interp_kit.core.task import AbstractTask
from interp_kit.models.checkpoints import load
from interp_kit.models.decode import complete, completer
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
