"""Text of a trace as chains `P(..|..) = … = …`: lines become tokens, tokens expressions.

Every pass is linear in the length of the text, and nesting is bounded, so that no text can hang or overflow it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from interp_kit.tasks.graphs.traces.expressions import Expression, Number, Operation, Pairs, Sum, Term, operation
from interp_kit.tasks.graphs.traces.flatten import flat

LONGEST = 50_000  # Characters of a text that are read.
LONGEST_TERM = 200
DEEPEST = 40  # Parentheses inside of each other.
MOST_CHAINS = 2000
MOST_TOKENS = 4000  # Of a segment.

_WORDS = {
    "times": "*", "plus": "+", "minus": "-", "is": "=", "equals": "=", "gives": "=", "yields": "=", "makes": "=",
    "about": "", "approximately": "", "roughly": "", "around": "", "exactly": "", "simply": "", "just": "", "the": "",
    "value": "", "of": "", "therefore": "", "also": "",
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<term>(?<!\w)(?:Prob|Pr|P|p)\s*(?=\())"
    r"|(?P<number>(?:\d{1,15}(?:\.\d{1,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3}(?!\w))?(?:\s?%)?)(?!\w)"
    r"|(?P<sum>Σ⟦[^⟧]*⟧)|(?P<sign>[-+*/=()\[\],])|(?P<word>[^\W\d][\w'’-]*)|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Segment:
    """Expression between two signs of equality. line: its number, from 1; text: as read; several: the entries of a
    list, of which `expression` is then None."""

    line: int
    text: str
    expression: Expression | None
    several: tuple[Expression, ...] = ()


class _Token(NamedTuple):
    kind: str
    text: str
    line: int
    term: Term | None = None


def chains(text: str, names: Iterable[str]) -> Iterator[tuple[Segment, ...]]:
    """Chains of two or more segments, in the order of the text. names: of the variables.

    At most LONGEST characters are read, and MOST_CHAINS chains.
    """
    known = {_plain(name): name for name in names}
    count, run = 0, []
    for token in [*_joined(_tokens(text[:LONGEST], known)), _Token("break", "", 0)]:
        if token.kind != "break":
            run.append(token)
            continue
        for chain in _split(run):
            count += 1
            if count > MOST_CHAINS:
                return
            yield chain
        run = []


def _tokens(text: str, known: Mapping[str, str]) -> Iterator[_Token]:
    for number, raw in enumerate(text.splitlines(), start=1):
        line, at = flat(raw), 0
        while at < len(line):
            match = _TOKEN.match(line, at)
            assert match is not None  # the last alternative takes any character
            at, kind = match.end(), str(match.lastgroup)
            if kind == "space":
                continue
            if kind == "term":
                end = _closing(line, at)
                term = None if end is None else _term(line[at + 1 : end], known)
                if end is None or term is None:
                    yield _Token("break", "", number)
                    at = at if end is None else end + 1
                    continue
                yield _Token("term", line[match.start() : end + 1], number, term)
                at = end + 1
            elif kind == "word":
                sign = _WORDS.get(match[0].lower())
                if sign is None:
                    yield _Token("break", "", number)
                elif sign:
                    yield _Token("sign", sign, number)
            elif kind == "sum":
                named = [known[word] for word in re.findall(r"\w+", match[0].replace("_{", "")) if word in known]
                named = named or [known[_plain(w)] for w in re.findall(r"\w+", match[0]) if _plain(w) in known]
                yield _Token("sum", ",".join(dict.fromkeys(named)), number)
            else:
                yield _Token("break" if kind == "other" else kind, match[0], number)
        yield _Token("line", "", number)


def _joined(tokens: Iterator[_Token]) -> Iterator[_Token]:
    """Ends of lines become breaks, except beside a sign of equality or an operation."""
    last, ended = None, False
    for token in tokens:
        if token.kind == "line":
            ended = True
            continue
        if ended and last is not None:
            open_ = last.kind == "sign" and last.text in "=+*/"
            if not open_ and not (token.kind == "sign" and token.text in "=+*/"):
                yield _Token("break", "", token.line)
        last, ended = token, False
        yield token


def _closing(line: str, at: int) -> int | None:
    """Index of the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, min(len(line), at + LONGEST_TERM)):
        depth += (line[i] == "(") - (line[i] == ")")
        if not depth:
            return i
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_{}\\]", "", name)


def _term(inside: str, known: Mapping[str, str]) -> Term | None:
    """The term in the parentheses of `P(..)`; None if it names anything but variables and values."""
    do: list[tuple[str, int | None]] = []
    for found in re.findall(r"\bdo\s*\(([^()]*)\)", inside):
        pairs = _pairs(found, known)
        if not pairs:
            return None
        do += pairs
    rest = re.sub(r"\bdo\s*\([^()]*\)", "", inside)
    targets, bar, given = rest.partition("|")
    parts = [_pairs(part, known) for part in (targets, given)]
    if not parts[0] or parts[1] is None or (bar and not parts[1] and not do):
        return None
    return Term(parts[0], parts[1], tuple(do))


