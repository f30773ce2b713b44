"""Expressions of a trace: numbers, terms `P(..|..)`, the four operations, and sums over variables."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import product

MOST_ADDENDS = 4096  # Of a sum that is written out.
MOST_PAIRS = 20_000  # Parts of a formula and of numbers that are compared.
MOST_ALIGNED = 64  # Parts of a sum or product that are matched in any order.

Pairs = tuple[tuple[str, int | None], ...]


class UndefinedError(ValueError):
    """An expression that has no value: a variable without one, a division by 0, or a condition of probability 0."""


@dataclass(frozen=True)
class Number:
    """A number as written."""

    value: float


@dataclass(frozen=True)
class Term:
    """A probability. targets, given, do: names, each with its value, or None if it is not written."""

    targets: Pairs
    given: Pairs = ()
    do: Pairs = ()

    @property
    def pairs(self) -> Pairs:
        """All variables with their values."""
        return self.targets + self.given + self.do

    def bound(self, values: Mapping[str, int]) -> "Term":
        """With values for variables that have none."""
        parts = (
            tuple([(name, values.get(name) if value is None else value) for name, value in part])
            for part in (self.targets, self.given, self.do)
        )
        return Term(*parts)

    def moved(self, values: Mapping[str, int]) -> "Term":
        """With these values in place of others."""
        parts = (
            tuple([(name, values.get(name, value)) for name, value in part])
            for part in (self.targets, self.given, self.do)
        )
        return Term(*parts)


@dataclass(frozen=True)
class Operation:
    """kind: "+", "*" (any number of parts), "-" or "/" (two)."""

    kind: str
    parts: "tuple[Expression, ...]"


@dataclass(frozen=True)
class Sum:
    """The sum of `body` over the values of variables; without names, over all that have no value in it."""

    names: tuple[str, ...]
    body: "Expression"


Expression = Number | Term | Operation | Sum
Lookup = Callable[[Term], float]


def operation(kind: str, parts: list[Expression]) -> Expression:
    """An operation; sums of sums and products of products become one."""
    if kind in "+*":
        flat: list[Expression] = []
        for part in parts:
            flat += part.parts if isinstance(part, Operation) and part.kind == kind else (part,)
        parts = flat
    return parts[0] if len(parts) == 1 else Operation(kind, tuple(parts))


def terms(expression: Expression) -> Iterator[Term]:
    """Its terms, as written, from left to right."""
    if isinstance(expression, Term):
        yield expression
    elif isinstance(expression, Sum):
        yield from terms(expression.body)
    elif isinstance(expression, Operation):
        for part in expression.parts:
            yield from terms(part)


def numbers(expression: Expression) -> Iterator[float]:
    """Its numbers, from left to right."""
    if isinstance(expression, Number):
        yield expression.value
    elif isinstance(expression, Operation):
        for part in expression.parts:
            yield from numbers(part)


def unbound(expression: Expression) -> set[str]:
    """Variables that have no value, and over which no sum goes."""
    if isinstance(expression, Sum):
        free = unbound(expression.body)
        return free - set(expression.names) if expression.names else set()
    if isinstance(expression, Term):
        return {name for name, value in expression.pairs if value is None}
    return set().union(*map(unbound, expression.parts)) if isinstance(expression, Operation) else set()


def written_out(
    expression: Expression, cards: Mapping[str, int], values: Mapping[str, int] | None = None
) -> Expression:
    """The expression without signs of sums. values: of variables that have none.

    Raises UndefinedError for more addends than MOST_ADDENDS.
    """
    values = values or {}
    if isinstance(expression, Term):
        return expression.bound(values)
    if isinstance(expression, Number):
        return expression
    if isinstance(expression, Operation):
        return operation(expression.kind, [written_out(part, cards, values) for part in expression.parts])
    names = expression.names or tuple(sorted(unbound(expression.body) - set(values)))
    if reduce(lambda count, name: count * cards[name], names, 1) > MOST_ADDENDS:
        raise UndefinedError("a sum with too many addends")
    spans = product(*(range(cards[name]) for name in names))
    addends = [written_out(expression.body, cards, {**values, **dict(zip(names, at, strict=True))}) for at in spans]
    return operation("+", addends)


def value(expression: Expression, lookup: Lookup) -> float:
    """The value of an expression without signs of sums. A product with a factor 0 is 0, whatever the others are.

    Raises UndefinedError if it has none.
    """
    if isinstance(expression, Number):
        return expression.value
    if isinstance(expression, Term):
        return lookup(expression)
    if isinstance(expression, Sum):
        raise UndefinedError("a sum that is not written out")
    if expression.kind == "*":
        return _product(expression.parts, lookup)
    found = [value(part, lookup) for part in expression.parts]
    if expression.kind == "+":
        return sum(found)
    if expression.kind == "-":
        return found[0] - found[1]
    if abs(found[1]) < 1e-300:
        raise UndefinedError("a division by 0")
    return found[0] / found[1]


def _product(parts: tuple[Expression, ...], lookup: Lookup) -> float:
    found, missing = 1.0, None
    for part in parts:
        try:
            found *= value(part, lookup)
        except UndefinedError as error:
            missing = error
    if missing is not None and found != 0:
        raise missing
    return found


Fits = Callable[[Term, float], bool]
Missed = list[tuple[Term, float]] | None


def aligned(formula: Expression, numeric: Expression, fits: Fits) -> Missed:
    """Terms of a formula that do not fit the numbers put in for them; None if the two are not of one form.

    Sums and products are matched in order, and if that does not fit, in any order. Forms that take more than MOST_PAIRS
    comparisons are not matched.
    """
    return _Alignment(fits).of(formula, numeric)


class _Alignment:
    """Compares each part of a formula with a part of the numbers at most once."""

    def __init__(self, fits: Fits) -> None:
        self.fits = fits
        self.found: dict[tuple[int, int], Missed] = {}

    def of(self, formula: Expression, numeric: Expression) -> Missed:
        key = id(formula), id(numeric)
        if key not in self.found:
            self.found[key] = None  # also if there are too many
            if len(self.found) <= MOST_PAIRS:
                self.found[key] = self._compared(formula, numeric)
        return self.found[key]

    def _compared(self, formula: Expression, numeric: Expression) -> Missed:
        if isinstance(formula, Term):
            try:
                number = value(numeric, _no_terms)
            except UndefinedError:
                return None
            return [] if self.fits(formula, number) else [(formula, number)]
        if isinstance(formula, Number):
            return [] if isinstance(numeric, Number) and abs(numeric.value - formula.value) < 1e-9 else None
        if not isinstance(formula, Operation) or not isinstance(numeric, Operation):
            return None
        if formula.kind != numeric.kind or len(formula.parts) != len(numeric.parts):
            return None
        found = _all([self.of(f, n) for f, n in zip(formula.parts, numeric.parts, strict=True)])
        if formula.kind in "+*" and len(formula.parts) <= MOST_ALIGNED and found != []:
            other = self._any_order(formula.parts, numeric.parts)
            if found is None or (other is not None and len(other) < len(found)):
                return other
        return found

    def _any_order(self, formula: tuple[Expression, ...], numeric: tuple[Expression, ...]) -> Missed:
        """Parts that fit are taken away, those left over are paired in order."""
        left, rest = list(range(len(numeric))), []
        for i, part in enumerate(formula):
            here = [i, *left] if i in left else left
            match = next((j for j in here if self.of(part, numeric[j]) == []), None)
            if match is None:
                rest.append(i)
            else:
                left.remove(match)
        return _all([self.of(formula[i], numeric[j]) for i, j in zip(rest, left, strict=True)])


def _all(pairs: list[Missed]) -> Missed:
    """The pairs of all parts, None if one has none."""
    found: list[tuple[Term, float]] = []
    for pair in pairs:
        if pair is None:
            return None
        found += pair
    return found


def _no_terms(term: Term) -> float:
    raise UndefinedError(f"{term} stands among numbers")


def number_of(expression: Expression) -> float:
    """The value of an expression of numbers alone. Raises UndefinedError if it has none."""
    return value(expression, _no_terms)
