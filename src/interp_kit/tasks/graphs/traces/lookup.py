"""Terms of a trace by exact inference on the model that its question prints, and on others of the same graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from interp_kit.tasks.graphs.inference import Inference
from interp_kit.tasks.graphs.models import DiscreteModel
from interp_kit.tasks.graphs.traces.expressions import Term, UndefinedError

DRAWS = 3  # Other models on which a formula is tested.
MOST_LOOKUPS = 30_000  # Terms that are looked up for one text.
SEED = 20_26


class TooMuchError(Exception):
    """A text with more terms than are looked up."""


@dataclass
class Budget:
    """Counts what is looked up for one text."""

    left: int = MOST_LOOKUPS

    def spend(self) -> None:
        """Raises TooMuchError if there is nothing left."""
        self.left -= 1
        if self.left < 0:
            raise TooMuchError


@dataclass
class World:
    """A model in which an intervention holds throughout.

    model: without it; do: name -> value. A term's condition that agrees with it says nothing, so that `P(y|x=0)` may
    stand for `P(y|do(x=0))`.
    """

    model: DiscreteModel
    do: Mapping[str, int]
    budget: Budget = field(default_factory=Budget)
    _inferences: dict[tuple[tuple[int, int], ...], Inference] = field(default_factory=dict, repr=False)
    _known: dict[object, float] = field(default_factory=dict, repr=False)

    def key(self, term: Term) -> tuple[frozenset, frozenset, frozenset]:
        """Equal for terms that say the same."""
        held = set(self.do.items())
        return frozenset(term.targets), frozenset(term.given) - held, frozenset(term.do) - held

    def row(self, term: Term) -> float | None:
        """The table's entry if the term is one: its conditions are the parents of its target; else None."""
        if len(term.targets) != 1 or any(value is None for _, value in term.pairs):
            return None
        (name, value), given = term.targets[0], dict(term.given + term.do)
        v = self.model.names.index(name)
        parents = [self.model.names[p] for p in self.model.parents[v]]
        cards = self.model.cardinalities
        if set(parents) != set(given) or any(x >= cards[self.model.names.index(n)] for n, x in term.pairs if x):
            return None
        return float(self.model.tables[v][(*(given[name] for name in parents), value)])

    def __call__(self, term: Term) -> float:
        """The probability. Raises UndefinedError for a condition of probability 0, or a variable without a value."""
        if any(value is None for _, value in term.pairs):
            raise UndefinedError(f"{term} has a variable without a value")
        self.budget.spend()
        key = self.key(term)
        if key not in self._known:
            self._known[key] = self._look_up(term)
        if np.isnan(self._known[key]):
            raise UndefinedError(f"the condition of {term} has probability 0")
        return self._known[key]

    def _look_up(self, term: Term) -> float:
        names, cards = self.model.names, self.model.cardinalities
        if any(value is None or value >= cards[names.index(name)] for name, value in term.pairs):
            return float("nan")
        row = self.row(term)
        if row is not None:
            (name, value), *_ = term.targets
            return float(value == self.do[name]) if name in self.do else row
        do = {names.index(name): value for name, value in (*self.do.items(), *term.do) if value is not None}
        given, found = _joint(term.given, names), _joint(term.given + term.targets, names)
        if given is None:
            return float("nan")
        if found is None:
            return 0.0
        below = self._weight(do, given)
        return float("nan") if not below > 0 else self._weight(do, found) / below

    def _weight(self, do: Mapping[int, int], given: Mapping[int, int]) -> float:
        """The probability of values under an intervention."""
        if not given:
            return 1.0
        key = tuple(sorted(do.items()))
        if key not in self._inferences:
            self._inferences[key] = Inference(self.model.mutilated(do))
        return float(self._inferences[key].ask((min(given),), {}, given, {}).factors[-1].sum())


def _joint(pairs: Sequence[tuple[str, int | None]], names: Sequence[str]) -> dict[int, int] | None:
    """Values by number; None if a variable has two."""
    found: dict[int, int] = {}
    for name, value in pairs:
        if value is not None and found.setdefault(names.index(name), value) != value:
            return None
    return found


def others(model: DiscreteModel) -> tuple[DiscreteModel, ...]:
    """DRAWS models of the same graph with random tables. Entries of 0 stay, and so do rows of 0 and 1."""
    rng, drawn = np.random.default_rng(SEED), []
    for _ in range(DRAWS):
        tables = []
        for table in model.tables:
            weights = rng.exponential(size=table.shape) * (table > 0)
            tables.append(weights / weights.sum(-1, keepdims=True))
        drawn.append(DiscreteModel(model.names, model.parents, tuple(tables)))
    return tuple(drawn)
