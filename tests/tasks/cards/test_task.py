"""The card game: texts, tokens, variables, interventions, pairs."""

import numpy as np
import pytest

from interp_kit.core.example import Example
from interp_kit.tasks.cards import CardsTask, Clause, Rule
from interp_kit.tasks.cards.catalogue import RULES, SPLITS, shares_of
from interp_kit.tasks.cards.dataset import CardsConfig, build_datasets, build_examples
from interp_kit.tasks.cards.deals import BIG, SMALL
from interp_kit.tasks.cards.rules import COLOURS
from interp_kit.tasks.cards.verifier import Reward, parse

TESTED = [name for name in SPLITS if name != "train"]


@pytest.fixture(scope="module")
def train() -> CardsTask:
    """The task as it is trained on."""
    return CardsTask("train")


@pytest.fixture(scope="module")
def drawn(train: CardsTask):
    """As many deals as are trained on."""
    return train.deals(CardsConfig().train, 0)


def cards_of(example: Example) -> list[tuple[int, int]]:
    labels = example.labels
    return [(labels[f"card{i}.colour"], labels[f"card{i}.value"]) for i in range(1, labels["count"] + 1)]


def test_the_text_is_the_documented_one() -> None:
    example = CardsTask().example("sum_greater_than_4", [("RED", 4), ("YELLOW", 6), ("GREEN", 7)])
    assert example.text == "Rule: Add all numbers greater than 4.\nCards:\nRED 4\nYELLOW 6\nGREEN 7\n\nAnswer: 13"
    assert len(example.tokens) - example.prompt_length == 2


@pytest.mark.parametrize("cards", ["whole", "split"])
@pytest.mark.parametrize("split", SPLITS)
def test_tokens_positions_and_tokenizer_agree(split: str, cards) -> None:
    task = CardsTask(split, cards=cards)
    tokenizer = task.tokenizer()
    for example in task.sample(40, 3):
        ids = tokenizer(example.text)["input_ids"]
        assert (*ids, task.pad) == example.tokens
        assert tokenizer.decode(ids) == example.text
        assert sorted(example.positions.values()) == list(range(len(example.tokens)))
        assert task.vocabulary[example.tokens[example.positions["answer?"]]] == "\n\nAnswer:"
        assert example.positions["answer?"] == example.prompt_length - 1
        for i, (colour, value) in enumerate(cards_of(example), start=1):
            here = task.vocabulary[example.tokens[example.positions[f"card{i}"]]]
            assert here == (f"\n{COLOURS[colour]} {value}" if cards == "whole" else f" {value}")
        answer = task.fields[0].token(example.labels["answer"])
        assert example.tokens[example.positions["answer"]] == answer


def test_every_variable_is_what_a_plain_loop_finds(train: CardsTask) -> None:
    for example in train.sample(300, 1):
        labels, rule = example.labels, train.rules[example.labels["rule"]]
        total, sums, terms = 0, dict.fromkeys(COLOURS, 0), [0] * train.clauses
        for i, (c, v) in enumerate(cards_of(example), start=1):
            added, counts = 0, False
            for j, clause in enumerate(rule.clauses):
                test = clause.test or ">= 0"
                passes = v % 2 == (test == "odd") if test in ("odd", "even") else eval(f"{v} {test}")
                if passes and clause.colour in (None, COLOURS[c]):
                    amount, counts = (v if clause.aggregate == "sum" else 1), True
                    terms[j] += amount
                    added += clause.weight * amount
            total += added
            sums[COLOURS[c]] += v
            assert (labels[f"matched{i}"], labels[f"contribution{i}"], labels[f"running{i}"]) == (counts, added, total)
        assert labels["total"] == labels[f"running{train.most}"] == total
        assert [labels[f"clause{j + 1}"] for j in range(train.clauses)] == terms
        assert {colour: labels[f"sum_{colour}"] for colour in COLOURS} == sums
        expected = total if rule.threshold is None else BIG if total > rule.threshold else SMALL
        assert labels["answer"] == expected


