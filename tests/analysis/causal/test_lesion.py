"""Lesions: self-repair and takeover are found where they were planted, and nothing of the model's is changed."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.analysis.causal.lesion_result import LesionResult
from interp_kit.analysis.causal.lesion_training import Lesion, intact, retrain, trainable_copy
from interp_kit.engine.inputs import whole_text
from interp_kit.models.planted import planted_repair

CUT = ik.Edit("z", 1, ik.Zero(), head=1)
QUICK: dict[str, Any] = {"steps": 1, "seeds": [0], "batch_size": 2, "progress": False}
FEW: dict[str, Any] = {**QUICK, "limit": 4}


def newb(result: LesionResult, effect: str) -> float:
    """Mean effect on newB alone."""
    return float(getattr(result, effect)[result.fields.index("newB")].mean())


@pytest.mark.parametrize("strength", [0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 1.0))])
def test_planted_self_repair_is_found_as_strong_as_it_was_written(task: ik.BooleanTask, strength: float) -> None:
    """L2H2 writes what L1H1 writes, times `strength`, where L1H1 is silent: so of L1H1's direct effect it makes good
    that share, and its own importance grows from nothing to that much."""
    model = planted_repair(task, strength)
    batch = task.batch(task.enumerate())
    assert torch.equal(ik.complete(model, batch)[:, :-1], batch.tokens[:, :-1])
    result = ik.lesion(model, task, CUT, kind="zero", **QUICK)
    assert newb(result, "direct") == pytest.approx(10, abs=0.5)  # twice the logit of a bit
    assert newb(result, "direct") - newb(result, "total") == pytest.approx(10 * strength, abs=0.5)
    assert result.repaired_share.value == pytest.approx(strength, abs=0.03)
    at = result.component.index("L2H2")
    assert abs(result.before[at].mean()) < 1e-3
    assert result.at_once[at].mean() == pytest.approx(10 * strength / len(result.fields), abs=0.1)
    grown = (result.at_once - result.before).mean(1)
    assert (result.component[int(grown.argmax())] == "L2H2") == (strength > 0)
    said = {0.0: "no self-repair is shown", 0.5: "make good 0.5", 1.0: "make good 1.0"}
    assert said[strength] in " ".join(result.findings())
    right = float(result.accuracy[0, 0, 0, result.fields.index("newB")])
    assert (right == 1.0) == (strength > 0)


def test_what_a_later_component_does_is_no_direct_effect(task: ik.BooleanTask) -> None:
    """In "via-token" L1H1 writes to a slot that an MLP reads: all of its effect is indirect."""
    result = ik.lesion(ik.planted("boolean-via-token"), task, CUT, **FEW | {"limit": 8})
    at = result.fields.index("newD")
    assert abs(result.direct[at]).max() < 0.2
    assert result.total[at].mean() > 2
    assert np.isnan(result.repaired_share.value)
    assert "no direct effect to repair" in " ".join(result.findings())


@pytest.mark.slow
def test_training_around_a_lesion_recovers_and_says_who_took_over(task: ik.BooleanTask) -> None:
    """newB's writer is cut, with no backup."""
    options: dict[str, Any] = {"steps": 10, "seeds": [0, 1, 2, 3], "batch_size": 8, "learning_rate": 2e-3, "limit": 16}
    result = ik.lesion(planted_repair(task, 0.0), task, CUT, kind="zero", progress=False, **options)
    at = result.fields.index("newB")
    assert result.accuracy[1, :, :, at].min() == 1.0
    assert result.accuracy[0, :, 0, at].max() <= 0.75, "a guess of 16, where rounding decides between equal logits"
    assert np.abs(result.difference[0, :, 0, at]).max() < 1e-5 < 1 < result.difference[1, :, 0, at].min()
    assert result.accuracy[0, :, -1, at].mean() > 0.8
    assert np.array_equal(result.after[0][:, result.component.index("L1H1")], np.zeros(4))  # it is still held
    frame = result.takeover.set_index("component")
    assert frame.loc["L2H2", "low"] > 0  # it looks at D where L1H1 is silent, and had only to write it
    assert frame.loc["L1H1", "high"] < 0
    shown = {name for name in frame.index if frame.loc[name, "p"] < 0.05 and frame.loc[name, "growth"] > 0}
    assert set(result.took_over) == shown


