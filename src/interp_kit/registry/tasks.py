"""The tasks by name. Adding a task is one folder and one line here."""

from collections.abc import Callable
from typing import Any

from interp_kit.core.identity import Description, fingerprint
from interp_kit.core.task import AbstractTask
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.culture import CultureTask
from interp_kit.tasks.graphs import CompactGraphsTask
from interp_kit.tasks.induction import InductionTask

TASKS: dict[str, Callable[..., AbstractTask]] = {
    "boolean": BooleanTask,
    "cards": CardsTask,
    "culture": CultureTask,
    "graphs": CompactGraphsTask,
    "induction": InductionTask,
}


def task(name: str, **options: Any) -> AbstractTask:
    """The task of that name; `options` go to its constructor. Raises ValueError listing the names there are."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name](**options)


def rebuild(description: Description) -> AbstractTask:
    """The task that a description is of (`AbstractTask.describe`). Raises ValueError if no task of that name is known
    here, its options are not known, or the task made of them is another one today."""
    name, options = description["name"], description["options"]
    if name not in TASKS:
        raise ValueError(
            f"the model learned task {name!r}, which is not among {', '.join(TASKS)}: make that task and pass it"
        )
    if options is None:
        raise ValueError(f"the options of task {name!r} were not saved with the model: make that task and pass it")
    try:
        made = TASKS[name](**options)
    except TypeError as error:
        raise ValueError(f"task {name!r} cannot be made again of the options saved with the model: {error}") from error
    if made.identity.fingerprint != fingerprint(description):
        raise ValueError(f"task {name!r} of the options saved with the model has another meaning today: {options}")
    return made
