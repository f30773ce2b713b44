"""Quizzes of one A and one B under several rules: two of them in two quizzes, or both at once in a third.

Five rules paint the same A and B and differ in f alone, so that such quizzes differ in what f_A shows and what f_B has
to be. A quiz of two rules at once is of no world; its answer is defined where the two rules change different cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.labels import altered
from interp_kit.tasks.culture.truth import changed
from interp_kit.tasks.culture.world import Array, Worlds, sample_worlds

PLAIN = ("replace_color", "translate", "frame", "detect", "contact")  # A and B: three rectangles, each of one colour
AT_ONCE = (("replace_color", "frame"), ("replace_color", "translate"), ("detect", "frame"))
DRAWN, ROUNDS = 200, 100  # worlds drawn at a time, and how many times, in search of those that both rules take


@dataclass(frozen=True)
class TwoRules:
    """n quizzes under a rule, and the same A and B under another. first, second: what made them."""

    first: Worlds
    second: Worlds

    def __len__(self) -> int:
        return len(self.first)

    def joined(self, other: "TwoRules") -> "TwoRules":
        """These quizzes, then the others."""
        return TwoRules(_joined(self.first, other.first), _joined(self.second, other.second))

    @property
    def apart(self) -> np.ndarray:
        """(n,) True where no cell of f_A and none of f_B is changed by both rules, and each changes some of both."""
        one, two = changed(self.first), changed(self.second)
        some = np.all(np.any(one, axis=2) & np.any(two, axis=2), axis=1)
        return some & ~np.any(one & two, axis=(1, 2))

    def both(self) -> Array:
        """(n, 404) quizzes whose f_A and f_B show what both rules change. Raises ValueError if they change the same
        cells."""
        if not self.apart.all():
            raise ValueError(
                f"quiz {int((~self.apart).argmax())}: both rules change the same cells, or one of them none"
            )
        shown, second = self.first.grids().copy(), self.second.grids()
        shown[:, 1::2] = np.where(changed(self.second), second[:, 1::2], shown[:, 1::2])
        return grids.compose(shown).astype(np.int64)


def two_rules(n: int, rules: Sequence[tuple[str, str]], rng: np.random.Generator, *, apart: bool = False) -> TwoRules:
    """Draw n quizzes and their counterparts under another rule, in turn of each pair in `rules`.

    Args:
        n: How many; an equal number of each pair, up to one.
        rules: (first, second), both of PLAIN.
        rng: Source of all draws.
        apart: Whether the two rules of a quiz have to change different cells.

    Returns:
        The quizzes, in the order of `rules`. All of them have another f_A and another f_B under the second rule.

    Raises:
        ValueError: A rule is not one of PLAIN, a pair names one twice, or too few quizzes are found.
    """
    for pair in rules:
        if not set(pair) <= set(PLAIN) or len(set(pair)) < 2:
            raise ValueError(f"rules {pair}: expected two different ones of {', '.join(PLAIN)}")
    if n < len(rules) or not rules:
        raise ValueError(f"{n} quizzes of {len(rules)} pairs of rules: at least one of each is needed")
    parts = [_of(n // len(rules) + (i < n % len(rules)), *pair, rng, apart) for i, pair in enumerate(rules)]
    found = parts[0]
    for part in parts[1:]:
        found = found.joined(part)
    return found


def _of(n: int, first: str, second: str, rng: np.random.Generator, apart: bool) -> TwoRules:
    found: TwoRules | None = None
    for _ in range(ROUNDS):
        # the rule that takes fewest quizzes is drawn, not altered to
        swap = second == "contact"
        drawn = sample_worlds(DRAWN, rng, [second if swap else first])
        other = altered(drawn, "task", rng, (first if swap else second,))
        pair = TwoRules(other, drawn) if swap else TwoRules(drawn, other)
        one, two = pair.first.grids(), pair.second.grids()
        taken = pair.first.accepted() & pair.second.accepted() & (one != two)[:, 1::2].any(2).all(1)
        rows = np.flatnonzero(taken & pair.apart if apart else taken)
        part = TwoRules(pair.first.take(rows), pair.second.take(rows))
        found = part if found is None else found.joined(part)
        if len(found) >= n:
            return TwoRules(found.first.take(np.arange(n)), found.second.take(np.arange(n)))
    raise ValueError(
        f"{first} and {second}: {0 if found is None else len(found)} of {n} quizzes found in {ROUNDS} draws"
    )


def _joined(one: Worlds, two: Worlds) -> Worlds:
    return Worlds(*(np.concatenate([getattr(w, name) for w in (one, two)]) for name in Worlds.__dataclass_fields__))
