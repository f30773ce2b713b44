"""Every option of every command reaches what does the work: each is given alone, and changes there what it should and
nothing else. The work itself is replaced by recorders, so that all of it takes a second."""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import tyro
from pandas import DataFrame

from interp_kit.cli import Command, main
from interp_kit.cli.common import Common
from interp_kit.core.example import Example
from interp_kit.core.task import AbstractTask
from interp_kit.engine.edits import Edit

COMMANDS = {get_args(annotated)[1].name: get_args(annotated)[0] for annotated in get_args(Command)}
# Paths are written to, and tested where they are: with the files.
WRITTEN = ("json", "save", "plot")
WORK = {
    "interp_kit.registry.models": ("load", "task_of", "omitted_examples"),
    "interp_kit.analysis.behaviour.evaluation": ("evaluate",),
    "interp_kit.analysis.probing.probe": ("probe",),
    "interp_kit.analysis.causal.patching": ("patch", "patch_senders"),
    "interp_kit.analysis.causal.interchange": ("interchange",),
    "interp_kit.analysis.circuits.edge_scores": ("score_edges",),
    "interp_kit.analysis.circuits.faithfulness": ("faithfulness",),
    "interp_kit.analysis.causal.ablation": ("ablate",),
    "interp_kit.analysis.causal.lesion": ("lesion",),
    "interp_kit.analysis.comparison.component_overlap": ("jaccard",),
    "interp_kit.analysis.causal.mechanism": ("mechanism",),
    "interp_kit.analysis.dictionaries.sae": ("train_sae",),
    "interp_kit.analysis.dictionaries.shipped": ("load_sae",),
    "interp_kit.analysis.dictionaries.alignment.align": ("align_features",),
    "interp_kit.training.sft": ("train_sft",),
    "interp_kit.registry.tasks": ("task", "made"),
    "interp_kit.tasks.boolean.dataset": ("splits", "write_splits", "read_split"),
    "interp_kit.tasks.graphs.data.files": ("generate", "merge"),
    "interp_kit.training.verl": ("write_verl",),
    "interp_kit.tasks.culture.data": ("generate",),
    "interp_kit.studies.culture.training.quiz_making": ("load_quizzes",),
    "interp_kit.studies.boolean.command": ("main",),
    "interp_kit.studies.culture.command": ("main",),
    "interp_kit.studies.audit.command": ("main",),
    "interp_kit.studies.circuits.study": ("main",),
    "interp_kit.studies.cards.command": ("main",),
    "interp_kit.studies.graphs.generation_command": ("main",),
    "interp_kit.studies.culture.training.turns": ("train",),
    "interp_kit.playground.page": ("write_playground",),
    "interp_kit.cli.completion": ("script",),
}
WORLDS = [Example(str(n), (n,), 1, {}, {}) for n in range(20)]
# What is needed beside an option for it to mean something, or to be allowed.
BESIDE: dict[tuple[str, str], list[str]] = {
    ("edges", "seed"): ["--faithfulness"],
    ("ablate", "k"): ["second-model"],
    ("sae", "k"): ["--width", "64"],
    ("test", "seed"): ["--limit", "7"],
    **{("generate", name): ["graphs"] for name in ("shard", "merge", "jobs", "progress")},
    **{("generate", name): ["culture"] for name in ("n", "noise", "quizzes")},
}
REQUIRED = {
    "test": ["a-model"], "load": ["a-model"], "probe": ["a-model"], "patch": ["a-model"], "interchange": ["a-model"],
    "edges": ["a-model"], "ablate": ["a-model"], "mechanism": ["a-model"], "sae": ["a-model"],
    "align": ["boolean"],
    "playground": ["a-model"], "lesion": ["a-model", "--cut", "L0H1"],
    "study": ["cards"], "train": ["--out", "{}/model"], "train-culture": ["--out", "{}/run"],
    "verl": ["{}/data", "--out", "{}/verl"],
    "traces": ["{}/generations.jsonl", "--questions", "{}/test.parquet"], "completion": ["bash"],
}  # fmt: skip
OTHERS: dict[str, Any] = {
    "shell": "zsh", "preset": "long", "variant": "specific",
    "task": "induction", "device": "cpu:0", "labels": ("newA", "sum1"), "sites": ("z", "mlp_out"),
    "positions": ("D", "newB"),
    "permutations": 7, "seed": 11, "variable": "newA", "target": "newC", "hold": ("A", "B"), "completion": "clean",
    "by": "all", "direction": "noise", "metric": "probability", "only_solved": True, "limit": 13, "method": "eap",
    "c": 10.0, "alpha": 0.5,
    "top": 2, "kind": "zero", "units": ("mlp",), "k": 3, "mediator": "newA", "site": "mlp_out.0",
    "target_site": "mlp_out.0", "l1_coefficient": 2.5,
    "architecture": "standard", "width": 32, "training_samples": 4096, "epochs": 2.5, "learning_rate": 0.25,
    "batch_size": 9, "examples": 17, "omit": "1,1,1,1,1", "fold": True, "jobs": 3, "ids": (4, 5),
    "checkpoint_dir": "elsewhere", "tests": 19, "progress": False, "senders": True, "faithfulness": True,
    "edges by": "position", "value": "mean", "playground": Path("{}/play.html"), "steps": 7, "seeds": (2, 5),
    "equations": ("newA=A ^ C",), "inputs": ("P", "Q"), "out": Path("{}/elsewhere.html"),
    "data": Path("{}/train.jsonl"), "shard": "1/4", "merge": 5, "audit merge": True, "n": 7, "noise": 0.5,
    "quizzes": Path("{}/c_quizzes.pth"),
    "config": ("act_fn=gelu_new", "n_heads=4", "final_norm=false"),
    "variables": ("newA",), "pairs": 21, "programs": 6, "trained": 3,
}  # fmt: skip
# Options that decide which function is called, or are given on in another form: what each then changes.
OWN: dict[tuple[str, str], Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    ("patch", "senders"): lambda old, new: {"patch", "patch_senders"} == _called(old) ^ _called(new),
    ("edges", "faithfulness"): lambda old, new: _called(new) - _called(old) == {"halves", "faithfulness"},
    ("edges", "top"): lambda old, new: (old["top 0"], new["top 0"]) == (4, 2),
    ("ablate", "k"): lambda old, new: (old["jaccard k"], new["jaccard k"]) == (5, 3),
    ("generate", "shard"): lambda old, new: (old["generate shard"], new["generate shard"]) == ((0, 1), (1, 4)),
    ("generate", "quizzes"): lambda old, new: (old["generate made"], new["generate made"]) == (None, []),
    ("generate", "merge"): lambda old, new: _called(new) == {"merge"} and new["merge 2"] == 5,
    ("generate", "omit"): lambda old, new: new["splits omit"] - old["splits omit"] == {(1, 1, 1, 1, 1)},
    ("train", "task"): lambda old, new: (old["made 0"], new["made 0"]) == ("BooleanTask", "InductionTask"),
    ("train", "equations"): lambda old, new: (old["made 1"], new["made 1"]) == ({}, {"equations": {"newA": "A ^ C"}}),
    ("train", "inputs"): lambda old, new: (old["made 1"], new["made 1"]) == ({}, {"inputs": ("P", "Q")}),
    ("train", "data"): lambda old, new: "read_split" in _called(new) - _called(old),
    ("lesion", "value"): lambda old, new: (
        (old["lesion 2"], new["lesion 2"]) == (["z layer=0 head=1 <- Zero"], ["z layer=0 head=1 <- Mean"])
    ),
    **{
        (command, "config"): lambda old, new: (
            new["load config"] == {"act_fn": "gelu_new", "n_heads": 4, "final_norm": False}
            and old["load config"] is None
        )
        for command in (*REQUIRED,)
    },
    ("test", "limit"): lambda old, new: old["evaluate examples"] is None and len(new["evaluate examples"]) == 13,
    ("test", "seed"): lambda old, new: (
        len(old["evaluate examples"]) == len(new["evaluate examples"]) == 7
        and old["evaluate examples"] != new["evaluate examples"]
    ),
    **{
        (command, "limit"): lambda old, new: (len(old["batch 0"]), len(new["batch 0"])) == (20, 13)
        for command in ("probe", "ablate")
    },
    ("train", "seed"): lambda old, new: (new["train_sft 3 seed"], new["sample 1"]) == (11, 11),
}


