"""Interchange interventions and DAS on models whose mechanism was written into their weights, against a computation by
hand, and on models that have no such mechanism."""

import copy
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interp_kit.analysis.causal.counterfactual import interchanges
from interp_kit.analysis.causal.das import das
from interp_kit.analysis.causal.das_controls import off_path, verdict
from interp_kit.analysis.causal.das_fit import Cell, Trials, first_basis, fit, orthonormal, parts, split
from interp_kit.analysis.causal.das_result import CONTROLLED, DASResult
from interp_kit.analysis.causal.interchange import InterchangeResult, _distinct, interchange
from interp_kit.core.batch import TokenBatch
from interp_kit.core.example import Example
from interp_kit.core.result import AbstractResult
from interp_kit.core.stats.intervals import wilson_share
from interp_kit.engine.sites import hook_name
from interp_kit.models.planted import planted_boolean
from interp_kit.registry.models import planted, untrained
from interp_kit.tasks.boolean import EQUATIONS, BooleanTask

MakeModel = Callable[..., HookedTransformer]
SOURCE = {"latent": "newB?", "via-token": "newB", "direct": "D"}
PLACES = tuple(SOURCE.values())
FAST: dict[str, Any] = {"layer": 0, "seeds": (0, 1), "steps": 40}


@pytest.fixture(scope="module")
def models() -> dict[str, HookedTransformer]:
    return {name: planted(f"boolean-{name}") for name in SOURCE}


@pytest.fixture(scope="module")
def swapped(task: BooleanTask, models: dict[str, HookedTransformer]) -> dict[str, InterchangeResult]:
    return {name: interchange(model, task, "newB", "newD") for name, model in models.items()}


@pytest.fixture(scope="module")
def fitted(task: BooleanTask, models: dict[str, HookedTransformer]) -> dict[str, DASResult]:
    subjects = {**{name: models[name] for name in ("latent", "via-token")}, "untrained": untrained(models["latent"], 1)}
    judged = ("latent",)
    return {
        name: das(model, task, "newB", "newD", position="newB?", controls=name in judged, **FAST)
        for name, model in subjects.items()
    }


@pytest.fixture(scope="module")
def beside(task: BooleanTask, models: dict[str, HookedTransformer]) -> DASResult:
    """E, which layer 0 has brought to newC? for its MLP, stands there unread, beside the answer that was made of it."""
    options: dict[str, Any] = {**FAST, "seeds": (0,), "layer": (0, 1), "controls": ("placebo", "row space")}
    return das(models["direct"], task, "E", "newC", position=("E", "newC?"), **options)


@pytest.fixture
def unchanged(models: dict[str, HookedTransformer]) -> Iterator[HookedTransformer]:
    """A planted model whose weights, gradients, hooks and modes must be after the test what they were before, as must
    be the global random state."""
    model, state = models["latent"], torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: value.requires_grad for name, value in model.named_parameters()}
    yield model
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == {name: value.requires_grad for name, value in model.named_parameters()}
    assert all(value.grad is None for value in model.parameters())
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())
    assert torch.equal(state, torch.get_rng_state())


def cell(result: InterchangeResult, position: str, layer: int = 0) -> dict[str, Any]:
    frame = result.to_frame()
    return frame[(frame["layer"] == layer) & (frame["position"] == position)].iloc[0].to_dict()


# -------------------------------------------------------------------------------------------------------- interchange


@pytest.mark.parametrize("name", SOURCE)
def test_planted_mechanisms_are_told_apart(swapped: dict[str, InterchangeResult], name: str) -> None:
    result = swapped[name]
    assert (result.baseline.value, result.baseline.n) == (0, 16)  # worlds with A = 0
    assert result.hits.shape[1] == 256  # with the 16 that differ in newB
    assert (result.baseline_kept.value, result.control_hits.shape[1]) == (1, 128)
    for position in PLACES:
        found = cell(result, position)
        assert found["accuracy"] == (position == SOURCE[name])
        assert found["kept"] == 1
    found = {position: cell(result, position) for position in PLACES}
    here = found.pop(SOURCE[name])
    assert all(here["low"] > other["high"] for other in found.values())


def test_the_control_tells_a_variable_from_the_whole_answer(swapped: dict[str, InterchangeResult]) -> None:
    found = cell(swapped["latent"], "newD?", layer=1)  # the whole prediction is replaced there
    assert found["accuracy"] == 0.75  # wrong where the source has A = 1 and no newB
    assert found["kept"] == 0


