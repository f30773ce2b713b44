"""Boolean structural equations: five bits in, four computed bits and two sums out."""

from interp_kit.tasks.boolean.equations import EQUATIONS, StructuralModel
from interp_kit.tasks.boolean.task import BooleanTask

__all__ = ["EQUATIONS", "BooleanTask", "StructuralModel"]
