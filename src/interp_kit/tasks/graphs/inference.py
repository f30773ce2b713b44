"""Inference in one model, many times: networks and twin factors are built once per structure of a question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from interp_kit.tasks.graphs.counterfactual import merged, twin_factor
from interp_kit.tasks.graphs.elimination import Factor, Plan, planned, renumbered
from interp_kit.tasks.graphs.models import DiscreteModel, topological
from interp_kit.tasks.graphs.treewidth import interaction, treewidth

Values = Mapping[int, int]


@dataclass(frozen=True)
class Network:
    """The network that a question needs, before values are entered.

    keep: the targets, as copies if they are of the other world; copies: variable -> its number there, for descendants
    of what is changed; families: the factors of the targets' and the evidence's ancestors.
    """

    keep: tuple[int, ...]
    copies: Mapping[int, int]
    families: tuple[Factor, ...]

    @property
    def scopes(self) -> tuple[tuple[int, ...], ...]:
        """The scopes of the families."""
        return tuple([family.scope for family in self.families])

    @cached_property
    def treewidth(self) -> int:
        """Exact treewidth of the moralised ancestor graph."""
        number, _ = renumbered(self.scopes, ())
        return _width(tuple([tuple([number[v] for v in scope]) for scope in self.scopes]))


@lru_cache(maxsize=2**14)
def _width(scopes: tuple[tuple[int, ...], ...]) -> int:
    return treewidth(interaction(scopes))


@dataclass(frozen=True)
class Found:
    """Result of inference. variables: that the plan's numbers stand for; factors: what each step leaves, the last one
    over the targets, not normalised."""

    network: Network
    plan: Plan
    variables: list[int]
    factors: list[np.ndarray]


class Inference:
    """Questions about one model, by the numbers of its variables. Tables of integers whose rows have one sum give exact
    integers, in proportion to the probabilities."""

    def __init__(self, model: DiscreteModel) -> None:
        self.model = model
        self._order = topological(model.parents)
        self._networks: dict[object, Network] = {}
        self._plans: dict[object, tuple[Plan, list[int]]] = {}
        self._twins: dict[tuple[int, str], np.ndarray] = {}

    def ask(
        self,
        targets: tuple[int, ...],
        do: Values,
        given: Values,
        changed: Values,
        mechanism: str | None = None,
    ) -> Found:
        """The factor over the targets, with the evidence entered; see `query`."""
        key = (targets, tuple(do), tuple(given), tuple(changed), mechanism)
        network = self._networks.get(key)
        if network is None:
            network = self._networks[key] = self._network(targets, do, given, changed, mechanism)
        keep = network.keep
        known = {**do, **given, **{network.copies[v]: value for v, value in changed.items()}}
        held = {v: value for v, value in known.items() if v not in keep}
        factors = [family.at(held) for family in network.families]
        for v in keep:
            if v in known:
                table = self.model.tables[v % len(self.model.names)]
                factors.append(Factor((v,), np.eye(table.shape[-1], dtype=table.dtype)[known[v]]))
        if key not in self._plans:  # shapes are a function of the key, too
            self._plans[key] = planned(factors, keep)
        plan, variables = self._plans[key]
        return Found(network, plan, variables, plan.run([f.values for f in factors]))

    def _network(
        self, targets: Sequence[int], do: Values, given: Values, changed: Values, mechanism: str | None
    ) -> Network:
        n = len(self.model.names)
        parents = [() if v in do else of for v, of in enumerate(self.model.parents)]
        copies = {v: n + v for v in self._descendants(parents, changed)}
        keep = tuple(copies.get(v, v) for v in targets)
        relevant = _ancestors(parents, copies, changed, {*keep, *given})
        return Network(keep, copies, tuple(self._families(parents, copies, do, changed, relevant, mechanism)))

    def _descendants(self, parents: Sequence[Sequence[int]], of: Values) -> list[int]:
        """Variables that are in `of` or have an ancestor in it."""
        found = set(of)
        for v in self._order if of else ():
            if not found.isdisjoint(parents[v]):
                found.add(v)
        return sorted(found)

    def _families(
        self,
        parents: Sequence[tuple[int, ...]],
        copies: Mapping[int, int],
        do: Values,
        changed: Values,
        relevant: set[int],
        mechanism: str | None,
    ) -> list[Factor]:
        """The factors of the twin network over its relevant variables; those that are set have none of their own."""
        factors, n = [], len(parents)
        for v in sorted({v % n for v in relevant}):
            here = (*parents[v], v)
            copied = v in copies and v not in changed and copies[v] in relevant
            if copied:
                there = tuple([copies.get(u, u) for u in here])
                if v in relevant:
                    factors.append(merged((*here, *there), self._twin(v, mechanism or "")))
                    continue
                factors.append(Factor(there, self.model.tables[v]))
            elif v in relevant and v not in do:
                factors.append(Factor(here, self.model.tables[v]))
        return factors

    def _twin(self, v: int, mechanism: str) -> np.ndarray:
        if (v, mechanism) not in self._twins:
            self._twins[v, mechanism] = twin_factor(self.model.tables[v], mechanism)
        return self._twins[v, mechanism]


def _ancestors(parents: Sequence[Sequence[int]], copies: Mapping[int, int], changed: Values, of: set[int]) -> set[int]:
    """`of` and its ancestors in the twin network."""
    original = {copy: v for v, copy in copies.items()}
    found, edge = set(), set(of)
    while edge:
        v = edge.pop()
        found.add(v)
        if v in original:
            above = () if original[v] in changed else parents[original[v]]
            edge |= {copies.get(p, p) for p in above} - found
        else:
            edge |= set(parents[v]) - found
    return found