def test_the_embedding_carries_what_stands_in_the_text(
    task: BooleanTask, models: dict[str, HookedTransformer], swapped: dict[str, InterchangeResult]
) -> None:
    for name, position in (("via-token", "newB"), ("direct", "D"), ("latent", "D")):
        for site in ("embed", "resid_pre"):
            found = interchange(models[name], task, "newB", "newD", sites=site, positions=[position])
            assert (found.accuracy[0], found.kept[0]) == (1, 1)
    assert found.layer.tolist() == [0, 1]  # latent no longer looks at D in layer 1
    assert found.accuracy[1] == 0


def test_distinct_pairs_are_counted(swapped: dict[str, InterchangeResult]) -> None:
    result = swapped["latent"]
    # 16 bases; of the source nothing behind the position is seen: prefixes with either newB, or with the other one
    expected = {"A": 16 * 2, "B": 16 * 4, "C": 16 * 8, "D": 16 * 8, "E": 16 * 16, "newB?": 256}
    assert {name: cell(result, name)["pairs"] for name in expected} == expected
    assert {cell(result, name)["n"] for name in expected} == {16}  # a base with many sources is one unit
    assert result.hits.shape == (len(result.position), 256)


def test_shares_are_of_distinct_pairs_with_intervals_over_solved_bases(
    task: BooleanTask, tiny_model: MakeModel
) -> None:
    model, worlds, names = tiny_model(4), task.enumerate(), ["B", "newB?"]
    chosen = np.random.default_rng(0).integers(32, size=(300, 2)).tolist()
    given = {"pairs": [(worlds[i], worlds[j]) for i, j in chosen]}
    found = interchange(model, task, "newB", "newD", sites="resid_post", positions=names, only_solved=True, **given)
    at, candidates = worlds[0].positions["newD?"], list(task.field("newD").candidates)
    answers = model(torch.tensor([world.tokens for world in worlds]))[:, at, candidates].argmax(-1).tolist()
    solved = {world.text for world, answer in zip(worlds, answers, strict=True) if answer == world.labels["newD"]}
    assert 0 < len(solved) < 32
    frame = found.to_frame().to_dict("records")
    parts = zip(interchanges(task, "newB", "newD", **given), (found.hits, found.control_hits), strict=True)
    kinds = (("accuracy", "low", "high", "n", "pairs"), ("kept", "kept_low", "kept_high", "n_kept", None))
    bases = []
    for (rows, hits), (value, low, high, n, pairs) in zip(parts, kinds, strict=True):
        used = [row for row in rows if row.base.text in solved]
        bases.append({row.base.text for row in used})
        assert len(used) == hits.shape[1]
        for edit, row in enumerate(frame):
            end = worlds[0].positions[row["position"]] + 1
            first = {
                (r.base.tokens[: at + 1], r.source.tokens[:end], r.answer): i for i, r in reversed([*enumerate(used)])
            }
            share = hits[edit, list(first.values())].mean()
            expected = wilson_share(share, len(bases[-1]), "bases")
            assert (row[value], row[low], row[high]) == pytest.approx((share, expected.low, expected.high))
            assert row[n] == len(bases[-1])
            assert (found.controls[edit] if pairs is None else row[pairs]) == len(first)
    assert len(bases[0]) != len(bases[1])
    assert [found.baseline.n, found.baseline_kept.n] == [len(part) for part in bases]
    assert (found.baseline.value, found.baseline_kept.value) == (0, 1)  # those of an unedited base


def test_pairs_that_look_alike_count_once(task: BooleanTask) -> None:
    rng, rows, width = np.random.default_rng(0), 200, 5

    def side() -> TokenBatch:
        """Random texts so short that many are the same, with two positions that stand elsewhere in each row."""
        places = {name: torch.from_numpy(rng.integers(0, width, rows)) for name in ("here", "there")}
        tokens = torch.from_numpy(rng.integers(0, 2, (rows, width)))
        whole = task.batch([task.enumerate()[0]] * rows)
        return replace(whole, tokens=tokens, mask=torch.ones_like(tokens, dtype=torch.bool), positions=places)

    base, source = side(), side()
    at, answer = base.positions["here"] // 2, rng.integers(0, 2, rows)
    for names in (["here"], ["here", "there"], ["there", "here"], None):
        seen, expected = set(), []
        for i in range(rows):
            last = max(int(source.positions[name][i]) for name in names) if names else width - 1
            looks = (base.tokens[i, : at[i] + 1].tolist(), source.tokens[i, : last + 1].tolist(), answer[i])
            expected.append(str(looks) not in seen)
            seen.add(str(looks))
        assert _distinct(base, source, at, answer, names).tolist() == expected
        assert 20 < sum(expected) < rows


