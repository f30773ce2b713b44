"""Interchange-intervention training: its measure against its two ends, one interchange by hand, and that it learns."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from transformer_lens import HookedTransformer

from interp_kit.core.batch import TokenBatch
from interp_kit.models.convert import untrained
from interp_kit.models.planted import planted_boolean, planted_induction
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.induction import InductionTask
from interp_kit.training.interchange import (
    InterchangeConfig,
    components,
    fidelity,
    interchanged,
    train_interchange,
)

TASK = InductionTask(letters=5, length=4)


@pytest.fixture(scope="module")
def teacher() -> HookedTransformer:
    return planted_induction(TASK).requires_grad_(False)


@pytest.fixture(scope="module")
def batch() -> TokenBatch:
    return TASK.batch(TASK.enumerate())


@pytest.fixture(scope="module")
def shuffled(batch: TokenBatch) -> TokenBatch:
    return batch.take(torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)))


def test_nodes_are_the_heads_and_mlps(teacher: HookedTransformer) -> None:
    assert components(teacher) == tuple(f"L{layer}H{head}" for layer in range(2) for head in range(4))
    assert components(planted_boolean(BooleanTask(), "latent"))[4] == "L0 MLP"


def test_interchange_of_the_induction_head_answers_for_the_source(
    teacher: HookedTransformer, batch: TokenBatch, shuffled: TokenBatch
) -> None:
    _, cache = teacher.run_with_cache(shuffled.tokens)
    swapped = interchanged(teacher, batch.tokens, dict(cache.items()), "L1H1")
    assert torch.equal(swapped[:, 3].argmax(-1), shuffled.answer["answer"])
    answers = torch.zeros_like(batch.mask)
    answers[:, 3] = True
    there = interchanged(teacher, batch.tokens, dict(cache.items()), "L1H1", answers)
    assert torch.equal(there[:, 3], swapped[:, 3])
    elsewhere = interchanged(teacher, batch.tokens, dict(cache.items()), "L1H1", ~answers)
    assert torch.equal(elsewhere[:, 3], teacher(batch.tokens)[:, 3])
    idle = interchanged(teacher, batch.tokens, dict(cache.items()), "L1H0")
    assert torch.equal(idle, teacher(batch.tokens))
    with pytest.raises(ValueError, match="'embed' is neither a head nor an MLP"):
        interchanged(teacher, batch.tokens, {}, "embed")


def test_fidelity_of_the_teacher_itself_and_of_an_untrained_model(
    teacher: HookedTransformer, batch: TokenBatch, shuffled: TokenBatch
) -> None:
    itself = fidelity(teacher, teacher, batch, shuffled)
    assert {node for node, n in itself.changes.items() if n} == {"embed", "L0H0", "L1H1"}
    assert itself.followed["L0H0"] == itself.followed["L1H1"] == 1
    assert math.isnan(itself.followed["L0H1"])
    assert set(itself.kept.values()) == {1.0}
    assert itself.pairs == len(batch)
    fresh = fidelity(untrained(teacher), teacher, batch, shuffled)
    assert fresh.followed["L1H1"] < 0.5 > fresh.followed["L0H0"]


def test_no_token_is_padding_whatever_tokenizer_a_student_carries(
    teacher: HookedTransformer, batch: TokenBatch, shuffled: TokenBatch, pads_with_0: SimpleNamespace
) -> None:
    assert (batch.tokens[:, 0] == 0).any()
    student = copy.deepcopy(teacher)
    student.tokenizer = pads_with_0  # pyright: ignore[reportAttributeAccessIssue]
    found, expected = (fidelity(model, teacher, batch, shuffled) for model in (student, teacher))
    assert found.followed == pytest.approx(expected.followed, nan_ok=True)
    assert found.kept == pytest.approx(expected.kept)


def test_mixed_texts_tell_which_of_two_tokens_that_agree_is_read() -> None:
    """boolean-direct takes newD from D's token, boolean-via-token from newB's: equal on every text of the task."""
    known = BooleanTask()
    base, source = known.batch(known.sample(64, 1)), known.batch(known.sample(64, 2))
    direct, via_token = (planted_boolean(known, name) for name in ("direct", "via-token"))
    assert fidelity(via_token, via_token, base, source).followed["embed"] == 1
    other = fidelity(direct, via_token, base, source)
    assert other.followed["embed"] < 0.99
    assert {value for node, value in other.followed.items() if node != "embed" and other.changes[node]} == {1.0}


def test_a_short_training_learns(teacher: HookedTransformer, batch: TokenBatch) -> None:
    student, random = untrained(teacher, 1), torch.get_rng_state()
    config = InterchangeConfig(steps=60, batch_size=16, warmup=10)
    losses = train_interchange(student, teacher, batch, config, progress=False)
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert not any(parameter.requires_grad for parameter in student.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_same_seed_trains_the_same_weights(teacher: HookedTransformer, batch: TokenBatch) -> None:
    students = [untrained(teacher, 1), untrained(teacher, 1)]
    config = InterchangeConfig(steps=3, batch_size=8)
    first, second = (train_interchange(student, teacher, batch, config, progress=False) for student in students)
    assert first == second
    for (_, one), (_, other) in zip(*(student.named_parameters() for student in students), strict=True):
        assert torch.equal(one, other)


def test_other_nodes_are_refused(teacher: HookedTransformer, batch: TokenBatch) -> None:
    other = planted_boolean(BooleanTask(), "latent")
    with pytest.raises(ValueError, match="the student has nodes"):
        train_interchange(other, teacher, batch, progress=False)
    with pytest.raises(ValueError, match="the student has nodes"):
        fidelity(other, teacher, batch, batch)
