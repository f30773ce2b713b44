"""Every public function that takes a model, with a model on a card and examples on the processor: it gives what it
gives on the processor. The card is pretended (`pretend.py`)."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from pretend import OnCard, card
from torch import Tensor

import interp_kit as ik
from interp_kit.engine.fast import write
from interp_kit.engine.fast.forward import Executor
from interp_kit.engine.metrics import AtField
from interp_kit.engine.sources.named import Mean
from interp_kit.models.convert import hooked_transformer
from interp_kit.models.following import Moved

RANDOM = ik.Edit("mlp_out", 0, ik.Zero())


@dataclass(frozen=True)
class World:
    """A small random model, and examples on the processor."""

    task: ik.BooleanTask
    folder: Path
    device: str
    dtype: torch.dtype = torch.float32

    def made(self, seed: int = 0) -> Any:
        model = hooked_transformer(
            n_layers=2, d_model=16, n_heads=2, d_head=8, d_mlp=32, d_vocab=len(self.task.vocabulary), seed=seed,
            n_ctx=24, act_fn="gelu_new", dtype=self.dtype,
        )  # fmt: skip
        return model.to(self.device, print_details=False)

    @cached_property
    def model(self) -> Any:
        return self.made()

    @cached_property
    def other(self) -> Any:
        return self.made(1)

    @cached_property
    def batch(self) -> ik.TokenBatch:
        return self.task.batch(self.task.enumerate())

    @cached_property
    def pairs(self) -> ik.PairBatch:
        return self.task.pairs("newB", "newD", limit=12)

    @cached_property
    def sae(self) -> Any:
        config = ik.SAEConfig(architecture="topk", width=8, k=2, training_samples=512, batch_size=64, max_examples=32)
        return ik.train_sae(self.model, self.task, site="blocks.1.hook_mlp_out", config=config, progress=False)

    @cached_property
    def edges(self) -> Any:
        return ik.score_edges(self.model, self.pairs, method="eap", progress=False)


def harvested(w: World) -> list[Any]:
    found = ik.harvest(w.model, w.batch, ["mlp_out.1", "resid_pre.0"], progress=False)
    assert {value.device.type for value in found.values()} == {w.device}
    return list(found.values())


def stored(w: World) -> list[Any]:
    files = ik.harvest_to(w.folder / w.device, w.model, w.batch, "mlp_out.1", rows=16, progress=False)
    return [files.load(site) for site in files.sites]


def swept(w: World) -> list[Any]:
    """Every kind of edit, those that refer to batches on the processor, and hooks."""
    corrupt, clean = w.pairs.corrupt, w.pairs.clean
    weight = torch.ones(16, dtype=torch.bool)
    edits = [
        ik.Edit("z", 0, ik.Zero(), head=1),
        ik.Edit("resid_pre", 1, ik.Copy(clean), position="D"),
        [ik.Edit("mlp_out", 0, ik.Mean(), position="D"), ik.Edit("z", 1, ik.Resample(over=w.batch), head=0)],
        ik.Edit("mlp_post", 1, ik.Set(torch.ones(32)), position="D"),
        ik.Edit("attn_out", 0, ik.Add(np.ones(16), 0.5)),
        ik.Edit("resid_mid", 0, ik.Scale(2.0), position=3),
        ik.Edit("z", 1, ik.CopyAttended(clean, ("D",)), position=corrupt.field("newD").predict),
        ik.Edit("b_out", 0, ik.Set(0.5), mask=weight),
        ik.Edit("mlp_out", 1, ik.Mean(over=w.batch)),
    ]
    metrics = [ik.logit_difference(w.pairs), ik.kl("newD"), ik.accuracy("newD"), ik.probability(w.pairs)]
    found = ik.sweep(w.model, corrupt, edits, metrics, other=clean, unedited=[ik.log_probability()], progress=False)
    hooked = ik.sweep(w.model, corrupt, [edits[6], edits[7]], ik.exact_match(), progress=False)
    assert found.by_hooks == (2 if w.dtype == torch.float32 else len(edits))
    assert {one.dtype for one in (found.values, found.baseline, hooked.values)} == {np.dtype("float32")}
    return [found.values, found.baseline, found.other, found.unedited, hooked.values]


def patched(w: World) -> list[Any]:
    """By position, and all together, where the interval of what is 1 throughout is rounding."""
    found: list[Any] = [
        ik.patch(w.model, w.pairs), ik.patch(w.model, w.pairs, direction="noise", metric=ik.first_difference),
        ik.patch(w.model, w.pairs, metric=lambda _: ik.logit_difference(w.pairs), positions=["D"]),
    ]  # fmt: skip
    return [*found, ik.patch(w.model, w.pairs, by="all", metric=ik.probability, direction="noise").recovered]


def edited(w: World) -> list[Any]:
    edits = [ik.Edit("z", 0, ik.Copy(w.pairs.clean)), ik.Edit("mlp_out", 1, ik.Set(torch.ones(16)), position="D")]
    with ik.editing(w.model, w.pairs.corrupt, edits), torch.no_grad():
        return [w.model(w.pairs.corrupt.tokens.to(w.device)).cpu()]


def decoded(w: World) -> list[Any]:
    free = torch.arange(w.batch.tokens.shape[1]) >= w.batch.prompt_length[:, None]
    found = []
    for options in ({}, {"temperature": 1.0}, {"cached": False}, {"stop": 12}):
        one = ik.decode(w.model, w.batch.tokens, free, lengths=w.batch.mask.sum(1), progress=False, **options)
        assert one.tokens.device == one.log_prob.device == w.batch.tokens.device
        found += [one.tokens, one.log_prob]
    with ik.editing(w.model, w.batch, RANDOM):
        found.append(ik.decode(w.model, w.batch.tokens, free, progress=False).tokens)
    return found


def completed(w: World) -> list[Any]:
    found = ik.complete(w.model, w.batch)
    assert found.device == w.batch.tokens.device
    return [found]


def attributed(w: World) -> list[Any]:
    metric = ik.logit_difference(w.pairs)
    found = [ik.direct_logit_attribution(w.model, w.pairs), ik.direct_logit_attribution(w.model, w.batch, "newD")]
    return [*found, ik.direct_logit_attribution(w.model, w.pairs, metric=metric)]


def written(w: World) -> list[Any]:
    path = ik.write_playground(w.model, w.folder / f"{w.device}.html", task=w.task)
    return [np.array([len(path.read_text(encoding="utf-8"))])]


def planned(w: World) -> list[Any]:
    """A compiled model, which computes on the card as it does on the processor."""
    model = ik.compile_task(w.task).to(w.device, print_details=False)
    frame = ik.plan_of(model).to_frame()
    return [np.array([len(frame)]), ik.patch(model, w.pairs, progress=False).values]


def features(w: World) -> list[Any]:
    found = ik.universality([w.model, w.other], w.batch, site="mlp_post.1", tokens=256, rotations=1, progress=False)
    sae = ik.universality([w.model, w.model], w.batch, saes=[w.sae, w.sae], site="mlp_out.1", tokens=256, rotations=1)
    return [found, sae]


# name -> what it is tried with; gives results, arrays and tensors to be compared
RUNS: dict[str, Callable[[World], Any]] = {
    "ablate": lambda w: [
        ik.ablate(w.model, w.batch, kind=kind, units=units, fields=["newD"])
        for kind, units in (("zero", ["neuron"]), ("mean", ["head", "mlp"]), ("resample", ["attention", "layer"]))
    ],
    "acdc": lambda w: ik.acdc(w.model, w.pairs, threshold=1e-5),
    "align_features": lambda w: ik.align_features(
        w.model, w.task, w.sae, variables="newB", positions="newB?", target="newD", permutations=5, pairs=4
    ),
    "attention_lags": lambda w: ik.attention_lags(w.model, w.batch),
    "complete": completed,
    "completer": lambda w: ik.completer(w.model, 14)(w.batch.tokens[:, :10]),
    "das": lambda w: ik.das(w.model, w.task, "newB", "newD", layer=0, position="D", seeds=(0,), steps=3),
    "decode": decoded,
    "diff_models": lambda w: ik.diff_models(w.model, w.other, w.batch, metric=ik.log_probability),
    "direct_logit_attribution": attributed,
    "editing": edited,
    "evaluate": lambda w: ik.evaluate(w.model, w.task),
    "faithfulness": lambda w: [
        ik.faithfulness(w.model, w.pairs, w.edges, sizes=[0, 3], controls=2, ablation=kind)
        for kind in ("counterfactual", "mean", "resample")
    ],
    "generate_under": lambda w: ik.generate_under(w.model, w.batch, {"none": RANDOM}),
    "harvest": harvested,
    "harvest_to": stored,
    "interchange": lambda w: ik.interchange(w.model, w.task, "newB", "newD", limit=12),
    "lesion": lambda w: ik.lesion(w.model, w.task, ik.Edit("z", 0, head=1), steps=2, seeds=(0,), limit=16),
    "logit_lens": lambda w: [ik.logit_lens(w.model, w.pairs), ik.logit_lens(w.model, w.batch, "newD")],
    "mechanism": lambda w: ik.mechanism(w.model, w.task, mediator="newB", target="newD"),
    "patch": patched,
    "patch_senders": lambda w: ik.patch_senders(w.model, w.pairs).recovered,
    "path_patch": lambda w: ik.path_patch(
        w.model, w.pairs, [ik.Edge("embed", "logits", "logits"), ik.Edge("L0H1", "L1 MLP", "mlp", "D")]
    ),
    "plan_of": planned,
    "probe": lambda w: ik.probe(w.model, w.batch, ["newB", "sum1"], repeats=1, control_model=w.other),
    "score_edges": lambda w: [
        ik.score_edges(w.model, w.pairs, method="exact"), w.edges,
        ik.score_edges(w.model, w.pairs, method="eap-ig", steps=2, by="position"),
        ik.score_edges(w.model, w.pairs, metric=lambda _: ik.logit_difference(w.pairs)),
    ],
    "score_nodes": lambda w: [
        ik.score_nodes(w.model, w.pairs, method=method, progress=False) for method in ("exact", "atp", "atp-qk", "atp*")
    ],
    "sweep": swept,
    "task_of": lambda w: [np.array([len(ik.task_of(w.model, "boolean").vocabulary)])],
    "train_sae": lambda w: w.sae,
    "train_saes": lambda w: list(
        ik.train_saes(
            w.model, w.batch, site="blocks.1.hook_mlp_out", progress=False,
            configs=[ik.SAEConfig(kind, width=8, k=2, training_samples=512, batch_size=64) for kind in KINDS],
        )
    ),
    "universality": features,
    "untrained": lambda w: harvested(World(w.task, w.folder, w.device)) and [
        value.cpu() for value in ik.untrained(w.model).state_dict().values()
    ],
    "write_mib": lambda w: np.array(
        [ik.write_mib(w.edges, w.folder / f"{w.device}.json", w.model).stat().st_size // 1000]
    ),
    "write_playground": written,
}  # fmt: skip
KINDS = ("topk", "standard", "batchtopk", "jumprelu", "gated", "matryoshka")
# What takes no model; `load` gives one, on the device that is asked for.
NO_MODEL = {
    "AbstractResult", "AbstractTask", "Add", "BooleanTask", "CheckpointError", "Circuit", "Copy", "CopyAttended",
    "CultureTask", "Edge", "Edit", "Estimate", "Example", "Field", "Mean", "Metric", "PairBatch", "Resample",
    "SAEConfig", "SFTConfig", "Scale", "Set", "TokenBatch", "Zero", "accuracy", "exact_match", "first_difference",
    "ground_truth", "jaccard", "kl", "load", "load_sae", "log_probability", "logit_difference", "open_harvest",
    "planted", "probability", "read_mib", "read_sae", "readability", "register", "report", "task", "train_sft", "twin",
    "universal_features",
    "compile_task",
}  # fmt: skip


def compared(name: str, found: Any, expected: Any) -> None:
    """Raise AssertionError if two lists of results, arrays and tensors are not near."""
    found, expected = ([one] if not isinstance(one, list) else one for one in (found, expected))
    assert len(found) == len(expected) > 0
    for here, there in zip(found, expected, strict=True):
        if isinstance(here, ik.AbstractResult):
            a, b = here.to_frame(), there.to_frame()
            assert list(a) == list(b)
            for column in a:
                near(f"{name} {column}", a[column].to_numpy(), b[column].to_numpy())
        else:
            near(name, *(np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x) for x in (here, there)))


def near(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    if found.dtype.kind in "fc":
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, err_msg=name)
    else:
        assert pd.Series(found.ravel()).equals(pd.Series(expected.ravel())), name


def test_every_public_name_is_here() -> None:
    assert set(RUNS) | NO_MODEL == set(ik.__all__)
    assert not set(RUNS) & NO_MODEL
    for name in NO_MODEL:
        value = getattr(ik, name)
        if inspect.isfunction(value):
            parameters = inspect.signature(value).parameters
            assert not {"model", "models", "receiver", "control_model"} & set(parameters), f"{name} takes a model"


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_model_on_a_card_with_examples_on_the_processor(name: str, task: ik.BooleanTask, tmp_path: Path) -> None:
    expected = RUNS[name](World(task, tmp_path, "cpu"))
    with card():
        world = World(task, tmp_path, "cuda")
        assert {type(weight) for weight in world.model.parameters()} == {OnCard}
        found = RUNS[name](world)
    compared(name, found, expected)


# what a careless change would do -> functions that must notice
FAULTS: dict[str, tuple[Any, str, Callable[..., Any], list[str]]] = {
    "batches stay where they are": (
        Moved, "__call__", lambda self, value: value,
        ["ablate", "direct_logit_attribution", "harvest", "patch", "score_edges", "sweep"],
    ),
    "answers stay on the processor": (
        AtField, "right_of", lambda self, batch: batch.answer[self.field].cpu(), ["ablate", "logit_lens", "sweep"],
    ),
    "logits go to the processor": (
        Executor, "read_out", lambda self, x: F.linear(self.norm(x), *self.unembed).cpu(), ["patch", "score_edges"],
    ),
    "positions are found on the processor": (
        write, "position_of", lambda edit, batch: position_of(edit, batch).cpu(), ["sweep"],
    ),
    "means are made on the processor": (
        Mean, "reference", lambda self, *given: reference(self, *given).cpu(), ["ablate", "sweep"],
    ),
    "numbers are read past the processor": (
        Tensor, "cpu", lambda self: self, ["evaluate", "harvest_to", "probe", "sweep"],
    ),
}  # fmt: skip
position_of, reference = write.position_of, Mean.reference


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_noticed(fault: str, task: ik.BooleanTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, faulty, names = FAULTS[fault]
    with card():
        world = World(task, tmp_path, "cuda")
        assert world.model
        assert world.pairs
        monkeypatch.setattr(where, attribute, faulty)
        for name in names:
            with pytest.raises((RuntimeError, TypeError), match="device"):
                RUNS[name](world)


COARSE = ("evaluate", "harvest", "sweep")  # the others take seconds by hooks
OWN_DTYPE = {
    "score_nodes",
    "write_mib",
    "acdc",
    "direct_logit_attribution",
    "faithfulness",
    "logit_lens",
    "path_patch",
    "score_edges",
    "write_playground",
}


@pytest.mark.parametrize(
    "name", [name if name in COARSE else pytest.param(name, marks=pytest.mark.slow) for name in sorted(RUNS)]
)
def test_in_bfloat16_a_function_runs_or_says_that_it_does_not(name: str, task: ik.BooleanTask, tmp_path: Path) -> None:
    with card():
        world = World(task, tmp_path, "cuda", torch.bfloat16)
        if name not in OWN_DTYPE:
            RUNS[name](world)
            return
        with pytest.raises(ValueError, match=r"dtype is torch\.bfloat16"):
            RUNS[name](world)
