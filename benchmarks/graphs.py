"""Questions about causal graphs: exact answers beside pgmpy's, and how fast data sets are made."""

import logging
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measure import Row, compare
from interp_kit.tasks.graphs import DiscreteModel, default_dag, query, random_model, to_pgmpy
from interp_kit.tasks.graphs.data.config import GraphsConfig
from interp_kit.tasks.graphs.data.files import CHUNK
from interp_kit.tasks.graphs.data.rows import as_table, graph_rows
from interp_kit.tasks.graphs.questions.formal import KINDS

MODELS, QUERIES = 10, 10
SIZES = (5, 15)
WIDE, WIDTH = 100, 6


@dataclass(frozen=True)
class Rate:
    """A line of RESULTS.md that has no peer. per_unit: seconds of processor time of each repetition."""

    work: str
    per_unit: list[float]
    unit: str

    def __str__(self) -> str:
        middle, low, high = (1e3 * f(self.per_unit) for f in (statistics.median, min, max))
        spread = f"{low:.2f} to {high:.2f} ms (n = {len(self.per_unit)})"
        return f"| {self.work} | none | {1e3 / middle:.0f} {self.unit} a second | {spread} | {middle:.2f} ms | | |"


def graphs() -> Iterator[Row | Rate]:
    """Queries against pgmpy's variable elimination; a query of each kind alone; rows with text and every column."""
    from pgmpy.inference import VariableElimination

    logging.getLogger("pgmpy").setLevel(logging.ERROR)
    rng = np.random.default_rng(0)
    for n in SIZES:
        models = [random_model(default_dag(n, rng), rng) for _ in range(MODELS)]
        asked = [(m, *rng.permutation(m.names)[:2].tolist()) for m in models for _ in range(QUERIES)]
        peers: dict[int, Any] = {id(m): VariableElimination(to_pgmpy(m)) for m in models}

        def ours(asked: list[tuple[DiscreteModel, str, str]] = asked) -> list[np.ndarray]:
            return [query(m, y, given={x: 0}).distribution for m, x, y in asked]

        def theirs(
            asked: list[tuple[DiscreteModel, str, str]] = asked, peers: dict[int, Any] = peers
        ) -> list[np.ndarray]:
            return [peers[id(m)].query([y], evidence={x: 0}, show_progress=False).values for m, x, y in asked]

        worst = max(np.abs(a - b).max() for a, b in zip(ours(), theirs(), strict=True))
        yield from compare(
            f"{len(asked)} exact answers P(y | x), {n} variables", ours, {"pgmpy's VariableElimination": theirs},
            difference=f"{worst:.0e}", repeats=3,
        )  # fmt: skip
    yield from single_queries(rng)
    for n, graphs in ((5, 96), (10, 40), (15, 40)):
        yield made(n, graphs)


def single_queries(rng: np.random.Generator) -> Iterator[Rate]:
    """One query at a time, each on a model that was asked nothing before; and on wide models."""
    for n in (5, 10, 15):
        for level, mechanism in KINDS:
            seconds = []
            for _ in range(200):
                model = random_model(default_dag(n, rng), rng)
                seconds.append(_seconds(model, rng, level, mechanism))
            yield Rate(f"a query, {n} variables, {level} {mechanism or ''}".strip(), seconds, "queries")
    for level, mechanism in KINDS[:2]:
        seconds = [_seconds(wide(WIDE, WIDTH, rng), rng, level, mechanism) for _ in range(30)]
        yield Rate(f"a query, {WIDE} variables of 2 values, width about {WIDTH}, {level}", seconds, "queries")


def wide(n: int, width: int, rng: np.random.Generator) -> DiscreteModel:
    """A model of that treewidth: each variable's parents are among the `width` before it, all of them in half of the
    cases."""
    parents = []
    for v in range(n):
        near = np.arange(max(0, v - width), v)
        keep = np.ones(len(near), bool) if rng.random() < 0.5 else rng.random(len(near)) < 0.3
        parents.append(tuple(near[keep].tolist()))
    return random_model(parents, rng, cardinalities=(2,))


def made(n: int, graphs: int) -> Rate:
    """Rows with all columns and three prompts as tables, eight graphs at a time, in one process; the first eight make
    plans of elimination that are kept."""
    config = GraphsConfig(variables=n, graphs=(1000, 200, 200))
    seconds = []
    for first in range(0, graphs, CHUNK):
        start = time.process_time()
        rows = [row for number in range(first, first + CHUNK) for row in graph_rows(config, "train", number)]
        as_table(config, rows)
        seconds.append((time.process_time() - start) / len(rows))
    return Rate(f"a question with text and all columns, {n} variables", seconds[1:], "questions")


def _seconds(model: DiscreteModel, rng: np.random.Generator, level: str, mechanism: str | None) -> float:
    x, y = rng.permutation(len(model.names))[:2].tolist()
    names = model.names
    given, do = {names[x]: 0}, {names[x]: 0}
    start = time.process_time()
    if level == "observational":
        query(model, names[y], given=given)
    elif level == "interventional":
        query(model, names[y], do=do)
    else:
        query(model, names[y], given={names[y]: 0}, counterfactual=do, mechanism=mechanism)
    return time.process_time() - start
