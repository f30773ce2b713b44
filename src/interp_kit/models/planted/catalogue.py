"""Every planted model by name, and the task that it solves."""

from collections.abc import Mapping

from transformer_lens import HookedTransformer

from interp_kit.core.task import AbstractTask
from interp_kit.models.planted.boolean import MECHANISMS, planted_boolean
from interp_kit.models.planted.induction import planted_induction

# Name of the model -> registry name of its task.
PLANTED_TASKS: Mapping[str, str] = {**{f"boolean-{name}": "boolean" for name in MECHANISMS}, "induction": "induction"}


def planted_model(name: str, task: AbstractTask, seed: int = 0) -> HookedTransformer:
    """The planted model of that name for its task; the seed draws the residual basis.

    Raises ValueError for an unknown name, listing those there are, and for a task that the model cannot solve.
    """
    if name not in PLANTED_TASKS:
        raise ValueError(f"no planted model {name!r}; there are {', '.join(PLANTED_TASKS)}")
    if name == "induction":
        return planted_induction(task, seed)
    return planted_boolean(task, name.removeprefix("boolean-"), seed)
