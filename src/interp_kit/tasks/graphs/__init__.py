"""Causal-graph questions with exact answers from inference."""

from interp_kit.tasks.graphs.compact import Solution, Worlds, solve
from interp_kit.tasks.graphs.task import CompactGraphsTask

__all__ = ["CompactGraphsTask", "Solution", "Worlds", "solve"]