def test_interventions_move_what_follows_and_nothing_else() -> None:
    task = CardsTask("id_test")
    example = task.example("red_minus_blue", [("RED", 9), ("BLUE", 4), ("GREEN", 7), ("RED", 2)])
    assert [example.labels[f"running{i}"] for i in range(1, 5)] == [9, 5, 5, 7]
    after = task.intervene(example, {"running2": 20})
    assert [after[f"running{i}"] for i in range(1, 5)] == [9, 20, 20, 22]
    assert after["answer"] == 22
    assert task.intervene(example, {"clause2": 6})["answer"] == 5
    assert task.intervene(example, {"contribution3": -3})["answer"] == 4
    assert task.intervene(example, {"total": 1})["answer"] == 1
    changed = task.intervene(example, {"card1.colour": COLOURS.index("BLUE")})
    assert changed == task.example("red_minus_blue", [("BLUE", 9), ("BLUE", 4), ("GREEN", 7), ("RED", 2)]).labels
    assert task.intervene(example, {}) == example.labels
    for do in ({"sum_RED": 1}, {"matched1": 0}, {"colour": 1}, {"card1.value": 10}, {"count": 3}, {"answer": 5000}):
        with pytest.raises(ValueError, match=next(iter(do))):
            task.intervene(example, do)


@pytest.mark.parametrize("variable", ["card3.value", "card2.colour", "running2", "clause1", "sum_RED", "rule", "total"])
def test_pairs_differ_in_one_card_or_the_rule(variable: str) -> None:
    task = CardsTask("id_test")
    pairs = task.pairs(variable, "answer", limit=40)
    assert len(pairs) == 40
    assert (pairs.clean.label(variable) != pairs.corrupt.label(variable)).all()
    assert (pairs.clean.label("answer") != pairs.corrupt.label("answer")).all()
    for differs in pairs.differs:
        changed = {name.split(".")[0] for name in differs if name in task.inputs}
        assert len(changed) == 1
        assert next(iter(changed)).startswith("rule" if variable == "rule" else "card")


def test_held_variables_agree() -> None:
    pairs = CardsTask("id_test").pairs("running2", "answer", hold=("card1.value", "card1.colour"), limit=20)
    assert all("card1.value" not in differs for differs in pairs.differs)
    with pytest.raises(ValueError, match="no such pair"):
        CardsTask("id_test").pairs("total", "answer", hold=("answer",))


def test_splits_share_no_rule_with_the_same_cards() -> None:
    seen: dict[tuple, str] = {}
    for name in SPLITS:
        task = CardsTask(name)
        for example in task.sample(2000, 0):
            key = (task.rules[example.labels["rule"]].name, *cards_of(example))
            assert seen.setdefault(key, name) == name


