"""Truth of a compiled program: its plan, run on values instead of weights.

A part is true if the answer changes when that part alone carries what it would carry in the corrupt text, by more than
LEAST of what the whole text changes it: the definition of the planted models (`models.planted.truth`), evaluated on the
plan's boolean functions. No weight and no method of the library is asked. A part of which there are copies is true if
it changes the answer where the other copies are silent: a second copy makes it no less part of the circuit. So are both
ends of a true edge, also of two edges that undo each other.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from interp_kit.core.pairs import PairBatch
from interp_kit.core.task import AbstractTask
from interp_kit.models.circuit import EMBED, LOGITS, Edge, GroundTruth, head, mlp
from interp_kit.models.compiler.plan import Plan, Read

LEAST = 0.05  # of the clean-corrupt gap

Values = Mapping[str, np.ndarray]  # variable -> (pair,) -1 or +1

Key = TypeVar("Key")


@dataclass(frozen=True)
class Patch:
    """Reads whose value, and fields whose answer, are those of the corrupt text."""

    reads: frozenset[Read] = frozenset()
    fields: frozenset[str] = frozenset()


def parts(plan: Plan, target: str) -> tuple[dict[str, Patch], dict[Edge, Patch]]:
    """Every node and edge of the plan that anything passes through, with what its patch changes."""
    nodes: dict[str, Patch] = {}
    edges: dict[Edge, Patch] = {}

    def grouped(key: Callable[[Read], Key]) -> dict[Key, frozenset[Read]]:
        found: dict[Key, set[Read]] = {}
        for read in plan.reads:
            found.setdefault(key(read), set()).add(read)
        return {name: frozenset(reads) for name, reads in found.items()}

    def sender(read: Read) -> str:
        return EMBED if read.route == "token" else mlp(plan.layer[read.variable])

    for (layer, number), reads in grouped(lambda read: (read.layer, read.head)).items():
        nodes[head(layer, number)] = Patch(reads)
        edges[Edge(head(layer, number), mlp(layer), "mlp")] = Patch(reads)
    for (start, end), reads in grouped(lambda read: (sender(read), head(read.layer, read.head))).items():
        edges[Edge(start, end, "v")] = Patch(reads)
    for layer in set(plan.layer.values()):
        written = frozenset(name for name, its in plan.layer.items() if its == layer)
        nodes[mlp(layer)] = Patch(fields=written)
        if target in written:
            edges[Edge(mlp(layer), LOGITS, "logits")] = Patch(fields=written)
    return nodes, edges


def effect(plan: Plan, patch: Patch, target: str, clean: Values, corrupt: Values, *, copies: bool = False) -> float:
    """Mean change of the target's answer under the patch, as a share of the change that the corrupt text makes.

    clean, corrupt: of pairs in which the target differs. copies: whether the other copies of what is patched are
    silent, as truth is defined; else the answer is that of the network, in which copies are added up and a tie of two
    gives none.
    """
    computed: dict[str, np.ndarray] = {}
    for field in plan.order:
        if field not in plan.functions:
            continue
        brought: dict[str, list[np.ndarray]] = {}
        for read in plan.of(field):
            if read in patch.reads:
                value = corrupt[read.variable]
            else:
                value = clean[read.variable] if read.route == "token" else computed[read.variable]
            brought.setdefault(read.variable, []).append(value)
        operands = {name: _vote(np.stack(found), clean[name], copies) for name, found in brought.items()}
        computed[field] = np.broadcast_to(plan.functions[field](operands), clean[field].shape)
        if field in patch.fields:
            computed[field] = corrupt[field]
    return float(np.abs(computed[target] - clean[target]).mean() / 2)


def _vote(found: np.ndarray, clean: np.ndarray, copies: bool) -> np.ndarray:
    """The value that several copies (copy, pair) give together."""
    if copies:
        return np.where((found != clean).any(0), -clean, clean)
    return np.sign(found.sum(0))


def truth_of(plan: Plan, task: AbstractTask, variable: str | None = None, target: str | None = None) -> GroundTruth:
    """The circuit that carries `variable` to `target`, by default those of the plan, in the minimal pairs of the two.

    Raises ValueError if there are no such pairs, the target is not an equation, or no single position carries the
    change.
    """
    ours = plan.question or (None, None)
    variable, target = task.asked(variable or ours[0], target or ours[1])
    if target not in plan.functions:
        raise ValueError(f"{target!r} is not an equation; truth is known of {', '.join(plan.functions)}")
    pairs = task.pairs(variable, target)
    clean, corrupt = (_signed(side.labels, plan) for side in (pairs.clean, pairs.corrupt))

    def true(patch: Patch) -> bool:
        return effect(plan, patch, target, clean, corrupt, copies=True) > LEAST

    nodes, edges = parts(plan, target)
    ways = frozenset(edge for edge, patch in edges.items() if true(patch))
    ends = {end for edge in ways for end in (edge.sender, edge.receiver)} - {EMBED, LOGITS}
    kept = frozenset(name for name, patch in nodes.items() if true(patch)) | ends
    places = {place: effect(plan, patch, target, clean, corrupt, copies=True) for place, patch in _places(plan, target)}
    found = frozenset(place for place, share in places.items() if share > LEAST)
    if not found:
        raise ValueError(f"no single position carries {variable} to {target}: ask about another variable")
    best = max(sorted(found), key=lambda place: (places[place], place.removesuffix("?") == variable))
    idle = frozenset(read.node for read in plan.decoys)
    return GroundTruth(
        variable, target, kept, ways, ("resid_pre", plan.layer[target], best), decoy=idle, positions=found
    )  # fmt: skip


def alone(plan: Plan, truth: GroundTruth, pairs: PairBatch) -> dict[str, float]:
    """Least share of the gap that a true part moves when it is patched alone and its copies are not silent, as the plan
    predicts it: by level, "nodes", "edges" and "positions". Where that is 0, no patching of single parts finds it."""
    clean, corrupt = (_signed(side.labels, plan) for side in (pairs.clean, pairs.corrupt))
    nodes, edges = parts(plan, truth.target)

    def least(patches: Iterable[Patch]) -> float:
        return min(effect(plan, patch, truth.target, clean, corrupt) for patch in patches)

    return {
        "nodes": least(nodes[name] for name in truth.nodes),
        "edges": least(edges[edge] for edge in truth.edges),
        "positions": least(patch for place, patch in _places(plan, truth.target) if place in truth.positions),
    }


def _places(plan: Plan, target: str) -> Iterable[tuple[str, Patch]]:
    """Every position that is read in the target's layer or later, with what its patch changes there."""
    at = plan.layer[target]
    late = [read for read in plan.reads if read.layer >= at]
    for place in sorted({_place(read) for read in late}):
        yield place, Patch(frozenset(read for read in late if _place(read) == place))


def _place(read: Read) -> str:
    return read.variable if read.route == "token" else f"{read.variable}?"


def _signed(labels: Mapping[str, object], plan: Plan) -> dict[str, np.ndarray]:
    return {name: 2.0 * np.asarray(labels[name]) - 1 for name in (*plan.inputs, *plan.functions)}
