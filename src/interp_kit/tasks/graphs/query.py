"""Exact answers to causal questions at the three levels, with what inference cost and every factor on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from interp_kit.tasks.graphs.counterfactual import MECHANISMS
from interp_kit.tasks.graphs.elimination import Elimination, carried_out
from interp_kit.tasks.graphs.inference import Inference, Network
from interp_kit.tasks.graphs.models import DiscreteModel


@dataclass(frozen=True)
class Answer:
    """The distribution of a question's targets, and how it was found.

    targets: their names; distribution: one axis per target; evidence: probability of what was given, 1 if nothing;
    elimination: its order and factors, by number into `names` (copies in the counterfactual world end in `*`);
    network: the factors that it needs, before evidence was entered.
    """

    targets: tuple[str, ...]
    distribution: np.ndarray
    evidence: float
    elimination: Elimination
    names: tuple[str, ...]
    network: Network

    @property
    def order(self) -> tuple[str, ...]:
        """Variables in the order in which they were summed out."""
        return tuple(self.names[v] for v in self.elimination.order)

    @property
    def factors(self) -> tuple[tuple[tuple[str, ...], np.ndarray], ...]:
        """(names of its axes, values) of each intermediate factor, the last one over the targets, not normalised."""
        return tuple((tuple(self.names[v] for v in f.scope), f.values) for f in self.elimination.factors)

    @property
    def families(self) -> tuple[tuple[int, ...], ...]:
        """Scopes of the network's factors before evidence was entered."""
        return self.network.scopes

    @property
    def treewidth(self) -> int:
        """Exact treewidth of the moralised graph of the ancestors of targets and evidence."""
        return self.network.treewidth


def query(
    model: DiscreteModel,
    target: str | Sequence[str],
    *,
    do: Mapping[str, int] | None = None,
    given: Mapping[str, int] | None = None,
    counterfactual: Mapping[str, int] | None = None,
    mechanism: str | None = None,
) -> Answer:
    """The exact distribution of `target` by variable elimination on the ancestors of target and evidence.

        query(model, "y", given={"x": 1})                 P(y | x = 1)
        query(model, "y", do={"x": 1})                    P(y | do(x = 1))
        query(model, "y", given={"x": 0, "y": 0}, counterfactual={"x": 1}, mechanism="uniform")

    Args:
        model: A discrete model.
        target: A variable, or several for their joint distribution.
        do: Interventions that hold throughout, also in the counterfactual world unless it sets the same variable.
        given: What was observed, under `do`.
        counterfactual: What the observed world is imagined to have had instead; the target is then of that world.
        mechanism: "selectors" or "uniform" (see `twin_factor`); needed with `counterfactual`, and only there.

    Raises:
        ValueError: for unknown names or values, no or repeated targets, a missing or needless mechanism, evidence of
            probability 0, and a factor too large to hold.
    """
    targets = (target,) if isinstance(target, str) else tuple(target)
    if not targets or len(set(targets)) != len(targets):
        raise ValueError(f"the target is {target!r}: expected one variable, or several different ones")
    if counterfactual is not None and mechanism not in MECHANISMS:
        raise ValueError(f"mechanism is {mechanism!r}: tables do not say it, expected one of {', '.join(MECHANISMS)}")
    if counterfactual is None and mechanism is not None:
        raise ValueError(f"mechanism is {mechanism!r}, but only a counterfactual needs one: leave it out")
    asked = tuple(model.number(name) for name in targets)
    fixed, seen, changed = (model.assignment(values) for values in (do, given, counterfactual))
    for v in fixed.keys() & seen.keys():
        if fixed[v] != seen[v]:
            raise ValueError(f"{model.names[v]} is observed as {seen[v]} and set to {fixed[v]}: that cannot be")
    found = Inference(model).ask(asked, fixed, seen, changed, mechanism)
    done = carried_out(found.plan, found.variables, found.factors)
    total = float(done.result.values.sum())
    if not total > 0:
        words = ", ".join(f"{name} = {value}" for name, value in (given or {}).items())
        raise ValueError(f"the evidence {words} has probability 0: nothing follows from it")
    names = (*model.names, *(f"{name}*" for name in model.names))
    return Answer(targets, done.result.values / total, total, done, names, found.network)
