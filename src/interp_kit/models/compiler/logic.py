"""Boolean functions as disjoint cubes: what one rectified neuron each can recognise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST_OPERANDS = 12


@dataclass(frozen=True)
class Cube:
    """A partial assignment, on which the function is constant: operand -> bit (an operand that is left out may be
    either), and the function's value there."""

    literals: tuple[tuple[str, int], ...]
    value: int


@dataclass(frozen=True)
class Function:
    """A boolean function of the operands that it depends on, as cubes of which exactly one holds for any assignment."""

    operands: tuple[str, ...]
    cubes: tuple[Cube, ...]

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """(row,) -1 or +1 of operands that are -1 or +1, or 0 for unknown; 0 where no cube is known to hold."""
        found = np.zeros(np.broadcast_shapes(*(np.shape(v) for v in values.values())))
        for cube in self.cubes:
            holds = np.ones(found.shape, dtype=bool)
            for name, bit in cube.literals:
                holds &= values[name] == 2 * bit - 1
            found = np.where(holds, 2.0 * cube.value - 1, found)
        return found


def tabulate(operands: Sequence[str], answer: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> Function:
    """The function `answer`, asked for every assignment of the operands (arrays of 0 and 1); those on which it does not
    depend are dropped.

    Raises ValueError for more than MOST_OPERANDS operands.
    """
    if len(operands) > MOST_OPERANDS:
        raise ValueError(f"{len(operands)} operands of one field; at most {MOST_OPERANDS} are tabulated")
    axes = np.indices((2,) * len(operands)).reshape(len(operands), 2 ** len(operands))
    rows = dict(zip(operands, axes, strict=True))
    table = np.broadcast_to(answer(rows), (2 ** len(operands),)).reshape((2,) * len(operands))
    kept = list(operands)
    for name in operands:
        axis = kept.index(name)
        if (np.take(table, 0, axis) == np.take(table, 1, axis)).all():
            table, kept = np.asarray(np.take(table, 0, axis)), [other for other in kept if other != name]
    return Function(tuple(kept), tuple(_cubes(table, kept, ())))


def _cubes(table: np.ndarray, names: Sequence[str], fixed: tuple[tuple[str, int], ...]) -> list[Cube]:
    """Split by the operand that leaves the larger part constant (Shannon), until every part is."""
    if table.min() == table.max():
        return [Cube(fixed, int(table.flat[0]))]

    def constant(axis: int) -> int:
        parts = (np.take(table, bit, axis) for bit in (0, 1))
        return sum(int(part.min() == part.max()) for part in parts)

    axis = max(range(table.ndim), key=constant)
    rest = [name for i, name in enumerate(names) if i != axis]
    found: list[Cube] = []
    for bit in (0, 1):
        found += _cubes(np.asarray(np.take(table, bit, axis)), rest, (*fixed, (names[axis], bit)))
    return found
