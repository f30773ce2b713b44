"""Counterfactual pairs against a search through all 32 x 32 pairs of worlds."""

import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp_kit.core.example import Example, Field
from interp_kit.core.pairs import PairBatch
from interp_kit.core.task import AbstractTask
from interp_kit.tasks.boolean import BooleanTask

Truth = dict[tuple[int, ...], dict[str, int]]
VARIABLES = ("A", "B", "C", "D", "E", "newA", "newB", "newC", "newD", "sum1", "sum2")
TARGETS = VARIABLES[5:]
pytestmark = pytest.mark.filterwarnings("ignore:in none of")
HOLDS = st.one_of(st.none(), st.lists(st.sampled_from(VARIABLES), max_size=4, unique=True))


def all_pairs(truth: Truth, variable: str, target: str, hold: Sequence[str] | None) -> tuple[set, int]:
    """The ordered pairs of inputs that `pairs` promises, and how many there are before the target must differ."""
    candidates = [
        (a, b)
        for a, b in itertools.product(truth, repeat=2)
        if truth[a][variable] != truth[b][variable] and all(truth[a][name] == truth[b][name] for name in hold or ())
    ]
    found = [(a, b) for a, b in candidates if truth[a][target] != truth[b][target]]
    if hold is None and found:
        fewest = min(sum(x != y for x, y in zip(a, b, strict=True)) for a, b in found)
        found = [(a, b) for a, b in found if sum(x != y for x, y in zip(a, b, strict=True)) == fewest]
    return set(found), len(candidates)


def inputs(pairs: PairBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(clean input, corrupt input) of every pair, by the labels."""
    sides = [torch.stack([side.label(name) for name in "ABCDE"], 1).tolist() for side in (pairs.clean, pairs.corrupt)]
    return [(tuple(a), tuple(b)) for a, b in zip(*sides, strict=True)]


@given(variable=st.sampled_from(VARIABLES), target=st.sampled_from(TARGETS), hold=HOLDS)
def test_pairs_are_exactly_those_promised(
    task: BooleanTask, truth: Truth, variable: str, target: str, hold: list[str] | None
) -> None:
    expected, candidates = all_pairs(truth, variable, target, hold)
    if not expected:
        with pytest.raises(ValueError, match=rf"\b{candidates} ordered pairs differ in '{variable}'.*'{target}'"):
            task.pairs(variable, target, hold=hold)
        return
    pairs = task.pairs(variable, target, hold=hold)
    assert len(pairs) == len(expected)
    assert set(inputs(pairs)) == expected
    assert (pairs.variable, pairs.target, pairs.completion) == (variable, target, "own")
    for row, (a, b) in enumerate(inputs(pairs)):
        assert pairs.differs[row] == tuple(name for name in VARIABLES if truth[a][name] != truth[b][name])
        assert variable in pairs.differs[row]
        assert target in pairs.differs[row]
        assert not set(hold or ()) & set(pairs.differs[row])
        for side, world in ((pairs.clean, truth[a]), (pairs.corrupt, truth[b])):
            assert {name: int(side.label(name)[row]) for name in VARIABLES} == world
            assert task.vocabulary[side.answer[target][row]].strip() == str(world[target])


@pytest.mark.slow
@given(variable=st.sampled_from(VARIABLES), target=st.sampled_from(TARGETS))
def test_pairs_apart_share_no_text_and_cannot_be_more(task: BooleanTask, variable: str, target: str) -> None:
    try:
        pairs = task.pairs(variable, target, hold=())
    except ValueError:
        return
    apart = inputs(pairs.apart())
    used = [text for pair in apart for text in pair]
    assert len(set(used)) == len(used)
    assert set(apart) <= set(inputs(pairs))
    assert all(not set(pair).isdisjoint(used) for pair in inputs(pairs))
    assert apart[0] == inputs(pairs)[0]


def test_the_documented_counts(task: BooleanTask) -> None:
    with pytest.raises(ValueError, match=r"\b80 ordered pairs differ in 'newB' with newA, newC, newD held"):
        task.pairs("newB", "newD", hold=["newA", "newC", "newD"])
    held = task.pairs("newB", "sum2", hold=["newA", "newC", "newD"])
    assert len(held) == 80  # The same 80 are usable where sum2 is asked.
    assert (held.clean.label("newD") == 1).all()
    minimal = task.pairs("newB", "newD")
    assert len(minimal) == 16
    assert (minimal.clean.label("A") == 0).all()
    assert (minimal.corrupt.label("A") == 0).all()
    assert {differs[0] for differs in minimal.differs} == {"D"}
    # D, newB, newD and both sums, and nothing else; so do their tokens.
    assert set(minimal.differs) == {("D", "newB", "newD", "sum1", "sum2")}


Complete = Callable[[Tensor], Tensor]


def written_by_rule(task: BooleanTask) -> Complete:
    """A "model" that answers every question with 1, so that its text is nobody's truth."""
    one = task.example("1,1,1,1,1")

    def generate(prompts: Tensor) -> Tensor:
        rest = torch.tensor(one.tokens[one.prompt_length :]).expand(len(prompts), -1)
        return torch.cat([prompts, rest], 1)

    return generate


@pytest.mark.parametrize("hold", [None, (), ("newC",)])
def test_completion_policies(task: BooleanTask, truth: Truth, hold: tuple[str, ...] | None) -> None:
    text = {bits: task.example(",".join(map(str, bits))).tokens for bits in truth}
    n = 9  # Five bits and four commas.
    ones = text[1, 1, 1, 1, 1][n:]
    own, clean, free = (
        task.pairs("newB", "newD", hold=hold, completion="own"),
        task.pairs("newB", "newD", hold=hold, completion="clean"),
        task.pairs("newB", "newD", hold=hold, completion="free", generate=written_by_rule(task)),
    )
    assert inputs(own) == inputs(clean) == inputs(free)
    assert own.differs == clean.differs == free.differs
    for row, (a, b) in enumerate(inputs(own)):
        assert tuple(own.clean.tokens[row].tolist()) == text[a]
        assert tuple(own.corrupt.tokens[row].tolist()) == text[b]
        assert tuple(clean.clean.tokens[row].tolist()) == text[a]
        assert tuple(clean.corrupt.tokens[row].tolist()) == text[b][:n] + text[a][n:]
        assert tuple(free.clean.tokens[row].tolist()) == text[a][:n] + ones
        assert tuple(free.corrupt.tokens[row].tolist()) == text[b][:n] + ones
    for pairs in (clean, free):
        assert torch.equal(pairs.corrupt.answer["newD"], own.corrupt.answer["newD"])  # The truth of its own prompt.


def test_free_without_generate_and_generate_without_free(task: BooleanTask) -> None:
    with pytest.raises(ValueError, match='completion="free" needs generate='):
        task.pairs("newB", "newD", completion="free")
    with pytest.raises(ValueError, match='completion="free" needs generate='):
        task.pairs("newB", "newD", completion="own", generate=written_by_rule(task))


BAD_GENERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "only the completion": lambda prompts: torch.ones(len(prompts), 23, dtype=torch.long),
    "too short": lambda prompts: torch.cat([prompts, prompts], 1),
    "a row too few": lambda prompts: torch.cat([prompts, prompts, prompts], 1)[1:],
}


