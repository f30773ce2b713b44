"""Shares of a gap say how much of what they rest on the model solves: an untrained network has gaps too."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.core.pairs import PairBatch
from interp_kit.engine.inputs import whole_text
from interp_kit.engine.solved import both_sides, counted_solved, is_few, said, solving
from interp_kit.engine.sweep import sweep
from interp_kit.models.planted import planted_boolean

EDGE = ik.Edge("embed", "logits", "logits")
ON_PAIRS: dict[str, Callable[..., Any]] = {
    "patch": lambda model, pairs: ik.patch(model, pairs, by="all"),
    "patch noise": lambda model, pairs: ik.patch(model, pairs, by="all", direction="noise"),
    "patch kl": lambda model, pairs: ik.patch(model, pairs, by="all", metric=ik.probability),
    "patch first": lambda model, pairs: ik.patch(model, pairs, by="all", metric=ik.first_difference),
    "patch_senders": lambda model, pairs: ik.patch_senders(model, pairs, senders=["D"]),
    "path_patch": lambda model, pairs: ik.path_patch(model, pairs, [EDGE]),
    "score_edges": lambda model, pairs: ik.score_edges(model, pairs, method="eap"),
    "acdc": lambda model, pairs: ik.acdc(model, pairs, threshold=1e-9),
}


@pytest.fixture(scope="module")
def pairs(task: ik.BooleanTask) -> PairBatch:
    return task.pairs("newB", "newD")


def spoiled(pairs: PairBatch, n: int) -> PairBatch:
    """The same pairs, the first n with a clean answer that no model of the task gives."""
    answer = pairs.clean.answer["newD"].clone()
    answer[:n] = pairs.clean.field("sum2").candidates[0]
    return replace(pairs, clean=replace(pairs.clean, answer={**pairs.clean.answer, "newD": answer}))


@pytest.mark.parametrize("name", [name for name in ON_PAIRS if name != "patch first"])
def test_unsolved_pairs_are_counted_whether_or_not_they_are_left_out(
    task: ik.BooleanTask, pairs: PairBatch, name: str
) -> None:
    model = planted_boolean(task, "direct")
    for wrong in (5, 9) if name == "patch" else (9,):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = ON_PAIRS[name](model, spoiled(pairs, wrong))
        assert (result.config["solved"], result.config["solved_of"]) == (16 - wrong, 16)
        assert f"not filtered: the model solves both sides of {16 - wrong} of 16 pairs" in result.caption()
        found = [w for w in caught if "solves both sides of" in str(w.message)]
        assert len(found) == (wrong == 9)
        assert ("FEWER THAN 50%" in result.caption()) == (wrong == 9)
        for warning in found:
            assert warning.category is UserWarning
            assert "solves both sides of 7 of 16 pairs, fewer than 50%" in str(warning.message)


@pytest.mark.parametrize("name", [name for name in ON_PAIRS if name != "acdc"])
def test_an_untrained_network_does_not_look_as_if_it_did_the_task(pairs: PairBatch, name: str) -> None:
    model = ik.untrained(ik.planted("boolean-direct"), seed=3)
    with pytest.warns(UserWarning, match=r"untrained:boolean-direct@0@3 solves both sides of 0 of 16 pairs"):
        result = ON_PAIRS[name](model, pairs)
    assert "the model solves both sides of 0 of 16 pairs, FEWER THAN 50%" in result.caption()


def test_faithfulness_interchange_das_and_ablation_count_too(task: ik.BooleanTask, pairs: PairBatch) -> None:
    model = ik.planted("boolean-direct")
    random, batch = ik.untrained(model, seed=3), task.batch(task.enumerate())
    for one, bad in ((model, False), (random, True)):
        calls: list[tuple[Callable[[], Any], str]] = [
            (
                lambda one=one: ik.faithfulness(
                    one, pairs, ik.score_edges(one, pairs, method="eap"), sizes=[0, 1], controls=1
                ),
                "both sides of {} of 16 pairs",
            ),
            (lambda one=one: ik.interchange(one, task, "newB", "newD", by="all", limit=16), "the base of {} of"),
            (
                lambda one=one: ik.das(
                    one, task, "newB", "newD", layer=0, position="D", steps=1, limit=32, seeds=(0, 1)
                ),
                "the base of {} of",
            ),
            (lambda one=one: ik.ablate(one, batch, units=["layer"], fields=["newA", "newD"]), "{} of 64 answers"),
            (lambda one=one: ik.ablate(one, batch, units=["layer"], metric=ik.exact_match), "{} of 32 answers"),
            (lambda one=one: ik.ablate(one, batch, units=["layer"], metric=ik.log_probability), "{} of 32 answers"),
        ]
        for call, words in calls:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = call()
            c = result.config
            assert f"the model solves {words.format(c['solved'])}" in result.caption()
            assert is_few(c) == bad == ("FEWER THAN 50%" in result.caption())
            assert any("fewer than 50%" in str(w.message) for w in caught) == bad
            assert bad or c["solved"] == c["solved_of"]
            found = result.findings()
            assert ("so this says little of how it does the task" in found[0]) == bad


def test_who_is_left_out_is_said_and_nobody_warned(task: ik.BooleanTask, pairs: PairBatch) -> None:
    model = planted_boolean(task, "direct")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = ik.patch(model, spoiled(pairs, 9), by="all", only_solved=True)
        base = ik.interchange(model, task, "newB", "newD", by="all", only_solved=True)
    assert "9 unsolved pairs left out" in result.caption()
    assert "not filtered" not in result.caption()
    assert (result.config["solved"], result.config["solved_of"], result.dropped) == (7, 16, 9)
    assert "0 unsolved pairs left out" in base.caption()


def test_solved_is_what_the_most_likely_tokens_of_the_model_say(task: ik.BooleanTask, tiny_model: Any) -> None:
    """Against the model's own logits, on a random network that solves some pairs, wherever the metric reads."""
    pairs = task.pairs("A", "sum1", hold=())
    model = tiny_model(0)
    model.b_U[task.field("sum1").candidates[2]] += 3.0
    rows = torch.arange(len(pairs))
    with torch.inference_mode():
        logits = [whole_text(model, side.tokens) for side in (pairs.clean, pairs.corrupt)]
    at = pairs.clean.position("sum1?")
    right = [
        (x[rows, at].argmax(-1) == side.answer["sum1"]).numpy()
        for x, side in zip(logits, (pairs.clean, pairs.corrupt), strict=True)
    ]
    expected = right[0] & right[1]
    found = both_sides(
        ik.logit_difference(pairs), pairs, lambda tokens, reads: whole_text(model, tokens)[rows[:, None], reads]
    )
    np.testing.assert_array_equal(found, expected)
    for kind in (ik.logit_difference, ik.kl, ik.probability):
        wanted = solving(kind(pairs), pairs)
        swept = sweep(model, pairs.clean, [], kind(pairs), other=pairs.corrupt, unedited=wanted[:1],
                      unedited_other=wanted[1:])  # fmt: skip
        assert swept.unedited is not None
        assert swept.unedited_other is not None
        np.testing.assert_array_equal((swept.unedited[0] == 1) & (swept.unedited_other[0] == 1), expected)