def test_a_cell_equals_hooks_by_hand(task: BooleanTask, tiny_model: MakeModel) -> None:
    model = tiny_model(3)
    found = interchange(model, task, "newB", "newD", sites=["resid_post", "z"], positions=["newB?"], only_solved=False)
    worlds = task.enumerate()
    at, predict = worlds[0].positions["newB?"], worlds[0].positions["newD?"]
    candidates = list(task.field("newD").candidates)

    caches = {source.tokens: model.run_with_cache(torch.tensor([source.tokens]))[1] for source in worlds}

    def share(name: str, tail: tuple) -> float:
        hits = []
        for base in worlds:
            for source in worlds:
                labels = {**base.labels, "newB": source.labels["newB"]}
                answer = labels["A"] | labels["newB"]
                if answer == base.labels["newD"]:
                    continue
                cache = caches[source.tokens]

                def write(value: Tensor, hook: object, cache: Any = cache) -> Tensor:
                    value[(0, at, *tail)] = cache[name][(0, at, *tail)]
                    return value

                logits = model.run_with_hooks(torch.tensor([base.tokens]), fwd_hooks=[(name, write)])
                hits.append(int(logits[0, predict, candidates].argmax()) == answer)
        assert len(hits) == 256
        return float(np.mean(hits))

    by_hand = [share("blocks.0.hook_resid_post", ()), share("blocks.1.attn.hook_z", (1,))]
    frame = found.to_frame()
    ours = [
        frame[(frame["site"] == site) & (frame["layer"] == layer) & (frame["head"] == head)]["accuracy"].item()
        for site, layer, head in (("resid_post", 0, -1), ("z", 1, 1))
    ]
    assert ours == by_hand


def test_a_model_that_ignores_the_variable_scores_nothing(
    task: BooleanTask, models: dict[str, HookedTransformer]
) -> None:
    # solves newD = A, and is asked for newD = A or newB
    model = planted_boolean(BooleanTask({**EQUATIONS, "newD": "A and A"}), "via-token")
    found = interchange(model, task, "newB", "newD", only_solved=True, positions=PLACES)
    assert (found.accuracy == 0).all()
    assert (found.baseline.value, found.baseline.n, found.dropped) == (0, 8, 128)
    # one that always says the same is right by chance, and not where its base must be solved
    blind = untrained(models["latent"], 1)
    plain = interchange(blind, task, "newB", "newD", positions=PLACES)
    np.testing.assert_allclose(plain.accuracy, plain.baseline.value)
    strict = interchange(blind, task, "newB", "newD", positions=PLACES, only_solved=True)
    assert strict.baseline.value == 0
    assert (strict.accuracy == 0).all()
    assert strict.dropped > 0


def test_together_and_in_groups(task: BooleanTask, models: dict[str, HookedTransformer]) -> None:
    whole = interchange(models["latent"], task, "newB", "newD", sites="resid_pre", by="all")
    assert whole.position == ("all", "all")
    assert whole.accuracy.tolist() == [0.75, 0.75]  # everything is the source's
    assert whole.kept.tolist() == [0, 0]
    groups = {"both": ["D", "newB?"], "outputs": ["newA", "newB"]}
    found = interchange(models["latent"], task, "newB", "newD", positions=groups)
    assert found.position[:2] == ("both", "outputs")
    assert found.accuracy[:2].tolist() == [1, 0]


def test_given_pairs_are_sorted_into_pairs_and_controls(
    task: BooleanTask, models: dict[str, HookedTransformer]
) -> None:
    text = {"base": "0,0,0,1,0", "other": "0,1,1,0,1", "equal": "1,0,0,1,0", "useless": "0,1,0,1,0"}
    world = {name: task.example(value) for name, value in text.items()}
    pairs = [(world["base"], world[name]) for name in ("other", "equal", "useless", "other")]
    changed, control = interchanges(task, "newB", "newD", pairs=pairs)
    assert [row.source.text[:9] for row in changed] == [text["other"]]
    assert [row.source.text[:9] for row in control] == [text["equal"]]
    one, zero = (task.field("newD").token(value) for value in (1, 0))
    assert (changed[0].answer, control[0].answer) == (one, zero)
    found = interchange(models["latent"], task, "newB", "newD", pairs=pairs, positions=["newB?"])
    assert (found.accuracy[0], found.pairs[0], found.kept[0], found.controls[0]) == (1, 1, 1, 1)