@pytest.mark.parametrize("name", BAD_GENERATORS)
def test_a_generator_that_returns_something_else_is_refused(task: BooleanTask, name: str) -> None:
    with pytest.raises(ValueError, match=r"generate must give|zip\(\)"):
        task.pairs("newB", "newD", completion="free", generate=BAD_GENERATORS[name])


def test_a_generator_may_write_more_than_is_needed(task: BooleanTask) -> None:
    short, long = written_by_rule(task), lambda prompts: torch.cat([written_by_rule(task)(prompts), prompts], 1)
    a, b = (task.pairs("newB", "newD", completion="free", generate=generate) for generate in (short, long))
    assert torch.equal(a.corrupt.tokens, b.corrupt.tokens)


@pytest.mark.parametrize("method", ["pairs", "conflict_pairs"])
def test_unknown_names_list_the_known_ones(task: BooleanTask, method: str) -> None:
    pairs = getattr(task, method)
    with pytest.raises(ValueError, match="boolean has no variable 'newE'; it has A, B, C, D, E, newA"):
        pairs("newE", "newD")
    with pytest.raises(ValueError, match="boolean has no variable 'F'"):
        pairs("newB", "newD", hold=["A", "F"])
    with pytest.raises(ValueError, match="boolean has no field 'A'; it has newA, newB, newC, newD, sum1, sum2"):
        pairs("newB", "A")


