"""Variable elimination by numpy broadcasting, with every intermediate factor kept.

What is multiplied and summed in which order depends on scopes and shapes alone: that plan is made once and kept.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from interp_kit.tasks.graphs.treewidth import interaction, min_fill

LARGEST = 2**26  # Entries of one factor: half a gigabyte.

Scope = tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """A function of variables. scope: their numbers; values: one axis per variable, in that order."""

    scope: Scope
    values: np.ndarray

    def at(self, given: dict[int, int]) -> "Factor":
        """The factor with these variables held at their values."""
        if given.keys().isdisjoint(self.scope):
            return self
        index = tuple([given.get(v, slice(None)) for v in self.scope])
        return Factor(tuple([v for v in self.scope if v not in given]), np.asarray(self.values[index]))


@dataclass(frozen=True)
class Elimination:
    """Steps that were done.

    result: the factor over the kept variables, axes in the order asked for; order: variables summed out, one after the
    other; factors: what each of these sums left, then the result; products, sums: multiplications and additions of
    numbers; width: most variables of a factor before its sum, less one.
    """

    result: Factor
    order: tuple[int, ...]
    factors: tuple[Factor, ...]
    products: int
    sums: int
    width: int


@dataclass(frozen=True)
class Step:
    """Factors to multiply, and the variable to sum.

    factors: number, order of its axes and shape to multiply it in, smallest first; scope: what is left; axis: of the
    product, the one that is summed, None in the last step.
    """

    factors: tuple[tuple[int, Scope, Scope], ...]
    scope: Scope
    axis: int | None


@dataclass(frozen=True)
class Plan:
    """Steps of an elimination, each of which adds a factor to the list, and what they cost; see Elimination."""

    order: tuple[int, ...]
    steps: tuple[Step, ...]
    products: int
    sums: int
    width: int

    def run(self, arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
        """The values that each step leaves."""
        there = list(arrays)
        given = len(there)
        for step in self.steps:
            first, *others = [there[number].transpose(axes).reshape(shape) for number, axes, shape in step.factors]
            for factor in others:
                first = first * factor
            there.append(np.asarray(first if step.axis is None else np.add.reduce(first, axis=step.axis)))
        return there[given:]


def eliminate(factors: Sequence[Factor], keep: Sequence[int], order: Sequence[int] | None = None) -> Elimination:
    """The product of all factors, summed over every variable but `keep`.

    order: of the variables to sum; None takes min-fill's. Raises ValueError if `order` is not of these variables, and
    if a factor would have over 2**26 entries, before it is made.
    """
    plan, names = planned(factors, keep, order)
    return carried_out(plan, names, plan.run([f.values for f in factors]))


def carried_out(plan: Plan, names: Sequence[int], made: Sequence[np.ndarray]) -> Elimination:
    """The elimination that a plan, whose variable i is `names[i]`, and the values of its steps are."""
    left = [Factor(tuple([names[v] for v in step.scope]), a) for step, a in zip(plan.steps, made, strict=True)]
    order = tuple(names[v] for v in plan.order)
    return Elimination(left[-1], order, tuple(left), plan.products, plan.sums, plan.width)


def planned(
    factors: Sequence[Factor], keep: Sequence[int], order: Sequence[int] | None = None
) -> tuple[Plan, list[int]]:
    """The plan of an elimination in which variables are numbered as they come, and the variables. So plans are shared
    by questions, and by models, of the same form. Raises ValueError as `eliminate` does."""
    number, kept = renumbered([f.scope for f in factors], keep)
    if order is not None and sorted(order) != sorted(set(number) - set(keep)):
        wanted = sorted(set(number) - set(keep))
        raise ValueError(f"the order {list(order)} cannot be used: expected the variables {wanted}, each once")
    scopes = tuple([tuple([number[v] for v in f.scope]) for f in factors])
    chosen = None if order is None else tuple(number[v] for v in order)
    return _planned(scopes, tuple([f.values.shape for f in factors]), kept, chosen), list(number)


def renumbered(scopes: Iterable[Scope], keep: Sequence[int]) -> tuple[dict[int, int], Scope]:
    """Variable -> its number in order of appearance; and the numbers of those to keep."""
    number: dict[int, int] = {}
    for scope in scopes:
        for v in scope:
            if v not in number:
                number[v] = len(number)
    return number, tuple([number[v] for v in keep])


@lru_cache(maxsize=2**14)
def _planned(scopes: tuple[Scope, ...], shapes: tuple[Scope, ...], keep: Scope, order: Scope | None) -> Plan:
    sizes = {v: size for scope, shape in zip(scopes, shapes, strict=True) for v, size in zip(scope, shape, strict=True)}
    chosen = _order(scopes, keep) if order is None else order
    left, entries = dict(enumerate(scopes)), [math.prod(shape) for shape in shapes]
    steps: list[Step] = []
    products = sums = width = 0
    for v in [*chosen, None]:
        touched = [number for number, scope in left.items() if v is None or v in scope]
        touched.sort(key=entries.__getitem__)  # smallest first
        own = [left.pop(number) for number in touched]
        together = keep if v is None else tuple(dict.fromkeys([u for scope in own for u in scope]))
        size = math.prod([sizes[u] for u in together])
        if size > LARGEST or len(together) > 32:
            raise ValueError(
                f"elimination needs a factor of {len(together)} variables with {size} entries: expected at most"
                f" {LARGEST} and 32 variables; ask about a sparser graph, or give another order"
            )
        joined, cost = _joined(touched, own, together, sizes)
        after = together if v is None else tuple([u for u in together if u != v])
        steps.append(Step(joined, after, None if v is None else together.index(v)))
        left[len(entries)] = after
        entries.append(size if v is None else size // sizes[v])
        products += cost
        sums += 0 if v is None else size - entries[-1]
        width = max(width, len(together) - 1)
    return Plan(tuple(chosen), tuple(steps), products, sums, width)


@lru_cache(maxsize=2**14)
def _order(scopes: tuple[Scope, ...], keep: Scope) -> Scope:
    """Of the variables to sum, by min-fill; shapes have no part in it."""
    return tuple(min_fill(interaction(scopes), keep)[0])


def _joined(
    numbers: Sequence[int], scopes: Sequence[Scope], together: Scope, sizes: dict[int, int]
) -> tuple[tuple[tuple[int, Scope, Scope], ...], int]:
    """Multiplication of each factor into one over `together`, and the multiplications that it takes."""
    found, cost, size = [], 0, 1
    covered: set[int] = set()
    for i, (number, scope) in enumerate(zip(numbers, scopes, strict=True)):
        axes = tuple([scope.index(v) for v in together if v in scope])
        found.append((number, axes, tuple([sizes[v] if v in scope else 1 for v in together])))
        for v in scope:
            size *= 1 if v in covered else sizes[v]
        covered.update(scope)
        cost += size if i else 0
    return tuple(found), cost
