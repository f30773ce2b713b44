"""Text of any form is read, and no text hangs or overflows the reader."""

import time

import numpy as np
import pytest

from interp_kit.tasks.graphs.models import discrete_model
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import printed
from interp_kit.tasks.graphs.traces.analysis import Analyst
from interp_kit.tasks.graphs.traces.expressions import Number, Operation, Sum, Term
from interp_kit.tasks.graphs.traces.text import chains

NAMES = ("a", "b_1", "c")
A, B = Term((("a", 0),)), Term((("b_1", 1),), (("a", 0),))
WHOLE = (B, Operation("*", (A, Number(0.25))), Number(0.5))


@pytest.mark.parametrize("text", [
    "P(b_1=1|a=0) = P(a=0) * 0.25 = 0.5",
    r"\[ P(b_{1} = 1 \mid a = 0) = P(a=0) \cdot 0.25 \approx 0.5 \]",
    r"$$\Pr(b_1{=}1\vert a{=}0) = \mathrm{P}(a = 0) \times 0.25 = \boxed{0.5}$$",
    "1. **P(b1 = 1 | a = 0)** = `P(a=0)` × 25% ≈ 50 %.",
    r"| P(b_1=1 \| a=0) | P(a=0) * 0.25 | 0.5 |",
    "|P(b_1=1 | a=0)|P(a=0)*0.25|0.5|",
    "So P(b_1 = 1 | a = 0) is P(a = 0) times 0.25, which gives about 0.5.",
    "\\begin{align}\nP(b_1=1 | a=0) &= P(a=0) \\cdot 0.25 \\\\\n&= 0.5\n\\end{align}",
    "We get Prob(b_1=1 | a=0) = P(a=0)(0.25) = 0.5, and then c.",
])  # fmt: skip
def test_every_form_gives_the_same_chain(text: str) -> None:
    (chain,) = chains(text, NAMES)
    assert tuple(s.expression for s in chain) == WHOLE


def test_sums_fractions_and_interventions_are_read() -> None:
    (chain,) = chains(r"P(c=1|do(a=0)) = \sum_{b_1 \in \{0,1\}} \frac{P(c=1, b_1)}{P(a=0)}", NAMES)
    assert chain[0].expression == Term((("c", 1),), (), (("a", 0),))
    body = Operation("/", (Term((("c", 1), ("b_1", None))), A))
    assert chain[1].expression == Sum(("b_1",), body)


@pytest.mark.parametrize("text", [
    "P(d=0) = 0.5", "P(a=x) = 0.5", "P() = 0.5", "P(a=0) ∝ 0.5", "P(a=0) is not 0.5", "P(a=0", "", "|---|---|", "= = =",
    "P(a=0) = 0.5 0.6", "P(a=0) = ", "P(a=0) < 0.5",
])  # fmt: skip
def test_what_says_nothing_gives_no_chain(text: str) -> None:
    assert list(chains(text, NAMES)) == []


def test_lines_are_those_of_the_text() -> None:
    found = list(chains("Think.\n\nP(a=0) = 0.5\nso\nP(a=1) = 0.4\n = 0.3", NAMES))
    assert [[s.line for s in chain] for chain in found] == [[3, 3], [5, 5, 6]]


SLOW = pytest.mark.slow
PIECES = (
    "(", "P(", "P(a=0", "\\frac{", "\\sum_{", "Σ_{{", " ", "P(a=0)*", "= 0.1 ", "P(a=0) = ", "[", "|", "**", "\n",
    "sum over a and ", "P(a=0)*(0.5+(", "0.5*(0.25+(", "P(c=0|a=0) = P(c=0|a=0)+P(a=0) = 0.5*0.5\n", "P(a|a) Σ_{a,c} ",
    "- 1", "9", "P(c=0) = 0.1+0.2+0.3*0.4\n", "/2",
)  # fmt: skip


@pytest.mark.parametrize("piece", [*PIECES[:3], *(pytest.param(p, marks=SLOW) for p in PIECES[3:])])
def test_no_text_hangs_it(piece: str) -> None:
    model = discrete_model({
        "a": ([], [0.5, 0.5]), "b_1": (["a"], np.full((2, 2), 0.5)), "c": (["a", "b_1"], np.full((2, 2, 2), 0.5)),
    })  # fmt: skip
    analyst, start = Analyst(printed(model)), time.process_time()
    question = Question("observational", "c", {"a": 0})
    for text in (piece * (300_000 // len(piece)), "P(c=0) = " + piece * 200 + "0.5" + ")" * 200 + " = 0.5"):
        analyst.analyse(question, "[0.50, 0.50]", text)
    assert time.process_time() - start < 20
