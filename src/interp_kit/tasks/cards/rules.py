"""Rules of the card game as data: a weighted sum of clauses, optionally compared with a threshold."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

COLOURS = ("RED", "BLUE", "GREEN", "YELLOW")
VALUES = tuple(range(10))
STYLES = ("canonical", "sum", "score")  # the rule's own text and two paraphrases of it
_TEST = re.compile(r"(>|<=) (\d)|even|odd")


@dataclass(frozen=True)
class Clause:
    """One term of a rule: the sum (or the count) of the cards that pass, times a weight.

    Attributes:
        weight: Factor of the term, an integer from -9 to 9 other than 0.
        colour: One of COLOURS, or None for all.
        test: "> k", "<= k", "even", "odd", or None for every value.
        aggregate: "sum" of the values, or "count" of the cards.

    Raises:
        ValueError: An unknown colour, test or aggregate; a test that every value or none passes; a weight of 0.
    """

    weight: int = 1
    colour: str | None = None
    test: str | None = None
    aggregate: str = "sum"

    def __post_init__(self) -> None:
        if self.colour is not None and self.colour not in COLOURS:
            raise ValueError(f"a clause's colour is {self.colour!r}; it must be one of {', '.join(COLOURS)}")
        if self.test is not None and not (isinstance(self.test, str) and _TEST.fullmatch(self.test)):
            raise ValueError(f"a clause's test is {self.test!r}; it must be '> k', '<= k', 'even' or 'odd'")
        if self.aggregate not in ("sum", "count"):
            raise ValueError(f"a clause's aggregate is {self.aggregate!r}; it must be 'sum' or 'count'")
        if type(self.weight) is not int or not 1 <= abs(self.weight) <= 9:
            raise ValueError(f"a clause's weight is {self.weight!r}; it must be an integer from -9 to 9 other than 0")
        passing = self._passing_values.sum()
        if self.test is not None and passing in (0, len(VALUES)):
            which = "every" if passing else "no"
            raise ValueError(f"a clause's test {self.test!r} means nothing: {which} value from 0 to 9 passes it")

    @cached_property
    def _passing_values(self) -> np.ndarray:
        values = np.array(VALUES)
        match self.test and self.test.split():
            case None:
                return np.ones(len(VALUES), dtype=bool)
            case [">", k]:
                return values > int(k)
            case ["<=", k]:
                return values <= int(k)
            case ["even"]:
                return values % 2 == 0
            case _:
                return values % 2 == 1

    @cached_property
    def passes(self) -> np.ndarray:
        """(colour, value) True where such a card passes."""
        colours = np.array([self.colour in (None, colour) for colour in COLOURS])
        return colours[:, None] & self._passing_values

    @cached_property
    def amount(self) -> np.ndarray:
        """(colour, value) what such a card adds to the aggregate."""
        return self.passes * (np.array(VALUES) if self.aggregate == "sum" else 1)

    def cards(self) -> str:
        """The cards that pass, in words: "RED numbers greater than 4", "odd numbers", "BLUE cards"."""
        parity = self.test if self.test in ("even", "odd") else None
        words = [self.colour, parity, "numbers" if self.aggregate == "sum" else "cards"]
        text = " ".join(word for word in words if word)
        if self.test and parity is None:
            sign, k = self.test.split()
            text += f" {'greater than' if sign == '>' else 'at most'} {k}"
        return text


@dataclass(frozen=True)
class Rule:
    """A rule: the total of its clauses, answered as a signed integer, or as BIG or SMALL.

    Attributes:
        name: Name for labels and tables.
        clauses: The terms of the total, at least one.
        threshold: BIG where the total exceeds it, else SMALL; None asks for the total itself.

    Raises:
        ValueError: No clauses, an empty name, or a threshold that no total of six cards can be on either side of.
    """

    name: str
    clauses: tuple[Clause, ...]
    threshold: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a rule needs a name")
        if not self.clauses or not all(isinstance(clause, Clause) for clause in self.clauses):
            raise ValueError(f"rule {self.name!r} needs at least one Clause, got {self.clauses!r}")
        if self.threshold is not None:
            worth = self.worth
            low, high = 6 * min(0, int(worth.min())), 6 * max(0, int(worth.max()))
            if type(self.threshold) is not int or not low <= self.threshold < high:
                raise ValueError(
                    f"rule {self.name!r} has the threshold {self.threshold!r}; totals of six cards are from {low} to"
                    f" {high}, so it must be an integer from {low} to {high - 1}"
                )

    @property
    def worth(self) -> np.ndarray:
        """(colour, value) what such a card contributes to the total."""
        return np.sum([clause.weight * clause.amount for clause in self.clauses], axis=0)

    def classified(self, threshold: int) -> "Rule":
        """The same total, answered with BIG or SMALL."""
        return replace(self, name=f"{self.name}?{threshold}", threshold=threshold)

    def text(self, style: str = "canonical") -> str:
        """The rule in English.

        Args:
            style: One of STYLES: the canonical text, or one of two paraphrases.

        Raises:
            ValueError: An unknown style.
        """
        if style not in STYLES:
            raise ValueError(f"a rule has no style {style!r}; it must be one of {', '.join(STYLES)}")
        if style == "canonical":
            text = " and ".join(_added(clause) for clause in self.clauses)
        elif style == "sum":
            first, *rest = self.clauses
            text = f"take {'minus ' if first.weight < 0 else ''}{_aggregated(first)}"
            text += "".join(f" {'plus' if clause.weight > 0 else 'minus'} {_aggregated(clause)}" for clause in rest)
        else:
            text = " and ".join(_scored(clause) for clause in self.clauses)
        if self.threshold is not None:
            text += f". Answer BIG if the total is above {self.threshold}, otherwise SMALL"
        return text[0].upper() + text[1:] + "."


def _times(clause: Clause) -> str:
    return f"{abs(clause.weight)} times " if abs(clause.weight) > 1 else ""


def _added(clause: Clause) -> str:
    what = f"all {clause.cards()}" if clause.aggregate == "sum" else f"the number of {clause.cards()}"
    return f"{'add' if clause.weight > 0 else 'subtract'} {_times(clause)}{what}"


def _aggregated(clause: Clause) -> str:
    return f"{_times(clause)}the {'sum' if clause.aggregate == 'sum' else 'number'} of {clause.cards()}"


def _scored(clause: Clause) -> str:
    what = "their value" if clause.aggregate == "sum" else "one"
    return f"{clause.cards()} score {'minus ' if clause.weight < 0 else ''}{_times(clause)}{what}"


def difference(plus: str, minus: str, test: str | None = None, minus_test: str | None = None) -> Rule:
    """Cards of one colour minus those of another, each with its test."""
    name = f"{plus.lower()}{_suffix(test)}_minus_{minus.lower()}{_suffix(minus_test)}"
    return Rule(name, (Clause(1, plus, test), Clause(-1, minus, minus_test)))


def combined(*clauses: Clause) -> Rule:
    """The total of these clauses, named by them: "minus_red_plus_blue_even"."""
    parts = []
    for clause in clauses:
        of = f"{clause.colour.lower() if clause.colour else 'all'}{_suffix(clause.test)}"
        parts.append(f"{'plus' if clause.weight > 0 else 'minus'}_{of}")
    return Rule("_".join(parts), clauses)


def single(colour: str | None = None, test: str | None = None, aggregate: str = "sum") -> Rule:
    """The sum (or the count) of the cards that pass one clause."""
    name = f"{aggregate}{'_' + colour.lower() if colour else ''}{_suffix(test)}"
    return Rule(name, (Clause(1, colour, test, aggregate),))


def _suffix(test: str | None) -> str:
    return "" if test is None else "_" + test.replace("> ", "greater_than_").replace("<= ", "at_most_")


RED_MINUS_BLUE = difference("RED", "BLUE")
SUM_GREATER_THAN_4 = single(None, "> 4")
ODD_MINUS_EVEN = Rule("odd_minus_even", (Clause(1, test="odd"), Clause(-1, test="even")))
IN_DISTRIBUTION = (RED_MINUS_BLUE, SUM_GREATER_THAN_4, ODD_MINUS_EVEN)


def by_name(rules: Sequence[Rule], name: str) -> Rule:
    """The rule of that name. Raises ValueError listing those there are."""
    for rule in rules:
        if rule.name == name:
            return rule
    raise ValueError(f"no rule {name!r}; there are {', '.join(rule.name for rule in rules)}")
