"""What is printed: everything that is needed, in an order that tells nothing."""

import re

import numpy as np
import pytest

from interp_kit.tasks.graphs import default_dag, random_model
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import printed
from interp_kit.tasks.graphs.questions.prompts import REFERENCES, VARIANTS, Printer, reference_text
from interp_kit.tasks.graphs.questions.verifier import score

QUESTIONS = (
    Question("observational", "v0", {"v1": 0}),
    Question("interventional", "v0", set={"v1": 0}),
    Question("counterfactual", "v0", {"v2": 1}, {"v1": 0}, "selectors"),
    Question("counterfactual", "v0", {"v2": 1}, {"v1": 0}, "uniform"),
)


def test_everything_is_printed_and_counterfactuals_state_their_mechanism() -> None:
    rng = np.random.default_rng(0)
    model = printed(random_model(default_dag(6, rng), rng), rng)
    printer = Printer(model)
    texts = [printer.problem(question, "distribution", rng) for question in QUESTIONS]
    for text, question in zip(texts, QUESTIONS, strict=True):
        assert text.count("P(v") == sum(table[..., 0].size for table in model.counts)
        for v, name in enumerate(model.names):
            assert f"\n{name}: {', '.join(map(str, range(model.cardinalities[v])))}\n" in text
            assert all(f"{model.names[p]} -> {name}" in text for p in model.parents[v])
        assert ("Mechanism:" in text) == (question.mechanism is not None)
        for variant in VARIANTS:
            assert "ANSWER [p0, p1" in printer.instruction(question, "distribution", variant)
    assert texts[2].split("Mechanism")[1] != texts[3].split("Mechanism")[1]
    assert (
        len({printer.instruction(question, "argmax", variant) for question in QUESTIONS for variant in VARIANTS}) == 5
    )


def test_printed_orders_do_not_tell_the_topological_order() -> None:
    rng, before = np.random.default_rng(0), []
    for _ in range(60):
        model = printed(random_model([(), (0,), (1,), (2,)], rng), rng)
        text = Printer(model).problem(QUESTIONS[0], "distribution", rng)
        edges = re.search(r"child:\n(.*)", text)
        assert edges is not None
        for listed in (re.findall(r"^(v\d):", text, re.MULTILINE), re.findall(r"^P\((v\d)", text, re.MULTILINE)):
            (root,) = (name for name, of in zip(model.names, model.parents, strict=True) if not of)
            (leaf,) = (n for v, n in enumerate(model.names) if not any(v in of for of in model.parents))
            before.append(listed.index(root) < listed.index(leaf))
        before.append(edges[1].index(f"{root} ->") < edges[1].index(f"-> {leaf}"))
        before.append(root < leaf)
    assert 0.35 < np.mean(before) < 0.65


def test_completions_are_right_answers_of_each_reference() -> None:
    rng = np.random.default_rng(0)
    printer = Printer(printed(random_model(default_dag(3, rng), rng), rng))
    for reference, answer in zip(REFERENCES, ((25, 75), 1, 0), strict=True):
        assert score(printer.completion(reference, answer), reference_text(reference, answer)).score == 1.0
        assert (
            reference.startswith("d") or "value" in printer.problem(QUESTIONS[0], reference, rng).split("Question")[1]
        )
    assert reference_text("distribution", (7, 93)) == "[0.07, 0.93]"
    with pytest.raises(KeyError):
        printer.instruction(QUESTIONS[0], "mean", "generic")
