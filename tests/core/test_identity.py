"""A task's description says what it means, and which options make it again; a fingerprint tells meanings apart."""

import json

import pytest

from interp_kit.core.example import Example, Field
from interp_kit.core.identity import Identity, check_description, fingerprint
from interp_kit.core.task import AbstractTask
from interp_kit.registry.tasks import TASKS, rebuild
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.culture import CultureTask
from interp_kit.tasks.induction import InductionTask

OTHER = {"newA": "A and C", "newB": "not D", "newC": "B and E", "newD": "A or newB"}


class Copying(AbstractTask):
    """A stranger's task: one bit, and the same bit again."""

    name = "copying"
    vocabulary = ("0", "1", "<end>")
    variables, inputs, numeric, pad = ("x", "y"), ("x",), (), 2
    fields = (Field("y", "x", (0, 1), (0, 1)),)

    def enumerate(self) -> list[Example]:
        return [Example(f"{x}{x}", (x, x, 2), 1, {"x": 0, "y": 1, "eos": 2}, {"x": x, "y": x}) for x in (0, 1)]

    def sample(self, n: int, seed: int) -> list[Example]:
        return self.enumerate()[:n]

    def tokenizer(self) -> object:
        raise AssertionError("nothing here is to call this")


class Power(Copying):
    """A stranger's task: it only keeps its option under its own name."""

    name = "power"

    def __init__(self, base: int = 2) -> None:
        self.base = base


class Opaque(Copying):
    """A stranger's task whose option is kept nowhere."""

    name = "opaque"

    def __init__(self, base: int = 2) -> None:
        self.kept_elsewhere = base


@pytest.mark.parametrize(
    "made",
    [
        BooleanTask(),
        BooleanTask(OTHER),
        BooleanTask({"M": "P ^ Q", "W": "R and Q", "Y": "M and R"}, inputs=("P", "Q", "R")),
        BooleanTask(vocabulary="gpt2"),
        CultureTask(structures=("f_A A f_B B", "B f_B A f_A"), tasks=("grow",), noise=0.1),
        InductionTask(letters=9, length=6),
    ],
)
def test_a_task_is_made_again_of_its_description_in_json(made: AbstractTask) -> None:
    read = check_description(json.loads(json.dumps(made.describe())), "here")
    again = rebuild(read)
    assert again.describe() == made.describe() == read
    assert fingerprint(read) == again.identity.fingerprint == made.identity.fingerprint
    assert [e.tokens for e in again.sample(3, 1)] == [e.tokens for e in made.sample(3, 1)]


def test_every_task_of_the_registry_can_be_described() -> None:
    found = {name: TASKS[name]().identity for name in TASKS}
    assert {identity.name for identity in found.values()} == set(TASKS)
    assert len({identity.fingerprint for identity in found.values()}) == len(TASKS)


def test_what_means_the_same_has_one_fingerprint_and_what_does_not_has_another() -> None:
    same = [
        (BooleanTask(), BooleanTask({**OTHER, "newA": " (A)^C "})),
        (CultureTask(), CultureTask(structures=("f_A A f_B B",), tasks=("grow",), noise=0.05)),
        (InductionTask(), InductionTask(length=6)),
        (Copying(), Copying()),
    ]
    for a, b in same:
        assert a.identity == b.identity
    different = [
        BooleanTask(),
        BooleanTask(OTHER),
        BooleanTask({name: OTHER[name] for name in ("newB", "newA", "newC", "newD")}),
        BooleanTask(vocabulary="gpt2"),
        InductionTask(),
        InductionTask(letters=13),
        CultureTask(),
        Copying(),
        Power(),
        Power(3),
        Opaque(),
    ]
    assert len({task.identity.fingerprint for task in different}) == len(different)


def test_a_strangers_task_is_described_by_what_it_keeps() -> None:
    assert Power(3).describe()["options"] == {"base": 3}
    assert Copying().describe()["options"] == {}
    assert Opaque(3).describe()["options"] is None
    for task, message in ((Power(3), "'power', which is not among boolean"), (Opaque(), "'opaque', which is not")):
        with pytest.raises(ValueError, match=message):
            rebuild(task.describe())


def test_what_a_description_cannot_make_is_refused() -> None:
    whole = BooleanTask().describe()
    for damaged, message in (
        ({**whole, "options": None}, "options of task 'boolean' were not saved"),
        ({**whole, "options": {"rules": {}}}, "cannot be made again of the options"),
        ({**whole, "options": {**whole["options"], "inputs": ["A"]}}, "unknown variable"),
        ({**whole, "options": {**whole["options"], "equations": OTHER}}, "another meaning today"),
    ):
        with pytest.raises(ValueError, match=message):
            rebuild(damaged)
    for damaged in (None, [], {}, {**whole, "name": 1}, {**whole, "options": []}, {**whole, "meaning": None}):
        with pytest.raises(ValueError, match=r"^file: the task's description is damaged"):
            check_description(damaged, "file")


def test_unknown_tasks_go_with_any_and_names_decide_where_nothing_else_does() -> None:
    known, other, named = Identity("boolean", "a"), Identity("boolean", "b"), Identity("boolean")
    assert known.differs(other)
    assert not known.differs(named)
    assert named.differs(Identity("induction"))
    assert known.differs(Identity("induction", ""))
    for identity in (known, named):
        assert not identity.differs(Identity(None))
        assert not Identity(None).differs(identity)
