"""Causal-graph questions with exact answers from inference."""

from interp_kit.tasks.graphs.compact import Solution, Worlds, solve
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
    "default_dag",
    "discrete_model",
    "erdos_renyi_dag",
    "query",
    "random_model",
    "solve",
]
