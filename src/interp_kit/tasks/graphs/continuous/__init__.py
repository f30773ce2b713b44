"""Continuous causal models, and questions about them, answered by sampling with a stated error."""

from interp_kit.tasks.graphs.continuous.estimate import Estimate, estimate
from interp_kit.tasks.graphs.continuous.model import ContinuousModel, continuous_model, random_continuous

__all__ = ["ContinuousModel", "Estimate", "continuous_model", "estimate", "random_continuous"]
