"""The verifier on a table of replies, and against floats, which decide wrongly at the edge."""

import random
from fractions import Fraction

import pytest

from interp_kit.tasks.graphs.questions.verifier import (
    THRESHOLDS,
    Score,
    accuracies,
    compute_score,
    distance,
    parse,
    score,
)

HALF = (Fraction(1, 2), Fraction(1, 2))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("ANSWER [0.50, 0.50]", HALF),
        ("so\n**ANSWER: [0.5,.5]**", HALF),
        ("**ANSWER**: [0.50,  0.50 ].", HALF),
        ("answer = [0.5, 0.500]", HALF),
        ("ANSWER:\n[ 0.5 ,0.5]", HALF),
        ("ANSWER [**0.5**, $0.5$]", HALF),
        ("ANSWER [0.1, 0.9] no: ANSWER [0.5, 0.5]", HALF),
        ("ANSWER [1]", (Fraction(1),)),
        ("ANSWER [1., 0]", (Fraction(1), Fraction(0))),
        ("ANSWER [[0.5, 0.5]]", HALF),
        ("ANSWER [0.5, 0.5] ANSWER [p0, p1]", None),  # the last one counts
        ("ANSWER 0.5, 0.5", None),
        ("[0.5, 0.5]", None),
        ("ANSWER [50%, 50%]", None),
        ("ANSWER [1/2, 1/2]", None),
        ("ANSWER [-0.5, 1.5]", None),
        ("ANSWER [0.5, nan]", None),
        ("ANSWER [0.5, 5e-1]", None),
        ("ANSWER [0.5, 0.5,]", None),
        ("ANSWER []", None),
        ("ANSWER [0.5, 0.5", None),
        ("ANSWER [٠.٥, 0.5]", None),
        ("", None),
    ],
)
def test_form_is_read_leniently_and_content_strictly(text: str, numbers: tuple[Fraction, ...] | None) -> None:
    assert parse(text) == numbers


@pytest.mark.parametrize(
    ("text", "reference", "soft", "strict"),
    [
        ("no idea", "[0.25, 0.75]", 0, 0),
        ("ANSWER [0.25]", "[0.25, 0.75]", 0.1, 0.1),
        ("ANSWER [0.25, 0.75]", "[0.25, 0.75]", 1, 1),
        ("ANSWER [0.24, 0.76]", "[0.25, 0.75]", 0.992, 1),
        ("ANSWER [0.23, 0.77]", "[0.25, 0.75]", 0.984, 0.2),
        ("ANSWER [0.239, 0.761]", "[0.25, 0.75]", 0.2 + 0.8 * 0.989, 0.2),
        ("ANSWER [0.2401, 0.7599]", "[0.25, 0.75]", 0.2 + 0.8 * 0.9901, 1),
        ("ANSWER [1, 0]", "[0.00, 1.00]", 0.2, 0.2),
        ("ANSWER [900, 900]", "[0.00, 1.00]", 0.2, 0.2),
        ("ANSWER [0.33, 0.33, 0.33]", "[0.34, 0.33, 0.33]", 0.996, 1),
        ("ANSWER [2]", "[2]", 1, 1),
        ("ANSWER [1]", "[2]", 0.2, 0.2),
        ("ANSWER [0, 1]", "[1]", 0.1, 0.1),
        ("ANSWER [1]", "[1.00]", 1, 1),
    ],
)
def test_rewards(text: str, reference: str, soft: float, strict: float) -> None:
    found = score(text, reference)
    assert (found.soft, found.strict) == (pytest.approx(soft, abs=1e-12), pytest.approx(strict, abs=1e-12))
    assert found.score == found.strict
    assert score(text, reference, "soft").score == found.soft


def test_the_edge_is_decided_in_integers_where_floats_fail() -> None:
    """Every two-digit answer one hundredth off is right; a strict comparison of floats would refuse some of them."""
    refused = 0
    for p in range(1, 100):
        reference = f"[{p / 100:.2f}, {(100 - p) / 100:.2f}]"
        for off in (-1, 0, 1):
            a = p + off
            assert score(f"ANSWER [{a / 100:.2f}, {(100 - a) / 100:.2f}]", reference).correct == 1.0
            refused += (abs(a / 100 - p / 100) + abs((100 - a) / 100 - (100 - p) / 100)) / 2 > 0.01
        for off in (-2, 2):
            a = p + off
            if 0 <= a <= 100:
                assert score(f"ANSWER [{a / 100:.2f}, {(100 - a) / 100:.2f}]", reference).correct == 0.0
    assert refused > 10


def test_thresholds_are_a_hundred_from_one_to_ten_hundredths() -> None:
    assert (len(THRESHOLDS), THRESHOLDS[0], THRESHOLDS[-1]) == (100, Fraction(1, 100), Fraction(1, 10))
    curve = accuracies([Fraction(0), Fraction(1, 100), Fraction(11, 1000), Fraction(1, 10), Fraction(1, 2), None])
    assert curve[0] == 2 / 6
    assert curve[1] == 2 / 6  # 12/1100 is below 11/1000
    assert curve[2] == 3 / 6
    assert curve[-1] == 4 / 6
    with pytest.raises(ValueError, match="at least one"):
        accuracies([])


def test_every_path_of_the_verl_function_has_the_same_scalar_keys() -> None:
    keys = set(Score.__dataclass_fields__)
    rng = random.Random(0)
    texts = ["", "ANSWER [", "ANSWER [0.5]", "ANSWER [0.5, 0.5]", "ANSWER [1, 2, 3]"]
    texts += ["".join(rng.choices("ANSWER[]0123., \n*", k=40)) for _ in range(300)]
    for text in texts:
        for mode in ("soft", "strict"):
            found = compute_score("graphs", text, "[0.50, 0.50]", {"id": "x"}, mode=mode, other=1)
            assert set(found) == keys
            assert all(type(value) is float for value in found.values())
            assert 0 <= found["score"] <= 1


def test_what_cannot_be_scored_says_so() -> None:
    with pytest.raises(ValueError, match="mode is 'hard': expected one of soft, strict"):
        score("ANSWER [1]", "[1]", "hard")
    for reference in ("0.5, 0.5", "[0.5, 0.5]", "[1, 2]", "[]", "[p]"):
        with pytest.raises(ValueError, match=r"expected \[0\.25, 0\.75\] with two digits"):
            distance(HALF, reference)
