"""Deals of cards, and every variable that a rule computes from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_kit.tasks.cards.rules import COLOURS, VALUES, Rule

BIG, SMALL = 1000, -1000  # the answers of a rule with a threshold, among the integers
ABSENT = -1


@dataclass(frozen=True)
class Deals:
    """n deals of up to `most` cards, each under a rule.

    Attributes:
        rule: (n,) Index into the rules.
        style: (n,) Index into STYLES, how the rule is worded.
        count: (n,) Number of cards.
        colour: (n, most) Index into COLOURS, ABSENT beyond `count`.
        value: (n, most) From 0 to 9, ABSENT beyond `count`.
    """

    rule: np.ndarray
    style: np.ndarray
    count: np.ndarray
    colour: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.rule)

    def take(self, rows: np.ndarray) -> "Deals":
        """These deals, in this order."""
        return Deals(self.rule[rows], self.style[rows], self.count[rows], self.colour[rows], self.value[rows])

    @classmethod
    def joined(cls, parts: Sequence["Deals"]) -> "Deals":
        """Deals of the same width, one after the other."""
        columns = ("rule", "style", "count", "colour", "value")
        return cls(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))


def draw(
    rng: np.random.Generator, n: int, rules: np.ndarray, cards: tuple[int, int], most: int, styles: np.ndarray
) -> Deals:
    """n independent deals: rule, wording, number of cards and each card drawn uniformly.

    Args:
        rng: Source of randomness.
        n: How many.
        rules: Indices of the rules to draw from.
        cards: Least and greatest number of cards.
        most: Width of the arrays.
        styles: Indices of the wordings to draw from.
    """
    count = rng.integers(cards[0], cards[1], size=n, endpoint=True)
    absent = np.arange(most) >= count[:, None]
    colour = np.where(absent, ABSENT, rng.integers(len(COLOURS), size=(n, most)))
    value = np.where(absent, ABSENT, rng.integers(len(VALUES), size=(n, most)))
    return Deals(rng.choice(rules, n), rng.choice(styles, n), count, colour, value)


def solve(rules: Sequence[Rule], deals: Deals, clauses: int) -> dict[str, np.ndarray]:
    """Every variable of the deals by name, (n,) each.

    Per card i from 1: matched (whether it counts), contribution (what it adds to the total) and running (the total
    after it; the final total beyond the last card). Then the sum of all cards per colour, the aggregate of each clause
    (0 where the rule has fewer), the total, whether the rule classifies, and the answer (BIG, SMALL or the total).

    Args:
        rules: The rules that `deals.rule` points into.
        deals: What was dealt.
        clauses: How many clause variables there are.
    """
    colour, value = deals.colour, deals.value
    present = colour != ABSENT
    worth = np.stack([rule.worth for rule in rules])
    counts = np.stack([np.any([clause.passes for clause in rule.clauses], axis=0) for rule in rules])
    row = deals.rule[:, None]
    contribution = worth[row, colour, value] * present
    matched = counts[row, colour, value] & present
    running = contribution.cumsum(1)
    total = running[:, -1]
    found: dict[str, np.ndarray] = {}
    for i in range(colour.shape[1]):
        found |= {f"matched{i + 1}": matched[:, i].astype(int), f"contribution{i + 1}": contribution[:, i]}
        found[f"running{i + 1}"] = running[:, i]
    for k, name in enumerate(COLOURS):
        found[f"sum_{name}"] = (value * (colour == k)).sum(1)
    for j in range(clauses):
        amounts = np.stack([r.clauses[j].amount if j < len(r.clauses) else 0 * r.worth for r in rules])
        found[f"clause{j + 1}"] = (amounts[row, colour, value] * present).sum(1)
    found["total"] = total
    threshold = np.array([ABSENT if rule.threshold is None else rule.threshold for rule in rules])[deals.rule]
    classifies = np.array([rule.threshold is not None for rule in rules])[deals.rule]
    found["classifies"] = classifies.astype(int)
    found["answer"] = np.where(classifies, np.where(total > threshold, BIG, SMALL), total)
    return found


def intervened(rule: Rule, labels: Mapping[str, int], do: Mapping[str, int], most: int) -> dict[str, int]:
    """Values that follow from do(variable = value) on the way to the answer, given all other `labels` of the deal.

    The running total after card i is that before it plus card i's contribution, and the total is the last one plus what
    an intervened clause adds; so each variable can be set alone, and what lies before it stays as it was.
    """
    found = {**labels, **do}
    before = 0
    for i in range(1, most + 1):
        if f"running{i}" not in do:
            found[f"running{i}"] = before + found[f"contribution{i}"]
        before = found[f"running{i}"]
    if "total" not in do:
        shifts = (
            clause.weight * (do[name] - labels[name])
            for j, clause in enumerate(rule.clauses)
            if (name := f"clause{j + 1}") in do
        )
        found["total"] = before + sum(shifts)
    if "answer" not in do:
        total = found["total"]
        found["answer"] = total if rule.threshold is None else BIG if total > rule.threshold else SMALL
    return found
