"""The mechanism of models whose mechanism was written into their weights, and the verdict on numbers made for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from interp_kit.analysis.causal.mechanism import MechanismResult, mechanism, route_summary
from interp_kit.analysis.causal.patching import patch_senders
from interp_kit.analysis.causal.routes import FEWEST, ROUTES, TOO_FEW, flips, positions_by_route, verdict_of
from interp_kit.core.stats.intervals import Estimate
from interp_kit.models.convert import untrained
from interp_kit.models.planted import planted_boolean, planted_equations
from interp_kit.tasks.boolean import BooleanTask

# planted name -> (verdict, only the token flips, only the causes flip, patched target by layer, free target by layer)
TRUTH = {
    "via-token": ("via token", 1, 0, [0, 0], [1, 1]),
    "direct": ("direct", 0, 1, [0, 0], [0, 0]),
    "latent": ("latent", 0, 1, [1, 0], [1, 0]),
}
SOURCE = {"via-token": "newB", "direct": "D", "latent": "newB?"}


@pytest.fixture(scope="module")
def found(task: BooleanTask) -> dict[tuple[str, int], MechanismResult]:
    return {
        (name, seed): mechanism(planted_boolean(task, name, seed), task, mediator="newB", target="newD")
        for name in TRUTH
        for seed in (0, 1)
    }


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", TRUTH)
def test_planted_mechanisms_are_named(found: dict[tuple[str, int], MechanismResult], name: str, seed: int) -> None:
    result = found[name, seed]
    verdict, token, cause, patched, free = TRUTH[name]
    assert result.verdict == verdict
    assert (result.solved.value, result.solved.n) == (1.0, 32)
    assert (result.token_flips.value, result.token_flips.n) == (token, 16)
    assert (result.cause_flips.value, result.cause_flips.n) == (cause, 16)
    assert result.dropped == 0
    expected = np.array([route == verdict for route in ROUTES], dtype=float)
    np.testing.assert_allclose(result.route, expected, atol=0.02)
    for ends in (result.route_low, result.route_high):  # no interval where all pairs agree to the last digit
        assert (np.isnan(ends) | np.isclose(ends, expected, atol=0.02)).all()
    by_sender = dict(zip(result.sender, result.sender_recovered, strict=True))
    assert by_sender.pop(SOURCE[name]) == pytest.approx(1, abs=0.02)
    assert np.abs(list(by_sender.values())).max() < 0.02
    # newB itself follows from layer 0 on, in all three; newD only where they share the site
    np.testing.assert_allclose(result.latent_mediator, [1, 1], atol=0.02)
    np.testing.assert_allclose(result.latent_target, patched, atol=0.02)
    assert result.free_emitted.tolist() == [1, 1]
    assert result.free_target.tolist() == free
    assert result.layer_low is not None
    assert result.layer_high is not None
    end = 0.025 ** (1 / 8)  # of the exact interval where 8 independent units of 8 agree (Clopper & Pearson 1934)
    for values, low, high in zip(
        (result.free_emitted, result.free_target), result.layer_low[2:], result.layer_high[2:], strict=True
    ):
        np.testing.assert_allclose(low, np.where(values == 1, end, 0))
        np.testing.assert_allclose(high, np.where(values == 1, 1, 1 - end))
    frame = result.to_frame()
    of_layers = frame[frame["experiment"].str.startswith("free-running")]
    np.testing.assert_array_equal(of_layers["low"], result.layer_low[2:].ravel())
    np.testing.assert_array_equal(of_layers["high"], result.layer_high[2:].ravel())


def test_an_untrained_model_has_no_mechanism(task: BooleanTask) -> None:
    model = planted_boolean(task, "direct")
    result = mechanism(untrained(model, 1), task, mediator="newB", target="newD")
    assert result.verdict == "none"
    assert result.solved.value < 0.95
    assert result.dropped > 0


def test_a_model_that_solves_nothing_but_the_majority_has_none(task: BooleanTask) -> None:
    model = planted_boolean(task, "direct")
    with torch.no_grad():
        model.b_U[task.field("newD").candidates[1]] += 100  # Always says 1.
    result = mechanism(model, task, mediator="newB", target="newD")
    assert result.verdict == "none"
    assert result.solved.value == 0.75
    assert (result.config["pairs"], result.config["units"], result.dropped) == (0, 0, 16)
    assert "solves both sides of 0 of 16 pairs" in result.findings()[0]
    assert result.highlights()["value"].notna().all()
    assert "no value" in result.plot().texts[0].get_text()
    assert np.isnan(result.route).all()
    assert np.isnan(result.latent_target).all()
    assert result.sender == ()
    frame = result.to_frame()
    assert set(frame.loc[frame["experiment"] == "route", "n"]) == {0}
    assert "n = 0" in result.caption()
    assert "n = 0" in result.plot().get_title()


def test_unsolved_pairs_are_dropped(task: BooleanTask, found: dict[tuple[str, int], MechanismResult]) -> None:
    """A head that tells the model to say 1 where C is 1: half of the worlds of A = 0 are then wrong for one side."""
    model = planted_boolean(task, "direct")
    at = task.enumerate()[0].positions
    say_one = task.field("newD").candidates[1]

    def spoil(logits: torch.Tensor, hook: object) -> torch.Tensor:
        spoiled = logits.clone()
        tokens = seen[-1]
        spoiled[:, at["newD?"], say_one] += 100.0 * (tokens[:, at["C"]] == task.enumerate()[-1].tokens[0])
        return spoiled

    seen: list[torch.Tensor] = []
    model.embed.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model.unembed.register_forward_hook(lambda module, arguments, output: spoil(output, module))
    result = mechanism(model, task, mediator="newB", target="newD")
    assert (result.dropped, result.config["pairs"]) == (8, 8)
    assert result.solved.value == 28 / 32
    assert result.verdict == "none"  # Below 95 %.
    np.testing.assert_allclose(result.route, found["direct", 0].route, atol=0.02)


def test_routes_are_the_positions_before_the_prediction(task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    routes = positions_by_route(pairs, "newB", "newD")
    assert routes["via token"] == ("newB",)
    assert routes["latent"] == ("newB?",)
    assert routes["direct"] == ("A", "A,", "B", "B,", "C", "C,", "D", "D,", "E", "newA?", "newA")
    assert routes["relayed"] == ("newC?", "newC")
    every = [name for route in routes.values() for name in route]
    names = list(pairs.clean.positions)
    assert sorted(every, key=names.index) == names[: names.index("newD?")]


def test_senders_and_routes_are_those_of_path_patching(
    task: BooleanTask, found: dict[tuple[str, int], MechanismResult]
) -> None:
    pairs = task.pairs("newB", "newD")
    model = planted_boolean(task, "latent", 1)
    single = patch_senders(model, pairs)
    result = found["latent", 1]
    assert result.sender == single.position
    np.testing.assert_allclose(result.sender_recovered, single.recovered, atol=1e-6)
    grouped = patch_senders(model, pairs, senders=[positions_by_route(pairs, "newB", "newD")[name] for name in ROUTES])
    np.testing.assert_allclose(result.route, grouped.recovered, atol=1e-6)
    np.testing.assert_allclose(result.route_low, grouped.low, atol=1e-6)


def estimate(value: float) -> Estimate:
    return Estimate(value, value, value, 16, "worlds")


FULL, NONE = np.array([1.0, 1.0]), np.array([0.0, 0.0])


@pytest.mark.parametrize(
    ("route", "low", "token", "latent", "solved", "pairs", "verdict"),
    [
        ([0.9, 0.1, 0.0, 0.0], 0.7, 1.0, (FULL, NONE), 1.0, 16, "via token"),
        ([0.1, 0.9, 0.0, 0.0], 0.7, 0.0, (FULL, NONE), 1.0, 16, "direct"),
        ([0.1, 0.0, 0.9, 0.0], 0.7, 0.0, (FULL, FULL), 1.0, 16, "latent"),
        ([0.1, 0.0, 0.0, 0.9], 0.7, 0.0, (FULL, NONE), 1.0, 16, "relayed"),
        ([0.1, 0.0, 0.0, 0.9], 0.7, 1.0, (FULL, NONE), 1.0, 16, "relayed"),
        ([0.9, 0.1, 0.0, 0.0], 0.7, 0.0, (FULL, NONE), 1.0, 16, "mixed"),  # The conflict prompts disagree.
        ([0.1, 0.9, 0.0, 0.0], 0.7, 1.0, (FULL, NONE), 1.0, 16, "mixed"),
        ([0.1, 0.0, 0.9, 0.0], 0.7, 0.0, (FULL, NONE), 1.0, 16, "mixed"),  # No one site drives both.
        ([0.1, 0.0, 0.9, 0.0], 0.7, 0.0, (np.array([1.0, 0.0]), np.array([0.0, 1.0])), 1.0, 16, "mixed"),
        ([0.6, 0.4, 0.0, 0.0], 0.4, 1.0, (FULL, NONE), 1.0, 16, "mixed"),  # The interval reaches below one half.
        ([0.6, 0.4, 0.0, 0.0], 0.5, 1.0, (FULL, NONE), 1.0, 16, "mixed"),  # It must lie above.
        ([0.5, 0.5, 0.0, 0.0], 0.4, 1.0, (FULL, NONE), 1.0, 16, "mixed"),
        ([0.2, 0.1, 0.0, 0.0], 0.1, 0.0, (FULL, NONE), 1.0, 16, "none"),  # Nothing carries it.
        ([0.25, 0.25, 0.0, 0.0], 0.1, 0.0, (FULL, NONE), 1.0, 16, "none"),
        ([0.9, 0.1, 0.0, 0.0], 0.7, 1.0, (FULL, NONE), 0.95, 5, "via token"),  # The least that is enough.
        ([0.9, 0.1, 0.0, 0.0], 0.7, 1.0, (FULL, NONE), 0.94, 16, "none"),  # It does not solve the task.
        ([0.9, 0.1, 0.0, 0.0], 0.7, 1.0, (FULL, NONE), 1.0, 4, TOO_FEW),
        ([0.9, 0.1, 0.0, 0.0], np.nan, 1.0, (FULL, NONE), 1.0, 16, TOO_FEW),  # No interval could be given.
        ([0.2, 0.1, 0.0, 0.0], 0.1, 0.0, (FULL, NONE), 1.0, 3, TOO_FEW),
        ([1.3, -0.3, 0.0, 0.0], 1.2, 1.0, (FULL, NONE), 1.0, 16, "via token, opposed by direct"),
        ([1.2, -0.2, 0.0, 0.0], 1.1, 1.0, (FULL, NONE), 1.0, 16, "via token"),
        ([-0.3, 1.6, 0.0, -0.3], 1.2, 0.0, (FULL, NONE), 1.0, 16, "direct, opposed by via token and relayed"),
        ([0.8, -0.6, 0.8, 0.0], 0.4, 1.0, (FULL, NONE), 1.0, 16, "mixed, opposed by direct"),
    ],
)
def test_verdicts(
    route: list[float],
    low: float,
    token: float,
    latent: tuple[np.ndarray, np.ndarray],
    solved: float,
    pairs: int,
    verdict: str,
) -> None:
    values = np.array(route)
    routes = values, np.where(values == max(route), low, np.minimum(values, 0.0)), values
    found = verdict_of(estimate(solved), estimate(token), routes, (*latent, NONE, NONE), pairs)
    assert found == verdict


def test_a_second_route_that_surely_carries_much_is_not_passed_by() -> None:
    route, latent = [0.4, 0.6, 0.0, 0.0], (FULL, NONE)
    for second, verdict in ((0.1, "direct"), (0.2, "direct"), (0.21, "mixed"), (0.39, "mixed")):
        lows = np.array([second, 0.56, 0.0, 0.0])
        routes = np.array(route), lows, np.array(route)
        assert verdict_of(estimate(1.0), estimate(0.4), routes, (*latent, NONE, NONE), 8) == verdict


def boolean_model(task: BooleanTask, name: str, mediator: str = "M", target: str = "Y") -> HookedTransformer:
    return planted_equations(task, task.model.parents, name, mediator=mediator, target=target)


@pytest.mark.parametrize("name", TRUTH)
def test_pairs_that_share_texts_are_too_few_and_not_none(name: str) -> None:
    """Four worlds have R = 1, and their four pairs form a ring: two of them share no text."""
    small = BooleanTask({"M": "P ^ Q", "W": "R and Q", "Y": "M and R"}, "PQR")
    result = mechanism(boolean_model(small, name), small, mediator="M", target="Y")
    assert (result.solved.value, result.solved.n) == (1, 8)
    assert result.verdict == TOO_FEW
    assert (result.config["units"], result.config["pairs"], result.set_aside, result.dropped) == (2, 4, 4, 0)
    assert result.route[ROUTES.index(TRUTH[name][0])] == pytest.approx(1, abs=0.02)
    for said in (result.caption(), result.plot().get_title()):
        assert "n = 2" in said
        assert TOO_FEW in said
    assert "4 that share a text with these set aside" in result.caption()


def test_of_pairs_that_share_texts_those_that_do_not_are_measured() -> None:
    """With two more inputs, the same equations have four rings: eight independent units, where all pairs are four."""
    larger = BooleanTask({"M": "P ^ Q", "W": "R and Q", "Y": "M and R"}, "PQRST")
    assert len(np.unique(larger.pairs("M", "Y").units())) == 4
    result = mechanism(boolean_model(larger, "latent"), larger, mediator="M", target="Y")
    assert (result.verdict, result.config["units"], result.config["pairs"], result.set_aside) == ("latent", 8, 16, 16)


BITS = ("{0} and {1}", "{0} or {1}", "{0} ^ {1}", "{0} and not {1}", "not ({0} ^ {1})", "not {0} or {1}")


@settings(max_examples=6, derandomize=True, deadline=None)
@given(data=st.data())
def test_a_planted_mechanism_of_any_equations_is_named_or_too_few(data: st.DataObject) -> None:
    draw = data.draw
    inputs = draw(st.sampled_from(["PQR", "PQRS"]))
    equations = {
        "M": draw(st.sampled_from([*BITS, "not {0}"])).format("P", "Q"),
        "W": draw(st.sampled_from(BITS)).format("Q", inputs[-1]),
    }
    if draw(st.booleans()):
        equations = dict(reversed(equations.items()))
    equations["Y"] = draw(st.sampled_from([*BITS, "not {0}"])).format("M", "R")
    drawn, name = BooleanTask(equations, inputs), draw(st.sampled_from(sorted(TRUTH)))
    result = mechanism(boolean_model(drawn, name), drawn, mediator="M", target="Y")
    assert result.solved.value == 1
    assert result.verdict == (TRUTH[name][0] if result.config["units"] >= FEWEST else TOO_FEW), equations
    assert result.opposing == ()


def test_a_route_that_opposes_is_named(task: BooleanTask) -> None:
    """direct, and a head that reads newB's token and writes the other answer, three tenths as strongly."""
    model, via_token = planted_boolean(task, "direct"), planted_boolean(task, "via-token")
    attention, answer = model.blocks[1].attn, model.blocks[1].mlp.W_out[:4]
    says_one = answer[int((answer @ model.W_U[:, task.field("newD").candidates[1]]).argmax())]
    with torch.no_grad():
        for part in ("W_Q", "W_V"):
            getattr(attention, part)[2] = getattr(via_token.blocks[1].attn, part)[1]
        attention.W_O[2, 0] = -0.3 * says_one
    result = mechanism(model, task, mediator="newB", target="newD")
    assert result.solved.value == 1
    np.testing.assert_allclose(result.route, [-0.6 / 1.4, 2 / 1.4, 0, 0], atol=0.05)
    assert result.opposing == ("via token",)
    assert result.verdict == "direct, opposed by via token"
    frame = result.to_frame()
    routes = frame[frame["experiment"] == "route"].set_index("changed")
    assert routes["role"].to_dict() == {"via token": "opposes", "direct": "carries", "latent": "", "relayed": ""}
    assert set(frame.loc[frame["experiment"] != "route", "role"]) == {""}
    assert "direct, opposed by via token" in result.caption()
    assert "opposed by via token" in result.plot().get_title()


