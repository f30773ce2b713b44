"""Text of a deal, and the closed tokenizer: one token per card and one per signed integer.

Rule: Add all numbers greater than 4.
Cards:
RED 4
YELLOW 6

Answer: 13<|endoftext|>
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from interp_kit.core.config import check_choice
from interp_kit.tasks.cards.deals import BIG, SMALL, Deals
from interp_kit.tasks.cards.rules import COLOURS, STYLES, VALUES, Rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
CARDS_AS = ("whole", "split")  # one token per card, or two
RULE, CARDS, ANSWER = "Rule:", "\nCards:", "\n\nAnswer:"
_PIECE = re.compile(rf"\n(?:{'|'.join(COLOURS)}) \d|Rule:|\nCards:|\n\nAnswer:| -?\d+| [A-Za-z]+|[.,]|<\|endoftext\|>")
_SPLIT_PIECE = re.compile(_PIECE.pattern.replace(r") \d|", ")|", 1))
WORDS = (
    "Add all and subtract numbers cards the number of Take sum minus plus score their value one times greater than at"
    " most odd even Answer if total is above otherwise Subtract take add"
)


def answer_text(answer: int) -> str:
    """An answer as the completion writes it: " 13", " -7", " BIG"."""
    return f" {'BIG' if answer == BIG else 'SMALL' if answer == SMALL else answer}"


def prompt_text(rule: Rule, style: str, cards: Sequence[tuple[str, int]]) -> str:
    """The prompt of a deal, up to and with `Answer:`."""
    lines = "".join(f"\n{colour} {value}" for colour, value in cards)
    return f"{RULE} {rule.text(style)}{CARDS}{lines}{ANSWER}"


class TextFormat:
    """Tokens and named positions of the card game's text; one name per token.

    Names: `rule:` and `rule1`, `rule2`, … are the words of the rule; `cards:` the header; `card3` the third card (with
    cards="split" its value, and `card3.colour` the token before it); `answer?` the token whose logits predict the
    answer, `answer` the answer, `end` the end-of-text token.
    """

    def __init__(self, rules: Sequence[Rule], most: int, cards: str = "whole") -> None:
        check_choice("cards", cards, CARDS_AS)
        self.rules, self.most, self.cards = tuple(rules), most, cards
        self.limit = most * max(max(VALUES), max(int(abs(rule.worth).max()) for rule in rules))
        self.pieces = tuple(dict.fromkeys(self._pieces()))
        self.token_id = {piece: i for i, piece in enumerate(self.pieces)}
        self._prefix: dict[tuple[int, int], tuple[int, ...]] = {}

    def _pieces(self) -> list[str]:
        words = [f" {word}" for text in (WORDS, *(rule.text(style) for rule in self.rules for style in STYLES))
                 for word in re.findall(r"[A-Za-z]+", text)]  # fmt: skip
        numbers = [f" {n}" for n in range(-self.limit, self.limit + 1)]
        if self.cards == "whole":
            cards = [f"\n{colour} {value}" for colour in COLOURS for value in VALUES]
        else:
            cards = [f"\n{colour}" for colour in COLOURS]
        colours = [f" {colour}" for colour in COLOURS]
        return [END_OF_TEXT, RULE, CARDS, ANSWER, ".", ",", *cards, *colours, " BIG", " SMALL", *numbers, *words]

    def split(self, text: str) -> list[str]:
        """The text as pieces of the vocabulary. Raises ValueError at the first character that begins none."""
        pattern, at, found = (_PIECE if self.cards == "whole" else _SPLIT_PIECE), 0, []
        while at < len(text):
            match = pattern.match(text, at)
            if match is None or match[0] not in self.token_id:
                raise ValueError(
                    f"no token of the card game begins at character {at} of {text[:60]!r}…: {text[at : at + 12]!r}"
                )
            found.append(match[0])
            at = match.end()
        return found

    def prefix(self, rule: int, style: int) -> tuple[int, ...]:
        """Token ids from `Rule:` to `Cards:`, by index of rule and style."""
        key = (int(rule), int(style))
        if key not in self._prefix:
            text = f"{RULE} {self.rules[key[0]].text(STYLES[key[1]])}{CARDS}"
            self._prefix[key] = tuple(self.token_id[piece] for piece in self.split(text))
        return self._prefix[key]

    @property
    def per_card(self) -> int:
        """Tokens per card."""
        return 1 if self.cards == "whole" else 2

    def tokens(self, deals: Deals, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whole texts as token ids.

        Args:
            deals: n deals.
            answers: (n,) The answer of each.

        Returns:
            (n, longest) ids, right-padded with end-of-text, and (n,) the length of each prompt.
        """
        end = self.token_id[END_OF_TEXT]
        card = self._card_ids(deals)
        answer = np.array([self.token_id[answer_text(int(a))] for a in answers], dtype=np.int64)
        heads = {key: self.prefix(*key) for key in set(zip(deals.rule.tolist(), deals.style.tolist(), strict=True))}
        starts = np.array([len(heads[key]) for key in zip(deals.rule.tolist(), deals.style.tolist(), strict=True)])
        prompts = starts + self.per_card * deals.count + 1
        found = np.full((len(deals), int(prompts.max()) + 2), end, dtype=np.int64)
        for (rule, style), head in heads.items():
            for count in np.unique(deals.count[(deals.rule == rule) & (deals.style == style)]):
                rows = np.flatnonzero((deals.rule == rule) & (deals.style == style) & (deals.count == count))
                stop = len(head) + self.per_card * int(count)
                found[rows, : len(head)] = head
                found[rows, len(head) : stop] = card[rows, : stop - len(head)]
                found[rows, stop] = self.token_id[ANSWER]
                found[rows, stop + 1] = answer[rows]
        return found, prompts

    def _card_ids(self, deals: Deals) -> np.ndarray:
        """(n, per_card * most) ids of the cards; beyond `count` they mean nothing."""
        if self.cards == "whole":
            table = np.array([[self.token_id[f"\n{c} {v}"] for v in VALUES] for c in COLOURS])
            return table[deals.colour, deals.value]
        colours = np.array([self.token_id[f"\n{c}"] for c in COLOURS])[deals.colour]
        values = np.array([self.token_id[f" {v}"] for v in VALUES])[deals.value]
        return np.stack([colours, values], axis=-1).reshape(len(deals), -1)

    @cache  # noqa: B019 (a format lives as long as its task)
    def positions(self, start: int, count: int) -> dict[str, int]:
        """Name -> index of every token, for a rule of `start` tokens with `Rule:` and `Cards:`, and `count` cards."""
        names = ["rule:", *(f"rule{i}" for i in range(1, start - 1)), "cards:"]
        for i in range(1, count + 1):
            names += [f"card{i}"] if self.cards == "whole" else [f"card{i}.colour", f"card{i}"]
        return {name: i for i, name in enumerate([*names, "answer?", "answer", "end"])}


def build_tokenizer(format: TextFormat) -> "PreTrainedTokenizerFast":
    """The closed tokenizer for Hugging Face, offline. Unknown text is an error, not <unk>."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pattern = _PIECE if format.cards == "whole" else _SPLIT_PIECE
    tokenizer = Tokenizer(models.WordLevel(vocab=format.token_id, unk_token="<not in the task's vocabulary>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern.pattern), behavior="isolated")  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([END_OF_TEXT])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
