"""Tasks from outside the package: a class in a file, in a module, or behind an entry point of an installed package."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from interp_kit.core.task import AbstractTask

GROUP = "interp_kit.tasks"  # [project.entry-points."interp_kit.tasks"] of a package's pyproject.toml


def is_address(name: str) -> bool:
    """True for `my_file.py:MyTask` and `package.module:Name`, which say where a task is, unlike a registered name."""
    return ":" in name


def installed() -> dict[str, EntryPoint]:
    """The entry points of installed packages by name. None of them is imported.

    Raises:
        ValueError: Two packages use the same name.
    """
    return _installed(tuple(sys.path))


@cache
def _installed(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        known = found.setdefault(point.name, point)
        if known.value != point.value:
            raise ValueError(
                f"two installed packages call a task {point.name!r}: {_origin(known)} and {_origin(point)};"
                " uninstall one, or name the task by its address, as in --task package.module:Name"
            )
    return found


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name if point.dist else 'a package'}"


def from_entry_point(point: EntryPoint) -> type[AbstractTask]:
    """The task class behind an entry point. Raises ValueError if it is not there or is not a task."""
    return _named(point.value, f"task {point.name!r} ({_origin(point)})")


def from_address(address: str) -> type[AbstractTask]:
    """The task class at `my_file.py:MyTask` or `package.module:Name`.

    A file may import its neighbours, and a module is looked for in the current folder first.

    Raises:
        ValueError: The file, module or class is not there, cannot be imported, or is not a task.
    """
    return _named(address, f"task {address!r}")


def _named(address: str, what: str) -> type[AbstractTask]:
    place, _, name = address.rpartition(":")
    if not place or not name.isidentifier():
        raise ValueError(f"{what} is not an address; expected FILE.py:CLASS or PACKAGE.MODULE:CLASS")
    module = _file(place, what) if place.endswith(".py") else _module(place, what)
    if not hasattr(module, name):
        has = [key for key, value in vars(module).items() if _is_task(value)]
        raise ValueError(f"{what}: {place} has no {name!r}; its tasks are {', '.join(has) or 'none'}")
    return check_task(getattr(module, name), what)


def _is_task(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, AbstractTask) and value is not AbstractTask


def check_task(value: object, what: str) -> type[AbstractTask]:
    """The value, if it is a task class that can be made and bears a name.

    Raises:
        ValueError: It is not a subclass of AbstractTask, lacks methods that a task must have, or has no name.
    """
    if not (isinstance(value, type) and issubclass(value, AbstractTask)):
        raise ValueError(f"{what} is {value!r}; expected a subclass of interp_kit.AbstractTask")
    if inspect.isabstract(value):
        raise ValueError(f"{what} lacks {', '.join(sorted(value.__abstractmethods__))}, which a task must define")
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not name or is_address(name):
        raise ValueError(f'{what} has the name {name!r}; expected a text without ":", as in name = "my_task"')
    return value


def _module(name: str, what: str) -> ModuleType:
    with _importing_from(Path.cwd()):
        try:
            return import_module(name)
        except Exception as error:
            raise _broken(what, name, error) from error


def _file(place: str, what: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise ValueError(f"{what}: there is no file {place}")
    try:
        return _run(path, path.stat().st_mtime_ns)
    except Exception as error:
        raise _broken(what, place, error) from error


@cache
def _run(path: Path, changed: int) -> ModuleType:
    """The module of a file, run once for each time that the file was changed."""
    name = f"interp_kit_task_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses of the file look their module up
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _broken(what: str, place: str, error: Exception) -> ValueError:
    return ValueError(f"{what}: {place} cannot be imported: {type(error).__name__}: {error}")


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let modules of this folder be imported for a while, as Python does for a program in it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
