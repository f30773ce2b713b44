"""The one verifier of answers, for training, evaluation and files: lenient in form, strict in content.

An answer is `ANSWER [p1, p2, …]`, the last one of a text. Numbers are compared as decimals, never as floats: those of
two digits in integer hundredths, those of more digits exactly as they are written.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

MODES = ("soft", "strict")
PARSED, LENGTH, CONTENT = 0.1, 0.1, 0.8
TOLERANCE = Fraction(1, 100)
THRESHOLDS = tuple(Fraction(11 + k, 1100) for k in range(100))  # 0.01 to 0.1 in equal steps

_ANSWER = re.compile(r"ANSWER\W{0,12}?\[([^\[\]]*)\]", re.IGNORECASE)
_NUMBER = re.compile(r"\+?(?:[0-9]{1,6}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})")
_REFERENCE = re.compile(r"\[(?:[0-9]+|[01]\.[0-9]{2}(?:, [01]\.[0-9]{2})*)\]")


@dataclass(frozen=True)
class Score:
    """Score of an answer. Keys and types are the same for every text, also one without an answer.

    score: the reward, soft or strict; soft, strict: both; parsed, length: 1.0 if there is an answer, and one of the
    right length; correct: 1.0 within a TVD of 0.01; tvd: half the L1 distance to the reference, 1.0 at most and if
    there is nothing to compare.
    """

    score: float
    soft: float
    strict: float
    parsed: float
    length: float
    correct: float
    tvd: float


def parse(text: str) -> tuple[Fraction, ...] | None:
    """The numbers of the last `ANSWER [..]` in a text; None if there is none, or if it holds anything but decimals.

    Forms like `ANSWER: [..]`, `**ANSWER** [..]`, `[.2,.8]` and any case are read. Percentages, fractions, negative
    numbers and an empty list are not.
    """
    found = _ANSWER.findall(text)
    parts = [part.strip().strip("*$`").strip() for part in found[-1].split(",")] if found else []
    if not parts or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    return tuple(Fraction(part) for part in parts)


def distance(answer: Sequence[Fraction] | None, reference: str) -> Fraction | None:
    """TVD of an answer to the reference `[0.25, 0.75]`, or of a single value to the reference `[1]`, 0 or 1; None if
    there is no answer or one of another length.

    Raises ValueError for a reference that is neither.
    """
    if _REFERENCE.fullmatch(reference) is None:
        raise ValueError(f"the reference is {reference!r}: expected [0.25, 0.75] with two digits each, or a value [1]")
    right = [Fraction(part) for part in reference[1:-1].split(", ")]
    if answer is None or len(answer) != len(right):
        return None
    if "." not in reference:
        return Fraction(answer[0] != right[0])
    return sum((abs(a - b) for a, b in zip(answer, right, strict=True)), Fraction()) / 2


def score(text: str, reference: str, mode: str = "strict") -> Score:
    """The reward of a text: 0.1 for an answer, 0.1 for the right length, 0.8 for its content.

    Args:
        text: The reply. Its last `ANSWER [..]` counts.
        reference: The right answer, `[0.25, 0.75]`, or `[1]` for a value.
        mode: "soft": content is worth 0.8 * max(1 - TVD, 0); "strict": 0.8 if TVD <= 0.01.

    Raises:
        ValueError: for another mode, and a reference that cannot be read.
    """
    if mode not in MODES:
        raise ValueError(f"the mode is {mode!r}: expected one of {', '.join(MODES)}")
    answer = parse(text)
    found = distance(answer, reference)
    parsed, length = answer is not None, found is not None
    base = PARSED * parsed + LENGTH * length
    correct = found is not None and found <= TOLERANCE
    tvd = 1.0 if found is None else min(float(found), 1.0)
    soft, strict = base + CONTENT * (1 - tvd) * length, base + CONTENT * correct
    return Score(soft if mode == "soft" else strict, soft, strict, float(parsed), float(length), float(correct), tvd)


def accuracies(distances: Sequence[Fraction | None]) -> list[float]:
    """The share of answers within each of THRESHOLDS (100 from 0.01 to 0.1); None is within none.

    Raises ValueError for no answers.
    """
    if not distances:
        raise ValueError("no answers: an accuracy needs at least one")
    there = [found for found in distances if found is not None]
    return [sum(found <= threshold for found in there) / len(distances) for threshold in THRESHOLDS]


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    mode: str = "strict",
    **_: Any,
) -> dict[str, float]:
    """verl's `custom_reward_function`: the same numbers under the same keys for every text. See `score`."""
    return asdict(score(solution_str, ground_truth, mode))