def test_what_reads_elsewhere_is_run_once_more(task: ik.BooleanTask, tiny_model: Any) -> None:
    batch, model = task.batch(task.enumerate()), tiny_model(0)
    apart = sweep(model, batch, [], [ik.accuracy("newA"), ik.exact_match()])
    beside = sweep(model, batch, [ik.Edit("z", 0)], ik.logit_difference("newD"),
                   unedited=[ik.accuracy("newA"), ik.exact_match()])  # fmt: skip
    np.testing.assert_array_equal(beside.unedited, apart.baseline)


def test_counting_costs_no_run_of_the_model(
    task: ik.BooleanTask, pairs: PairBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patching reads it off the logits of the unedited runs, which are there already."""
    from interp_kit.engine import sweep as sweeping

    model, asked = planted_boolean(task, "direct"), []
    real = sweeping.sweep
    monkeypatch.setattr(sweeping, "sweep", lambda *args, **options: (asked.append(args), real(*args, **options))[1])
    ik.patch(model, pairs, by="all")
    ik.patch(model, pairs, by="all", metric=ik.first_difference)
    assert asked == []  # a metric that reads elsewhere would ask once more


def test_results_that_were_saved_before_say_what_they_said() -> None:
    assert said({}, 3) == "3 unsolved pairs left out"
    assert not is_few(counted_solved(np.ones(0, bool), left_out=4, only_solved=True))
