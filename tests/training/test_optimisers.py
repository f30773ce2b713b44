"""The schedule, Muon with AdamW as one optimizer, and the loss on the learnt positions, each against plain arithmetic."""

import copy

import pytest
import torch

from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.cards import CardsTask
from interp_kit.training.muon import Muon
from interp_kit.training.optimisers import MuonWithAdamW, block_matrices, learnt_loss, rate
from interp_kit.training.rows import NO_LOSS, ExampleDataset, TextRows
from interp_kit.training.sft import SFTConfig, new_gpt2

SMALL = SFTConfig(d_model=8, n_layers=2, n_heads=2, n_ctx=48, dropout=0.0)


def test_rates_rise_stay_and_fall_to_zero() -> None:
    found = [rate(step, 20, warm_up=4, flat=0.5) for step in range(21)]
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[4:11] == [1.0] * 7
    assert found[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_without_warm_up_or_flat_part_the_rate_is_linear_as_trainer_has_it() -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=7)
    assert [rate(step, 7) for step in range(8)] == [theirs.lr_lambdas[0](step) for step in range(8)]


def test_muon_moves_the_matrices_of_the_blocks_and_adamw_all_else(task: BooleanTask) -> None:
    model = new_gpt2(task, SMALL)
    matrices, rest = block_matrices(model)
    assert [tuple(p.shape) for p in matrices] == [(8, 24), (8, 8), (8, 32), (32, 8)] * 2
    assert {id(p) for p in (*matrices, *rest)} == {id(p) for p in model.parameters()}
    assert any(p is model.transformer.wte.weight for p in rest)  # tied to the unembedding, counted once
    assert len(matrices) + len(rest) == len(list(model.parameters()))


def test_one_optimizer_steps_as_both_would_alone_also_after_it_was_saved(task: BooleanTask) -> None:
    model = new_gpt2(task, SMALL)
    other = copy.deepcopy(model)
    both = MuonWithAdamW(model, 0.02, 0.003, weight_decay=0.1)
    matrices, rest = block_matrices(other)
    alone = (Muon(matrices, lr=0.02, weight_decay=0.1), torch.optim.AdamW(rest, lr=0.003, weight_decay=0.0))
    tokens = task.batch(task.enumerate()).tokens
    for step in range(4):
        for group in (*both.param_groups, *(group for part in alone for group in part.param_groups)):
            group["lr"] = group["lr"] * 0.9
        if step == 2:  # into a fresh optimizer through its state
            state, both = both.state_dict(), MuonWithAdamW(model, 1.0, 1.0)
            both.load_state_dict(state)
        for net in (model, other):
            net.zero_grad()
            net(tokens, labels=tokens).loss.backward()
        both.step()
        for part in alone:
            part.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [group["lr"] for group in both.param_groups] == pytest.approx([0.02 * 0.9**4, 0.003 * 0.9**4])


def test_the_loss_on_learnt_positions_is_that_of_the_whole_model() -> None:
    task = CardsTask("train")
    tokens, prompts = task.encode(task.deals(64, 0))
    data = ExampleDataset(task, TextRows(tokens, prompts, prompts + 2), "completion")
    batch = data.__getitems__(list(range(64)))
    model = new_gpt2(task, SMALL).eval()
    mine = learnt_loss(model, batch["input_ids"], batch["labels"], NO_LOSS)
    mine.backward()
    gradient = model.transformer.wte.weight.grad.clone()
    model.zero_grad()
    theirs = model(**batch).loss * 128  # two tokens of each text, without their mask's help
    theirs.backward()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert torch.allclose(gradient, model.transformer.wte.weight.grad, atol=1e-3)


def test_batches_are_cut_to_their_longest_text_and_lose_nothing() -> None:
    task = CardsTask("train")
    examples = task.sample(12, 1)
    data = ExampleDataset(task, examples, "completion")
    rows = sorted(range(12), key=lambda i: len(examples[i].tokens))[:3]
    batch = data.__getitems__(rows)
    assert batch["input_ids"].shape[1] == len(examples[rows[-1]].tokens) < data.tokens.shape[1]
    for k, row in enumerate(rows):
        length = len(examples[row].tokens)
        assert batch["input_ids"][k, :length].tolist() == list(examples[row].tokens)
        assert batch["attention_mask"][k].sum() == length
        learnt = batch["labels"][k] != NO_LOSS
        assert learnt.nonzero()[:, 0].tolist() == [length - 2, length - 1]


def test_arrays_and_examples_make_the_same_rows() -> None:
    task = CardsTask("id_test")
    deals = task.deals(20, 0)
    tokens, prompts = task.encode(deals)
    arrays, listed = TextRows(tokens, prompts, prompts + 2), TextRows.of_examples(task, task.examples(deals))
    assert arrays.digest == listed.digest
    assert arrays.distinct == 20
    twice = TextRows(*(x.repeat(2, axis=0) for x in (tokens, prompts, prompts + 2)))
    assert twice.distinct == 20


def test_rows_that_are_no_texts_are_refused() -> None:
    tokens, prompts = CardsTask("id_test").encode(CardsTask("id_test").deals(3, 0))
    for arrays, word in (
        ((tokens, prompts, prompts), "prompt < text"),
        ((tokens, prompts, prompts + 99), "prompt < text"),
        ((tokens, prompts[:2], prompts + 2), "shapes"),
        ((tokens[:0], prompts[:0], prompts[:0]), "at least one example"),
        ((tokens * 1.0, prompts, prompts + 2), "integers"),
    ):
        with pytest.raises(ValueError, match=word):
            TextRows(*arrays)