def test_summary_is_a_mean_over_models(found: dict[tuple[str, int], MechanismResult]) -> None:
    summary = route_summary([found["direct", 0], found["direct", 1]])
    assert list(summary) == list(ROUTES)
    assert summary["direct"].value == pytest.approx(1, abs=0.02)
    assert (summary["direct"].n, summary["direct"].unit) == (2, "seeds")
    mixed = route_summary([found["direct", 0], found["latent", 0], found["via-token", 0]])
    assert mixed["latent"].value == pytest.approx(1 / 3, abs=0.02)


def test_what_the_task_lacks_is_refused(task: BooleanTask) -> None:
    model = planted_boolean(task, "direct")
    with pytest.raises(ValueError, match="boolean has no variable 'newE'"):
        mechanism(model, task, mediator="newE", target="newD")
    with pytest.raises(ValueError, match="boolean has no field 'newE'"):
        mechanism(model, task, mediator="newB", target="newE")
    with pytest.raises(ValueError, match=r"in none of .* pairs does 'newB' alone change 'newC'"):
        mechanism(model, task, mediator="newB", target="newC")


def test_tables_figures_and_files(found: dict[tuple[str, int], MechanismResult], tmp_path: Path) -> None:
    result = found["latent", 0]
    frame = result.to_frame()
    senders = len(result.sender)
    assert len(frame) == 1 + 2 + 4 + senders + 4 * 2
    assert frame.loc[frame["experiment"] == "route", "changed"].tolist() == list(ROUTES)
    assert frame.loc[frame["experiment"] == "route", "value"].tolist() == result.route.tolist()
    assert frame.loc[frame["experiment"] == "free-running, newD", "value"].tolist() == [1, 0]
    assert frame.loc[frame["experiment"] == "accuracy", "n"].tolist() == [32]
    assert set(frame["n"]) == {8, 16, 32}  # pairs of texts, worlds of the conflict prompts, inputs
    axes = result.plot()
    assert [text.get_text() for text in axes.get_yticklabels()] == list(ROUTES)
    assert "latent" in axes.get_title()
    for part in (
        "n = 8 independent minimal pairs that flip newB and newD",
        "0 unsolved left out",
        "95 % intervals",
        "newD",
    ):
        assert part in result.caption()
    (said,) = result.findings()
    assert said.startswith(
        f"{result.config['model']} computes newD from an internal newB, at the place that predicts it (route: latent). "
    )
    assert said.endswith(f"in a share of {result.token_flips.short()} of 16 {result.token_flips.unit}.")
    loaded = MechanismResult.load(result.save(tmp_path / "mechanism"))
    for name, value in vars(result).items():
        other = vars(loaded)[name]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(other, value)
            assert other.dtype == value.dtype
        else:
            assert other == value
    assert loaded.to_frame().equals(frame)


def test_flips_of_worlds_that_stand_in_several_pairs_count_each_once(task: BooleanTask) -> None:
    """Of sum2 a world has several other answers, so newA's token is flipped in 56 pairs of 32 worlds."""
    found = flips(planted_boolean(task, "direct"), task.conflict_pairs("newA", "sum2"))
    assert (found.n, found.unit) == (32, "independent units of 56 pairs, all there are")
    cause = flips(planted_boolean(task, "direct"), task.pairs("newA", "sum2", completion="clean"))
    assert (cause.n, cause.unit) == (28, "independent units of 56 pairs, all there are")
    single = flips(planted_boolean(task, "direct"), task.conflict_pairs("newB", "newD"))
    assert (single.n, single.unit) == (16, "worlds, all there are")
