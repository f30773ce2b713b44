"""The rules and the splits of the study: what is trained on, and tests that differ from it in one named way each.

Splits share no pair of a rule and its cards: each pair belongs, by a hash of itself, to one split's share of all pairs,
so the size of one split never changes another. Every token and every position of a test also occurs in training, under
rules that are not tested there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from interp_kit.core.identity import derive_seed
from interp_kit.tasks.cards.deals import ABSENT, Deals, draw, solve
from interp_kit.tasks.cards.rules import (
    COLOURS,
    IN_DISTRIBUTION,
    ODD_MINUS_EVEN,
    RED_MINUS_BLUE,
    STYLES,
    SUM_GREATER_THAN_4,
    VALUES,
    Clause,
    Rule,
    by_name,
    combined,
    difference,
    single,
)

NEW_COLOURS = (difference("GREEN", "YELLOW"),)
NEW_SIGNS = (combined(Clause(-1, "GREEN"), Clause(-1, "YELLOW")),)
COMPOSITIONAL = (difference("RED", "BLUE", "> 4"), difference("RED", "BLUE", None, "<= 3"))
CLASSIFICATION = (RED_MINUS_BLUE.classified(0), SUM_GREATER_THAN_4.classified(15), ODD_MINUS_EVEN.classified(0))
_UNTRAINED = (("RED", "BLUE"), ("GREEN", "YELLOW"))  # an ID rule, and the difference that is tested
_PAIRS = tuple(permutations(COLOURS, 2))
_UNSEEN = {Clause(1, "RED", "> 4"), Clause(-1, "BLUE", "<= 3")}  # clauses of COMPOSITIONAL
_TESTS = ("> 4", "<= 3", "even", "odd")
_OPPOSITE = (("> 4", "<= 3"), ("<= 3", "> 4"), ("even", "odd"), ("odd", "even"))
SUPPORT_SINGLE = (
    *(single(colour) for colour in COLOURS),
    *(combined(Clause(-1, colour)) for colour in COLOURS),
    *(single(None, test) for test in ("<= 3", "> 6", "even", "odd")),
    *(single(colour, None, "count") for colour in COLOURS),
    *(single(c, t) for c in COLOURS for t in _TESTS if (c, t) not in (("RED", "> 4"), ("BLUE", "<= 3"))),
)
SUPPORT_PAIRS = (
    *(difference(*pair) for pair in _PAIRS if pair not in _UNTRAINED),
    *(combined(Clause(-1, b), Clause(1, a)) for a, b in _PAIRS if (a, b) not in _UNTRAINED),
    *(combined(Clause(1, a), Clause(1, b)) for a, b in _PAIRS if {a, b} != {"GREEN", "YELLOW"}),
)
SUPPORT_TESTED_PAIRS = tuple(
    rule
    for pair in _PAIRS
    for tests in _OPPOSITE
    if (rule := difference(*pair, *tests)) and not _UNSEEN & set(rule.clauses)
)
SUPPORT = (*SUPPORT_SINGLE, *SUPPORT_PAIRS, *SUPPORT_TESTED_PAIRS)
SUPPORT_CLASSIFIED = (
    *(single(colour).classified(5) for colour in COLOURS),
    *(single(None, test).classified(15) for test in ("even", "odd")),
    *(difference(*pair).classified(0) for pair in (("RED", "GREEN"), ("YELLOW", "BLUE"))),
)
RULES = (*IN_DISTRIBUTION, *NEW_COLOURS, *NEW_SIGNS, *COMPOSITIONAL, *CLASSIFICATION, *SUPPORT, *SUPPORT_CLASSIFIED)
SHARES = 1000  # of all pairs of a rule and its cards


@dataclass(frozen=True)
class Part:
    """Deals drawn alike: rules, numbers of cards and wordings, each uniformly.

    Attributes:
        rules: Names of the rules.
        cards: Least and greatest number of cards.
        styles: Wordings, of STYLES.
        weight: Share of the split's examples, in proportion to those of its other parts.
    """

    rules: tuple[str, ...]
    cards: tuple[int, int] = (3, 6)
    styles: tuple[str, ...] = ("canonical",)
    weight: float = 1.0


@dataclass(frozen=True)
class Split:
    """Content of a split.

    Attributes:
        name: Its name, which also decides its random stream.
        parts: What its examples are drawn from.
        shares: (first, last) thousandths of all pairs of rule and cards that are its own; None takes any.
        answers: Least and greatest answer; None for any.
        differs: In which way it differs from training, in words.
    """

    name: str
    parts: tuple[Part, ...]
    shares: tuple[int, int] | None = None
    answers: tuple[int, int] | None = None
    differs: str = ""

    @property
    def cards(self) -> tuple[int, int]:
        """Least and greatest number of cards."""
        return min(part.cards[0] for part in self.parts), max(part.cards[1] for part in self.parts)

    @property
    def weights(self) -> list[tuple[str, float]]:
        """Rule -> its share of the examples."""
        whole, found = sum(part.weight for part in self.parts), dict[str, float]()
        for part in self.parts:
            for rule in part.rules:
                found[rule] = found.get(rule, 0.0) + part.weight / whole / len(part.rules)
        return list(found.items())

    def deals(self, rng: np.random.Generator, n: int, rules: Sequence[Rule], most: int) -> Deals:
        """n independent deals, in random order. Raises ValueError if almost no deal is the split's own."""
        weights = np.array([part.weight for part in self.parts])
        which = rng.choice(len(self.parts), n, p=weights / weights.sum())
        drawn = [
            self._drawn(rng, part, int((which == k).sum()), rules, most)
            for k, part in enumerate(self.parts)
            if (which == k).any()
        ]
        return Deals.joined(drawn).take(rng.permutation(n))

    def _drawn(self, rng: np.random.Generator, part: Part, n: int, rules: Sequence[Rule], most: int) -> Deals:
        index = np.array([list(rules).index(by_name(rules, name)) for name in part.rules])
        styles = np.array([STYLES.index(style) for style in part.styles])
        share = 1.0 if self.shares is None else (self.shares[1] - self.shares[0] + 1) / SHARES
        found, kept = [], 0
        for _ in range(50):
            batch = draw(rng, int((n - kept) / share * 1.2) + 16, index, part.cards, most, styles)
            batch = batch.take(np.flatnonzero(self._own(batch, rules)))
            found.append(batch.take(np.arange(min(len(batch), n - kept))))
            kept += len(found[-1])
            if kept == n:
                return Deals.joined(found)
        raise ValueError(f"split {self.name!r}: only {kept} of {n} deals found, so its conditions leave almost none")

    def _own(self, deals: Deals, rules: Sequence[Rule]) -> np.ndarray:
        """(n,) whether a deal may be in this split."""
        own = np.ones(len(deals), dtype=bool)
        if self.shares is not None:
            share = shares_of(deals, rules)
            own &= (self.shares[0] <= share) & (share <= self.shares[1])
        if self.answers is not None:
            answer = solve(rules, deals, 0)["answer"]
            own &= (self.answers[0] <= answer) & (answer <= self.answers[1])
        return own


