"""Induction: a token comes back, and what followed it the first time follows again."""

from interp_kit.tasks.induction.task import InductionTask

__all__ = ["InductionTask"]
