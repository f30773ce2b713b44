"""A compiler of boolean equations into transformers whose circuit is known: `compile_task`."""

from interp_kit.models.compiler.compile import compile_task, plan_of

__all__ = ["compile_task", "plan_of"]
