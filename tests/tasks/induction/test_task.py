"""The induction task: its worlds against the text read from scratch, its interventions and its pairs."""

import itertools

import pytest

from interp_kit.core.example import Example
from interp_kit.tasks.induction import InductionTask

TASK = InductionTask()
SMALL = InductionTask(letters=5, length=4)


def answer_of(text: str) -> str:
    """What stands after the first occurrence of the last prompt token, by the text alone."""
    *prompt, key, _ = text.split(" ")
    return prompt[prompt.index(key) + 1]


def check(task: InductionTask, example: Example) -> None:
    words, labels = example.text.split(" "), example.labels
    assert words == [task.vocabulary[token] for token in example.tokens[:-1]]
    assert example.tokens[-1] == task.pad
    assert example.prompt_length == task.length == len(words) - 1
    assert len(set(words[: task.length - 1])) == task.length - 1
    assert words[-1] == answer_of(example.text) == task.vocabulary[labels["answer"]]
    assert labels["where"] == words.index(words[task.length - 1]) < task.length / 2
    assert labels["key"] == example.tokens[example.positions["answer?"]]
    for name in task.places:
        assert labels[name] == example.tokens[example.positions[name]]
    rest = [t for t in example.tokens[: task.length - 1] if t != labels["key"]]
    assert rest == [labels[f"other{i}"] for i in range(len(rest))]
    assert set(labels) == set(task.variables)


def test_every_world_of_a_small_task() -> None:
    worlds = SMALL.enumerate()
    assert len(worlds) == SMALL.n_worlds == 5 * 4 * 3 * 2
    assert len({world.tokens for world in worlds}) == len(worlds)
    for world in worlds:
        check(SMALL, world)
    brute = set()
    for tokens in itertools.product(range(5), repeat=4):
        if len(set(tokens[:3])) == 3 and tokens[3] in tokens[:2]:
            brute.add((*tokens, tokens[tokens.index(tokens[3]) + 1], 5))
    assert brute == {world.tokens for world in worlds}


def test_samples_are_worlds_and_repeat() -> None:
    drawn = TASK.sample(300, 3)
    for example in drawn:
        check(TASK, example)
    assert [e.tokens for e in drawn] == [e.tokens for e in TASK.sample(300, 3)]
    assert len({e.tokens for e in drawn}) > 295
    assert {e.labels["where"] for e in drawn} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="15966720 induction worlds are too many"):
        TASK.enumerate()


def test_pool_has_neighbours() -> None:
    pool = TASK.pool()
    assert 900 < len(pool) <= 1024
    for example in pool:
        check(TASK, example)
    assert len(SMALL.pool()) == SMALL.n_worlds


def test_moving_the_key_is_the_least_change() -> None:
    pairs = TASK.pairs("where", "answer", limit=500)
    assert len(pairs) == 500
    for row, differs in enumerate(pairs.differs):
        assert "where" in differs
        assert not {"key", *TASK.inputs[2:]} & set(differs)
        assert pairs.clean.answer["answer"][row] != pairs.corrupt.answer["answer"][row]
        assert pairs.clean.tokens[row, 7] == pairs.corrupt.tokens[row, 7]
    with pytest.raises(ValueError, match="differ in 'where' with"):
        TASK.pairs("where", "answer", hold=("answer",))


def test_a_letter_replaced_is_the_least_change_of_itself() -> None:
    pairs = TASK.pairs("other2", "answer")
    for differs in pairs.differs:
        assert set(differs) & set(TASK.inputs) == {"other2"}
    assert (pairs.clean.label("where") == 2).all()  # So it stands after the key.


def test_conflict_prompts_cross_one_letter() -> None:
    pairs = TASK.conflict_pairs("x2", "answer")
    assert pairs.token_differs.nonzero()[:, 1].unique().tolist() == [2]
    assert (pairs.clean.label("where") == 1).all()
    assert (pairs.corrupt.answer["answer"] == pairs.corrupt.label("x2")).all()


def test_interventions_follow_the_equations() -> None:
    example = TASK.example(1, 0, 5, 6, 7, 8, 9, 10)
    assert example.text == "f a g h i j k a g"
    assert TASK.intervene(example, {}) == example.labels
    assert TASK.intervene(example, {"where": 3}) == TASK.example(3, 0, 5, 6, 7, 8, 9, 10).labels
    assert TASK.intervene(example, {"key": 3}) == TASK.example(1, 3, 5, 6, 7, 8, 9, 10).labels
    assert TASK.intervene(example, {"x2": 3})["answer"] == 3
    assert TASK.intervene(example, {"x3": 3}) == dict(example.labels) | {"x3": 3}
    assert TASK.intervene(example, {"x2": 3, "answer": 4})["answer"] == 4


def test_bad_calls_say_what_is_wrong() -> None:
    example = TASK.sample(1, 0)[0]
    with pytest.raises(ValueError, match="no variable 'wher'; there are where, key"):
        TASK.intervene(example, {"wher": 1})
    with pytest.raises(ValueError, match="where cannot be 4; it is one of 0 to 3"):
        TASK.intervene(example, {"where": 4})
    with pytest.raises(ValueError, match="expected 7 distinct ones"):
        TASK.example(0, 1, 1, 2, 3, 4, 5, 6)
    with pytest.raises(ValueError, match="n is 0"):
        TASK.sample(0, 0)
    for letters, length in ((12, 3), (7, 8), (27, 8)):
        with pytest.raises(ValueError, match=f"induction with {letters} letters and prompts of {length} tokens"):
            InductionTask(letters, length)


def test_tokenizer_reads_the_text_back() -> None:
    tokenizer = TASK.tokenizer()
    for example in TASK.sample(20, 1):
        assert tuple(tokenizer(example.text)["input_ids"]) == example.tokens[:-1]
    assert tokenizer.eos_token_id == TASK.pad
