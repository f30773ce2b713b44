"""Grid quizzes: four 10x10 grids A, f_A, B, f_B, in which f is one of eight geometric rules."""

from interp_kit.tasks.culture.grids import STRUCTURES
from interp_kit.tasks.culture.solver import Solution, bound, solve
from interp_kit.tasks.culture.task import CultureTask
from interp_kit.tasks.culture.world import TASKS, Worlds, sample_worlds

__all__ = ["STRUCTURES", "TASKS", "CultureTask", "Solution", "Worlds", "bound", "sample_worlds", "solve"]