def test_every_variable_that_can_be_set(task: BooleanTask, models: dict[str, HookedTransformer]) -> None:
    found = interchange(models["direct"], task, "newA", "sum2", sites="resid_pre", limit=40)
    assert found.hits.shape[1] == 40  # sum2 changes with newA in every world
    assert found.baseline.n == len({row.base.text for row in interchanges(task, "newA", "sum2", limit=40)[0]}) < 40
    assert cell(found, "newA")["accuracy"] == 1
    alone = interchange(models["direct"], task, "D", "newB", sites="resid_pre", positions=["D"])
    assert (alone.accuracy[0], alone.controls[0]) == (1, 0)  # newB follows from D alone
    assert np.isnan([alone.kept[0], alone.baseline_kept.value]).all()
    alone.plot()
    assert "There are no control pairs, whose D would be equal" in alone.caption()


def test_bad_input_says_what_is_wrong(
    task: BooleanTask, models: dict[str, HookedTransformer], parity: Any, tiny_model: MakeModel
) -> None:
    model = models["latent"]
    with pytest.raises(ValueError, match="no variable 'newZ'"):
        interchange(model, task, "newZ", "newD")
    with pytest.raises(ValueError, match="no field 'A'"):
        interchange(model, task, "newB", "A")
    with pytest.raises(ValueError, match=r"in no pair does do\(newC .* 'newD'"):
        interchange(model, task, "newC", "newD")
    with pytest.raises(ValueError, match=r"in no pair .*defines no interventions"):
        interchange(tiny_model(0), parity, "x", "parity")
    with pytest.raises(ValueError, match="no position 'nowhere'"):
        interchange(model, task, "newB", "newD", positions=["nowhere"])
    with pytest.raises(ValueError, match="no site 'resid'"):
        interchange(model, task, "newB", "newD", sites="resid")
    with pytest.raises(ValueError, match="limit is 0"):
        interchange(model, task, "newB", "newD", limit=0)
    for wrong in ({"k": 0}, {"seeds": ()}, {"held_out": 1.0}, {"steps": -1}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
            das(model, task, "newB", "newD", **wrong)
    with pytest.raises(ValueError, match=r"k = 2 of 1 dimensions of resid_post, layer 0, at 'newB[?]'"):
        das(model, task, "newB", "newD", position="newB?", k=2)  # newB alone moves what stands there
    with pytest.raises(ValueError, match="has heads"):
        das(model, task, "newB", "newD", site="z")
    with pytest.raises(ValueError, match="has no layer"):
        das(model, task, "newB", "newD", site="embed")
    with pytest.raises(ValueError, match="layer is 2; expected a whole number from 0 to 1"):
        das(model, task, "newB", "newD", layer=2, position="D")
    with pytest.raises(ValueError, match=r"in no pair does do\(newC"):
        das(model, task, "newC", "newD")
    with pytest.raises(
        ValueError, match=r"with 1 of 3 inputs held out, do.newB. changes 'newD' in pairs of both sides"
    ):
        das(model, Few(), "newB", "newD")


class Few(BooleanTask):
    """Three inputs: too few for a split."""

    def pool(self, seed: int = 0) -> list[Example]:
        return [self.example(text) for text in ("0,0,0,0,0", "0,0,0,1,0", "0,1,0,1,0")]


class Moving(BooleanTask):
    """The boolean task, but the positions of D and E are named the other way round where A is 1."""

    def _example(self, world: dict[str, int]) -> Example:
        example = super()._example(world)
        at = dict(example.positions)
        if world["A"]:
            at["D"], at["E"] = at["E"], at["D"]
        return Example(example.text, example.tokens, example.prompt_length, at, example.labels)


def test_a_position_that_moves_is_an_error(models: dict[str, HookedTransformer]) -> None:
    with pytest.raises(ValueError, match="position 'D' stands elsewhere in the batch copied from"):
        interchange(models["latent"], Moving(), "newB", "newD", positions=["D"])
    with pytest.raises(ValueError, match="position 'D' stands elsewhere"):
        das(models["latent"], Moving(), "newB", "newD", layer=0, position="D")


# ---------------------------------------------------------------------------------------------------------------- DAS


@pytest.mark.slow
def test_das_finds_the_latent_variable_on_inputs_unused_in_fitting(fitted: dict[str, DASResult]) -> None:
    result = fitted["latent"]
    for values in (result.train, result.held_out, result.kept, result.full):
        assert values.tolist() == [[1, 1]]
    assert (result.random < 0.5).all()
    assert result.mean[0] == 1
    assert np.isnan([result.low[0], result.high[0]]).all()  # two seeds are too few for an interval
    assert (result.train_inputs.tolist(), result.held_out_inputs.tolist()) == ([22, 22], [10, 10])
    assert (result.held_out_pairs >= 10).all()
    assert (result.train_pairs > result.held_out_pairs).all()
    assert not result.off_path.any()
    assert result.verdict == ("stands",)
    assert [label.get_text() for label in result.plot().get_yticklabels()] == ["L0 newB?\nstands"]
    assert result.gain().tolist() == result.gain("read").tolist() == [1]
    assert max(result.gain(name)[0] for name in ("placebo", "untrained", "arbitrary", "unread")) < 0.5


def test_das_finds_the_planted_direction(task: BooleanTask, fitted: dict[str, DASResult]) -> None:
    model = planted("boolean-latent")
    worlds = task.batch(task.enumerate())
    with torch.no_grad():
        _, cache = model.run_with_cache(worlds.tokens)
    here = cache["resid_post", 0][torch.arange(32), worlds.position("newB?")]
    newb = worlds.label("newB") == 1
    true = here[newb].mean(0) - here[~newb].mean(0)
    for basis in torch.from_numpy(fitted["latent"].basis)[0]:
        torch.testing.assert_close(basis.T @ basis, torch.eye(1), rtol=0, atol=1e-5)
        assert float((basis[:, 0] @ true).abs() / true.norm()) > 0.99


def test_das_finds_nothing_where_nothing_is(fitted: dict[str, DASResult]) -> None:
    result = fitted["via-token"]
    assert result.held_out.tolist() == result.full.tolist() == [[0, 0]]
    assert not result.off_path.any()
    blind = fitted["untrained"]
    assert result.verdict == blind.verdict == ("not judged",)
    np.testing.assert_allclose(blind.held_out[0], blind.baseline, atol=0.15)
    assert (blind.held_out < 0.75).all()


def test_an_illusion_is_marked(task: BooleanTask, models: dict[str, HookedTransformer]) -> None:
    # in all directions there is one that drives some answers although the whole activation drives none
    options = {**FAST, "controls": ("row space",)}
    result = das(models["via-token"], task, "newB", "newD", position="newB?", span="site", **options)
    assert result.mean[0] > 0.1
    assert (result.full == 0).all()
    assert result.off_path.tolist() == [True]
    assert result.verdict == ("off the path",)
    assert "Of 1 cell: 1 off the path" in result.caption()


def test_a_variable_that_lies_unread_beside_the_answer_is_no_finding(beside: DASResult) -> None:
    """Perfect on held-out pairs and on controls, and yet E is nowhere at newC? that the network would look for it."""
    at = [i for i, name in enumerate(beside.position) if name == "newC?"]
    assert beside.layer[at].tolist() == [0, 1]
    for scores in (beside.held_out, beside.kept):
        assert (scores[at] == 1).all()
    assert beside.off_path[at].all()
    assert [beside.verdict[i] for i in at] == ["off the path"] * 2
    assert (beside.read_kept[at] == 0).all()  # what is read there is the whole answer, not E
    assert (beside.unread[at] == 0).all()
    assert (beside.gain("full")[at] < 0).all()
    assert np.isnan(beside.untrained).all()  # not asked for
    rows = beside.to_frame()[["position", "off_path", "verdict"]].to_dict("records")
    assert rows[at[0]] == {"position": "newC?", "off_path": True, "verdict": "off the path"}
    grid = beside.plot()
    (dots,) = grid.collections
    assert dots.get_offsets().tolist() == [[1, 0], [1, 1]]  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_read_is_what_the_weights_read(task: BooleanTask, models: dict[str, HookedTransformer]) -> None:
    model, side = models["latent"], split(task, "newB", "newD", 0.3, 64, 0, "cpu")[0]
    place = Cell(model, side, "resid_post", 0, "newB?")
    axes = place.read(orthonormal(first_basis(64, 1, 0)))
    read = model.blocks[1].attn.W_V[1, :, 0].detach()  # the head that brings newB to newD?
    assert axes.shape == (64, 1)
    assert float((axes[:, 0] @ read).abs() / read.norm()) > 0.99
    blind = split(task, "E", "newC", 0.3, 64, 0, "cpu")[0]
    there = Cell(models["direct"], blind, "resid_post", 0, "newC?")
    axes, slots = there.read(orthonormal(first_basis(64, 1, 0))), models["direct"].blocks[0].attn.W_O[:2, 0].detach()
    assert float((slots @ axes).abs().max()) < 0.05 * float(slots.norm())  # the operands, used up by layer 0's MLP
    within, outside = parts(orthonormal(slots.sum(0, keepdim=True).T + axes), axes)
    torch.testing.assert_close((within @ within.T), axes @ axes.T, atol=1e-3, rtol=0)
    assert float((outside.T @ axes).abs().max()) < 1e-3


def test_a_placebo_is_the_same_change_in_other_directions(task: BooleanTask, tiny_model: MakeModel) -> None:
    place = Cell(tiny_model(2), split(task, "newB", "newD", 0.3, 64, 0, "cpu")[0], "resid_post", 0, "newB?")
    basis, along = (orthonormal(first_basis(16, 2, seed)) for seed in (0, 1))
    written: list[Tensor] = []
    logits = place.logits
    place.logits = lambda value: (written.append(value), logits(value))[1]  # pyright: ignore[reportAttributeAccessIssue]
    place.shares(basis)
    place.shares(basis, along)
    torch.testing.assert_close(written[0], place.swapped(basis))
    real, turned = (value - place.old for value in written)
    torch.testing.assert_close(turned.norm(dim=1), real.norm(dim=1), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned @ along, real @ basis, atol=1e-4, rtol=0)


def test_an_arbitrary_variable_is_a_bit_of_each_text(task: BooleanTask) -> None:
    side = split(task, "newB", "newD", 0.3, 64, 0, "cpu")[0]
    asked = side.arbitrary(3)
    assert asked is not None
    bits: dict[tuple[int, ...], set[bool]] = {}
    parity = {}  # texts joined by pairs have equal bits, or unequal ones, in one consistent way
    texts = [tuple(map(tuple, part.tokens.tolist())) for part in (asked.base, asked.source)]
    for base, source, changed in zip(*texts, asked.changes.tolist(), strict=True):
        parity.setdefault((base, source), set()).add(changed)
        bits.setdefault(base, set()).add(changed)
    assert all(len(found) == 1 for found in parity.values())
    assert any(len(found) == 2 for found in bits.values())
    candidates = torch.tensor(task.field("newD").candidates)
    own = asked.base.answer["newD"] == candidates[asked.right]
    assert torch.equal(own, ~asked.changes)
    again, other = side.arbitrary(3), side.arbitrary(4)
    assert again is not None
    assert other is not None
    assert torch.equal(again.changes, asked.changes)
    assert not torch.equal(other.changes, asked.changes)


def test_controls_are_run_as_asked_and_the_bar_counts_every_fit(
    task: BooleanTask, models: dict[str, HookedTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    class Bar(SimpleNamespace):
        def __init__(self, **options: Any) -> None:
            super().__init__(done=0, fp=io.StringIO(), **options)
            bars.append(self)

        def refresh(self) -> None:
            pass

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, n: int = 1) -> None:
            self.done += n

        def set_postfix_str(self, text: str, *, refresh: bool) -> None:
            pass

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    options: dict[str, Any] = {"layer": 0, "position": ("D", "newB?"), "seeds": (0,), "steps": 1}
    kinds = ((True, 3), (False, 1), (("arbitrary",), 2), (("row space", "placebo"), 1))
    for controls, fits in kinds:
        found = das(models["latent"], task, "newB", "newD", controls=controls, **options)
        shown = [bar for bar in bars if not bar.disable][-1]
        assert shown.total == shown.done == 2 * fits
        given = {name for name in ("placebo", "untrained", "arbitrary") if np.isfinite(getattr(found, name)).all()}
        wanted = {"placebo", "untrained", "arbitrary"} if controls is True else set(controls or ()) - {"row space"}
        assert given == wanted
    bare = das(models["latent"], task, "newB", "newD", controls=False, **options)
    assert bare.verdict == ("not judged",) * 2
    assert "No control was run" in bare.caption()
    with pytest.raises(ValueError, match=r"controls: got \('magic',\), expected True, False, or some of placebo"):
        das(models["latent"], task, "newB", "newD", controls=("magic",))
    with pytest.raises(ValueError, match="controls: got 'placebo'"):
        das(models["latent"], task, "newB", "newD", controls="placebo")


def test_verdicts_of_the_controls() -> None:
    gain, read, full = (
        np.array([0.04, 1.0, 0.6, 0.6, 0.6, 0.6]),
        np.array([0.0, 1.0, 0.2, 0.2, 0.4, np.nan]),
        np.zeros(6),
    )
    full[3] = 0.3  # copying everything does half of it too: the variable is there
    illusory = off_path(gain, read, full)
    assert illusory.tolist() == [False, False, True, False, False, False]
    rivals = [np.full(6, np.nan), np.array([0.0, 0.0, 0.0, 0.0, 0.55, 0.49])]
    said = ("nothing found", "stands", "off the path", "stands", "no better than a control", "stands")
    assert verdict(gain, illusory, rivals) == said


def test_das_in_all_dimensions_is_interchange(task: BooleanTask, tiny_model: MakeModel) -> None:
    model = tiny_model(5)
    for site in ("resid_pre", "resid_mid", "resid_post", "mlp_out", "mlp_post"):
        whole: dict[str, Any] = {"k": 32 if site == "mlp_post" else 16, "seeds": (0,), "steps": 0, "controls": False}
        found = das(model, task, "newB", "newD", site=site, position=["D", "newD?"], span="site", **whole)
        np.testing.assert_allclose(found.held_out, found.full)
        np.testing.assert_allclose(found.kept, found.full_kept)
    assert found.position == ("D", "newD?") * 2
    assert found.layer.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("site", "layer"), [("resid_pre", 1), ("resid_post", 0), ("mlp_out", 0), ("resid_mid", 1)])
def test_a_cell_answers_as_the_model_under_a_hook(
    task: BooleanTask, tiny_model: MakeModel, site: str, layer: int
) -> None:
    model, trials = tiny_model(2), split(task, "newB", "newD", 0.3, 64, 0, "cpu")[0]
    place, name = Cell(model, trials, site, layer, "newB?"), hook_name(site, layer)
    basis = orthonormal(first_basis(16, 3, 1))
    at, predict = (int(trials.base.position(name)[0]) for name in ("newB?", "newD?"))
    old, new = (model.run_with_cache(side.tokens)[1][name][:, at] for side in (trials.base, trials.source))
    written = torch.stack([o + sum(((n - o) @ b) * b for b in basis.T) for o, n in zip(old, new, strict=True)])

    def write(value: Tensor, hook: object) -> Tensor:
        value[:, at] = written
        return value

    with torch.no_grad():
        found = model.run_with_hooks(trials.base.tokens, fwd_hooks=[(name, write)])[:, predict, place.candidates]
        torch.testing.assert_close(place.logits(place.swapped(basis)), found, atol=1e-4, rtol=0)
        missed = -found.log_softmax(-1)[torch.arange(len(found)), trials.right]
        changed, control = missed[trials.changes], missed[~trials.changes]
        assert float(place.loss(basis)) == pytest.approx(float(changed.mean() + control.mean()), abs=1e-4)
        assert len(control) > 5 < len(changed)


def test_axes_span_how_bases_and_sources_differ(task: BooleanTask, tiny_model: MakeModel) -> None:
    worlds = task.batch(task.enumerate())
    base, source = worlds.take([0, 1, 0, 1, 0]), worlds.take([4, 9, 18, 23, 30])  # two bases differ in one way alone
    changes = torch.ones(5, dtype=torch.bool)
    place = Cell(tiny_model(2), Trials(base, source, "newD", changes.long(), changes, 7), "resid_post", 0, "newB?")
    axes = place.axes("data")
    torch.testing.assert_close(axes.T @ axes, torch.eye(axes.shape[1]), atol=1e-5, rtol=0)
    apart = torch.cat([place.old, place.new]) - place.old[0]
    torch.testing.assert_close(apart @ axes @ axes.T, apart, atol=1e-4, rtol=0)
    assert axes.shape[1] == int(torch.linalg.matrix_rank(apart, atol=1e-3)) == 6


@pytest.mark.slow
def test_cells_fitted_together_are_those_fitted_alone(task: BooleanTask, tiny_model: MakeModel) -> None:
    model = tiny_model(5)
    options: dict[str, Any] = {"layer": 0, "seeds": (0, 1), "steps": 3}
    names = ["C", "D", "newB?"]
    grid = das(model, task, "newB", "newD", position=names, **options)
    for i, name in enumerate(names):
        alone = das(model, task, "newB", "newD", position=name, **options)
        for field in ("basis", "rank", "train", "held_out", "kept", "random", "full", *CONTROLLED):
            np.testing.assert_allclose(getattr(grid, field)[i], getattr(alone, field)[0], atol=1e-5, err_msg=field)
    assert np.abs(grid.basis[0, 0] - grid.basis[0, 1]).max() > 0.01  # seeds differ, cells too
    assert np.abs(grid.basis[0, 0] - grid.basis[2, 0]).max() > 0.01
    assert len(np.unique(grid.rank)) > 1


def test_the_split_keeps_inputs_apart(task: BooleanTask) -> None:
    train, held = split(task, "newB", "newD", 0.3, 256, 0, "cpu")
    seen = [{tuple(row) for side in (s.base, s.source) for row in side.tokens.tolist()} for s in (train, held)]
    assert not seen[0] & seen[1]
    assert held.inputs == 10
    assert len(seen[1]) <= 10
    again = split(task, "newB", "newD", 0.3, 256, 0, "cpu")
    assert torch.equal(held.base.tokens, again[1].base.tokens)
    assert not torch.equal(held.base.tokens, split(task, "newB", "newD", 0.3, 256, 1, "cpu")[1].base.tokens)


def test_the_gradient_is_that_of_finite_differences(task: BooleanTask, tiny_model: MakeModel) -> None:
    train, _ = split(task, "newB", "newD", 0.3, 64, 0, "cpu")
    place = Cell(tiny_model(2), train, "resid_mid", 0, "newB?")
    free = first_basis(16, 2, 0).requires_grad_()
    loss = place.loss(orthonormal(free))
    (gradient,) = torch.autograd.grad(loss, [free])
    step = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ahead, behind = (place.loss(orthonormal(free + sign * 1e-2 * step)) for sign in (1, -1))
    assert float((gradient * step).sum()) == pytest.approx(float(ahead - behind) / 2e-2, rel=0.05, abs=1e-4)
    better = fit(place, torch.eye(16), free.detach(), 20, 0.05)
    assert float(place.loss(better)) < float(loss.detach())


def test_nothing_of_the_model_changes(task: BooleanTask, unchanged: HookedTransformer) -> None:
    interchange(unchanged, task, "newB", "newD", positions=["D"])
    with torch.inference_mode():
        das(unchanged, task, "newB", "newD", site="mlp_out", layer=0, position="newB?", seeds=(0,), steps=2)


def test_nothing_of_the_model_changes_when_interrupted(
    task: BooleanTask, unchanged: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(residual: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise KeyboardInterrupt
        return type(unchanged.unembed).forward(unchanged.unembed, residual)

    monkeypatch.setattr(unchanged.unembed, "forward", interrupted)  # while the edit's own hook is there
    with pytest.raises(KeyboardInterrupt):
        das(unchanged, task, "newB", "newD", site="mlp_out", layer=0, position="newB?", seeds=(0,))


# ------------------------------------------------------------------------------------------------------------ results


def test_results_are_saved_shown_and_read_back(
    tmp_path: Path, swapped: dict[str, InterchangeResult], fitted: dict[str, DASResult], task: BooleanTask
) -> None:
    grid = das(planted("boolean-latent"), task, "newB", "newD", position=["D", "newB?"], seeds=(0,), steps=1)
    for result in (swapped["latent"], fitted["latent"], grid):
        back = AbstractResult.load(result.save(tmp_path / "result"))
        assert type(back) is type(result)
        assert back.to_frame().equals(result.to_frame())
        assert back.caption() == result.caption()
        assert "newD" in back.plot().get_title()
    assert grid.low.tolist() == pytest.approx([np.nan] * 4, nan_ok=True)  # one seed has no interval
    assert swapped["latent"].plot(what="kept").images
    with pytest.raises(ValueError, match="no edit of site 'z'"):
        swapped["latent"].plot(site="z")
    assert "256 distinct pairs" in swapped["latent"].caption()


def test_no_token_is_padding_to_das(task: BooleanTask, models: dict[str, HookedTransformer]) -> None:
    model = copy.deepcopy(models["latent"])
    first = int(task.batch(task.enumerate()).tokens[0, 0])
    model.tokenizer = SimpleNamespace(padding_side="left", pad_token_id=first, bos_token_id=1, eos_token_id=1)  # pyright: ignore[reportAttributeAccessIssue]
    options = {**FAST, "seeds": (0,), "steps": 2}
    found, expected = (das(m, task, "newB", "newD", position="newB?", **options) for m in (model, models["latent"]))
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())
