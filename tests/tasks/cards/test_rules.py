"""Rules against a second implementation that reads their text."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_kit.tasks.cards.catalogue import RULES
from interp_kit.tasks.cards.rules import COLOURS, STYLES, Clause, Rule, by_name

Cards = list[tuple[str, int]]
CARDS = st.lists(st.tuples(st.sampled_from(COLOURS), st.integers(0, 9)), min_size=1, max_size=8)
TESTS = st.sampled_from([None, "even", "odd", *(f"> {k}" for k in range(9)), *(f"<= {k}" for k in range(9))])
CLAUSES = st.builds(
    Clause,
    weight=st.integers(-9, 9).filter(bool),
    colour=st.sampled_from([None, *COLOURS]),
    test=TESTS,
    aggregate=st.sampled_from(["sum", "count"]),
)


def read_clause(words: str, cards: Cards) -> int:
    """What a reader of "RED numbers greater than 4" adds up."""
    chosen = [
        card for card in cards if not re.match("|".join(COLOURS), words, re.I) or card[0] in words.upper().split()
    ]
    if match := re.search(r"greater than (\d)", words):
        chosen = [card for card in chosen if card[1] > int(match[1])]
    if match := re.search(r"at most (\d)", words):
        chosen = [card for card in chosen if card[1] <= int(match[1])]
    if match := re.search(r"\b(odd|even)\b", words, re.I):
        chosen = [card for card in chosen if card[1] % 2 == (match[1].lower() == "odd")]
    return len(chosen) if "cards" in words.lower() else sum(value for _, value in chosen)


def read(text: str, cards: Cards) -> int | str:
    """A reader who knows nothing but the text of a rule: splits it into terms, and adds up what each says."""
    text, *classified = text.removesuffix(".").split(". Answer ")
    total = 0
    if text.startswith("Take"):
        terms = re.findall(r"(minus|plus)? ?((?:\d times )?the (?:sum|number) of (?:(?! plus| minus).)+)", text)
        signed = [(-1 if sign == "minus" else 1, term) for sign, term in terms]
    elif " score " in text:
        signed = [(-1 if "score minus" in term else 1, term) for term in re.split(" and (?=[^ ]*.*? score)", text)]
    else:
        signed = [(-1 if term.lower().startswith("subtract") else 1, term) for term in text.split(" and ")]
    for sign, term in signed:
        times = int(match[1]) if (match := re.search(r"(\d) times", term)) else 1
        words = re.sub(r"^(minus|add|subtract|all|the number of|the sum of|\d times|take| )+", "", term, flags=re.I)
        total += sign * times * read_clause(words.split(" score ")[0], cards)
    if not classified:
        return total
    threshold = int(re.search(r"above (-?\d+)", classified[0])[1])
    return "BIG" if total > threshold else "SMALL"


def total_of(rule: Rule, cards: Cards) -> int | str:
    total = sum(int(rule.worth[COLOURS.index(colour), value]) for colour, value in cards)
    if rule.threshold is None:
        return total
    return "BIG" if total > rule.threshold else "SMALL"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_text_of_a_rule_says_what_it_computes(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        cards = [(COLOURS[rng.integers(4)], int(rng.integers(10))) for _ in range(rng.integers(1, 9))]
        for style in STYLES:
            assert read(rule.text(style), cards) == total_of(rule, cards), rule.text(style)


@given(clauses=st.lists(CLAUSES, min_size=1, max_size=3), cards=CARDS)
def test_so_do_those_of_rules_of_ones_own(clauses: list[Clause], cards: Cards) -> None:
    rule = Rule("mine", tuple(clauses))
    for style in STYLES:
        assert read(rule.text(style), cards) == total_of(rule, cards), rule.text(style)


def test_the_documented_rules_have_the_documented_texts() -> None:
    texts = {
        "red_minus_blue": "Add all RED numbers and subtract all BLUE numbers.",
        "sum_greater_than_4": "Add all numbers greater than 4.",
        "odd_minus_even": "Add all odd numbers and subtract all even numbers.",
    }
    assert {name: by_name(RULES, name).text() for name in texts} == texts


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Clause(colour="PINK"), "'PINK'"),
        (lambda: Clause(test="> 9"), "no value from 0 to 9 passes"),
        (lambda: Clause(test="<= 9"), "every value from 0 to 9 passes"),
        (lambda: Clause(test="prime"), "'prime'"),
        (lambda: Clause(weight=0), "weight is 0"),
        (lambda: Clause(weight=True), "weight is True"),
        (lambda: Clause(aggregate="mean"), "'mean'"),
        (lambda: Rule("empty", ()), "'empty' needs at least one"),
        (lambda: Rule("", (Clause(),)), "a name"),
        (lambda: Rule("far", (Clause(),), threshold=54), "from 0 to 53"),
        (lambda: Rule("near", (Clause(),), threshold=-1), "from 0 to 53"),
        (lambda: Rule("fine", (Clause(),)).text("sung"), "'sung'"),
        (lambda: by_name(RULES, "purple"), "'purple'"),
    ],
)
def test_nonsense_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