def _called(calls: Mapping[str, Any]) -> set[str]:
    return {path.split()[0] for path in calls}


class Recorder:
    """Stands for a module's functions and for what they give; every call becomes `name place` -> value."""

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}

    def function(self, name: str, given: Any = None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = True
            for place, value in [*enumerate(args), *kwargs.items()]:
                self._note(f"{name} {place}", value)
            return given

        return call

    def _note(self, path: str, value: Any) -> None:
        if isinstance(value, SimpleNamespace | AbstractTask):
            return
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, type) and not hasattr(value, "measure"):
            for field in fields(value):
                self._note(f"{path} {field.name}", getattr(value, field.name))
            return
        if isinstance(value, list) and value and isinstance(value[0], Edit):
            value = [str(edit) for edit in value]  # an edit is equal to itself alone
        self.calls[path] = getattr(value, "__name__", value)  # metrics are functions


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str]], dict[str, Any]]:
    """record(command and its arguments): the calls that it makes."""
    from interp_kit.models.checkpoints import Provenance
    from interp_kit.tasks.boolean import BooleanTask

    recorder = Recorder()
    function = recorder.function

    def scores() -> Any:
        return type("Scores", (SimpleNamespace,), {"__len__": lambda self: 4})(top=function("top"), component=[0] * 9)

    pairs = type("Pairs", (SimpleNamespace,), {"__len__": lambda self: 4})()
    pairs.to = function("to", pairs)
    pairs.halves = function("halves", (pairs, pairs))
    task = BooleanTask()
    for name, given in (
        ("pairs", pairs),
        ("pool", WORLDS),
        ("batch", SimpleNamespace()),
        ("sample", []),
        ("examples", []),
    ):
        monkeypatch.setattr(task, name, function(name, given))
    model = SimpleNamespace(provenance=Provenance("", "", ""), conversion="")
    model.cfg = SimpleNamespace(n_layers=0, n_heads=0, d_model=0, n_ctx=0, d_vocab=0)
    model.parameters = list
    given = {
        "load": model, "task_of": task, "task": task, "made": task, "score_edges": scores(), "ablate": scores(),
        "mechanism": SimpleNamespace(verdict="", config={"units": 8}),
        "omitted_examples": (), "splits": {}, "write_splits": [],
        "read_split": [], "generate": [], "merge": [], "write_verl": [], "load_quizzes": ([], []),
        "main": Path("page.html"), "write_playground": Path(), "align_features": SimpleNamespace(summary=DataFrame),
    }  # fmt: skip
    for module in WORK:  # all, before the first is changed: they import from each other
        import_module(module)
    for module, names in WORK.items():
        for name in names:
            monkeypatch.setattr(f"{module}.{name}", function(name, given.get(name)))
    monkeypatch.setattr(Common, "finish", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def run(arguments: list[str]) -> dict[str, Any]:
        recorder.calls.clear()
        tyro.cli(COMMANDS[arguments[0]], args=[argument.format(tmp_path) for argument in arguments[1:]]).execute()
        return dict(recorder.calls)

    return run


def options() -> list[tuple[str, "Field[Any]"]]:
    """Every option of every command, but for those of paths that are written to, and of a culture run, which is passed
    on as it is."""
    return [
        (name, field)
        for name, kind in COMMANDS.items()
        for field in fields(kind)
        if field.name not in (*WRITTEN, "model", "models") and field.default is not MISSING
        and (name, field.name) not in (
            ("sae", "out"), ("generate", "out"), ("generate", "task"), ("generate", "config"),
            ("train-culture", "config")
        )
    ]  # fmt: skip


@pytest.mark.parametrize(("command", "option"), options(), ids=lambda x: getattr(x, "name", x))
def test_every_option_arrives(
    command: str, option: "Field[Any]", record: Callable[[list[str]], dict[str, Any]], tmp_path: Path
) -> None:
    name = option.name
    value = OTHERS.get(f"{command} {name}", OTHERS.get(name))
    assert value != option.default, "a test by the default tests nothing"
    given = value if isinstance(value, tuple) else (value,)
    flag = [f"--{'' if value is not False else 'no-'}{name.replace('_', '-')}"]
    flag += [] if isinstance(value, bool) else [str(part) for part in given]
    base = [command, *REQUIRED.get(command, []), *BESIDE.get((command, name), [])]
    (tmp_path / "train.jsonl").touch()
    old, new = record(base), record([*base, *flag])
    if (command, name) in OWN:
        assert OWN[command, name](old, new)
        return
    changed = {at: new.get(at) for at in {*old, *new} if " " in at and old.get(at) != new.get(at)}
    wanted = Path(str(value).format(tmp_path)) if isinstance(value, Path) else value
    assert changed, f"--{name} changes nothing"
    assert all(found == wanted for found in changed.values()), changed


def test_every_path_is_written_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And holds what the Python call gives."""
    from interp_kit import load, mechanism
    from interp_kit.analysis.causal.mechanism import MechanismResult
    from interp_kit.registry.tasks import task

    table, result, picture = tmp_path / "t.json", tmp_path / "result", tmp_path / "p.png"
    arguments = ["--json", str(table), "--save", str(result), "--plot", str(picture)]
    assert main(["mechanism", "boolean-direct", *arguments]) == 0
    expected = mechanism(load("boolean-direct"), task("boolean"), mediator="newB", target="newD")
    assert json.loads(table.read_text())["rows"] == json.loads(expected.to_frame().to_json(orient="records") or "")
    assert MechanismResult.load(result).to_frame().equals(expected.to_frame())
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert f"verdict: {expected.verdict}" in capsys.readouterr().out
