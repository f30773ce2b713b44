"""The one verifier of the card game: evaluation, reward and the environment read completions through it."""

import re
from dataclasses import dataclass

from interp_kit.tasks.cards.deals import BIG, SMALL
from interp_kit.tasks.cards.text import END_OF_TEXT

_ANSWER = re.compile(r"-?\d+|BIG|SMALL")
LONGEST = 12  # characters of an answer; a longer number is not an answer, and is never converted


def parse(completion: str) -> int | None:
    """The answer that a completion gives, or None where it is not an answer.

    Everything up to the first end-of-text token counts: an integer in plain digits, BIG or SMALL, spaces around it.
    """
    text = completion.split(END_OF_TEXT, 1)[0].strip(" \n")
    if len(text) > LONGEST or not text.isascii() or not _ANSWER.fullmatch(text):
        return None
    return {"BIG": BIG, "SMALL": SMALL}[text] if text in ("BIG", "SMALL") else int(text)


@dataclass(frozen=True)
class Reward:
    """The reward of a completion: 1 for the right answer, and a bonus for one of the right kind.

    Attributes:
        format_bonus: Added where the completion is an integer, or BIG or SMALL, as the rule asks; 0 by default.
    """

    format_bonus: float = 0.0

    def __call__(self, completion: str, answer: int) -> float:
        """The reward of a completion, given the true answer."""
        given = parse(completion)
        if given is None:
            return 0.0
        same_kind = (given in (BIG, SMALL)) == (answer in (BIG, SMALL))
        return float(given == answer) + self.format_bonus * same_kind