def test_limit_draws_by_seed_without_replacement(task: BooleanTask) -> None:
    everything = inputs(task.pairs("newB", "newD", hold=()))
    first, again, other = (inputs(task.pairs("newB", "newD", hold=(), limit=20, seed=s)) for s in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 20
    assert set(first) < set(everything)
    assert inputs(task.pairs("newB", "newD", hold=(), limit=len(everything))) == everything


@pytest.mark.parametrize("seed", [0, 1])
def test_few_pairs_of_many_texts_are_drawn_apart(seed: int) -> None:
    """Of pairs drawn at random some share a text; these do not, and are as likely of any kind as all pairs are."""
    task = BooleanTask({"y": "a & b & (c | d)", "z": "y | e"}, ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"))
    everything = task.pairs("y", "z", limit=10**6)
    pairs = task.pairs("y", "z", limit=30, seed=seed)
    assert len(np.unique(everything.clean.tokens.numpy(), axis=0)) > 8 * 30
    assert len(set(pairs.units())) == len(pairs) == 30
    again, other = (task.pairs("y", "z", limit=30, seed=s).texts() for s in (seed, seed + 1))
    assert pairs.texts() == again != other
    assert set(pairs.texts()) < set(everything.texts())
    kinds = [np.mean([["a" in d for d in p.differs] for p in many]) for many in (
        [task.pairs("y", "z", limit=30, seed=s) for s in range(20)], [everything])]  # fmt: skip
    assert kinds[0] == pytest.approx(kinds[1], abs=0.06)


def test_a_quarter_of_the_texts_or_more_is_drawn_as_it_comes() -> None:
    """All disjoint pairs would favour texts of few partners."""
    task = BooleanTask({"y": "a & b & (c | d)", "z": "y | e"}, ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j"))
    everything = task.pairs("y", "z", limit=10**6)
    texts = len({text for pair in everything.texts() for text in pair})
    for limit, apart in ((texts // 8 - 1, True), (texts // 8 + 1, False)):
        pairs = [task.pairs("y", "z", limit=limit, seed=seed) for seed in range(8)]
        assert all(len(set(drawn.units())) == limit for drawn in pairs) is apart


def by_do(bits: tuple[int, ...], variable: str, value: int) -> dict[str, int]:
    """The rules once more, in plain Python, with one variable set."""
    world = dict(zip("ABCDE", bits, strict=True))
    rules: dict[str, Callable[[dict[str, int]], int]] = {
        "newA": lambda w: w["A"] ^ w["C"],
        "newB": lambda w: 1 - w["D"],
        "newC": lambda w: w["B"] * w["E"],
        "newD": lambda w: max(w["A"], w["newB"]),
        "sum1": lambda w: sum(w[name] for name in "ABCDE"),
        "sum2": lambda w: w["newA"] + w["newB"] + w["newC"] + w["newD"],
    }
    if variable in world:
        world[variable] = value
    for name, rule in rules.items():
        world[name] = value if name == variable else rule(world)
    return world


@pytest.mark.parametrize("hold", [None, (), ("B",), ("E", "newA")])
@pytest.mark.parametrize(
    ("variable", "target"), [("newB", "newD"), ("newB", "sum2"), ("newC", "sum2"), ("D", "newD"), ("A", "newD")]
)
def test_conflict_prompts_differ_in_one_token_and_bear_the_labels_of_do(
    task: BooleanTask, variable: str, target: str, hold: tuple[str, ...] | None
) -> None:
    pairs = task.conflict_pairs(variable, target, hold=hold)
    assert (pairs.variable, pairs.target, pairs.completion) == (variable, target, "conflict")
    assert torch.equal(pairs.token_differs.sum(1), torch.ones(len(pairs), dtype=torch.long))
    at = pairs.clean.position(variable)
    for row in range(len(pairs)):
        clean = {name: int(pairs.clean.label(name)[row]) for name in VARIABLES}
        corrupt = {name: int(pairs.corrupt.label(name)[row]) for name in VARIABLES}
        bits = tuple(clean[name] for name in "ABCDE")
        assert tuple(pairs.clean.tokens[row].tolist()) == task.example(",".join(map(str, bits))).tokens
        assert int(pairs.token_differs[row].nonzero()) == int(at[row])
        assert corrupt == by_do(bits, variable, 1 - clean[variable])
        assert task.vocabulary[pairs.corrupt.tokens[row, at[row]]] == str(corrupt[variable])
        assert clean[target] != corrupt[target]
        assert task.vocabulary[pairs.corrupt.answer[target][row]].strip() == str(corrupt[target])
        assert pairs.differs[row] == tuple(name for name in VARIABLES if clean[name] != corrupt[name])


def test_conflict_prompts_of_newB_are_the_16_worlds_without_A(task: BooleanTask) -> None:
    pairs = task.conflict_pairs("newB", "newD")
    assert len(pairs) == 16
    assert (pairs.clean.label("A") == 0).all()
    assert len({a for a, _ in inputs(pairs)}) == 16
    assert set(pairs.differs) == {("newB", "newD", "sum2")}
    # With nothing held newD also differs for A's sake; such worlds are not conflicts about newB.
    assert (task.conflict_pairs("newB", "newD", hold=()).clean.label("A") == 0).all()


@pytest.mark.parametrize(
    ("variable", "target", "message"),
    [("newB", "sum1", "does 'newB' alone change 'sum1'"), ("newD", "newB", "does 'newD' alone change 'newB'")],
)
def test_conflict_where_the_variable_does_not_cause_the_target(
    task: BooleanTask, variable: str, target: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        task.conflict_pairs(variable, target)


def test_conflict_over_a_variable_that_is_never_written(parity: AbstractTask) -> None:
    with pytest.raises(ValueError, match=r"x is a variable of .*, but its value is not a token of the text"):
        parity.conflict_pairs("x", "parity")


def test_conflict_in_a_task_without_interventions(parity: AbstractTask) -> None:
    with pytest.raises(ValueError, match="parity defines no interventions"):
        parity.conflict_pairs("parity", "parity")


def test_ragged_pairs_are_of_equal_length(parity: AbstractTask) -> None:
    pairs = parity.pairs("x", "parity", hold=())
    assert torch.equal(pairs.clean.mask.sum(1), pairs.corrupt.mask.sum(1))
    assert {(int(a), int(b)) for a, b in zip(pairs.clean.prompt_length, pairs.corrupt.prompt_length, strict=True)} == {
        (2, 2), (3, 3), (3, 4), (4, 3), (4, 4)
    }  # fmt: skip


def test_ragged_clean_completion_leaves_the_corrupt_prompt_whole(parity: AbstractTask) -> None:
    pairs = parity.pairs("x", "parity", hold=(), completion="clean")
    assert torch.equal(pairs.clean.prompt_length, pairs.corrupt.prompt_length)
    examples = {e.tokens[: e.prompt_length]: e for e in parity.enumerate()}
    for row in range(len(pairs)):
        n = int(pairs.corrupt.prompt_length[row])
        prompt = examples[
            tuple(pairs.corrupt.tokens[row, :n].tolist())
        ]  # A prompt of the task, and the labels are its.
        assert {name: int(pairs.corrupt.label(name)[row]) for name in parity.variables} == prompt.labels
        assert torch.equal(pairs.corrupt.tokens[row, n:], pairs.clean.tokens[row, n:])


def test_ragged_free_completion_asks_for_prompts_of_one_length_at_a_time(parity: AbstractTask) -> None:
    asked = []

    def generate(prompts: Tensor) -> Tensor:
        asked.append(prompts.shape)
        return torch.cat([prompts, torch.zeros(len(prompts), 6, dtype=torch.long)], 1)

    own = parity.pairs("x", "parity", hold=())
    free = parity.pairs("x", "parity", hold=(), completion="free", generate=generate)
    assert sorted({shape[1] for shape in asked}) == [2, 3, 4]
    for side in ("clean", "corrupt"):
        truth, written = getattr(own, side), getattr(free, side)
        assert torch.equal(truth.mask, written.mask)
        for row in range(len(free)):
            n, end = int(truth.prompt_length[row]), int(truth.mask[row].sum())
            assert torch.equal(written.tokens[row, :n], truth.tokens[row, :n])
            assert written.tokens[row, n:end].tolist() == [0] * (end - n)


class Endless(AbstractTask):
    """A task that cannot be listed, drawn from the boolean one."""

    name = "endless"
    base = BooleanTask()
    fields, variables, inputs = base.fields, base.variables, base.inputs
    numeric, vocabulary, pad = base.numeric, base.vocabulary, base.pad

    def enumerate(self) -> list[Example]:
        raise ValueError("too many")

    def sample(self, n: int, seed: int) -> list[Example]:
        return self.base.sample(n, seed)

    def tokenizer(self) -> object:
        return self.base.tokenizer()


def test_pool_is_a_sample_without_repeats_where_a_task_cannot_be_listed(task: BooleanTask) -> None:
    pool = Endless().pool(0)
    assert len(pool) == 32
    assert {example.tokens for example in pool} == {example.tokens for example in task.enumerate()}
    assert set(inputs(Endless().pairs("newB", "newD"))) == set(inputs(task.pairs("newB", "newD")))


def test_pairs_of_a_task_with_many_inputs_do_not_compare_everything_with_everything() -> None:
    names = tuple(f"x{i}" for i in range(13))
    task = BooleanTask({"y": "x0 & x1", "z": "y | x2"}, names)
    assert len(task.pool()) < 2100
    pairs = task.pairs("y", "z", limit=50)
    assert len(pairs) == 50
    assert (pairs.clean.label("y") != pairs.corrupt.label("y")).all()
    assert (pairs.clean.label("z") != pairs.corrupt.label("z")).all()


def test_field_tokens() -> None:
    field = Field("sum", "sum?", (0, 1, 2), (7, 5, 9))
    assert [field.token(value) for value in field.values] == [7, 5, 9]
    with pytest.raises(ValueError, match=re.escape("sum cannot be 3; it is one of (0, 1, 2)")):
        field.token(3)


def test_field_by_name(task: BooleanTask) -> None:
    assert task.field("newD").predict == "newD?"
    with pytest.raises(ValueError, match="boolean has no field 'end'"):
        task.field("end")


def test_examples_are_not_changed_by_pairing(task: BooleanTask) -> None:
    example = task.example("1,0,1,0,1")
    copy = replace(example, labels=dict(example.labels), positions=dict(example.positions))
    task.conflict_pairs("newB", "newD")
    task.pairs("newB", "newD", completion="clean")
    assert task.example("1,0,1,0,1") == copy == example


def test_pairs_that_share_a_text_are_one_unit() -> None:
    task = BooleanTask()
    both_ways = task.pairs("newB", "newD")
    unit = both_ways.units()
    assert len(unit) == 16
    assert sorted(np.bincount(unit)) == [2] * 8
    texts = both_ways.texts()
    for pair, number in zip(texts, unit, strict=True):
        assert unit[texts.index(pair[::-1])] == number
    assert len(set(both_ways.apart().units())) == 8
    chained = task.pairs("newB", "newD", hold=("A",))
    assert len(set(chained.units())) == 1  # every text is paired with several others


@given(st.integers(0, 50))
def test_halves_share_no_text(task: BooleanTask, seed: int) -> None:
    both_ways = task.pairs("newB", "newD")
    halves = both_ways.halves(seed)
    texts = [{text for pair in half.texts() for text in pair} for half in halves]
    assert texts[0].isdisjoint(texts[1])
    assert sorted(halves[0].texts() + halves[1].texts()) == sorted(both_ways.texts())
    assert [len(set(half.units())) for half in halves] == [4, 4]
    assert both_ways.halves(seed)[0].texts() == halves[0].texts()


def test_halves_are_drawn_and_need_two_units(task: BooleanTask) -> None:
    both_ways, chained = task.pairs("newB", "newD"), task.pairs("newB", "newD", hold=("A",))
    assert len({tuple(both_ways.halves(seed)[0].texts()) for seed in range(10)}) > 5
    with pytest.raises(ValueError, match="are one unit, and cannot be halved"):
        chained.halves()


@given(rows=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=8))
@settings(max_examples=25)
def test_units_are_what_chains_of_shared_texts_join(task: BooleanTask, rows: list[tuple[int, int]]) -> None:
    """Whichever side a shared text stands on."""
    worlds = task.enumerate()
    clean, corrupt = (task.batch([worlds[i] for i in side]) for side in zip(*rows, strict=True))
    number = PairBatch(clean, corrupt, "A", "newA", "own", (("A",),) * len(rows)).units()
    joined: list[set[int]] = []
    for pair in rows:
        met = [unit for unit in joined if not unit.isdisjoint(pair)]
        joined = [unit for unit in joined if unit.isdisjoint(pair)] + [set(pair).union(*met)]
    home = [next(i for i, unit in enumerate(joined) if pair[0] in unit) for pair in rows]
    for i, j in itertools.combinations(range(len(rows)), 2):
        assert (number[i] == number[j]) == (home[i] == home[j])


def test_pairs_whose_target_the_variable_never_changes_warn(task: BooleanTask) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for variable, target in (("newB", "newD"), ("A", "newA"), ("D", "newD")):
            task.pairs(variable, target)
    with pytest.warns(UserWarning, match="in none of 64 pairs does 'newB' alone change 'newA', which differs by A, C"):
        task.pairs("newB", "newA")