def test_shares_are_uniform_and_independent_of_the_wording(train: CardsTask, drawn) -> None:
    shares = shares_of(drawn, train.rules)
    assert shares.min() >= 300
    anyone = CardsTask("id_test").split.parts[0]
    free = type(train.split)("free", (anyone,)).deals(np.random.default_rng(0), 100_000, train.rules, train.most)
    counts = np.bincount(shares_of(free, train.rules) // 100, minlength=10)
    assert abs(counts - 10_000).max() < 5 * np.sqrt(10_000 * 0.9)


@pytest.mark.parametrize("name", TESTED)
def test_every_token_and_position_of_a_test_occurs_in_training(train: CardsTask, drawn, name: str) -> None:
    tokens, prompts = train.encode(drawn)
    whole = np.arange(tokens.shape[1]) < (prompts + 2)[:, None]
    task = CardsTask(name)
    tested, lengths = task.encode(task.deals(CardsConfig().test, CardsConfig().seed))
    used = tested[np.arange(tested.shape[1]) < (lengths + 2)[:, None]]
    assert {task.vocabulary[i] for i in set(used.tolist()) - set(tokens[whole].tolist())} == set()
    answers = tokens[np.arange(len(tokens)), prompts]
    assert set(tested[np.arange(len(tested)), lengths].tolist()) <= set(answers.tolist())
    assert lengths.max() <= prompts.max()


def test_each_test_differs_from_training_in_one_way(train: CardsTask) -> None:
    trained = {(rule, style, n) for part in train.split.parts for rule in part.rules for style in part.styles
               for n in range(part.cards[0], part.cards[1] + 1)}  # fmt: skip

    def cells(name: str) -> set:
        return {(rule, style, n) for part in SPLITS[name].parts for rule in part.rules for style in part.styles
                for n in range(part.cards[0], part.cards[1] + 1)}  # fmt: skip

    assert cells("id_test") <= trained
    assert cells("val") <= trained
    rules, identical = {rule for rule, _, _ in trained}, {rule for rule, _, _ in cells("id_test")}
    short = {n for _, _, n in cells("id_test")}
    for name in ("ood_new_colors", "ood_new_signs", "ood_compositional", "ood_classification"):
        assert rules.isdisjoint(rule for rule, _, _ in cells(name))
        assert {(s, n) for _, s, n in cells(name)} == {("canonical", n) for n in short}
    assert {(r, n) for r, _, n in cells("ood_paraphrase")} == {(r, n) for r in identical for n in short}
    assert all(style != "canonical" and (rule, style, n) not in trained for rule, style, n in cells("ood_paraphrase"))
    assert {(r, s) for r, s, _ in cells("ood_length_shift")} == {(r, "canonical") for r in identical}
    assert min(n for _, _, n in cells("ood_length_shift")) > max(n for r, _, n in trained if r in identical)


def test_sizes_change_no_other_split() -> None:
    small = build_examples(CardsConfig(train=100, val=50, test=60))
    large = build_examples(CardsConfig(train=200, val=50, test=60))
    assert [len(small[name]) for name in ("train", "val", "id_test")] == [100, 50, 60]
    assert all(small[name] == large[name] for name in TESTED)
    for size in (0, -1, True):
        with pytest.raises(ValueError, match="test is"):
            CardsConfig(test=size)


def test_data_sets_have_texts_and_variables() -> None:
    found = build_datasets(CardsConfig(train=20, val=5, test=5), ("train", "ood_classification"))
    assert set(found) == {"train", "ood_classification"}
    row = found["ood_classification"][0]
    assert row["prompt"].endswith("\n\nAnswer:")
    assert row["completion"] in (" BIG<|endoftext|>", " SMALL<|endoftext|>")
    assert row["rule"].split("?")[0] in ("red_minus_blue", "sum_greater_than_4", "odd_minus_even")


def test_classification_is_balanced_enough_to_be_a_test() -> None:
    answers = [example.labels["answer"] for example in CardsTask("ood_classification").sample(2000, 0)]
    assert 0.35 < answers.count(BIG) / len(answers) < 0.65


def test_a_rule_of_ones_own_is_one_line() -> None:
    mine = Rule("mine", (Clause(2, "RED"), Clause(-1, test="> 6")))
    task = CardsTask(rules=(*RULES, mine))
    example = task.example("mine", [("RED", 3), ("BLUE", 8)])
    assert example.text.startswith("Rule: Add 2 times all RED numbers and subtract all numbers greater than 6.")
    assert example.labels["answer"] == -2


@pytest.mark.parametrize(
    ("completion", "answer"),
    [(" 13", 13), (" -7<|endoftext|> 9", -7), (" BIG<|endoftext|>", BIG), ("SMALL", SMALL), ("", None), (" 13.", None),
     (" 1 3", None), ("thirteen", None), (" --7", None), (" +7", None), ("١٣", None), (" " + "9" * 5000, None),
     (" BIGSMALL", None), ("\n4\n", 4), ("<|endoftext|>4", None)],
)  # fmt: skip
def test_completions_are_read_strictly(completion: str, answer: int | None) -> None:
    assert parse(completion) == answer


def test_the_reward_is_one_for_the_right_answer_alone() -> None:
    reward = Reward(format_bonus=0.1)
    assert [reward(text, 13) for text in (" 13", " 12", " BIG", "x")] == [1.1, 0.1, 0.0, 0.0]
    assert [reward(text, BIG) for text in (" BIG", " SMALL", " 13")] == [1.1, 0.1, 0.0]
    assert Reward()(" 13", 13) == 1.0


def test_unknown_names_are_refused() -> None:
    for make, word in (
        (lambda: CardsTask("test"), "'test'"),
        (lambda: CardsTask(cards="halves"), "halves"),
        (lambda: CardsTask("ood_length_shift", most=6), "ood_length_shift"),
        (lambda: CardsTask(rules=RULES[:1]), "sum_greater_than_4"),
        (lambda: CardsTask().example("red_minus_blue", []), "1 to 15 cards"),
        (lambda: CardsTask().example("red_minus_blue", [("PINK", 3)]), "PINK"),
        (lambda: CardsTask().example("red_minus_blue", [("RED", 10)]), "10"),
        (lambda: CardsTask().enumerate(), "too many"),
        (lambda: CardsTask().sample(0, 0), "n = 0"),
    ):
        with pytest.raises(ValueError, match=word):
            make()
