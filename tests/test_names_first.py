"""Names that do not exist are refused before any work: the steps that cost are made to fail where they are reached."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import interp_kit as ik
from interp_kit.engine.fast.forward import Executor

CALLS: dict[str, Callable[[SimpleNamespace, dict[str, Any]], object]] = {
    "interchange": lambda h, o: ik.interchange(h.model, h.task, **({"variable": "newB", "target": "newD"} | o)),
    "das": lambda h, o: ik.das(h.model, h.task, **({"variable": "newB", "target": "newD"} | o)),
    "mechanism": lambda h, o: ik.mechanism(h.model, h.task, **({"mediator": "newB", "target": "newD"} | o)),
    "align_features": lambda h, o: ik.align_features(h.model, h.task, h.sae, **o),
    "probe": lambda h, o: ik.probe(h.model, h.batch, **({"labels": ["newA"]} | o)),
    "patch": lambda h, o: ik.patch(h.model, h.pairs, only_solved=True, **o),
    "patch_senders": lambda h, o: ik.patch_senders(h.model, h.pairs, only_solved=True, **o),
    "ablate": lambda h, o: ik.ablate(h.model, h.batch, kind="zero", **o),
    "harvest": lambda h, o: ik.harvest(h.model, h.batch, **({"sites": "z.0"} | o)),
    "lesion": lambda h, o: ik.lesion(h.model, h.task, **o),
    "sweep": lambda h, o: ik.sweep(h.model, h.batch, **({"edits": [], "metrics": ik.accuracy("newD")} | o)),
    "pairs": lambda h, o: h.task.pairs(**({"variable": "newB", "target": "newD"} | o)),
    "conflict_pairs": lambda h, o: h.task.conflict_pairs(**({"variable": "newB", "target": "newD"} | o)),
}
WRONG: list[tuple[str, str, Any]] = [
    *(
        (name, option, "zz")
        for name in ("interchange", "das", "pairs", "conflict_pairs")
        for option in ("variable", "target")
    ),
    *((name, "hold", ["zz"]) for name in ("pairs", "conflict_pairs")),
    ("interchange", "sites", "zz"),
    ("interchange", "positions", ["zz"]),
    ("interchange", "positions", {"group": ["D", "zz"]}),
    ("das", "site", "zz"),
    ("das", "position", "zz"),
    *(("mechanism", option, "zz") for option in ("mediator", "target")),
    *(("align_features", option, "zz") for option in ("variables", "positions", "target")),
    *(("probe", option, ["zz"]) for option in ("labels", "positions", "sites")),
    *(("patch", option, ["zz"]) for option in ("positions", "sites")),
    *(("patch_senders", option, value) for option, value in (("receiver", "zz"), ("senders", [["zz"]]))),
    ("ablate", "fields", ["zz"]),
    *(("harvest", option, ["zz"]) for option in ("sites", "positions")),
    ("lesion", "edits", ik.Edit("mlp_out", 0, ik.Zero(), position="zz")),
    ("sweep", "edits", [ik.Edit("z", 0, ik.Zero(), position="zz")]),
    ("sweep", "metrics", ik.accuracy("zz")),
]


@pytest.fixture(scope="module")
def here(task: ik.BooleanTask) -> SimpleNamespace:
    model, batch = ik.planted("boolean-direct"), task.batch(task.enumerate())
    config = ik.SAEConfig(width=8, k=2, training_samples=1024)
    sae = ik.train_sae(model, task, site="blocks.0.hook_resid_post", config=config, progress=False)
    return SimpleNamespace(model=model, task=task, batch=batch, pairs=task.pairs("newB", "newD"), sae=sae)


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch, here: SimpleNamespace) -> None:
    """Forward passes and counterfactuals fail."""

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(Executor, "__init__", reached)
    monkeypatch.setattr(type(here.model), "forward", reached)
    monkeypatch.setattr(ik.BooleanTask, "intervene", reached)
    monkeypatch.setattr("interp_kit.core.pairs.make_pairs", reached)


@pytest.mark.usefixtures("costly")
@pytest.mark.parametrize(("name", "option", "wrong"), WRONG, ids=[f"{name} {option}" for name, option, _ in WRONG])
def test_a_name_that_does_not_exist_is_refused_before_any_work(
    here: SimpleNamespace, name: str, option: str, wrong: object
) -> None:
    with pytest.raises(ValueError, match="zz"):
        CALLS[name](here, {option: wrong})


@pytest.mark.usefixtures("costly")
@pytest.mark.parametrize("name", ["interchange", "das", "mechanism", "probe", "patch", "sweep"])
def test_the_costly_steps_are_reached_if_all_names_exist(here: SimpleNamespace, name: str) -> None:
    with pytest.raises(AssertionError, match="work was begun"):
        CALLS[name](here, {})


def test_a_position_that_no_card_game_has_is_refused_before_any_counterfactual(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Any]
) -> None:
    def reached(*_: object) -> None:
        raise AssertionError("work was begun")

    task = ik.task("cards")
    monkeypatch.setattr(type(task), "intervene", reached)
    examples = task.sample(8, seed=0)
    model = tiny_model(d_vocab=len(task.vocabulary), n_ctx=128)
    pairs = [(a, b) for a in examples for b in examples if a is not b]
    with pytest.raises(ValueError, match="no position 'card9'; there are"):
        ik.interchange(model, task, "running3", "answer", positions=["card9"], pairs=pairs)
    with pytest.raises(AssertionError, match="work was begun"):
        ik.interchange(model, task, "running3", "answer", pairs=pairs)


@pytest.mark.parametrize(
    ("mediator", "message"),
    [
        ("D", "mediator 'D' is an input of boolean, but not a field: .*the fields are newA, newB, newC, newD, sum1"),
        ("running9", "boolean has no variable 'running9'; it has A, B"),
        ("newD", "mediator and target are both 'newD'"),
    ],
)
def test_a_mediator_is_a_field_and_the_error_says_what_else_it_is(
    here: SimpleNamespace, mediator: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ik.mechanism(here.model, here.task, mediator=mediator, target="newD")


@pytest.mark.usefixtures("costly")
def test_a_probe_of_too_few_examples_says_how_many_are_needed_and_there(here: SimpleNamespace) -> None:
    few = here.batch.take(range(6))
    with pytest.raises(
        ValueError, match=r"newA has 6 distinct prefixes at .*Needed are 8 distinct prefixes or more, and 2"
    ):
        ik.probe(here.model, few, ["newA"])
    with pytest.raises(ValueError, match="newB does not follow from the text at any of them"):
        ik.probe(here.model, here.batch, ["newB"], positions=["A", "B"])
