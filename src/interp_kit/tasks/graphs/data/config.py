"""Configuration of a data set of graph questions: a frozen config, from a YAML file, that refuses unknown fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from interp_kit.core.config import (
    check_choice,
    check_count,
    check_fields,
    check_flag,
    check_names,
    check_number,
    check_seed,
    from_mapping,
    to_mapping,
)
from interp_kit.core.files import read_bytes
from interp_kit.tasks.graphs.counterfactual import MECHANISMS
from interp_kit.tasks.graphs.models import MOST_VALUES
from interp_kit.tasks.graphs.questions.draw import INCLUDABLE, Kind, Rules
from interp_kit.tasks.graphs.questions.formal import LEVELS
from interp_kit.tasks.graphs.questions.prompts import REFERENCES, VARIANTS

SPLITS = ("train", "val", "test")
SAMPLERS = ("default", "erdos-renyi")
MOST_VARIABLES = 200
MOST_PARENTS = 5
LARGEST_FILE = 2**20


@dataclass(frozen=True)
class GraphsConfig:
    """A data set of questions about random causal graphs.

    name: of the data set, in the ids of questions and as verl's data_source; variables: per graph; graphs, questions:
    graphs per split (train, val, test), and questions per graph: at most, as small graphs have fewer that differ;
    sampler: "default" (see `default_dag`) or "erdos-renyi" with the probability `edge` and at most `most_parents`;
    cardinalities: values per variable, drawn from these; levels, mechanisms: kinds of questions, in equal shares as far
    as a graph has them; observed: variables that are observed; include, core_only: see `Rules`; reference: what is
    asked for, "distribution", "argmax" or "sample"; prompts: variants of the prompt, a column each; seed: of all draws.

    Raises ValueError naming the field that is wrong.
    """

    name: str = "graphs"
    variables: int = 5
    graphs: tuple[int, ...] = (50, 25, 25)
    questions: tuple[int, ...] = (100, 50, 50)
    sampler: str = "default"
    edge: float = 0.3
    most_parents: int = 3
    cardinalities: tuple[int, ...] = (2, 3)
    levels: tuple[str, ...] = LEVELS
    mechanisms: tuple[str, ...] = MECHANISMS
    observed: int = 1
    include: tuple[str, ...] = ()
    core_only: bool = False
    reference: str = "distribution"
    prompts: tuple[str, ...] = VARIANTS
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(GraphsConfig, to_mapping(self), "the config of graph questions")
        if not self.name.isidentifier():
            raise ValueError(f"name is {self.name!r}; expected letters, digits and underscores, as in graphs_5")
        check_count("variables", self.variables, 2, MOST_VARIABLES)
        for option, counts in (("graphs", self.graphs), ("questions", self.questions)):
            if len(counts) != len(SPLITS):
                raise ValueError(f"{option} has {len(counts)} numbers; expected one for each of {', '.join(SPLITS)}")
            for count in counts:
                check_count(option, count, least=0 if option == "graphs" else 1)
        if not sum(self.graphs):
            raise ValueError("graphs is 0 in every split; expected some")
        check_choice("sampler", self.sampler, SAMPLERS)
        check_number("edge", self.edge, above=0, most=1)
        check_count("most_parents", self.most_parents, 1, MOST_PARENTS)
        if not self.cardinalities:
            raise ValueError("cardinalities is empty; expected numbers of values, as in [2, 3]")
        for values in self.cardinalities:
            check_count("cardinalities", values, 2, MOST_VALUES)
        rows = max(self.cardinalities) ** (self._parents() + 1)
        if rows > 10**5:
            raise ValueError(
                f"cardinalities of {max(self.cardinalities)} with {self._parents()} parents give tables of {rows:,}"
                " numbers; expected at most 100,000"
            )
        check_names("levels", self.levels, LEVELS)
        check_names("mechanisms", self.mechanisms, MECHANISMS)
        check_count("observed", self.observed, 1, self.variables - 1)
        check_names("include", self.include, INCLUDABLE, empty=True)
        check_flag("core_only", self.core_only)
        check_choice("reference", self.reference, REFERENCES)
        check_names("prompts", self.prompts, VARIANTS)
        check_seed(self.seed)

    def _parents(self) -> int:
        return 2 if self.sampler == "default" else self.most_parents

    @property
    def rules(self) -> Rules:
        """Selection of questions."""
        kinds: list[Kind] = []
        for level in self.levels:
            kinds += [(level, m) for m in (self.mechanisms if level == "counterfactual" else (None,))]
        return Rules(tuple(kinds), self.observed, self.include, self.core_only)


def read_config(path: str | Path) -> GraphsConfig:
    """Read a YAML file of the fields of GraphsConfig.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, not a mapping, or has an unknown field or a wrong value. It names the file.
    """
    data = read_bytes(path, LARGEST_FILE)
    try:
        values = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path} holds a {type(values).__name__}; expected fields, as in 'variables: 5'")
    known = as_json(GraphsConfig())
    if values.keys() <= known.keys():
        check_fields(GraphsConfig, known | dict(values), path)
    try:
        return from_mapping(GraphsConfig, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def as_json(config: GraphsConfig) -> dict[str, Any]:
    """The config as JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in to_mapping(config).items()}
