"""Traces with one error put in, by class and template, and right ones, of which none may be blamed."""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp_kit.tasks.graphs.models import discrete_model
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import printed
from interp_kit.tasks.graphs.traces.analysis import Analysis, Analyst

_spec = importlib.util.spec_from_file_location("corruption", Path(__file__).with_name("corruption.py"))
assert _spec is not None
assert _spec.loader is not None
corruption = importlib.util.module_from_spec(_spec)
sys.modules["corruption"] = corruption  # its dataclasses look for it there
_spec.loader.exec_module(corruption)
CLASSES, TEMPLATES = corruption.CLASSES, corruption.TEMPLATES


def right(template: str, n: int, seed: int) -> Iterator[tuple[Analysis, str]]:
    """Right traces with what is found in them; a third has rows of 0 and 1."""
    rng, made = np.random.default_rng(seed), 0
    while made < n:
        base = corruption.case(rng, degenerate=made % 3 == 0)
        steps = [replace(step) for step in base.steps]
        if corruption.computed(base, steps, rng):
            made += 1
            text, _ = corruption.rendered(base, steps, template, rng)
            yield Analyst(base.model).analyse(base.question, base.reference, text), text


def wrong(name: str, template: str, n: int, seed: int) -> Iterator[bool]:
    """True for each trace whose error is found as what it is, where it is."""
    rng, made = np.random.default_rng(seed), 0
    while made < n:
        base = corruption.case(rng, degenerate=made % 5 == 0)
        put = corruption.corrupted(base, name, rng)
        if put is None or not corruption.computed(base, put[0], rng):
            continue
        made += 1
        text, lines = corruption.rendered(base, put[0], template, rng)
        found = Analyst(base.model).analyse(base.question, base.reference, text)
        yield (found.kind or found.name) == name and found.errors[0].line == lines[put[1]]


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_right_trace_is_blamed(template: str) -> None:
    for found, text in right(template, 6, 5):
        assert found.name == "none", text


@pytest.mark.parametrize("template", TEMPLATES[:-1])
@pytest.mark.parametrize("name", CLASSES)
def test_errors_are_found_where_they_are(name: str, template: str) -> None:
    assert all(wrong(name, template, 1, 6))


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES[:-1])
@pytest.mark.parametrize("name", CLASSES)
def test_nearly_all_of_many_errors_are_found_where_they_are(name: str, template: str) -> None:
    assert sum(wrong(name, template, 40, 8)) >= 38


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_no_right_trace_of_many_is_blamed(template: str) -> None:
    assert all(found.name == "none" for found, _ in right(template, 150, 7))


# a -> c <- b, a -> b; P(c) by luck does not depend on b where a = 0
MODEL = printed(discrete_model({
    "a": ([], [0.5, 0.5]), "b": (["a"], [[0.5, 0.5], [0.2, 0.8]]),
    "c": (["a", "b"], [[[0.3, 0.7], [0.3, 0.7]], [[0.6, 0.4], [0.1, 0.9]]]), "d": (["c"], [[1, 0], [0, 1]]),
}))  # fmt: skip
SEEN, SET = Question("observational", "c", {"a": 0}), Question("interventional", "c", {}, {"b": 0})


def _found(question: Question, text: str, answer: str = "[0.30, 0.70]") -> Analysis:
    return Analyst(MODEL).analyse(question, answer, text)


def test_luck_hides_no_wrong_formula() -> None:
    found = _found(SEEN, "P(c=0|a=0) = P(c=0|a=0,b=0) = 0.30\nANSWER [0.30, 0.70]")
    assert (found.name, found.right) == ("formula", True)
    assert _found(SEEN, "P(c=0|a=0,b=0) = 0.30\nP(c=0|a=0) = 0.30\nANSWER [0.30, 0.70]").name == "none"


def test_rows_of_0_and_1_make_formulas_right() -> None:
    assert _found(SEEN, "P(d=0|a=0) = P(c=0|a=0) = 0.30\nANSWER [0.30, 0.70]").name == "none"
    assert _found(SEEN, "P(b=0|a=0) = P(c=0|a=0) = 0.50\nANSWER [0.30, 0.70]").name == "formula"


