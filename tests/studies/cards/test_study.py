"""The deals that the study looks at."""

import pytest

from interp_kit.studies.cards.study import distinct
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.catalogue import Part, Split

ONE_CARD = Split("one card of one rule", (Part(rules=("red_minus_blue",), cards=(1, 1)),))


def test_no_deal_is_drawn_twice() -> None:
    """Two sets of components are compared on equally many examples, and a repeated one is not an example more."""
    plain = CardsTask(ONE_CARD).sample(20, 7)
    assert len({example.tokens for example in plain}) < 20  # a plain sample does repeat
    assert len({example.tokens for example in distinct(ONE_CARD, 10, 7)}) == 10


def test_too_few_distinct_deals_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"hold only \d+ distinct texts"):
        distinct(ONE_CARD, 5000, 7)
