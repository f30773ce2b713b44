"""Plan of a compiled program: which head gathers what, which MLP computes what, in which layer. No weights yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from interp_kit.core.task import AbstractTask
from interp_kit.models.circuit import head, mlp
from interp_kit.models.compiler.logic import Function, tabulate

Mechanism = Literal["via-token", "direct", "latent", "redundant", "majority"]
Route = Literal["token", "latent"]
# How an earlier output reaches a field that reads it: one head for each route. "direct" reads the inputs instead.
ROUTES: Mapping[Mechanism, tuple[Route, ...]] = {
    "via-token": ("token",),
    "direct": (),
    "latent": ("latent",),
    "redundant": ("token", "latent"),
    "majority": ("token", "latent", "token"),
}
LEAST_HEADS, MOST_DECOYS = 4, 2  # of a layer; heads that are left over are idle


@runtime_checkable
class _Equation(Protocol):
    """One equation of a boolean task."""

    name: str
    parents: tuple[str, ...]

    def __call__(self, values: Mapping[str, np.ndarray]) -> np.ndarray: ...


@dataclass(frozen=True)
class Read:
    """A head brings one variable to where a field is predicted.

    field, variable: what is computed there, and what is brought; None for a head whose output nothing reads (a decoy).
    route: from the variable's own token, or from where it was computed ("latent"); mean: whether the head brings the
    mean of all that it reads for this field.
    """

    field: str
    variable: str
    route: Route
    layer: int
    head: int
    slot: int | None
    mean: bool = False

    @property
    def node(self) -> str:
        """The head."""
        return head(self.layer, self.head)


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before weights are written.

    inputs, sums: names; layer: field -> the layer whose MLP computes it; reads: of all heads, decoys apart; functions:
    bit field -> its boolean function of its operands; question: the (variable, target) that truth is asked for by
    default; None if every equation is a constant.
    """

    mechanism: Mechanism
    layer_norm: bool
    superposed: bool
    seed: int
    question: tuple[str, str] | None
    n_layers: int
    n_heads: int
    n_slots: int
    inputs: tuple[str, ...]
    layer: Mapping[str, int]
    reads: tuple[Read, ...]
    decoys: tuple[Read, ...]
    functions: Mapping[str, Function]

    def of(self, field: str) -> tuple[Read, ...]:
        """The reads that a field is computed from."""
        return tuple(read for read in self.reads if read.field == field)

    @property
    def order(self) -> tuple[str, ...]:
        """Fields in the order in which they are computed."""
        return tuple(sorted(self.layer, key=lambda name: self.layer[name]))

    def to_frame(self) -> pd.DataFrame:
        """One row per part and field: the node, the position at which it works, what it does there."""
        rows: list[dict[str, Any]] = []
        for read in (*self.reads, *self.decoys):
            place = read.variable if read.route == "token" else f"{read.variable}?"
            use = "read by nothing" if read.slot is None else f"to slot {read.slot}" + (", its share" * read.mean)
            rows.append(
                {"layer": read.layer, "node": read.node, "position": f"{read.field}?",
                 "does": f"brings {place} ({use})"}
            )  # fmt: skip
        for name, layer in self.layer.items():
            function = self.functions.get(name)
            operands = "" if function is None else ", ".join(function.operands) or "nothing"
            does = f"counts {name}" if function is None else f"computes {name} of {operands}"
            rows.append({"layer": layer, "node": mlp(layer), "position": f"{name}?", "does": does})
        return pd.DataFrame(rows).sort_values(["layer", "node", "position"], ignore_index=True)


def make_plan(
    task: AbstractTask,
    mechanism: Mechanism,
    question: tuple[str, str] | None,
    *,
    layer_norm: bool,
    superposed: bool,
    seed: int,
    rng: np.random.Generator,
) -> Plan:
    """The plan of a task. `rng` draws layers, where a field may stand in several, the numbers of the heads, and decoys.

    Raises ValueError if the task is not one of boolean equations, or the target not one of its equations.
    """
    equations = equations_of(task)
    variable, target = question or ("", next(reversed(equations)))
    if question is not None:
        task.check_names(variable, target)
    if target not in equations:
        raise ValueError(f"{target!r} is not an equation; the question must end at one of {', '.join(equations)}")
    functions = {name: _function(name, equations, task.inputs, mechanism) for name in equations}
    routes = {
        name: _routes(function, task.inputs, mechanism, variable if name == target else None)
        for name, function in functions.items()
    }
    counts = [field.name for field in task.fields if field.name not in equations]
    operands = {name: list(task.inputs) if name == "sum1" else list(equations) for name in counts}
    latents = {name: [one for one, route in found if route == "latent"] for name, found in routes.items()}
    layer, n_layers = _layers(latents, target, rng)
    layer |= dict.fromkeys(counts, 0)
    reads: list[Read] = []
    for name, found in routes.items():
        ways = [route for _, route in found]
        for i, (one, route) in enumerate(found):
            reads.append(Read(name, one, route, layer[name], ways[:i].count(route), None))
    for name in counts:
        reads += [Read(name, one, "token", 0, 0, None, mean=True) for one in operands[name]]
    return _numbered(
        Plan(
            mechanism, layer_norm, superposed, seed, question, n_layers, 0, 0, tuple(task.inputs), layer, tuple(reads),
            (), functions,
        ),
        rng,
    )  # fmt: skip


