"""Discrete causal models: a DAG and one conditional probability table per variable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_VALUES = 1000  # Values per variable. More are a mistake, such as a probability given as a cardinality.
TOLERANCE = 1e-9  # By which the rows of a table may miss a sum of 1.

Table = tuple[Sequence[str], Any]


@dataclass(frozen=True)
class DiscreteModel:
    """A discrete causal model; make one with `discrete_model`.

    names: of the variables; parents: for each, the numbers of its parents in the order of its table's axes; tables: for
    each, (values of parent 1, …, values of the variable) probabilities.
    """

    names: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    tables: tuple[np.ndarray, ...]

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Values of each variable."""
        return tuple(table.shape[-1] for table in self.tables)

    def number(self, name: str) -> int:
        """The number of a variable. Raises ValueError listing the names there are."""
        if name not in self.names:
            raise ValueError(f"the model has no variable {name!r}: expected one of {', '.join(self.names)}")
        return self.names.index(name)

    def assignment(self, values: Mapping[str, int] | None) -> dict[int, int]:
        """Name -> value as number -> value. Raises ValueError for a name or a value that is not the model's."""
        found = {}
        for name, value in (values or {}).items():
            number = self.number(name)
            most = self.cardinalities[number]
            if isinstance(value, bool) or int(value) != value or not 0 <= value < most:
                raise ValueError(f"{name} cannot be {value!r}: expected an integer from 0 to {most - 1}")
            found[number] = int(value)
        return found

    def mutilated(self, do: Mapping[int, int]) -> "DiscreteModel":
        """The model under do(variable = value): these variables lose their parents and are sure."""
        parents = tuple(() if v in do else of for v, of in enumerate(self.parents))
        tables = tuple(
            np.eye(table.shape[-1])[do[v]] if v in do else table for v, table in enumerate(self.tables)
        )  # fmt: skip
        return DiscreteModel(self.names, parents, tables)


def discrete_model(tables: Mapping[str, Table]) -> DiscreteModel:
    """A model of {name: (parents, table)}, variables in any order.

        discrete_model({"rain": ([], [0.8, 0.2]), "wet": (["rain"], [[0.9, 0.1], [0.05, 0.95]])})

    Raises ValueError for parents that are not variables or repeat, a cycle, a table whose axes are not those of its
    parents, probabilities that are negative or not finite, rows that do not sum to 1 (within 1e-9), and over 1,000
    values.
    """
    names = tuple(tables)
    number = {name: i for i, name in enumerate(names)}
    parents, arrays = [], []
    for name, (of, table) in tables.items():
        for parent in of:
            if parent not in number:
                raise ValueError(f"{name!r} has the parent {parent!r}: expected one of {', '.join(names)}")
        if len(set(of)) != len(of):
            raise ValueError(f"{name!r} has the parents {', '.join(of)}: expected each one once")
        parents.append(tuple(number[parent] for parent in of))
        arrays.append(_table(name, table))
    model = DiscreteModel(names, tuple(parents), tuple(arrays))
    for v, table in enumerate(arrays):
        expected = tuple(arrays[p].shape[-1] for p in parents[v])
        if table.shape[:-1] != expected:
            raise ValueError(
                f"the table of {names[v]!r} has axes {table.shape}: expected {(*expected, table.shape[-1])}, one per"
                " parent and the last for its own values"
            )
    topological(model.parents, names)
    return model


def topological(parents: Sequence[Sequence[int]], names: Sequence[str] | None = None) -> list[int]:
    """The variables, parents first. Raises ValueError naming a cycle."""
    order: list[int] = []
    left = set(range(len(parents)))
    while left:
        free = sorted(v for v in left if not left & set(parents[v]))
        if not free:
            at, seen = min(left), []
            while at not in seen:
                seen.append(at)
                at = min(left & set(parents[at]))
            cycle = [*seen[seen.index(at) :], at][::-1]
            words = [str(v if names is None else names[v]) for v in cycle]
            raise ValueError(f"the graph has a cycle: {' -> '.join(words)}")
        order += free
        left -= set(free)
    return order


def _table(name: str, table: Any) -> np.ndarray:
    array = np.array(table, dtype=float)
    if array.ndim == 0 or not 1 <= array.shape[-1] <= MOST_VALUES:
        values = array.shape[-1] if array.ndim else "no"
        raise ValueError(f"{name!r} has {values} values: expected 1 to {MOST_VALUES}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"the table of {name!r} has an entry that is negative or not finite")
    sums = array.sum(-1)
    if np.abs(sums - 1).max() > TOLERANCE:
        row = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
        raise ValueError(f"row {tuple(map(int, row))} of the table of {name!r} sums to {sums[row]:.12g}: expected 1")
    array.setflags(write=False)
    return array
