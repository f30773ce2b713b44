"""The card game as a task: rules over coloured cards, with every intermediate variable at a named position."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_kit.core.config import listed
from interp_kit.core.example import Example, Field
from interp_kit.core.identity import derive_seed
from interp_kit.core.task import SAMPLE, AbstractTask
from interp_kit.tasks.cards.catalogue import RULES, SPLITS, Split, split_named
from interp_kit.tasks.cards.deals import ABSENT, BIG, SMALL, Deals, intervened, solve
from interp_kit.tasks.cards.rules import COLOURS, STYLES, VALUES, Rule, by_name
from interp_kit.tasks.cards.text import END_OF_TEXT, TextFormat, build_tokenizer, prompt_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST = 15  # cards of the longest deal
ATTEMPTS = 60  # draws per pair that is asked for


class CardsTask(AbstractTask):
    """Add up cards by a rule that the prompt states.

    Inputs are `rule` (its index), `count` (of cards) and `card1.colour`, `card1.value`, …; beyond the last card they
    are -1. From them follow, per card, `matched1` (whether it counts), `contribution1` and `running1` (the total after
    it); the sum per colour (`sum_RED`, …), the aggregate of each clause (`clause1`, …), `total` and `answer` (BIG is
    1000 and SMALL -1000).

    Args:
        split: Which examples are drawn: a split's name ("train", "id_test", "ood_length_shift", …), or a Split of your
            own.
        rules: All rules that the vocabulary and `rule` labels cover. A rule of your own is one line:
            `Rule("mine", (Clause(2, "RED"), Clause(-1, test="> 6")))`.
        cards: "whole" writes one token per card, "split" two (colour, value).
        most: Cards of the longest deal.

    Raises:
        ValueError: An unknown split, or one that names rules which are not among `rules` or deals too long.
    """

    name = "cards"
    question = ("running2", "answer")

    def __init__(
        self,
        split: str | Split = "id_test",
        rules: Sequence[Rule] = RULES,
        cards: str = "whole",
        most: int = MOST,
    ) -> None:
        if len({rule.name for rule in rules}) < len(rules) or not rules:
            raise ValueError("rules must be at least one, each of its own name")
        self.rules, self.most = tuple(rules), most
        self.split = split_named(split) if isinstance(split, str) else split
        if not 1 <= self.split.cards[0] <= self.split.cards[1] <= most:
            raise ValueError(f"split {self.split.name!r} deals {self.split.cards} cards; this task has 1 to {most}")
        self._drawn = [(self.rules.index(by_name(self.rules, name)), weight) for name, weight in self.split.weights]
        self.format = TextFormat(self.rules, most, cards)
        self.clauses = max(len(rule.clauses) for rule in self.rules)
        cards_in = [f"card{i}.{part}" for i in range(1, most + 1) for part in ("colour", "value")]
        self.inputs = ("rule", "count", *cards_in)
        per_card = [f"{name}{i}" for i in range(1, most + 1) for name in ("matched", "contribution", "running")]
        sums = [f"sum_{colour}" for colour in COLOURS]
        terms = [f"clause{j + 1}" for j in range(self.clauses)]
        self.variables = (*self.inputs, *per_card, *sums, *terms, "total", "classifies", "answer")
        amounts = ("contribution", "running", "sum_", "clause", "total")
        self.numeric = tuple(name for name in self.variables if name.startswith(amounts))
        self.vocabulary = self.format.pieces
        self.pad = self.format.token_id[END_OF_TEXT]
        limit, ids = self.format.limit, self.format.token_id
        answers = {**{n: f" {n}" for n in range(-limit, limit + 1)}, BIG: " BIG", SMALL: " SMALL"}
        self.fields = (Field("answer", "answer?", tuple(answers), tuple(ids[text] for text in answers.values())),)

    def options(self) -> dict[str, Any] | None:
        """See AbstractTask: known for the rules and splits of the study."""
        if self.rules != RULES or SPLITS.get(self.split.name) != self.split:
            return None
        return {"split": self.split.name, "cards": self.format.cards, "most": self.most}

    def meaning(self) -> dict[str, Any]:
        """The vocabulary alone: a prompt states its rule in words, so other rules give no token another sense."""
        return {"vocabulary": list(self.vocabulary)}

    def enumerate(self) -> list[Example]:
        """Raises ValueError: there are more deals than can be listed."""
        raise ValueError(f"deals of cards are too many to list: {SAMPLE}")

    def sample(self, n: int, seed: int) -> list[Example]:
        """n independent examples of the split."""
        return self.examples(self.deals(n, seed))

    def deals(self, n: int, seed: int) -> Deals:
        """n independent deals of the split, as arrays. Raises ValueError for n below 1."""
        if n < 1:
            raise ValueError(f"a sample needs at least one example, got n = {n}")
        rng = np.random.default_rng(derive_seed(seed, "cards", self.split.name))
        return self.split.deals(rng, n, self.rules, self.most)

    def encode(self, deals: Deals) -> tuple[np.ndarray, np.ndarray]:
        """Deals as (n, longest) token ids, right-padded, and (n,) lengths of the prompts."""
        return self.format.tokens(deals, solve(self.rules, deals, self.clauses)["answer"])

    def examples(self, deals: Deals) -> list[Example]:
        """The examples of these deals."""
        labels = self.labels(deals)
        tokens, prompts = self.format.tokens(deals, labels["answer"])
        rows = zip(*(column.tolist() for column in labels.values()), strict=True)
        found = []
        for row, values in enumerate(rows):
            length, count = int(prompts[row]), int(deals.count[row])
            rule, style = self.rules[deals.rule[row]], STYLES[deals.style[row]]
            cards = [(COLOURS[deals.colour[row, i]], int(deals.value[row, i])) for i in range(count)]
            start = length - 1 - self.format.per_card * count
            answer = self.vocabulary[tokens[row, length]]
            found.append(
                Example(
                    text=prompt_text(rule, style, cards) + answer,
                    tokens=tuple(tokens[row, : length + 2].tolist()),
                    prompt_length=length,
                    positions=self.format.positions(start, count),
                    labels=dict(zip(labels, values, strict=True)),
                )
            )
        return found

    def labels(self, deals: Deals) -> dict[str, np.ndarray]:
        """Every variable of the deals, (n,) each, in the order of `variables`."""
        found = {"rule": deals.rule, "count": deals.count}
        for i in range(self.most):
            found |= {f"card{i + 1}.colour": deals.colour[:, i], f"card{i + 1}.value": deals.value[:, i]}
        found |= solve(self.rules, deals, self.clauses)
        return {name: found[name] for name in self.variables}

    def example(self, rule: str, cards: Sequence[tuple[str, int]], style: str = "canonical") -> Example:
        """The example of a rule by name and cards like ("RED", 4). Raises ValueError saying what is wrong."""
        index = self.rules.index(by_name(self.rules, rule))
        if style not in STYLES:
            raise ValueError(f"a rule has no style {style!r}; it must be one of {', '.join(STYLES)}")
        if not 1 <= len(cards) <= self.most:
            raise ValueError(f"a deal has 1 to {self.most} cards, got {len(cards)}")
        for card in cards:
            if card[0] not in COLOURS or card[1] not in VALUES:
                raise ValueError(f"no card {card!r}: a colour of {', '.join(COLOURS)}, a value from 0 to 9")
        padding = [ABSENT] * (self.most - len(cards))
        return self.examples(
            Deals(
                rule=np.array([index]),
                style=np.array([STYLES.index(style)]),
                count=np.array([len(cards)]),
                colour=np.array([[*(COLOURS.index(colour) for colour, _ in cards), *padding]]),
                value=np.array([[*(int(value) for _, value in cards), *padding]]),
            )
        )[0]

    def intervene(self, example: Example, do: Mapping[str, int]) -> dict[str, int]:
        """Every variable of the example's world under do(variable = value).

        Set can be inputs, `contribution`, `running` (which moves all that is added after it), `clause` (which moves the
        total by its weight), `total` and `answer`; the others lie on no way to the answer.

        Raises:
            ValueError: An unknown variable, one that lies on no way to the answer, or a value that it cannot have.
        """
        for name, value in do.items():
            if name not in self.variables:
                raise ValueError(f"cards has no variable {name!r}; it has {listed(self.variables, name)}")
            if name.startswith(("matched", "sum_", "classifies")):
                raise ValueError(f"{name} lies on no way to the answer: set contribution, running, clause or a card")
            self._check_value(name, int(value))
        labels = {**example.labels, **{name: int(value) for name, value in do.items() if name in self.inputs}}
        colour, value = (
            np.array([[labels[f"card{i}.{part}"] for i in range(1, self.most + 1)]]) for part in ("colour", "value")
        )
        count = labels["count"]
        if ((colour == ABSENT) != (value == ABSENT)).any() or (colour[0] != ABSENT).sum() != count:
            raise ValueError("do() may change cards and their number only together: count, colour and value must agree")
        one = np.zeros(1, dtype=int)
        deals = Deals(one + labels["rule"], one, one + count, colour, value)
        solved = {name: int(column[0]) for name, column in self.labels(deals).items()}
        inner = {name: int(value) for name, value in do.items() if name not in self.inputs}
        return intervened(self.rules[labels["rule"]], solved, inner, self.most)

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The closed tokenizer, ids as in `vocabulary`."""
        return build_tokenizer(self.format)

    def _check_value(self, name: str, value: int) -> None:
        ranges = {"rule": range(len(self.rules)), "count": range(1, self.most + 1)}
        if name.endswith(".colour"):
            ranges[name] = range(ABSENT, len(COLOURS))
        elif name.endswith(".value"):
            ranges[name] = range(ABSENT, len(VALUES))
        if name in ranges and value not in ranges[name]:
            raise ValueError(f"{name} cannot be {value}; it is from {ranges[name][0]} to {ranges[name][-1]}")
        if name == "answer" and value not in self.fields[0].values:
            raise ValueError(f"answer cannot be {value}: there is no token for it")

    def _matching(
        self,
        variable: str,
        target: str,
        hold: Sequence[str] | None,
        limit: int | None,
        seed: int,
        same_prompt_length: bool = False,
    ) -> list[tuple[Example, Example]]:
        """Pairs of one deal and the same with one card, or the rule, replaced by another of equal length."""
        self.check_names(variable, target, hold)
        limit = min(limit or 256, 4096)
        rng = np.random.default_rng(derive_seed(seed, "cards pairs", self.split.name, variable))
        found: list[tuple[Example, Example]] = []
        for _ in range(ATTEMPTS):
            clean = self.split.deals(rng, max(256, limit), self.rules, self.most)
            other = self._swapped_rule(rng, clean) if variable == "rule" else _swapped_card(rng, clean, variable)
            before, after = self.labels(clean), self.labels(other)
            good = (before[variable] != after[variable]) & (before[target] != after[target])
            for name in hold or ():
                good &= before[name] == after[name]
            rows = np.flatnonzero(good)[: limit - len(found)]
            if len(rows):
                found += zip(self.examples(clean.take(rows)), self.examples(other.take(rows)), strict=True)
            if len(found) == limit:
                return found
        if not found:
            held = f" with {', '.join(hold)} held" if hold else ""
            raise ValueError(
                f"no such pair of {self.split.name} deals: of {ATTEMPTS * max(256, limit)} with one change, none"
                f" differs in {variable!r} and in the answer of {target!r}{held}"
            )
        return found

    def _swapped_rule(self, rng: np.random.Generator, deals: Deals) -> Deals:
        """The same cards under another rule of the split whose text is as long."""
        drawn = [index for index, _ in self._drawn]
        rule = deals.rule.copy()
        for row, (now, style) in enumerate(zip(deals.rule.tolist(), deals.style.tolist(), strict=True)):
            length = {index: len(self.format.prefix(index, style)) for index in drawn}
            if others := [index for index in drawn if index != now and length[index] == length[now]]:
                rule[row] = rng.choice(others)
        return Deals(rule, deals.style, deals.count, deals.colour, deals.value)


def _swapped_card(rng: np.random.Generator, deals: Deals, variable: str) -> Deals:
    """The same deals with one card changed in the part that the variable names, or anew."""
    n, row = len(deals), np.arange(len(deals))
    colour, value = deals.colour.copy(), deals.value.copy()
    named = variable.startswith("card") and "." in variable
    at = np.full(n, int(variable.split(".")[0][4:]) - 1) if named else rng.integers(deals.count)
    at = np.minimum(at, deals.count - 1)
    if not variable.endswith(".value"):
        colour[row, at] = rng.integers(len(COLOURS), size=n)
    if not variable.endswith(".colour"):
        value[row, at] = rng.integers(len(VALUES), size=n)
    return Deals(deals.rule, deals.style, deals.count, colour, value)
