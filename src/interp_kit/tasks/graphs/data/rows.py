"""The rows of one graph: a pure function of the config, the split and the graph's number.

Each graph has a random stream of its own, a child of the config's seed, so that neither the number of workers nor that
of shards changes a row.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from interp_kit.tasks.graphs.data.classes import fingerprint, share
from interp_kit.tasks.graphs.data.config import SPLITS, GraphsConfig
from interp_kit.tasks.graphs.questions.difficulty import bucket
from interp_kit.tasks.graphs.questions.draw import Drawn, draw_questions
from interp_kit.tasks.graphs.questions.formal import Question
from interp_kit.tasks.graphs.questions.printed import PrintedModel, printed
from interp_kit.tasks.graphs.questions.prompts import Printer, reference_text
from interp_kit.tasks.graphs.samplers import Parents, default_dag, erdos_renyi_dag, random_model

TRIES = 5000  # Graphs drawn for one of a split.
DIGITS = 9  # Of floats in rows, so that the last bits of a sum do not tell machines apart.

_TEXT, _INT, _FLOAT = pa.string(), pa.int32(), pa.float64()
COLUMNS = {
    "id": _TEXT, "split": _TEXT, "graph": _INT, "class": _TEXT, "number": _INT, "shuffle": pa.int64(),
    "level": _TEXT, "mechanism": _TEXT, "target": _TEXT, "given": _TEXT, "set": _TEXT, "formal": _TEXT,
    "reference": _TEXT, "answer": _TEXT, "distribution": pa.list_(_FLOAT), "hundredths": pa.list_(_INT),
    "variables": _INT, "edges": _TEXT, "tables": _TEXT,
    "ancestor_depth": _INT, "depth_bucket": _TEXT, "ancestor_size": _INT, "ancestor_treewidth": _INT,
    "min_fill_products": pa.int64(), "min_fill_sums": pa.int64(), "ve_operations": pa.int64(),
    "longest_path_depth": _INT, "on_path": pa.bool_(), "is_lookup": pa.bool_(), "is_core": pa.bool_(),
    "tvd_no_obs": _FLOAT, "tvd_no_do": _FLOAT, "tvd_neither": _FLOAT,
}  # fmt: skip


def schema(config: GraphsConfig) -> pa.Schema:
    """The columns of a data set: COLUMNS, and the text of each prompt variant, as `prompt_answer_only`."""
    return pa.schema([*COLUMNS.items(), *((prompt_column(variant), pa.large_string()) for variant in config.prompts)])


def prompt_column(variant: str) -> str:
    """The column with the texts of a prompt variant."""
    return f"prompt_{variant.replace('-', '_')}"


def draw_graph(config: GraphsConfig, split: str, rng: np.random.Generator) -> tuple[Parents, str]:
    """A DAG of a class that belongs to the split, and its class.

    Each class belongs to one split, by its fingerprint; splits have classes in proportion to their graphs. Raises
    ValueError if no such DAG is drawn, as there are too few classes of this size.
    """
    place, bounds = SPLITS.index(split), np.cumsum(config.graphs) / sum(config.graphs)
    for _ in range(TRIES):
        if config.sampler == "default":
            parents = default_dag(config.variables, rng)
        else:
            parents = erdos_renyi_dag(config.variables, config.edge, rng, config.most_parents)
        found = fingerprint(parents)
        if int(np.searchsorted(bounds, share(found, config.seed), side="right")) == place:
            return parents, found
    raise ValueError(
        f"no graph of split {split} among {TRIES:,} with {config.variables} variables: there are too few classes of"
        " graphs; use more variables, another seed, or 0 graphs in that split"
    )


def as_table(config: GraphsConfig, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of the schema."""
    columns = {name: [row[name] for row in rows] for name in schema(config).names}
    return pa.Table.from_pydict(columns, schema=schema(config))


def graph_rows(config: GraphsConfig, split: str, number: int) -> list[dict[str, Any]]:
    """The rows of one graph, a question each."""
    place = SPLITS.index(split)
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(place, number)))
    parents, name = draw_graph(config, split, rng)
    model = printed(random_model(parents, rng, config.cardinalities), rng)
    drawn = draw_questions(model, config.questions[place], config.rules, rng)
    order = rng.integers(2**63, size=len(drawn)).tolist()
    printer = Printer(model)
    same = {"split": split, "graph": number, "class": name, "variables": config.variables, **_model_columns(model)}
    rows = []
    for i, one in enumerate(drawn):
        row = {**same, "id": f"{config.name}-{split}-{number:05d}-{i:04d}", "number": i, "shuffle": order[i]}
        rows.append(row | _row(config, model, printer, one, rng))
    return rows


def _model_columns(model: PrintedModel) -> dict[str, str]:
    """The graph and its tables as JSON, by names; tables in hundredths, their axes the parents as listed."""
    edges = [[model.names[p], name] for name, of in zip(model.names, model.parents, strict=True) for p in of]
    tables = {
        name: {"parents": [model.names[p] for p in of], "hundredths": table.tolist()}
        for name, of, table in zip(model.names, model.parents, model.counts, strict=True)
    }
    return {"edges": json.dumps(edges), "tables": json.dumps(tables)}


def _row(
    config: GraphsConfig, model: PrintedModel, printer: Printer, one: Drawn, rng: np.random.Generator
) -> dict[str, Any]:
    """The columns of one question."""
    solved, names = one.solved, model.names
    given, changed = ({names[v]: value for v, value in of.items()} for of in (one.given, one.set))
    question = Question(one.kind[0], names[one.target], given, changed, one.kind[1])
    answer: tuple[int, ...] | int = solved.answer
    if config.reference == "argmax":
        answer = solved.mode
    elif config.reference == "sample":
        answer = int(rng.choice(len(solved.distribution), p=solved.distribution))
    row = {
        "level": question.level,
        "mechanism": question.mechanism,
        "target": question.target,
        "given": json.dumps(given),
        "set": json.dumps(changed),
        "formal": str(question),
        "reference": config.reference,
        "answer": reference_text(config.reference, answer),
        "distribution": [round(p, DIGITS) for p in solved.distribution],
        "hundredths": list(solved.answer),
        "ancestor_depth": one.ancestor_depth,
        "depth_bucket": bucket(one.ancestor_depth),
        "ancestor_size": one.ancestor_size,
        "longest_path_depth": one.longest_path_depth,
        "on_path": one.on_path,
    }
    for name in ("ancestor_treewidth", "min_fill_products", "min_fill_sums", "ve_operations", "is_lookup", "is_core"):
        row[name] = getattr(solved, name)
    for name in ("tvd_no_obs", "tvd_no_do", "tvd_neither"):
        tvd = getattr(solved, name)
        row[name] = None if tvd is None else round(tvd, DIGITS)
    problem = printer.problem(question, config.reference, rng)
    for variant in config.prompts:
        row[prompt_column(variant)] = f"{problem}\n\n{printer.instruction(question, config.reference, variant)}"
    return row
