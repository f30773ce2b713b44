"""A model is studied under the task that it learned: the task is saved with it, made again with it, and another one is
refused by every analysis."""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import interp_kit as ik
from interp_kit.cli import main
from interp_kit.cli.common import foreseen
from interp_kit.models.checkpoints import TRAINING, provenance, read_manifest
from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.meeting import learned_by
from interp_kit.models.planted import PLANTED_TASKS
from interp_kit.registry import models as zoo
from interp_kit.registry.tasks import TASKS
from interp_kit.tasks.induction import InductionTask

OTHER = ik.BooleanTask({"newA": "A and C", "newB": "D", "newC": "B and E", "newD": "A or newB"})
EDGE = ik.Edge("embed", "logits", "logits")


@cache
def pairs_of(task: ik.AbstractTask, variable: str, target: str) -> ik.PairBatch:
    return task.pairs(variable, target)


@cache
def few(task: ik.AbstractTask) -> ik.TokenBatch:
    return task.batch(task.sample(8, 0))


@cache
def circuit() -> ik.Circuit:
    return ik.score_edges(ik.planted("boolean-direct"), ik.BooleanTask().pairs("newB", "newD"), method="eap")


ANALYSES: dict[str, Callable[[Any, ik.AbstractTask, str, str], Any]] = {
    "patch": lambda m, t, v, y: ik.patch(m, pairs_of(t, v, y), by="all"),
    "patch_senders": lambda m, t, v, y: ik.patch_senders(m, pairs_of(t, v, y)),
    "path_patch": lambda m, t, v, y: ik.path_patch(m, pairs_of(t, v, y), [EDGE]),
    "score_edges": lambda m, t, v, y: ik.score_edges(m, pairs_of(t, v, y), method="eap"),
    "acdc": lambda m, t, v, y: ik.acdc(m, pairs_of(t, v, y), threshold=1.0),
    "faithfulness": lambda m, t, v, y: ik.faithfulness(m, pairs_of(t, v, y), circuit()),
    "probe": lambda m, t, v, y: ik.probe(m, few(t), [y]),
    "ablate": lambda m, t, v, y: ik.ablate(m, few(t)),
    "interchange": lambda m, t, v, y: ik.interchange(m, t, v, y),
    "das": lambda m, t, v, y: ik.das(m, t, v, y),
    "mechanism": lambda m, t, v, y: ik.mechanism(m, t, mediator=v, target=y),
    "train_sae": lambda m, t, v, y: ik.train_sae(m, t),
    "align_features": lambda m, t, v, y: ik.align_features(m, t, ik.load_sae("boolean")),
    "train_saes": lambda m, t, v, y: ik.train_saes(m, t, [ik.SAEConfig()]),
    "evaluate": lambda m, t, v, y: ik.evaluate(m, t),
    "harvest": lambda m, t, v, y: ik.harvest(m, few(t), "embed"),
    "sweep": lambda m, t, v, y: ik.sweep(m, few(t), [], ik.accuracy(y)),
    "editing": lambda m, t, v, y: ik.editing(m, few(t), ik.Edit("z", 0)).__enter__(),
    "attention_lags": lambda m, t, v, y: ik.attention_lags(m, few(t)),
    "generate_under": lambda m, t, v, y: ik.generate_under(m, few(t), {"a": ik.Edit("z", 0)}),
    "complete": lambda m, t, v, y: ik.complete(m, few(t)),
    "direct_logit_attribution": lambda m, t, v, y: ik.direct_logit_attribution(m, pairs_of(t, v, y)),
    "logit_lens": lambda m, t, v, y: ik.logit_lens(m, pairs_of(t, v, y)),
}


@pytest.mark.parametrize("name", ANALYSES)
@pytest.mark.parametrize(
    ("task", "variable", "target"), [(OTHER, "newB", "newD"), (InductionTask(), "where", "answer")]
)
def test_another_task_than_the_models_own_is_refused(
    name: str, task: ik.AbstractTask, variable: str, target: str
) -> None:
    model = ik.planted("boolean-direct")
    both = f"boolean-direct@0 learned task 'boolean' .*{ik.BooleanTask().identity.fingerprint}"
    both += f".*the examples are of task {re.escape(str(task.identity))}.*task_of"
    with pytest.raises(ValueError, match=both):
        ANALYSES[name](model, task, variable, target)


def test_every_kind_of_model_knows_its_task(tmp_path: Path) -> None:
    boolean = ik.BooleanTask().identity
    for name in ("boolean-latent", "twin:boolean-latent", "boolean-gpt2", "untrained:boolean-gpt2"):
        model = ik.load(name)
        assert learned_by(model) == boolean == ik.task_of(model).identity
        assert learned_by(ik.untrained(model)) == boolean
        assert ik.ablate(model, ik.BooleanTask().batch(ik.BooleanTask().enumerate()[:4]), units=["layer"]).n == 4
    assert learned_by(ik.load("induction")) == InductionTask().identity