@pytest.fixture(scope="module")
def trained(task: ik.BooleanTask) -> SimpleNamespace:
    """A lesion with two steps of two seeds, and the model as it was before."""
    model = planted_repair(task, 0.0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    asks = [value.requires_grad for value in model.parameters()]
    result = ik.lesion(model, task, CUT, **FEW | {"steps": 2, "seeds": [0, 1]})
    return SimpleNamespace(model=model, before=before, asks=asks, result=result)


def test_the_users_model_is_left_as_it_was(trained: SimpleNamespace) -> None:
    for name, value in trained.model.named_parameters():
        assert torch.equal(value, trained.before[name]), name
        assert value.grad is None
    assert [value.requires_grad for value in trained.model.parameters()] == trained.asks
    assert not any(module._forward_hooks for module in trained.model.modules())


def test_caption_figures_table_and_files_agree(trained: SimpleNamespace, tmp_path: Path) -> None:
    result: LesionResult = trained.result
    frame = result.to_frame()
    last = frame[(frame["measure"] == "accuracy") & (frame["state"] == "lesion") & (frame["step"] == 2)]
    assert last["value"].mean() == pytest.approx(result.accuracy_of("lesion").value)
    first = result.accuracy_of("lesion", 0)  # of one model, however many seeds follow
    assert (first.value, first.n) == (result.accuracy[0, 0, 0].mean(), 1)
    assert np.isnan([first.low, *frame[(frame["measure"] == "accuracy") & (frame["step"] == 0)]["high"]]).all()
    assert result.accuracy_of("lesion").short() in result.caption()
    assert "n = 4 examples, 2 seeds;" in result.caption()
    assert all(finding not in result.caption() for finding in result.findings()[1:])
    (options, _), (second, importance) = result.figures()
    assert (options, second) == ({}, {"figure": "importance"})
    assert "Importance of every component" in importance
    ticks = result.plot().get_xticks()
    assert (ticks == ticks.round()).all(), ticks  # steps are whole
    assert LesionResult.load(result.save(tmp_path / "r")).to_frame().equals(frame)
    (lesion, control) = result.plot().get_lines()
    np.testing.assert_allclose(lesion.get_ydata(), result.accuracy[0].mean((0, 2)))
    np.testing.assert_allclose(control.get_ydata(), result.accuracy[1].mean((0, 2)))
    assert [t.get_text() for t in result.plot(figure="importance").get_yticklabels()] == list(result.component)


def test_a_share_of_almost_no_direct_effect_is_not_given(trained: SimpleNamespace) -> None:
    result, rng = trained.result, np.random.default_rng(0)
    shape = (len(result.fields), 32)
    intact = float(result.difference[1, 0, 0].mean())
    for share, known in ((0.03, False), (0.3, True)):
        direct = np.full(shape, share * intact) * rng.uniform(0.9, 1.1, 32)
        made = replace(result, direct=direct, total=direct * rng.uniform(0.4, 0.6, 32))
        assert np.isfinite(made.repaired_share.value) == known
        assert ("too little to speak of" in " ".join(made.findings())) != known


def test_a_single_number_of_seeds_is_refused(task: ik.BooleanTask, tiny_model: Any, unchecked: None) -> None:
    options: dict[str, Any] = {**FEW, "seeds": 3}
    with pytest.raises(ValueError, match="seeds is 3; expected a sequence of whole numbers"):
        ik.lesion(tiny_model(), task, CUT, **options)


def test_seeds_and_arms_see_the_same_texts_and_repeat(task: ik.BooleanTask, tiny_model: Any) -> None:
    model, options = tiny_model(), {**FEW, "seeds": [3, 1], "learning_rate": 1e-2}
    one, again = (ik.lesion(model, task, CUT, **options) for _ in range(2))
    assert one.to_frame().equals(again.to_frame())
    nothing = ik.lesion(model, task, ik.Edit("z", 1, ik.Scale(1.0), head=1), **options)
    np.testing.assert_allclose(nothing.after[0], nothing.after[1], atol=1e-4)  # a lesion of nothing is the control
    np.testing.assert_array_equal(nothing.after[1], one.after[1])
    assert not np.array_equal(one.after[1][0], one.after[1][1])


def test_a_mean_stays_that_of_the_intact_model(task: ik.BooleanTask, tiny_model: Any) -> None:
    """Of the measured examples, by named position, whatever the weights and the texts are now."""
    model, batch = tiny_model(), task.batch(task.enumerate())
    cut, (student, learning) = Lesion(model, batch, ik.Edit("mlp_out", 0, ik.Mean())), trainable_copy(model)
    retrain(student, learning, batch, cut.hold, 4, 0.05, lambda step: None)
    _, cache = model.run_with_cache(batch.tokens)
    seen = {}

    def look(value: Any, hook: Any) -> None:
        seen["out"] = value

    few = batch.take([5, 7])
    with cut.hold(student, few), torch.no_grad():
        student.run_with_hooks(few.tokens, fwd_hooks=[("blocks.0.hook_mlp_out", look)])
    torch.testing.assert_close(seen["out"], cache["mlp_out", 0].mean(0).expand(2, -1, -1))
    with torch.no_grad():
        assert not torch.allclose(whole_text(student, few.tokens), whole_text(model, few.tokens))


def test_gradients_pass_by_the_lesion_and_not_through_it(task: ik.BooleanTask, tiny_model: Any) -> None:
    """The weights of a zeroed head do not move; those of its neighbour do."""
    model, batch = tiny_model(), task.batch(task.enumerate())
    cut, (student, learning) = Lesion(model, batch, ik.Edit("z", 0, head=1)), trainable_copy(model)
    retrain(student, learning, batch, cut.hold, 2, 0.01, lambda step: None)
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        old, new = (getattr(m.blocks[0].attn, name) for m in (model, student))
        assert torch.equal(old[1], new[1]), name
        assert not torch.equal(old[0], new[0]), name


REFUSED = [
    ({"edits": ik.Edit("W_Q", 0)}, "W_Q layer=0 <- Zero: a lesion holds an output"),
    ({"edits": ik.Edit("q", 0)}, "a lesion holds an output, at one of z"),
    ({"edits": ik.Edit("z", 0, ik.Resample())}, "its values are those of the rows of one batch"),
    ({"edits": ik.Edit("z", 0, ik.Set(np.zeros((32, 23, 2, 4))))}, "do not fit the edited slice"),
    ({"edits": ik.Edit("z", 9)}, "layers 0 to 1"),
    ({"edits": []}, "an empty group of edits"),
    ({"learning_rate": 1e30, "steps": 6}, "training diverged after"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_cannot_be_held_is_refused(tiny_model: Any, task: ik.BooleanTask, given: Any, said: str) -> None:
    options = {"edits": ik.Edit("z", 0), **FEW, **given}
    with pytest.raises((ValueError, FloatingPointError), match=said):
        ik.lesion(tiny_model(), task, **options)


def test_an_open_block_of_edits_is_no_intact_model(tiny_model: Any, task: ik.BooleanTask) -> None:
    model, batch = tiny_model(), task.batch(task.enumerate()[:2])
    with ik.editing(model, batch, ik.Edit("z", 0)), pytest.raises(ValueError, match="active hooks"):
        ik.lesion(model, task, ik.Edit("z", 1), **FEW)


def test_texts_that_do_not_fit_are_refused_before_training(tiny_model: Any, task: ik.BooleanTask) -> None:
    with pytest.raises(ValueError, match="texts of 23 tokens do not fit the model's context of 20"):
        ik.lesion(tiny_model(n_ctx=20), task, ik.Edit("z", 0), **FEW)


def test_the_control_is_plain_training(task: ik.BooleanTask, tiny_model: Any) -> None:
    """One step is AdamW's on the mean loss of the completion's tokens."""
    model, batch = tiny_model(), task.batch(task.enumerate()[:4])
    (mine, learning), (plain, parameters) = trainable_copy(model), trainable_copy(model)
    retrain(mine, learning, batch, intact, 1, 0.01, lambda step: None)
    logits = plain(batch.tokens)
    rows, at = zip(*itertools.product(range(4), range(8, 22)), strict=True)
    loss = torch.nn.functional.cross_entropy(logits[rows, at], batch.tokens[rows, [i + 1 for i in at]])
    optimiser = torch.optim.AdamW(parameters, 0.01, weight_decay=0.0)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    for (name, a), (_, b) in zip(mine.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
