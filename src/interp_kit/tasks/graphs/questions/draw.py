"""Questions about one model, drawn so that every depth that it offers is asked about equally often."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from interp_kit.tasks.graphs.models import topological
from interp_kit.tasks.graphs.questions.difficulty import BUCKETS, Graph
from interp_kit.tasks.graphs.questions.formal import KINDS
from interp_kit.tasks.graphs.questions.printed import HUNDRED, PrintedModel
from interp_kit.tasks.graphs.questions.solver import Solved, Solver

INCLUDABLE = ("disconnected", "lookups", "target_intervened", "evidence_intervened")
MOST = 1024  # Combinations of variables that are considered per kind and model.
WORLDS = 256  # Drawn at a time.
PASSES = 4  # Over the combinations, each time with other values.

Kind = tuple[str, str | None]


@dataclass(frozen=True)
class Drawn:
    """A question by numbers, its answer, and its columns of structure (see `Depths`)."""

    kind: Kind
    target: int
    given: dict[int, int]
    set: dict[int, int]
    solved: Solved
    ancestor_depth: int
    ancestor_size: int
    longest_path_depth: int
    on_path: bool


@dataclass(frozen=True)
class Rules:
    """Selection of questions.

    kinds: levels with their mechanisms; observed: variables that are observed, in levels that observe; include: what is
    asked about though it is excluded by default: "disconnected", questions of which the graph alone shows that what is
    observed or set does not matter, "lookups", answers that are rows of the target's own table, "target_intervened",
    questions about the intervened variable itself, "evidence_intervened", evidence on the intervened variable;
    core_only: leave out questions that a shortcut answers.
    """

    kinds: tuple[Kind, ...] = KINDS
    observed: int = 1
    include: tuple[str, ...] = ()
    core_only: bool = False


def draw_questions(model: PrintedModel, n: int, rules: Rules, rng: np.random.Generator) -> list[Drawn]:
    """Up to n different questions, the kinds in turn; fewer if the model has not so many that the rules allow."""
    solver, graph, worlds = Solver(model), Graph(model.parents), sampled(model, rng)
    each = [n // len(rules.kinds) + (i < n % len(rules.kinds)) for i in range(len(rules.kinds))]
    found = [
        list(itertools.islice(_of_kind(kind, solver, graph, rules, rng, worlds), wanted))
        for kind, wanted in zip(rules.kinds, each, strict=True)
    ]
    return [drawn for row in itertools.zip_longest(*found) for drawn in row if drawn is not None]


def sampled(model: PrintedModel, rng: np.random.Generator) -> Iterator[list[int]]:
    """Worlds drawn from the printed model, without end; each ends in one more random number, below 2**31."""
    order = topological(model.parents)
    tables = [table.reshape(-1, table.shape[-1]).cumsum(1) for table in model.counts]
    while True:
        world = np.zeros((WORLDS, len(order) + 1), dtype=np.int64)
        noise = rng.integers(HUNDRED, size=world.shape)
        world[:, -1] = rng.integers(2**31, size=WORLDS)
        for v in order:
            row = np.zeros(WORLDS, dtype=np.int64)
            for p in model.parents[v]:
                row = row * model.cardinalities[p] + world[:, p]
            world[:, v] = (tables[v][row] <= noise[:, v, None]).sum(1)
        yield from world.tolist()


def _of_kind(
    kind: Kind, solver: Solver, graph: Graph, rules: Rules, rng: np.random.Generator, worlds: Iterator[list[int]]
) -> Iterator[Drawn]:
    """Different questions of one kind, one depth after the other."""
    level = kind[0]
    rows = combinations(graph.n, level, 0 if level == "interventional" else rules.observed, rules.include, rng)
    if "disconnected" not in rules.include:
        rows = rows[graph.connected(level, rows[:, 0], rows[:, 1:-1], rows[:, -1])]
    if "lookups" not in rules.include and level != "counterfactual":
        rows = rows[_not_read_off(rows, level, graph)]
    depths = graph.depths(level, rows[:, 0], rows[:, 1:-1], rows[:, -1])
    columns = (depths.ancestor_depth, depths.ancestor_size, depths.longest_path_depth, depths.on_path)
    candidates = [*zip(rows.tolist(), zip(*(column.tolist() for column in columns), strict=True), strict=True)]
    of = np.minimum(depths.ancestor_depth, len(BUCKETS) - 1)
    buckets = [rng.permutation(np.flatnonzero(of == depth)).tolist() for depth in np.unique(of)]
    return _in_turn([_of_depth(kind, [candidates[i] for i in chosen], solver, rules, worlds) for chosen in buckets])


def _of_depth(
    kind: Kind,
    candidates: Sequence[tuple[list[int], tuple[int, int, int, bool]]],
    solver: Solver,
    rules: Rules,
    worlds: Iterator[list[int]],
) -> Iterator[Drawn]:
    """Different questions of one kind and depth that the rules allow."""
    (level, mechanism), cards, seen = kind, solver.printed.cardinalities, set()
    for _ in range(PASSES):
        for (x, *z, y), columns in candidates:
            world = next(worlds)
            given, changed = {v: world[v] for v in z}, {}
            if level == "interventional":
                changed[x] = world[-1] % cards[x]
            elif level == "counterfactual":  # another value than it had in the world that is observed in part
                changed[x] = (world[x] + 1 + world[-1] % max(cards[x] - 1, 1)) % cards[x]
            key = (y, *given.items(), *changed.items())
            if key in seen:
                continue
            seen.add(key)
            solved = solver.solve_numbers(level, y, given, changed, mechanism)
            if (not solved.is_lookup or "lookups" in rules.include) and (solved.is_core or not rules.core_only):
                yield Drawn(kind, y, given, changed, solved, *columns)


def _in_turn(sources: Sequence[Iterator[Drawn]]) -> Iterator[Drawn]:
    """One of each, over and over, until none has more."""
    left = list(sources)
    while left:
        drawn = [(source, next(source, None)) for source in left]
        left = [source for source, one in drawn if one is not None]
        yield from (one for _, one in drawn if one is not None)


def combinations(n: int, level: str, observed: int, include: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """(k, 2 + observed) which variable is set, which are observed and which is asked about: all that are allowed, or
    random ones of them if there are over MOST."""
    if n * n * math.comb(n, observed) <= MOST:
        return _all_combinations(n, level, observed, include)
    x, y = rng.integers(n, size=(2, MOST))
    x *= level != "observational"
    z = np.sort(rng.random((MOST, n)).argsort(1)[:, :observed], axis=1)
    return _allowed(np.column_stack([x, z, y]), level, include)


@lru_cache
def _all_combinations(n: int, level: str, observed: int, include: tuple[str, ...]) -> np.ndarray:
    sets = list(itertools.combinations(range(n), observed))
    rows = np.array([(x, *z, y) for x in range(n) for z in sets for y in range(n)])
    return _allowed(rows, level, include)


def _not_read_off(rows: np.ndarray, level: str, graph: Graph) -> np.ndarray:
    """(k,) False if all parents of the target are known and nothing else is: a row of its table is the answer."""
    parents = np.array([of[0] if len(of) == 1 else -1 for of in graph.parents])[rows[:, -1]]
    known = rows[:, 0] if level == "interventional" else rows[:, 1]
    return (known != parents) | (level == "observational" and rows.shape[1] > 3)


def _allowed(rows: np.ndarray, level: str, include: tuple[str, ...]) -> np.ndarray:
    x, z, y = rows[:, 0], rows[:, 1:-1], rows[:, -1]
    if level == "observational":  # nothing is set
        return rows[(x == 0) & (z != y[:, None]).all(1)]
    fine = (x != y) | ("target_intervened" in include)
    fine &= (z != x[:, None]).all(1) | ("evidence_intervened" in include)
    return rows[fine]