def test_a_model_of_unknown_task_is_taken_as_far_as_ids_fit(tiny_gpt2_dir: Any, task: ik.BooleanTask) -> None:
    model = ik.load(tiny_gpt2_dir(0))
    assert learned_by(model).name is None
    assert provenance(ik.untrained(model)).task is None, "a control knows no more than its model"
    assert ik.patch(model, task.pairs("newB", "newD"), by="all").config["task"] == "boolean"
    wide = InductionTask(letters=20)
    with pytest.raises(ValueError, match=r"token ids from 0 to \d+; the model has 0 to 14"):
        ik.ablate(model, wide.batch(wide.sample(8, 0)))
    with pytest.raises(ValueError, match="which task"):
        ik.task_of(model)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that saw a few texts of other equations."""
    config = ik.SFTConfig(d_model=16, n_layers=1, n_heads=1, n_ctx=32, epochs=0.5)
    folder = tmp_path_factory.mktemp("trained") / "model"
    return ik.train_sft(OTHER, OTHER.enumerate(), folder, config, device="cpu", progress=False)


def test_the_task_is_saved_with_a_trained_model_and_comes_back(trained: Path) -> None:
    assert json.loads((trained / TRAINING).read_text())["description"] == OTHER.describe()
    model = ik.load(trained)
    again = ik.task_of(model)
    assert again.identity == OTHER.identity != ik.BooleanTask().identity
    assert [e.labels for e in again.enumerate()] == [e.labels for e in OTHER.enumerate()]
    assert ik.task_of(model, "boolean").identity == OTHER.identity
    with pytest.raises(ValueError, match="the same name, but other equations"):
        ik.ablate(model, ik.BooleanTask().batch(ik.BooleanTask().enumerate()))
    with pytest.raises(ValueError, match="learned task 'boolean', not 'induction'"):
        ik.task_of(model, "induction")


def test_commands_study_the_equations_that_the_model_learned(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", str(trained), "--json", str(tmp_path / "t.json")]) == 0
    assert json.loads((tmp_path / "t.json").read_text())["config"]["task"] == "boolean"
    assert main(["ablate", str(trained), "--units", "layer", "--no-progress"]) == 0
    assert main(["ablate", str(trained), "--task", "induction"]) == 1
    assert "learned task 'boolean', not 'induction'" in capsys.readouterr().err


def test_a_damaged_description_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    facts = json.loads((folder / TRAINING).read_text())
    for damaged in ("{", json.dumps(facts | {"description": 3}), json.dumps(facts | {"description": {"name": "x"}})):
        (folder / TRAINING).write_text(damaged)
        with pytest.raises(CheckpointError, match=rf"{TRAINING}.*delete the file to load the model as one of unknown"):
            ik.load(folder)
    for unknown in (json.dumps({"task": "boolean"}), "[]"):  # of an earlier version, and of others
        (folder / TRAINING).write_text(unknown)
        assert learned_by(ik.load(folder)).name is None


def test_the_task_of_a_model_is_foreseen_from_its_name(trained: Path, tmp_path: Path) -> None:
    for name, learned in PLANTED_TASKS.items():
        for text in (name, f"{name}@3", f"untrained:{name}", f"twin:{name}"):
            found = foreseen(text)
            assert found is not None
            assert found.name == learned
    for name, entry in read_manifest().items():
        found = foreseen(name)
        assert found is not None
        assert found.name == entry.task
    found = foreseen(str(trained))
    assert found is not None
    assert found.identity == OTHER.identity
    assert foreseen(str(tmp_path)) is None
    assert foreseen("somebody/gpt2") is None
    asked = foreseen("somebody/gpt2", "induction")
    assert asked is not None
    assert asked.name == "induction"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["probe", "boolean-direct", "--labels", "newX"], "--labels holds 'newX'; expected one of A, B"),
        (["probe", "boolean-direct", "--labels", "newA", "newA"], "--labels holds 'newA' twice"),
        (
            ["probe", "boolean-direct", "--sites", "zz"],
            "--sites holds 'zz': no site 'zz'; there are the activ",
        ),
        (["probe", "boolean-gpt2", "--task", "zz"], f"--task is 'zz'; expected one of {', '.join(TASKS)}"),
        (["patch", "boolean-direct", "--variable", "newX"], "no variable 'newX'"),
        (["patch", "twin:boolean-latent", "--hold", "zz"], "no variable 'zz'"),
        (["patch", "boolean-direct", "--sites", "zz"], "--sites holds 'zz'"),
        (["interchange", "boolean-direct", "--target", "A"], "no field 'A'"),
        (["interchange", "boolean-direct", "--sites", "zz"], "--sites holds 'zz'"),
        (["edges", "untrained:boolean-gpt2@3", "--target", "zz"], "no field 'zz'"),
        (["mechanism", "boolean-gpt2", "--mediator", "zz"], "no variable 'zz'"),
        (["sae", "boolean-gpt2", "--k", "0"], "k is 0; expected a whole number from 1 to 64"),
        (["train-culture", "--out", "never", "--turn", "0"], "turn is 0; expected a whole number of 1 or more"),
    ],
)
def test_names_are_refused_before_a_model_loads(
    command: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loaded(*args: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(zoo, "load", loaded)
    assert main(command) == 1
    assert message in capsys.readouterr().err


def test_a_made_up_batch_of_another_name_is_refused(task: ik.BooleanTask) -> None:
    from dataclasses import replace

    model, batch = ik.planted("boolean-direct"), task.batch(task.enumerate())
    unnamed = replace(batch, fingerprint="")
    assert torch.equal(ik.complete(model, unnamed), ik.complete(model, batch))
    with pytest.raises(ValueError, match="are of task 'mine'"):
        ik.complete(model, replace(unnamed, task="mine"))