def shares_of(deals: Deals, rules: Sequence[Rule]) -> np.ndarray:
    """(n,) the share from 0 to 999 that each pair of a rule and its cards belongs to, whatever the wording."""
    seeds = np.array([derive_seed(0, "cards share", rule.name) for rule in rules], dtype=np.uint64)
    mixed = seeds[deals.rule]
    for i in range(deals.colour.shape[1]):
        card = (deals.colour[:, i] * len(VALUES) + deals.value[:, i] + 1).astype(np.uint64)
        following = _mixed(mixed + card)
        mixed = np.where(deals.colour[:, i] == ABSENT, mixed, following)
    return (mixed >> np.uint64(20)) % np.uint64(SHARES)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele et al. 2014), whose output bits depend on all input bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _names(rules: Sequence[Rule]) -> tuple[str, ...]:
    return tuple(rule.name for rule in rules)


_ID = _names(IN_DISTRIBUTION)
_LONG = tuple(rule for rule in SUPPORT if len(rule.clauses) == 2 or rule.clauses[0].test)
TRAIN = Split(
    "train",
    (
        Part((RED_MINUS_BLUE.name,), (1, 6), weight=0.17),
        Part((SUM_GREATER_THAN_4.name,), (1, 6), weight=0.11),
        Part((ODD_MINUS_EVEN.name,), (1, 6), weight=0.28),
        Part(_names(SUPPORT_PAIRS), (1, 6), weight=0.11),
        Part(_names(SUPPORT_PAIRS), (1, 6), STYLES, weight=0.05),
        Part(_names(SUPPORT_TESTED_PAIRS), (1, 6), weight=0.06),
        Part(_names(SUPPORT_TESTED_PAIRS), (1, 6), STYLES, weight=0.03),
        Part(_names(SUPPORT_SINGLE), (1, 6), STYLES, weight=0.09),
        Part(_names(SUPPORT_CLASSIFIED), (1, 6), weight=0.03),
        Part(_names(_LONG), (10, 15), STYLES, weight=0.07),
    ),
    shares=(300, 999),
)
SPLITS = {
    split.name: split
    for split in (
        TRAIN,
        Split("val", (Part(_ID),), (0, 29)),
        Split("id_test", (Part(_ID),), (30, 79), differs="nothing: the rules and numbers of cards of training"),
        Split("ood_new_colors", (Part(_names(NEW_COLOURS)),), (80, 129), differs="a difference of colours that is new"),
        Split("ood_new_signs", (Part(_names(NEW_SIGNS)),), (80, 129), differs="two colours that are both subtracted"),
        Split("ood_compositional", (Part(_names(COMPOSITIONAL)),), (130, 179), differs="a test on one of two colours"),
        Split("ood_paraphrase", (Part(_ID, styles=STYLES[1:]),), (180, 229), differs="the rules in other words"),
        Split("ood_length_shift", (Part(_ID, (10, 15)),), (230, 279), (-30, 50), "10 to 15 cards under these rules"),
        Split("ood_classification", (Part(_names(CLASSIFICATION)),), (280, 299), differs="BIG or SMALL"),
    )
}


def split_named(name: str) -> Split:
    """The split of that name. Raises ValueError listing those there are."""
    if name not in SPLITS:
        raise ValueError(f"cards has no split {name!r}; it has {', '.join(SPLITS)}")
    return SPLITS[name]
