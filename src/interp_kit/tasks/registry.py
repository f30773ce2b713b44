"""The tasks by name. Adding a task is one folder and one line here."""

from collections.abc import Callable
from typing import Any

from interp_kit.core.task import AbstractTask
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.culture import CultureTask
from interp_kit.tasks.graphs import CompactGraphsTask
from interp_kit.tasks.induction import InductionTask

TASKS: dict[str, Callable[..., AbstractTask]] = {
    "boolean": BooleanTask,
    "culture": CultureTask,
    "graphs": CompactGraphsTask,
    "induction": InductionTask,
}


def task(name: str, **options: Any) -> AbstractTask:
    """The task of that name; `options` go to its constructor. Raises ValueError listing the names there are."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name](**options)
