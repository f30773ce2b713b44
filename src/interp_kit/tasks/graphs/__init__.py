"""Causal-graph questions with exact answers from inference."""

from interp_kit.tasks.graphs.compact import Solution, Worlds, solve
from interp_kit.tasks.graphs.counterfactual import clamped
from interp_kit.tasks.graphs.exchange import from_networkx, from_pgmpy, to_networkx, to_pgmpy
from interp_kit.tasks.graphs.models import DiscreteModel, discrete_model
from interp_kit.tasks.graphs.query import Answer, query
from interp_kit.tasks.graphs.samplers import default_dag, erdos_renyi_dag, random_model
from interp_kit.tasks.graphs.task import CompactGraphsTask

__all__ = [
    "Answer",
    "CompactGraphsTask",
    "DiscreteModel",
    "Solution",
    "Worlds",
    "clamped",
    "default_dag",
    "discrete_model",
    "erdos_renyi_dag",
    "from_networkx",
    "from_pgmpy",
    "query",
    "random_model",
    "solve",
    "to_networkx",
    "to_pgmpy",
]
