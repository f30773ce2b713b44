"""Tasks from outside: by file, module, registered name and entry point; one clear error for whatever else is there."""

from pathlib import Path
from textwrap import dedent

import pytest

import interp_kit as ik
from interp_kit.cli import main
from interp_kit.registry import tasks
from interp_kit.registry.tasks import find, names, rebuild

TASK = """
    import interp_kit as ik
    import neighbour

    class Echo(ik.AbstractTask):
        name = "echo"
        inputs = variables = ("x", )
        vocabulary = ("0", "1", "end")
        pad = 2
        fields = (ik.Field("x", "x0", (0, 1), (0, 1)),)
        def __init__(self, times: int = 1) -> None:
            self.times = times
        def enumerate(self):
            return [ik.Example(f"{x} {x}", (x, x, 2), 1, {"x0": 0, "x": 1, "end": 2}, {"x": x}) for x in (0, 1)]
        def sample(self, n, seed):
            return self.enumerate()[:1] * n

    class Needs(Echo):
        name = "needs"
        def __init__(self, times):
            self.times = times

    class Taken(Echo):
        name = "boolean"

    class Abstract(ik.AbstractTask):
        name = "abstract"

    class Nameless(ik.AbstractTask):
        def enumerate(self): return []
        def sample(self, n, seed): return []

    something = 3
"""


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_registered", {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_tasks_of_a_test.py").write_text(dedent(TASK))
    (tmp_path / "neighbour.py").write_text("")
    (tmp_path / "broken_of_a_test.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def installed(folder: Path, *points: str, package: str = "echoes") -> None:
    info = folder / f"{package}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[interp_kit.tasks]\n" + "\n".join(points) + "\n")


@pytest.mark.parametrize("address", ["own_tasks_of_a_test.py:Echo", "own_tasks_of_a_test:Echo"])
def test_a_task_by_file_and_by_module(folder: Path, address: str) -> None:
    made = ik.task(address, times=3)
    assert (made.name, made.options()) == ("echo", {"times": 3})
    assert rebuild(made.describe(), find(address)).identity == made.identity
    assert "echo" not in names()


def test_a_changed_file_is_read_again(folder: Path) -> None:
    address = "own_tasks_of_a_test.py:Echo"
    before = find(address)
    assert find(address) is before
    path = folder / "own_tasks_of_a_test.py"
    path.write_text(path.read_text().replace('name = "echo"', 'name = "echo2"'))
    assert find(address).name == "echo2"


def test_an_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(
        folder, "echo = own_tasks_of_a_test:Echo", "gone = nowhere_to_be_found:Echo", "odd = own_tasks_of_a_test:Echo"
    )
    monkeypatch.syspath_prepend(folder)
    assert {"echo", "gone", "boolean"} <= set(names())
    assert ik.task("echo").name == "echo"
    assert rebuild(ik.task("echo").describe()).name == "echo"
    assert ik.task("boolean").name == "boolean", "a broken package harms no other task"
    with pytest.raises(ValueError, match=r"task 'gone' \(nowhere_to_be_found:Echo of echoes\).*ModuleNotFoundError"):
        ik.task("gone")
    with pytest.raises(ValueError, match=r"entry point 'odd'.* whose name is 'echo'"):
        ik.task("odd")
    installed(folder, "boolean = own_tasks_of_a_test:Taken", package="taker")
    monkeypatch.syspath_prepend(folder / ".")
    tasks.plugins._installed.cache_clear()
    with pytest.raises(ValueError, match=r"an installed package calls its task .*:Taken 'boolean'"):
        ik.task("boolean")
    tasks.plugins._installed.cache_clear()


def test_registered_tasks(folder: Path) -> None:
    echo = find("own_tasks_of_a_test.py:Echo")
    assert ik.register(echo) is echo
    assert ik.register(echo) is echo, "a cell may run twice"
    assert ik.task("echo", times=2).options() == {"times": 2}
    other = ik.register(type("Taken", (echo,), {"name": "boolean"}), "mine")
    assert (other.name, ik.task("mine").identity.name) == ("mine", "mine")
    with pytest.raises(ValueError, match=r"Echo has the name 'boolean', which is a task of interp_kit"):
        ik.register(find("own_tasks_of_a_test:Echo"), "boolean")
    with pytest.raises(ValueError, match=r"'echo', under which .*Echo is registered"):
        ik.register(find("own_tasks_of_a_test.py:Needs"), "echo")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nofile.py:Echo", "there is no file nofile.py"),
        ("no_module_of_a_test:Echo", "cannot be imported: ModuleNotFoundError"),
        ("broken_of_a_test.py:Echo", "broken_of_a_test.py cannot be imported: ZeroDivisionError"),
        ("own_tasks_of_a_test.py:Ecko", "has no 'Ecko'; its tasks are Echo, Needs, Taken"),
        ("own_tasks_of_a_test.py:something", "is 3; expected a subclass of interp_kit.AbstractTask"),
        ("own_tasks_of_a_test.py:Abstract", "lacks enumerate, sample, which a task must define"),
        ("own_tasks_of_a_test.py:Nameless", "has the name None"),
        ("own_tasks_of_a_test.py:Taken", "has the name 'boolean', which is a task of interp_kit"),
        ("own_tasks_of_a_test.py:", "is not an address"),
        (":Echo", "is not an address"),
        ("ecko", "--task is 'ecko'; expected one of boolean, "),
    ],
)
def test_what_is_no_task_is_one_clear_error(
    folder: Path, address: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--task", address, "--out", "never"]) == 1
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1
    assert main(["probe", "boolean-direct", "--task", address]) == 1
    assert message in capsys.readouterr().err


def test_a_task_that_needs_options_says_so(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"task 'needs' cannot be made without options: .*times"):
        ik.task("own_tasks_of_a_test.py:Needs")
    assert ik.task("own_tasks_of_a_test.py:Needs", times=1).name == "needs"


def test_a_task_without_a_question_asks_for_names(folder: Path) -> None:
    echo = ik.task("own_tasks_of_a_test.py:Echo")
    with pytest.raises(ValueError, match=r"'echo' has no question.*name the variable and the target \(variables: x;"):
        echo.asked(target="x")
    assert echo.asked("x", "x") == ("x", "x")
    assert ik.BooleanTask().asked(target="newA") == ("newB", "newA")


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_every_shipped_task_has_a_question_with_pairs(name: str) -> None:
    task = ik.task(name)
    pairs = task.pairs(*task.asked(), limit=4)
    assert len(pairs) == 4


@pytest.mark.parametrize(
    ("equations", "question"),
    [
        ({"y": "p and q", "z": "y or p"}, ("y", "z")),
        ({"y": "p and q", "z": "q"}, ("q", "z")),
        ({"z": "p", "y": "z", "c": "1"}, ("z", "y")),
        ({"c": "1"}, None),
    ],
)
def test_other_equations_have_a_question_of_their_own(equations: dict[str, str], question: object) -> None:
    assert ik.BooleanTask(equations, ("p", "q")).question == question
