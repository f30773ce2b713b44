"""The tasks by name: those shipped here (a folder and one line each), those that the user registers, and those of
installed packages. `find` resolves every name that a function or command takes."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from interp_kit.core.config import expect
from interp_kit.core.identity import Description, fingerprint
from interp_kit.core.task import AbstractTask
from interp_kit.registry import plugins
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.culture import CultureTask
from interp_kit.tasks.graphs import CompactGraphsTask
from interp_kit.tasks.induction import InductionTask

TASKS: dict[str, type[AbstractTask]] = {
    "boolean": BooleanTask,
    "cards": CardsTask,
    "culture": CultureTask,
    "graphs": CompactGraphsTask,
    "induction": InductionTask,
}
_registered: dict[str, type[AbstractTask]] = {}

Task = TypeVar("Task", bound=type[AbstractTask])


def names() -> tuple[str, ...]:
    """Every name of a task: shipped, registered, and of installed packages."""
    return tuple(dict.fromkeys((*TASKS, *_registered, *plugins.installed())))


def register(task: Task, name: str | None = None) -> Task:
    """Make a task known by name in this process, as `ik.task(name)` and models trained on it look it up.

    Also a decorator. A cell or file that is run again replaces its own task.

    Args:
        task: A subclass of AbstractTask.
        name: Another name than `task.name`; a subclass that bears it is then made, registered and returned.

    Returns:
        The task as registered: use this class for training and analyses.

    Raises:
        ValueError: It is not a task, or the name is that of a shipped or of another registered task.
    """
    checked = plugins.check_task(task, f"{task!r}")
    if name is not None and name != checked.name:
        body = {"name": name, "__doc__": checked.__doc__, "__module__": checked.__module__}
        checked = plugins.check_task(type(checked.__name__, (checked,), body), f"{task!r}")
    _check_not_shipped(checked, f"{checked.__module__}.{checked.__qualname__}")
    known = _registered.get(checked.name)
    if known is not None and (known.__module__, known.__qualname__) != (checked.__module__, checked.__qualname__):
        raise ValueError(
            f"{checked.__module__}.{checked.__qualname__} has the name {checked.name!r}, under which"
            f" {known.__module__}.{known.__qualname__} is registered; give one of them another name"
        )
    _registered[checked.name] = checked
    return checked  # pyright: ignore[reportReturnType]


def _check_not_shipped(task: type[AbstractTask], what: str) -> None:
    """Raises ValueError if a task from outside bears the name of a shipped one."""
    if task.name in TASKS and task is not TASKS[task.name]:
        raise ValueError(
            f"{what} has the name {task.name!r}, which is a task of interp_kit; give it another one, as in"
            f' name = "my_{task.name}" in the class, or ik.register(task, "my_{task.name}")'
        )


def find(name: str, option: str = "task") -> type[AbstractTask]:
    """The class of a task.

    Args:
        name: A name of `names()`, or an address: `my_file.py:MyTask`, `package.module:Name`.
        option: What the name was given as, for messages.

    Raises:
        ValueError: It is not there, is not a task, or bears the name of another.
    """
    expect(option, name, str, "a task is named by text; pass a task itself where one is taken")
    if plugins.is_address(name):
        found = plugins.from_address(name)
        _check_not_shipped(found, name)
        return found
    points = plugins.installed()
    if name in points and name in TASKS:
        raise ValueError(
            f"an installed package calls its task {points[name].value} {name!r}, which is a task of interp_kit;"
            " rename its entry point, or uninstall it"
        )
    known = {**_registered, **TASKS}
    if name in points and name not in known:
        found = plugins.from_entry_point(points[name])
        if found.name != name:
            raise ValueError(
                f"the entry point {name!r} of an installed package stands for {points[name].value}, whose name is"
                f" {found.name!r}; expected the same name"
            )
        return found
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise ValueError(
            f"{option} is {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}expected one of"
            f" {', '.join(names())}, or an address such as my_file.py:MyTask"
        )
    return known[name]


def task(name: str, **options: Any) -> AbstractTask:
    """The task of that name or address (see `find`); `options` go to its constructor.

    Raises:
        ValueError: There is no such task, or it needs options that were not given.
    """
    return made(find(name), options)


def made(kind: type[AbstractTask], options: Mapping[str, Any]) -> AbstractTask:
    """A task of its class and options. Raises ValueError if it needs options and none were given."""
    try:
        return kind(**options)
    except TypeError as error:
        if options:
            raise
        raise ValueError(f"task {kind.name!r} cannot be made without options: {error}") from error


def rebuild(description: Description, kind: type[AbstractTask] | None = None) -> AbstractTask:
    """The task that a description is of (`AbstractTask.describe`).

    Args:
        description: As it was saved with a model.
        kind: The class of that task; default: the one known by its name.

    Raises:
        ValueError: No task of that name is known here, its options are not known, or the task made of them is another
            one today.
    """
    name, options = description["name"], description["options"]
    if kind is None and name not in names():
        raise ValueError(
            f"the model learned task {name!r}, which is not among {', '.join(names())}: make that task and pass it,"
            " ik.register its class, or give its address (--task my_file.py:MyTask)"
        )
    if options is None:
        raise ValueError(f"the options of task {name!r} were not saved with the model: make that task and pass it")
    kind = find(name) if kind is None else kind
    try:
        built = kind(**options)
    except TypeError as error:
        raise ValueError(f"task {name!r} cannot be made again of the options saved with the model: {error}") from error
    if built.identity.fingerprint != fingerprint(description):
        raise ValueError(f"task {name!r} of the options saved with the model has another meaning today: {options}")
    return built