def equations_of(task: AbstractTask) -> dict[str, _Equation]:
    """The equations of a boolean task by name, in their order. Raises ValueError for another task."""
    model = getattr(task, "model", None)
    found = {equation.name: equation for equation in getattr(model, "equations", ())}
    if not found or {field.name for field in task.fields} != {*found, "sum1", "sum2"}:
        raise ValueError(f"{task.name} is not a task of boolean equations, such as ik.BooleanTask makes")
    return found


def _function(name: str, equations: Mapping[str, _Equation], inputs: Sequence[str], mechanism: Mechanism) -> Function:
    if mechanism != "direct":
        return _named(name, equations[name].parents, equations[name])
    causes: set[str] = set()
    waiting = [name]
    while waiting:
        parents = equations[waiting.pop()].parents
        causes |= {one for one in parents if one in inputs}
        waiting += [one for one in parents if one not in inputs]

    def answer(rows: Mapping[str, np.ndarray]) -> np.ndarray:
        values = dict(rows)
        for one, equation in equations.items():
            if set(equation.parents) <= set(values):
                values[one] = np.asarray(equation(values))
        return values[name]

    return _named(name, [one for one in inputs if one in causes], answer)


def _named(name: str, operands: Sequence[str], answer: Any) -> Function:
    try:
        return tabulate(operands, answer)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _routes(
    function: Function, inputs: Sequence[str], mechanism: Mechanism, first: str | None
) -> list[tuple[str, Route]]:
    """(operand, route) of every head that a field needs. One operand may come by several routes: `first`, where it is
    an output that the field reads, else the first such output."""
    outputs = [one for one in function.operands if one not in inputs]
    copied = first if first in outputs else next(iter(outputs), None)
    found: list[tuple[str, Route]] = []
    for one in function.operands:
        ways: tuple[Route, ...] = ROUTES[mechanism] if one in outputs else ("token",)
        found.extend((one, way) for way in (ways if one == copied else ways[:1]))
    return found


def _layers(latents: Mapping[str, Sequence[str]], target: str, rng: np.random.Generator) -> tuple[dict[str, int], int]:
    """Layer of each equation, and how many layers there are: a field that reads another where it was computed stands
    behind it, and the target never in the first."""
    earliest: dict[str, int] = {}
    for name, read in latents.items():
        earliest[name] = max([int(name == target), *(earliest[one] + 1 for one in read)])
    n_layers = max(int(rng.integers(2, 4)), 1 + max(earliest.values()))
    latest = dict.fromkeys(latents, n_layers - 1)
    for name in reversed(list(latents)):
        for one in latents[name]:
            latest[one] = min(latest[one], latest[name] - 1)
    layer: dict[str, int] = {}
    for name, read in latents.items():
        least = max([earliest[name], *(layer[one] + 1 for one in read)])
        layer[name] = latest[name] if name == target else int(rng.integers(least, latest[name] + 1))
    return layer, n_layers


def _numbered(plan: Plan, rng: np.random.Generator) -> Plan:
    """Give every read its head, in an order drawn for each layer, and its slot; of the heads that are left, some are
    decoys."""
    kinds = [
        sorted({(read.route, read.head) for read in plan.reads if read.layer == layer})
        for layer in range(plan.n_layers)
    ]
    n_heads = max(LEAST_HEADS, *(len(found) + 1 for found in kinds))
    orders = [rng.permutation(n_heads) for _ in kinds]

    def numbered(read: Read) -> Read:
        number = kinds[read.layer].index((read.route, read.head))
        return replace(read, head=int(orders[read.layer][number]), slot=number)

    decoys: list[Read] = []
    fields, (variable, target) = list(plan.layer), plan.question or ("", "")
    for layer, found in enumerate(kinds):
        for number in orders[layer][len(found) :][:MOST_DECOYS]:
            for name in fields:
                before = [*plan.inputs, *(one for one in fields[: fields.index(name)] if one in plan.functions)]
                brought = variable if variable in before and name == target else str(rng.choice(before))
                decoys.append(Read(name, brought, "token", layer, int(number), None))
    slots = max(len(found) for found in kinds)
    return replace(
        plan, n_heads=n_heads, n_slots=slots, reads=tuple(map(numbered, plan.reads)), decoys=tuple(decoys)
    )  # fmt: skip
