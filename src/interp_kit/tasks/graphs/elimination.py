"""Variable elimination by numpy broadcasting, with every intermediate factor kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp_kit.tasks.graphs.treewidth import interaction, min_fill

LARGEST = 2**26  # Entries of one factor: half a gigabyte.


@dataclass(frozen=True)
class Factor:
    """A function of variables. scope: their numbers; values: one axis per variable, in that order."""

    scope: tuple[int, ...]
    values: np.ndarray

    def at(self, given: dict[int, int]) -> "Factor":
        """The factor with these variables held at their values."""
        index = tuple(given.get(v, slice(None)) for v in self.scope)
        return Factor(tuple(v for v in self.scope if v not in given), np.asarray(self.values[index]))

    def spread(self, scope: Sequence[int]) -> np.ndarray:
        """The values with the axes of `scope`, of length 1 for variables that the factor does not have."""
        place = {v: i for i, v in enumerate(self.scope)}
        order = [place[v] for v in scope if v in place]
        shape = [self.values.shape[place[v]] if v in place else 1 for v in scope]
        return self.values.transpose(order).reshape(shape)


@dataclass(frozen=True)
class Elimination:
    """What was done.

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


def eliminate(factors: Sequence[Factor], keep: Sequence[int], order: Sequence[int] | None = None) -> Elimination:
    """The product of all factors, summed over every variable but `keep`.

    order: of the variables to sum; None takes min-fill's. Raises ValueError if `order` is not of these variables, and
    if a factor would have over 2**26 entries, before it is made.
    """
    everything = interaction(factor.scope for factor in factors)
    summed = [v for v in everything if v not in keep]
    chosen = list(min_fill(everything, keep)[0] if order is None else order)
    if sorted(chosen) != sorted(summed):
        raise ValueError(f"the order {chosen} cannot be used: expected the variables {sorted(summed)}, each once")
    left, made = list(factors), []
    products = sums = width = 0
    for v in chosen:
        touched = [f for f in left if v in f.scope]
        left = [f for f in left if v not in f.scope]
        together, cost = multiply(touched)
        products += cost
        axis = together.scope.index(v)
        values = np.asarray(together.values.sum(axis))
        sums += values.size * (together.values.shape[axis] - 1)
        width = max(width, len(together.scope) - 1)
        made.append(Factor(together.scope[:axis] + together.scope[axis + 1 :], values))
        left.append(made[-1])
    result, cost = multiply(left, tuple(keep))
    made.append(result)
    width = max(width, len(result.scope) - 1)
    return Elimination(result, tuple(chosen), tuple(made), products + cost, sums, width)


def multiply(factors: Sequence[Factor], scope: tuple[int, ...] | None = None) -> tuple[Factor, int]:
    """The product of factors, smallest first, and the multiplications that it took. scope: axes of the product, all
    variables of the factors; None takes them as they come."""
    factors = sorted(factors, key=lambda f: f.values.size)
    variables: dict[int, int] = {}
    for f in factors:
        variables |= dict(zip(f.scope, f.values.shape, strict=True))
    scope = tuple(variables) if scope is None else scope
    size = int(np.prod([variables[v] for v in scope], dtype=object))
    if size > LARGEST or len(scope) > 32:
        raise ValueError(
            f"elimination needs a factor of {len(scope)} variables with {size} entries: expected at most {LARGEST} and"
            " 32 variables; ask about a sparser graph, or give another order"
        )
    values, cost = factors[0].spread(scope), 0
    for f in factors[1:]:
        values = np.asarray(values * f.spread(scope))
        cost += values.size
    return Factor(scope, values), cost