def _pairs(text: str, known: Mapping[str, str]) -> Pairs | None:
    found = []
    for part in re.split(r"[,;∧]|\band\b", text):
        if not part.strip():
            continue
        name, _, value = part.partition("=")
        name, value = _plain(name), value.strip()
        if name not in known or not re.fullmatch(r"(?:[0-9]{1,3})?", value) or ("=" in part and not value):
            return None
        found.append((known[name], int(value) if value else None))
    return tuple(found)


def _split(run: list[_Token]) -> Iterator[tuple[Segment, ...]]:
    """The chains of tokens without a break: a segment that cannot be read, or a comma, ends one.

    Behind a left side that cannot be read a bare number says nothing of what follows: in "given that v0 is 1 is 0.6" it
    is the value of a condition.
    """
    chain: list[Segment] = []
    headless = False
    part: list[_Token] = []
    depth = 0
    for token in [*run, _Token("end", "", 0)]:
        depth += (token.text in "([") - (token.text in ")]") if token.kind == "sign" else 0
        at_end = token.kind == "end" or (token.text == "," and token.kind == "sign" and depth <= 0)
        if not at_end and not (token.kind == "sign" and token.text == "="):
            part.append(token)
            continue
        segment = _segment(part)
        if segment is not None and not (headless and isinstance(segment.expression, Number)):
            chain.append(segment)
        headless = segment is None
        if segment is None or at_end:
            if len(chain) > 1:
                yield tuple(chain)
            chain = []
        part, depth = [], 0
    if len(chain) > 1:
        yield tuple(chain)


def _segment(tokens: list[_Token]) -> Segment | None:
    first, end = 0, len(tokens)
    while end and tokens[end - 1].kind == "sign" and tokens[end - 1].text == "(":
        end -= 1
    while first < end and tokens[first].kind == "sign" and tokens[first].text == ")":
        first += 1
    tokens = tokens[first:end]
    if not tokens or len(tokens) > MOST_TOKENS or sum(token.text in "-/" for token in tokens) > DEEPEST:
        return None
    text = " ".join(token.text if token.kind != "sum" else f"sum[{token.text}]" for token in tokens)[:LONGEST_TERM]
    parser = _Parser(tokens)
    try:
        if tokens[0].text == "[" and tokens[0].kind == "sign":
            return Segment(tokens[0].line, text, None, tuple(parser.several()))
        return Segment(tokens[0].line, text, parser.whole())
    except _UnreadableError:
        return None


class _UnreadableError(ValueError):
    """Tokens that are not an expression."""


class _Parser:
    """Recursive descent over tokens, at most DEEPEST levels deep."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> Expression:
        found = self._sum()
        if self.at < len(self.tokens):
            raise _UnreadableError
        return found

    def several(self) -> list[Expression]:
        self.at = 1
        found = [self._sum()]
        while self._sign(","):
            found.append(self._sum())
        if not self._sign("]") or self.at < len(self.tokens):
            raise _UnreadableError
        return found

    def _sign(self, signs: str) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if token is None or token.kind != "sign" or token.text not in signs:
            return ""
        self.at += 1
        return token.text

    def _sum(self) -> Expression:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _UnreadableError
        parts: list[Expression] = [self._product()]
        while sign := self._sign("+-"):
            right = self._product()
            if sign == "+":
                parts.append(right)
            else:
                parts = [Operation("-", (operation("+", parts), right))]
        self.depth -= 1
        return operation("+", parts)

    def _product(self) -> Expression:
        found: list[Expression] = [self._atom()]
        while True:
            if sign := self._sign("*/"):
                right = self._atom()
                if sign == "*":
                    found.append(right)
                else:
                    found = [Operation("/", (operation("*", found), right))]
            elif self.at < len(self.tokens) and self._begins(self.tokens[self.at]):
                found.append(self._atom())
            else:
                return operation("*", found)

    @staticmethod
    def _begins(token: _Token) -> bool:
        return token.kind in ("term", "sum") or (token.kind == "sign" and token.text in "([")

    def _atom(self) -> Expression:
        if self.at >= len(self.tokens):
            raise _UnreadableError
        token = self.tokens[self.at]
        self.at += 1
        if token.kind == "number":
            return Number(float(token.text.rstrip("% ")) / (100 if token.text.endswith("%") else 1))
        if token.term is not None:
            return token.term
        if token.kind == "sum":
            self.depth += 1
            if self.depth > DEEPEST:
                raise _UnreadableError
            found = Sum(tuple(name for name in token.text.split(",") if name), self._product())
            self.depth -= 1
            return found
        if token.kind == "sign" and token.text in "([":
            found = self._sum()
            if not self._sign(")" if token.text == "(" else "]"):
                raise _UnreadableError
            return found
        raise _UnreadableError
