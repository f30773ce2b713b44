"""The formulas that most traces use, for calculations that come without one."""

from collections.abc import Mapping, Sequence
from itertools import product

from interp_kit.tasks.graphs.models import DiscreteModel, topological
from interp_kit.tasks.graphs.traces import formulas
from interp_kit.tasks.graphs.traces.expressions import MOST_ADDENDS, Expression, Operation, Term, operation
from interp_kit.tasks.graphs.traces.lookup import World


def usual_formulas(term: Term, worlds: Sequence[World], cards: Mapping[str, int], asked: str) -> tuple[Expression, ...]:
    """Formulas that are equal to a term by the graph: a ratio of a joint probability, the sum over the values of the
    question's target, over the parents, and over all ancestors of the product of their rows. asked: the target."""
    found: list[Expression] = []
    if term.given:
        found.append(Operation("/", (Term(term.targets + term.given, (), term.do), Term(term.given, (), term.do))))
    else:
        if asked not in dict(term.targets):
            sides = [(((asked, v), *term.targets), (*term.targets, (asked, v))) for v in range(cards[asked])]
            found.append(operation("+", [Term(side[0], (), term.do) for side in sides]))
        free = _parents(term, worlds[0])
        if free:
            found += [_over(term, free, worlds[0], cards, joint) for joint in (False, True)[: len(free)]]
        if (whole := _brute(term, worlds[0], cards)) is not None:
            found.append(whole)
    return tuple([one for one in found if formulas.holds(term, one, worlds, cards)])


def _parents(term: Term, world: World) -> list[str]:
    """The parents of a single target that are not set."""
    if len(term.targets) != 1 or term.targets[0][0] in world.do:
        return []
    names = world.model.names
    return [names[p] for p in world.model.parents[names.index(term.targets[0][0])] if names[p] not in world.do]


def _row(model: DiscreteModel, name: str, values: Mapping[str, int]) -> Term:
    above = [model.names[p] for p in model.parents[model.names.index(name)]]
    return Term(((name, values[name]),), tuple([(p, values[p]) for p in above]))


def _over(term: Term, free: list[str], world: World, cards: Mapping[str, int], joint: bool) -> Expression:
    """The sum over the parents; joint: their probability is one term."""
    (name, value), *_ = term.targets
    addends = []
    for at in product(*(range(cards[p]) for p in free)):
        pairs = tuple(zip(free, at, strict=True))
        row = _row(world.model, name, {**world.do, **dict(pairs), name: value or 0})
        weights = [Term(pairs)] if joint else [Term((pair,)) for pair in pairs]
        addends.append(operation("*", [row, *weights]))
    return operation("+", addends)


def _brute(term: Term, world: World, cards: Mapping[str, int]) -> Expression | None:
    """The sum over all other ancestors; None if it has too many addends."""
    model, targets = world.model, dict(term.targets)
    needed, edge = set(), {model.names.index(name) for name in targets}
    while edge:
        v = edge.pop()
        needed.add(v)
        edge |= set() if model.names[v] in world.do else set(model.parents[v]) - needed
    order = [model.names[v] for v in topological(model.parents) if v in needed and model.names[v] not in world.do]
    free, size = [name for name in order if name not in targets], 1
    for name in free:
        size *= cards[name]
    if size > MOST_ADDENDS or not order or any(value is None for value in targets.values()):
        return None
    held = {**world.do, **{name: value for name, value in targets.items() if value is not None}}
    addends = []
    for at in product(*(range(cards[name]) for name in free)):
        values = {**held, **dict(zip(free, at, strict=True))}
        addends.append(operation("*", [_row(model, name, values) for name in order]))
    return operation("+", addends)
