"""Tasks by name."""

import pytest

from interp_kit.core.task import AbstractTask
from interp_kit.registry.tasks import TASKS, task
from interp_kit.tasks.boolean import BooleanTask


def test_every_task_bears_its_registry_name() -> None:
    for name in TASKS:
        made = task(name)
        assert isinstance(made, AbstractTask)
        assert made.name == name


def test_options_reach_the_task() -> None:
    assert type(task("boolean")) is BooleanTask
    own = task("boolean", equations={"y": "p and q"}, inputs=("p", "q"))
    assert own.variables == ("p", "q", "y", "sum1", "sum2")
    with pytest.raises(ValueError, match="equation 'y'"):
        task("boolean", equations={"y": "p +"}, inputs=("p",))


def test_unknown_task_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=f"task is 'zz'; expected one of {', '.join(TASKS)}, or an address"):
        task("zz")
    with pytest.raises(ValueError, match=r"task is 'bolean'; did you mean 'boolean'\? expected one of boolean, "):
        task("bolean")


def test_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="rules"):
        task("boolean", rules={})
