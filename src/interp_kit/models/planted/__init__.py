"""Transformers whose mechanism is known because it was written into the weights: positive controls for every analysis.

Nothing is trained. As in Tracr (Lindner et al. 2023, arXiv:2301.05062) each feature has a direction of its own in the
residual stream, attention routes features between positions and MLP neurons look functions up; and as in InterpBench
(Gupta et al. 2024, arXiv:2407.14494) the circuit is the ground truth that an analysis has to recover. Unlike Tracr's
models these have a real LayerNorm and no privileged residual coordinate, so an analysis meets what it meets in a
trained model.
"""

from interp_kit.models.planted.boolean import (
    MECHANISMS,
    NEWD_SOURCE,
    PLANTED_MECHANISMS,
    WIRING,
    planted_boolean,
    planted_repair,
)
from interp_kit.models.planted.catalogue import PLANTED_TASKS, planted_model
from interp_kit.models.planted.equations import planted_equations
from interp_kit.models.planted.induction import planted_induction
from interp_kit.models.planted.truth import ground_truth

__all__ = [
    "MECHANISMS",
    "NEWD_SOURCE",
    "PLANTED_MECHANISMS",
    "PLANTED_TASKS",
    "WIRING",
    "ground_truth",
    "planted_boolean",
    "planted_equations",
    "planted_induction",
    "planted_model",
    "planted_repair",
]
