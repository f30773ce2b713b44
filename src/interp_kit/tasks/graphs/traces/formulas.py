"""Formulas of a trace as identities: both sides on the same graph with other random tables, so that luck hides nothing.

A formula that is not an identity is explained by the repair that makes it one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

from interp_kit.tasks.graphs.traces.expressions import (
    MOST_ADDENDS,
    Expression,
    Operation,
    Sum,
    Term,
    UndefinedError,
    operation,
    terms,
    unbound,
    value,
    written_out,
)
from interp_kit.tasks.graphs.traces.lookup import World

INDEPENDENCE, MARGINALISATION = "false independence", "incomplete marginalisation"
INTERVENTION, UNEXPLAINED = "mishandled intervention", "unexplained"
SAME = 1e-9


def holds(left: Expression, right: Expression, worlds: Sequence[World], cards: Mapping[str, int]) -> bool | None:
    """True if both sides are equal in all worlds, for all values of variables that have none on the left; None if they
    can be compared nowhere."""
    compared = False
    for values in _bindings(left, cards):
        try:
            one, other = written_out(left, cards, values), written_out(right, cards, values)
        except UndefinedError:
            return None
        if unbound(other):
            return False
        for world in worlds:
            try:
                a, b = value(one, world), value(other, world)
            except UndefinedError:
                continue
            compared = True
            if abs(a - b) > SAME:
                return False
    return True if compared else None


def explained(
    left: Term, right: Expression, worlds: Sequence[World], plain: Sequence[World], cards: Mapping[str, int]
) -> str:
    """Say why `left = right` is not an identity. plain: the same worlds without the intervention of the question."""
    if holds(_unset(left), _unset(right), plain, cards):
        return INTERVENTION
    one, other = left, right
    try:
        for values in _bindings(left, cards):
            one, other = left.bound(values), written_out(right, cards, values)
            if not holds(one, other, worlds, cards):
                break
        whole = _completed(Term(one.targets, one.given, (*one.do, *worlds[0].do.items())), other, cards)
    except UndefinedError:
        return UNEXPLAINED
    if holds(one, whole, worlds, cards):
        return MARGINALISATION
    if any(holds(one, _chained(one, candidate), worlds, cards) for candidate in (other, whole)):
        return INDEPENDENCE
    return UNEXPLAINED


def _bindings(expression: Expression, cards: Mapping[str, int]) -> Iterator[dict[str, int]]:
    names = sorted(unbound(expression))
    for i, at in enumerate(product(*(range(cards[name]) for name in names))):
        if i >= MOST_ADDENDS:
            return
        yield dict(zip(names, at, strict=True))


def _mapped(expression: Expression, change: Callable[[Term], Term]) -> Expression:
    """The expression with every term changed."""
    if isinstance(expression, Term):
        return change(expression)
    if isinstance(expression, Operation):
        return Operation(expression.kind, tuple([_mapped(part, change) for part in expression.parts]))
    if isinstance(expression, Sum):
        return Sum(expression.names, _mapped(expression.body, change))
    return expression


def _unset(expression: Expression) -> Expression:
    """With observations in place of interventions."""
    return _mapped(expression, lambda term: Term(term.targets, term.given + term.do))


def _completed(left: Term, right: Expression, cards: Mapping[str, int]) -> Expression:
    """The first addend over all values of the variables that the left side does not fix. Raises UndefinedError for too
    many addends."""
    if isinstance(right, Operation) and right.kind == "/":
        below = _completed(Term((), left.given, left.do), right.parts[1], cards)
        return Operation("/", (_completed(left, right.parts[0], cards), below))
    first = right.parts[0] if isinstance(right, Operation) and right.kind == "+" else right
    fixed = {name for name, _ in left.pairs}
    free = sorted({name for term in terms(first) for name, _ in term.pairs} - fixed)
    size = 1
    for name in free:
        size *= cards[name]
    if size > MOST_ADDENDS:
        raise UndefinedError("a sum with too many addends")
    spans = product(*(range(cards[name]) for name in free))
    values = [dict(zip(free, at, strict=True)) for at in spans]
    return operation("+", [_mapped(first, lambda term, at=at: term.moved(at)) for at in values])


def _chained(left: Term, right: Expression) -> Expression:
    """The joint probability, given what is given on the left, in place of each product of terms."""
    if isinstance(right, Operation) and right.kind in "+/-":
        return Operation(right.kind, tuple([_chained(left, part) for part in right.parts]))
    found = dict(pair for term in terms(right) for pair in term.targets)
    if not found:
        return right
    return Term(tuple(found.items()), tuple([pair for pair in left.given if pair[0] not in found]), left.do)