def test_an_intervention_holds_throughout() -> None:
    """P(c=0 | do(b=0)) = .5 * .3 + .5 * .6 = .45, and P(c=0 | b=0) = (.25 * .3 + .1 * .6) / .35 = .386."""
    way = "P(c=0|b=0) = P(c=0|a=0,b=0)P(a=0) + P(c=0|a=1,b=0)P(a=1) = 0.3*0.5 + 0.6*0.5 = 0.45\n"
    assert _found(SET, way + "ANSWER [0.45, 0.55]", "[0.45, 0.55]").name == "none"
    found = _found(Question("observational", "c", {"b": 0}), way + "ANSWER [0.45, 0.55]", "[0.39, 0.61]")
    assert (found.name, found.kind) == ("formula", "false independence")
    bayes = "P(a=0|b=0) = P(b=0|a=0) P(a=0) / P(b=0) = 0.5 * 0.5 / 0.35 = 0.714\n"
    found = _found(SET, bayes + "ANSWER [0.39, 0.61]", "[0.45, 0.55]")
    assert (found.name, found.kind, found.errors[0].line) == ("formula", "mishandled intervention", 1)
    assert (
        _found(Question("observational", "c", {"b": 0}), bayes + "ANSWER [0.39, 0.61]", "[0.39, 0.61]").name == "none"
    )


def test_what_only_propagates_does_not_count() -> None:
    text = "P(a=0) = 0.40\nP(b=0) = P(b=0|a=0)P(a=0) + P(b=0|a=1)P(a=1) = 0.5*0.4 + 0.2*0.5 = 0.3\nP(b=1) = 0.7\n"
    found = _found(SEEN, text)
    assert [(e.name, e.line) for e in found.errors] == [("copy", 1)]


def test_without_a_located_error_a_wrong_answer_tells_nothing() -> None:
    assert _found(SEEN, "P(c=0|a=0,b=1) = 0.30\nANSWER [0.40, 0.60]").name == "cannot tell"
    assert _found(SEEN, "P(c=0|a=0,b=1) = 0.30\n").name == "cannot tell"
    for text in ("", "ANSWER [0.30, 0.70]", "P(c=0) = Σ_{a} P(c=0|a) P(a)"):
        assert _found(SEEN, text).name == "no numeric computation"
    assert _found(SEEN, "P(c=0|a=0) = 0.30\nP(c=1|a=0) = 0.70\nANSWER [0.60, 0.40]").name == "copy"


def test_counterfactual_traces_are_held_to_what_their_notation_tells() -> None:
    question = Question("counterfactual", "c", {"c": 0, "a": 1}, {"b": 1}, "uniform")
    text = "P(a=1) = 0.5\nP(c=0|do(b=1), a=1) = 0.17\nP(c=0 | a=1, b=0) = 0.60\n0.1 / 0.6 = 0.1667\nANSWER [0.25, 0.75]"
    assert _found(question, text, "[0.25, 0.75]").name == "none"
    assert _found(question, text.replace("0.1667", "0.25"), "[0.25, 0.75]").name == "calculation"


@pytest.mark.parametrize(
    "text",
    [
        "0.3 + 7.15e-05 + 2E-3 = 0.302",
        "The probability of c = 0 given that b is 1 is 0.3",
        "Given a is 0 and b is 1 is 0.3, so 0.3 * 0.5 = 0.15",
    ],
)
def test_wordings_of_another_author_are_no_errors(text: str) -> None:
    """Each was blamed once, found by texts that had no part in making the reader."""
    assert _found(SEEN, f"{text}\nANSWER [0.30, 0.70]").name in ("none", "no numeric computation")
    wrong = _found(SEEN, f"{text}\n0.3 * 0.5 + 1e-1 = 0.35\nANSWER [0.30, 0.70]")
    assert [(e.name, e.line) for e in wrong.errors] == [("calculation", 2)]


def test_terms_of_the_imagined_world_are_not_held_against_the_table() -> None:
    question = Question("counterfactual", "c", {"c": 0, "a": 1}, {"b": 1}, "uniform")
    found = _found(question, "P(a'=0 | b=0) = 0.95\nP(b=0 | a=0) = 0.9\nANSWER [0.25, 0.75]", "[0.25, 0.75]")
    assert found.name == "none"


def test_a_judge_is_asked_and_decides_nothing() -> None:
    found = Analyst(MODEL).analyse(SEEN, "[0.30, 0.70]", "P(a=0) = 0.1", lambda q, text: f"{q.target} {len(text)}")
    assert (found.name, found.judged) == ("copy", "c 12")


def test_strategies() -> None:
    whole = " + ".join(f"P(a={a})*P(b={b}|a={a})*P(c=0|a={a},b={b})" for a in (0, 1) for b in (0, 1))
    numbers = "0.5*0.5*0.3 + 0.5*0.5*0.3 + 0.5*0.2*0.6 + 0.5*0.8*0.1"
    assert _found(SEEN, f"P(c=0) = {whole} = {numbers} = 0.25").strategy == "brute-force summation"
    text = "P(b=0) = 0.35\nP(b=1) = 1 - P(b=0) = 1 - 0.35 = 0.65"
    assert _found(SEEN, text).strategy == "recursion"
    assert _found(SEEN, "ANSWER [0.30, 0.70]").strategy == "other"
