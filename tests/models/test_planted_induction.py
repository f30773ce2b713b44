"""The planted induction circuit: right on every order of a set of letters, by the two heads that were written."""

import itertools
from functools import lru_cache

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.hook_points import HookPoint

from interp_kit.models.planted import planted_induction
from interp_kit.models.planted.induction import INDUCTION, PREVIOUS
from interp_kit.registry.models import PLANTED, load, planted, task_of
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.induction import InductionTask

TASK = InductionTask()
BATCH = TASK.batch(TASK.sample(256, 0))


@lru_cache
def build(seed: int = 0) -> HookedTransformer:
    return planted_induction(TASK, seed).requires_grad_(False)


def margin(logits: Tensor, true: Tensor) -> Tensor:
    """(batch,) logit of the answer minus the largest other, where it is predicted."""
    at, true = logits[:, TASK.length - 1], true[:, None]
    return (at.gather(1, true) - at.scatter(1, true, -torch.inf).amax(1, keepdim=True))[:, 0]


def test_every_order_of_seven_letters_is_right() -> None:
    """All 7! orders, the key in turn at each place. Letters are alike: their directions are orthonormal."""
    worlds = [TASK.example(i % 4, *order) for i, order in enumerate(itertools.permutations((0, 2, 3, 5, 7, 8, 11)))]
    batch = TASK.batch(worlds)
    assert margin(build()(batch.tokens), batch.answer["answer"]).min() > 11.5


@pytest.mark.parametrize("seed", range(3))
def test_random_texts_are_right_to_their_end(seed: int) -> None:
    logits = build(seed)(BATCH.tokens)
    assert margin(logits, BATCH.answer["answer"]).min() > 11.5
    assert (logits[:, TASK.length].argmax(-1) == TASK.pad).all()


def test_small_and_large_alphabets_fit() -> None:
    for task in (InductionTask(letters=5, length=4), InductionTask(letters=14, length=10)):
        batch = task.batch(task.sample(200, 1))
        logits = planted_induction(task)(batch.tokens)
        assert torch.equal(logits[:, task.length - 1].argmax(-1), batch.answer["answer"])


def test_heads_attend_as_they_were_written() -> None:
    _, cache = build().run_with_cache(BATCH.tokens)
    rows = torch.arange(len(BATCH))
    assert cache["pattern", 0][:, PREVIOUS].diagonal(-1, 1, 2).min() > 1 - 1e-4
    assert cache["pattern", 1][rows, INDUCTION, TASK.length - 1, BATCH.label("where") + 1].min() > 1 - 1e-4
    for layer, used in ((0, PREVIOUS), (1, INDUCTION)):
        idle = [head for head in range(4) if head != used]
        assert not build().blocks[layer].attn.W_O[idle].any()


def test_induction_head_reads_the_letter_before_in_its_keys_and_the_letter_in_its_values() -> None:
    before = build().blocks[0].attn.W_O[PREVIOUS]  # (d_head, d_model)
    attn, embed = build().blocks[1].attn, build().W_E
    letters = torch.arange(len(TASK.vocabulary))
    assert (before @ attn.W_K[INDUCTION])[letters, letters].min() > 1
    assert (embed @ attn.W_K[INDUCTION]).abs().max() < 1e-4
    assert (before @ attn.W_V[INDUCTION]).abs().max() < 1e-4
    assert (embed @ attn.W_V[INDUCTION])[letters, letters].min() > 0.9
    assert (embed @ build().W_U).abs().max() < 1e-4  # No letter answers by itself.


def test_without_the_previous_token_head_nothing_is_found() -> None:
    def off(z: Tensor, hook: HookPoint) -> Tensor:
        z[:, :, PREVIOUS] = 0
        return z

    logits = build().run_with_hooks(BATCH.tokens, fwd_hooks=[("blocks.0.attn.hook_z", off)])
    assert margin(logits, BATCH.answer["answer"]).max() < 0.5


def test_a_crossed_letter_is_copied() -> None:
    pairs = TASK.conflict_pairs("x2", "answer")
    once = pairs.corrupt.label("x2") != pairs.corrupt.label("key")  # Else the key would stand there twice.
    assert once.float().mean() > 0.5
    assert margin(build()(pairs.corrupt.tokens), pairs.corrupt.answer["answer"])[once].min() > 11.5


def test_layer_norm_is_real_and_the_basis_drawn() -> None:
    before = torch.get_rng_state()
    model, other = planted_induction(TASK, 0), planted_induction(TASK, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(type(norm) is LayerNorm for norm in (model.ln_final, *(block.ln1 for block in model.blocks)))
    assert (model.W_E - other.W_E).norm(dim=-1).min() > 0.5
    torch.testing.assert_close(model(BATCH.tokens), other(BATCH.tokens), rtol=0, atol=1e-3)
    _, cache = model.run_with_cache(BATCH.tokens)
    assert all(cache["resid_post", layer].mean(-1).abs().max() < 1e-5 for layer in range(2))


def test_a_task_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="induction has 21 tokens and texts of 10"):
        planted_induction(InductionTask(letters=20, length=8))
    with pytest.raises(ValueError, match="boolean has 15 tokens and texts of 23"):
        planted_induction(BooleanTask())


def test_every_planted_model_resolves_with_its_task() -> None:
    assert PLANTED[:3] == ("boolean-via-token", "boolean-direct", "boolean-latent")
    assert len(PLANTED) == 8
    for name in PLANTED:
        model = load(f"{name}@2")
        task = task_of(model)
        assert task.name == name.split("-")[0]
        batch = task.batch(task.pool()[:8])
        for field in task.fields:
            at = model(batch.tokens)[torch.arange(len(batch)), batch.position(field.predict)]
            assert torch.equal(at.argmax(-1), batch.answer[field.name])
    with pytest.raises(ValueError, match="boolean-backup, boolean-decoy, boolean-superposed, induction"):
        planted("boolean-magic")
