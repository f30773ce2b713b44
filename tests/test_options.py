"""Options that mean nothing are refused by every public function, before any work: one error that names option and
value. And what is passed in place of a model, a batch or a result gets one sentence."""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.core.config import check_choice, check_count, check_flag, check_names, check_number
from interp_kit.engine.metrics import Probability
from interp_kit.studies.culture.training.config import CultureConfig
from interp_kit.tasks.induction import InductionTask
from interp_kit.training.interchange import InterchangeConfig

NAN = math.nan
COUNTS = (0, -1, 1.5, NAN, True, "2", None)
FROM_0 = (-1, 1.5, NAN, True, "2", None)
POSITIVE = (0, -1.0, NAN, math.inf, 10**400, True, "2", None)
SHARES = (-0.1, 1.1, NAN, True, "0.5", None)
FLAGS = (1, 0, "yes", None)
NAMES = ([], ["D", "D"], ["zz"], [1], {"D": 1}, 3)
WORDS = ("zz", "", 1, True, None, ["denoise"])


@pytest.fixture(scope="module")
def here(task: ik.BooleanTask) -> SimpleNamespace:
    """A small model with all that public functions ask for."""
    model = ik.planted("boolean-direct")
    pairs, batch = task.pairs("newB", "newD"), task.batch(task.enumerate())
    ablated = ik.ablate(model, batch, kind="zero", units=["layer"])
    edges = ik.score_edges(model, pairs, method="eap")
    probe = ik.probe(model, batch, "newA", positions=["newA?"], repeats=1, control_repeats=0)
    edge = ik.Edge("embed", "logits", "logits")
    config = ik.SAEConfig(width=8, k=2, training_samples=1024)
    sae = ik.train_sae(model, task, site="blocks.0.hook_resid_post", config=config, progress=False)
    alike = ik.universality([model, model], batch, site="mlp_post.0", tokens=64, rotations=1, progress=False)
    return SimpleNamespace(
        model=model, task=task, pairs=pairs, batch=batch, ablated=ablated, edges=edges, probe=probe, edge=edge, sae=sae,
        alike=alike,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """As users have it: the test suite's own checks of types are off."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Each function as it is called, with one option to be filled in; option -> what means nothing there.
Call = Callable[[SimpleNamespace, dict[str, Any]], object]
CALLS: dict[str, tuple[Call, dict[str, tuple]]] = {
    "patch": (
        lambda h, o: ik.patch(h.model, h.pairs, **o),
        {
            "direction": WORDS, "by": WORDS, "sites": NAMES, "only_solved": FLAGS, "progress": FLAGS,
            "positions": ([], ["D", "D"], ["zz"], [99], 3, {}, {"a": []}, {"a": ["D", "D"]}, "D"),
        },
    ),
    "patch_senders": (
        lambda h, o: ik.patch_senders(h.model, h.pairs, **o),
        {
            "direction": WORDS, "only_solved": FLAGS, "progress": FLAGS, "receiver": ("zz",),
            "senders": ([], ["D", "D"], ["zz"], [[]], [["D", "D"]]),
        },
    ),
    "path_patch": (
        lambda h, o: ik.path_patch(h.model, h.pairs, **({"paths": [h.edge]} | o)),
        {"direction": WORDS, "progress": FLAGS, "paths": ([], {})},
    ),
    "score_edges": (
        lambda h, o: ik.score_edges(h.model, h.pairs, **o),
        {
            "method": WORDS, "by": WORDS, "direction": WORDS, "steps": COUNTS[:-1], "memory": COUNTS, "progress": FLAGS,
            "ablation": (*WORDS, "resample", "mean"),
        },
    ),
    "score_nodes": (
        lambda h, o: ik.score_nodes(h.model, h.pairs, **o),
        {"method": WORDS, "direction": WORDS, "memory": COUNTS, "progress": FLAGS},
    ),
    "read_mib": (lambda h, o: ik.read_mib("nowhere.json", **o), {"in_graph": FLAGS}),
    "write_mib": (lambda h, o: ik.write_mib(h.edges, "never.json", h.model, **o), {"kept": (-1, 1.5, NAN, True, "2")}),
    "score_edges exact": (lambda h, o: ik.score_edges(h.model, h.pairs, method="exact", **o), {"steps": (3,)}),
    "acdc": (
        lambda h, o: ik.acdc(h.model, h.pairs, **({"threshold": 0.1} | o)),
        {"threshold": POSITIVE, "progress": FLAGS},
    ),
    "faithfulness": (
        lambda h, o: ik.faithfulness(h.model, h.pairs, h.edges, **o),
        {
            "ablation": WORDS, "controls": FROM_0, "seed": FROM_0, "memory": COUNTS, "signed": FLAGS, "progress": FLAGS,
            "sizes": ([], [-1], [1, 1], [1.5], [True], [10**6]),
        },
    ),
    "ablate": (
        lambda h, o: ik.ablate(h.model, h.batch, **({"kind": "resample"} | o)),
        {
            "kind": WORDS, "units": ([], ["head", "head"], ["zz"], "head", [1]), "resamples": COUNTS, "seed": FROM_0,
            "fields": ([], ["newA", "newA"], ["zz"], "newA", [1]), "progress": FLAGS,
        },
    ),
    "ablate whole": (
        lambda h, o: ik.ablate(h.model, h.batch, metric=ik.exact_match, **o), {"fields": (["newA"],)},
    ),
    "lesion": (
        lambda h, o: ik.lesion(h.model, h.task, **({"edits": ik.Edit("z", 0)} | o)),
        {
            "steps": COUNTS, "batch_size": COUNTS, "limit": COUNTS, "seeds": ([], [0, 0], [-1], [0.5]), "kind": WORDS,
            "learning_rate": POSITIVE, "edits": ([], ik.Edit("q", 0), ik.Edit("z", 0, ik.Resample())),
            "progress": FLAGS,
        },
    ),
    "interchange": (
        lambda h, o: ik.interchange(h.model, h.task, **({"variable": "newB", "target": "newD"} | o)),
        {
            "variable": ("zz", 1), "target": ("zz", "A"), "sites": NAMES, "by": WORDS, "limit": COUNTS, "seed": FROM_0,
            "positions": ([], ["D", "D"], ["zz"], {"a": []}), "only_solved": FLAGS, "progress": FLAGS,
        },
    ),
    "das": (
        lambda h, o: ik.das(h.model, h.task, "newB", "newD", **o),
        {
            "site": ("zz", "z"), "layer": (-1, 9, [], [0, 0], 0.5, True), "position": ([], ["zz"], ["D", "D"]),
            "k": COUNTS, "seeds": ([], [0, 0], [-1], [0.5]), "steps": FROM_0, "learning_rate": POSITIVE, "span": WORDS,
            "held_out": (0, 1, -1, NAN, True, "0.5"), "limit": COUNTS, "controls": ("zz", ["zz"]), "progress": FLAGS,
        },
    ),
    "mechanism": (
        lambda h, o: ik.mechanism(h.model, h.task, **({"mediator": "newB", "target": "newD"} | o)),
        {"mediator": ("zz",), "target": ("zz",), "limit": COUNTS, "seed": FROM_0, "progress": FLAGS},
    ),
    "probe": (
        lambda h, o: ik.probe(h.model, h.batch, **({"labels": ["newA"]} | o)),
        {
            "labels": ([], ["newA", "newA"], ["zz"], [1]), "sites": NAMES, "positions": NAMES,
            "folds": (*COUNTS, 1), "repeats": COUNTS, "control_repeats": FROM_0, "permutations": FROM_0, "c": POSITIVE,
            "alpha": POSITIVE, "seed": FROM_0, "progress": FLAGS,
        },
    ),
    "readability": (
        lambda h, o: ik.readability([replace(h.probe, config={**h.probe.config, "seed": i}) for i in range(3)], **o),
        {"labels": ([], ["newA", "newA"], ["zz"], "newA")},
    ),
    "jaccard": (
        lambda h, o: ik.jaccard(h.ablated, h.ablated, **({"k": 1} | o)),
        {
            "k": (*COUNTS, 3), "field": ("zz", 1), "match": WORDS, "permutations": COUNTS, "halvings": COUNTS,
            "seed": FROM_0,
        },
    ),
    "diff_models": (lambda h, o: ik.diff_models(h.model, h.model, h.batch, **o), {"progress": FLAGS}),
    "train_sae": (
        lambda h, o: ik.train_sae(h.model, h.task, **o),
        {
            "site": ("zz", "mlp_out"), "target_site": ("zz", "mlp_out", "blocks.1.hook_resid_post"),
            "store": (1, True, ["zz"]), "seed": FROM_0, "progress": FLAGS,
        },
    ),
    "align_features": (
        lambda h, o: ik.align_features(h.model, h.task, h.sae, **({"positions": "newB?", "variables": "newB"} | o)),
        {
            "variables": ([], ["newA", "newA"], ["zz"], [1]), "positions": ([], ["zz"], ["D", "D"]),
            "target": ("zz", "A"), "limit": (*COUNTS, 3), "pairs": COUNTS, "chosen_by": (0, 1, -1, NAN, True, "0.5"),
            "permutations": (*COUNTS, 1), "seed": FROM_0, "progress": FLAGS,
        },
    ),
    "universality": (
        lambda h, o: ik.universality([h.model, h.model], h.batch, **o),
        {
            "site": ("zz", 1), "within": WORDS, "tokens": (*COUNTS, 15), "rotations": COUNTS,
            "seed": FROM_0, "progress": FLAGS, "saes": ([],),
        },
    ),
    "load_sae": (lambda h, o: ik.load_sae(**o), {"name": ("zz", "")}),
    "universal_features": (lambda h, o: ik.universal_features(h.alike, **o), {"alignments": ([],)}),
    "train_saes": (
        lambda h, o: ik.train_saes(h.model, h.task, [ik.SAEConfig()], **o),
        {
            "site": ("zz", "mlp_out"), "target_site": ("zz", "mlp_out", "blocks.1.hook_resid_post"),
            "store": (1, True, ["zz"]), "seed": FROM_0, "progress": FLAGS,
        },
    ),
    "read_sae": (lambda h, o: ik.read_sae(**o), {"directory": ("zz", "tests")}),
    "SAEConfig": (
        lambda h, o: ik.SAEConfig(**o),
        {
            "architecture": WORDS, "width": COUNTS, "k": (*COUNTS, 65), "l1_coefficient": (-1, NAN, True),
            "training_samples": COUNTS, "batch_size": COUNTS, "learning_rate": POSITIVE,
            "held_out": (0, 1, NAN, True), "max_examples": COUNTS,
            "matryoshka_widths": ((0, 64), (8, 4, 64), (8,), (65,), [64], 64, "zz", None),
        },
    ),
    "SFTConfig": (
        lambda h, o: ik.SFTConfig(**o),
        {
            **dict.fromkeys(("n_layers", "n_heads", "n_ctx", "batch_size"), COUNTS), "d_model": (*COUNTS, 7),
            "dropout": (-0.1, 1, NAN, True), "epochs": POSITIVE, "learning_rate": POSITIVE,
            "weight_decay": (-1, NAN, True), "loss_on": WORDS, "seed": (*FROM_0, 2**32), "optimiser": WORDS,
            **dict.fromkeys(("matrix_learning_rate", "clip", "initializer_range"), POSITIVE), "keep": WORDS,
            "flat": (-0.1, 1, NAN, True), "warm_up": FROM_0, "check_every": FROM_0,
            "data_seed": tuple(one for one in (*FROM_0, 2**32) if one is not None),
        },
    ),
    "InterchangeConfig": (
        lambda h, o: InterchangeConfig(**o),
        {
            "steps": COUNTS, "batch_size": COUNTS, "learning_rate": POSITIVE, "weight_decay": (-1, NAN),
            "warmup": FROM_0, "sure": (-1, NAN), **dict.fromkeys(("several", "partial", "mixed"), SHARES),
            "seed": FROM_0,
        },
    ),
    "CultureConfig": (
        lambda h, o: CultureConfig(**o),
        {
            **dict.fromkeys(("budget", "turn", "tested", "threads", "shards"), COUNTS), "workers": COUNTS[:-1],
            **dict.fromkeys(("quizzes", "max_fail", "seed"), FROM_0), "compiled": FLAGS,
            **dict.fromkeys(("noise", "focus", "finish", "making", "share", "smudge", "threshold"), SHARES),
            **dict.fromkeys(("hint", "late_hint", "rest", "seconds"), (-1, NAN)), "precision": WORDS,
            "ids": ((0, 0), (-1,), (0.5,)), "makers": ((1, 1),),
        },
    ),
    "attention_lags": (
        lambda h, o: ik.attention_lags(h.model, h.batch, **o),
        {
            "lags": ([], [-1], [0, 0], [0.5], [True], [99]), "queries": ([], ["zz"], ["D", "D"], "D"),
            "batch_size": COUNTS, "seed": FROM_0, "progress": FLAGS,
        },
    ),
    "generate_under": (
        lambda h, o: ik.generate_under(h.model, h.batch, **({"edits": {"a": ik.Edit("z", 0)}} | o)),
        {"edits": ({}, {"intact": ik.Edit("z", 0)}), "batch_size": COUNTS[:-1], "progress": FLAGS},
    ),
    "direct_logit_attribution": (
        lambda h, o: ik.direct_logit_attribution(h.model, h.pairs, **o), {"target": ("zz", "newA")},
    ),
    "logit_lens": (
        lambda h, o: ik.logit_lens(h.model, h.pairs, **o),
        {"target": ("zz", "newA"), "positions": ([], ["zz"], ["D", "D"], "D")},
    ),
    "harvest": (
        lambda h, o: ik.harvest(h.model, h.batch, **({"sites": "resid_pre.0"} | o)),
        {"sites": ([], ["zz"], ["embed", "embed"]), "positions": ([], ["zz"], ["D", "D"], "D"),
         "dtype": (torch.int32,), "progress": FLAGS},
    ),
    "harvest_to": (
        lambda h, o: ik.harvest_to("never", h.model, h.batch, "resid_pre.0", **o),
        {"rows": COUNTS, "progress": FLAGS, "positions": ([],), "shard": ((2, 2), (0, 0), (-1, 2), (0, 1.5))},
    ),
    "sweep": (
        lambda h, o: ik.sweep(
            h.model, h.batch, **({"edits": ik.Edit("z", 0), "metrics": ik.accuracy("newD")} | o)
        ),
        {"metrics": ([],), "memory": COUNTS, "edits": ([[]],), "progress": FLAGS},
    ),
    "Edit": (
        lambda h, o: ik.Edit(**({"site": "z", "layer": 0} | o)),
        {
            "site": ("zz", "", 1, "z.1"), **dict.fromkeys(("layer", "head", "neuron", "position"), (True, 0.0, -1)),
        },
    ),
    "Edit that does not fit": (
        lambda h, o: ik.sweep(h.model, h.batch, ik.Edit(**({"site": "z", "layer": 0} | o)), ik.accuracy("newD")),
        {"layer": (9,), "head": (9,), "neuron": (99,), "position": ("zz",)},
    ),
    "Scale": (
        lambda h, o: ik.sweep(h.model, h.batch, ik.Edit("z", 0, ik.Scale(**o)), ik.accuracy("newD")),
        {"factor": (NAN, math.inf, True, "2", None)},
    ),
    "Resample": (
        lambda h, o: ik.sweep(h.model, h.batch, ik.Edit("z", 0, ik.Resample(**o)), ik.accuracy("newD")),
        {"seed": FROM_0},
    ),
    "Add": (
        lambda h, o: ik.sweep(
            h.model, h.batch, ik.Edit("resid_pre", 0, ik.Add(torch.zeros(64), **o)), ik.accuracy("newD")
        ),
        {"scale": (NAN, True, "2", None)},
    ),
    "editing": (lambda h, o: ik.editing(h.model, h.batch, **o).__enter__(), {"edits": ([],)}),
    "evaluate": (
        lambda h, o: ik.evaluate(h.model, h.task, **o),
        {"batch_size": COUNTS, "examples": ([],), "known": ([],), "progress": FLAGS},
    ),
    "decode": (
        lambda h, o: ik.decode(h.model, h.batch.tokens, h.batch.tokens < 0, **o),
        {
            "temperature": (True, "1"), "seed": FROM_0, "cached": FLAGS, "batch_size": COUNTS[:-1], "progress": FLAGS,
            "stop": (-1, 1.5, True),
        },
    ),
    "completer": (lambda h, o: ik.completer(h.model, **o), {"length": (*COUNTS, 10**6)}),
    "Metric": (lambda h, o: Probability(**o), {"field": ("completion",)}),
    "log_probability": (lambda h, o: ik.log_probability(**o), {"target": ("newD", 1, None)}),
    "exact_match": (lambda h, o: ik.exact_match(**o), {"target": ("newD", 1, None)}),
    "load": (
        lambda h, o: ik.load(**({"name": "boolean-direct"} | o)),
        {"fold": FLAGS, "name": ("zz",), "config": ({"zz": 1},)},
    ),
    "planted": (lambda h, o: ik.planted(**({"name": "boolean-direct"} | o)), {"name": ("zz", ""), "seed": FROM_0}),
    "untrained": (lambda h, o: ik.untrained(h.model, **o), {"seed": FROM_0}),
    "ground_truth": (
        lambda h, o: ik.ground_truth(**({"name": "boolean-direct"} | o)),
        {"name": ("zz", ""), "variable": ("newB",), "target": ("newD",)},
    ),
    "compile_task": (
        lambda h, o: ik.compile_task(h.task, **o),
        {
            "mechanism": WORDS, "layer_norm": FLAGS, "superposed": FLAGS, "variable": ("zz",), "target": ("zz", "A"),
            "seed": FROM_0,
        },
    ),
    "twin": (lambda h, o: ik.twin(**o), {"name": ("zz", "")}),
    "task_of": (lambda h, o: ik.task_of(h.model, **o), {"name": ("zz", "culture")}),
    "task": (lambda h, o: ik.task(**o), {"name": ("zz", "")}),
    "register": (lambda h, o: ik.register(type(h.task), **o), {"name": ("culture", "")}),
    "BooleanTask": (
        lambda h, o: ik.BooleanTask(**o),
        {"vocabulary": WORDS, "equations": ({}, {"a": "zz"}), "inputs": ([], ["A", "A"])},
    ),
    "CultureTask": (
        lambda h, o: ik.CultureTask(**o),
        {"structures": NAMES, "tasks": NAMES, "noise": SHARES},
    ),
    "InductionTask": (lambda h, o: InductionTask(**o), {"letters": (*COUNTS, 99), "length": (*COUNTS, 3)}),
    "task.sample": (lambda h, o: h.task.sample(**({"n": 2, "seed": 0} | o)), {"n": COUNTS, "seed": FROM_0}),
    "task.batch": (lambda h, o: h.task.batch(**o), {"examples": ([],)}),
    "task.pairs": (
        lambda h, o: h.task.pairs(**({"variable": "newB", "target": "newD"} | o)),
        {
            "variable": ("zz",), "target": ("zz", "A"), "hold": (["zz"], "A", ["A", "A"]), "completion": WORDS,
            "limit": COUNTS, "seed": FROM_0,
        },
    ),
    "batch.take": (lambda h, o: h.batch.take(**o), {"rows": ([], [0.5], [True], [99], [-99], 3)}),
    "pairs.take": (lambda h, o: h.pairs.take(**o), {"rows": ([], [0.5], [True], [99])}),
    "pairs.halves": (lambda h, o: h.pairs.halves(**o), {"seed": FROM_0}),
    "Circuit.top": (lambda h, o: h.edges.top(**({"k": 1} | o)), {"k": (*COUNTS, 10**6), "signed": FLAGS}),
    "Circuit.take": (lambda h, o: h.edges.take(**o), {"index": ([0.5], [True], ["a"])}),
    "write_playground": (
        lambda h, o: ik.write_playground(h.model, **({"path": "never.html"} | o)),
        {"path": ("never.txt",), "task": (InductionTask(),)},
    ),
    "report": (
        lambda h, o: ik.report(h.ablated, **({"path": "never.html"} | o)),
        {"path": ("never.txt",), "playground": (__file__,)},
    ),
}  # fmt: skip
CASES = [
    pytest.param(call, option, values, id=f"{name}-{option}")
    for name, (call, options) in CALLS.items()
    for option, values in options.items()
]


@pytest.mark.parametrize(("call", "option", "values"), CASES)
def test_options_that_mean_nothing_are_refused(here: SimpleNamespace, call: Call, option: str, values: tuple) -> None:
    for value in values:
        try:
            call(here, {option: value})
        except ValueError as refused:
            message, leaves = str(refused), list(value) if isinstance(value, list | tuple | dict) else [value]
            assert option in message or any(str(leaf) in message for leaf in leaves), message
        else:
            pytest.fail(f"{option}={value!r} is taken")


# What has no option of its own that could mean nothing: classes of data, and what is checked where it is used.
PLAIN = {
    "AbstractResult", "AbstractTask", "CheckpointError", "Circuit", "Copy", "CopyAttended", "Edge",
    "Estimate", "Example", "Field", "Mean", "PairBatch", "Set", "TokenBatch", "Zero", "accuracy",
    "complete", "first_difference", "kl", "logit_difference", "open_harvest", "plan_of", "probability", "train_sft",
}  # fmt: skip
FREE = {
    "metric",
    "control_model",
    "root",
    "device",
    "title",
    "intro",
    "omitted",
    "examples",
    "other",
    "unedited",
    "lengths",
}
FREE |= {"unedited_other", "edit", "generate", "right", "wrong", "at", "validation", "dtype", "config", "field"}
FREE |= {"source", "mask", "over", "pairs"}


@pytest.mark.parametrize("name", [name for name in ik.__all__ if name not in PLAIN])
def test_no_option_of_a_public_function_is_left_out(name: str) -> None:
    assert name in CALLS, f"{name} is new: add it to CALLS"
    tried = CALLS[name][1]
    parameters = inspect.signature(getattr(ik, name)).parameters.values()
    options = {p.name for p in parameters if p.default is not p.empty and p.kind is not p.VAR_KEYWORD}
    assert options - FREE <= set(tried), f"{name} takes options that no test fills with nonsense"


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (lambda v: check_choice("o", v, ("a", "b")), ["a", "b"], ["c", 1, None]),
        (lambda v: check_choice("o", v, (0, 1)), [0, 1], [False, True, 0.0]),
        (lambda v: check_count("o", v, 2, 4), [2, 4, np.int64(3)], [1, 5, 2.0, np.float64(3), True, "3", NAN]),
        (lambda v: check_number("o", v, above=0, most=2), [0.5, 2, np.float32(1)], [0, 2.1, NAN, math.inf, True, "1"]),
        (lambda v: check_flag("o", v), [True, False], [0, 1, None, "True"]),
        (lambda v: check_names("o", v, ("a", "b")), [["a"], ("b", "a")], ["a", [], ["a", "a"], ["c"], [1], {"a": 1}]),
    ],
)
def test_a_check_takes_what_is_right_and_names_what_is_wrong(check: Callable, right: list, wrong: list) -> None:
    for value in right:
        check(value)
    for value in wrong:
        with pytest.raises(ValueError, match=r"^o (is|holds) "):
            check(value)


MODEL = r"is {}; expected a HookedTransformer, as interp_kit\.load\(name\) gives"
BATCH, PAIRS, TASK = "expected TokenBatch", "expected PairBatch", "expected AbstractTask"
OF_MODEL = [  # function that takes a model first, more arguments, what is expected second
    (ik.probe, ("newA",), BATCH),
    (ik.patch, (), PAIRS),
    (ik.patch_senders, (), PAIRS),
    (ik.ablate, (), BATCH),
    (ik.mechanism, (), TASK),
    (ik.interchange, ("newB", "newD"), TASK),
    (ik.das, ("newB", "newD"), TASK),
    (ik.lesion, (ik.Edit("z", 0),), TASK),
    (ik.train_sae, (), f"{TASK} or TokenBatch"),
    (ik.align_features, (None,), f"{TASK} or TokenBatch"),
    (ik.train_saes, ([ik.SAEConfig()],), f"{TASK} or TokenBatch"),
    (ik.evaluate, (), TASK),
    (ik.complete, (), BATCH),
    (ik.harvest, ("embed",), BATCH),
    (ik.sweep, (ik.Edit("z", 0), ik.accuracy("newD")), BATCH),
    (ik.attention_lags, (), BATCH),
    (ik.generate_under, ({"a": ik.Edit("z", 0)},), BATCH),
    (ik.score_edges, (), PAIRS),
    (ik.score_nodes, (), PAIRS),
    (lambda model, data: ik.acdc(model, data, threshold=0.1), (), PAIRS),
    (ik.path_patch, ([],), PAIRS),
    (ik.faithfulness, (None,), PAIRS),
    (ik.direct_logit_attribution, (), "expected TokenBatch or PairBatch"),
    (ik.logit_lens, (), "expected TokenBatch or PairBatch"),
    (lambda model, data: ik.harvest_to("never", model, data, "embed"), (), BATCH),
    (lambda model, data: ik.editing(model, data, ik.Edit("z", 0)).__enter__(), (), BATCH),
]


@pytest.mark.parametrize(("function", "more", "expected"), OF_MODEL)
def test_what_is_no_model_or_no_examples_gets_one_sentence(
    here: SimpleNamespace, function: Callable, more: tuple, expected: str
) -> None:
    named = {"mediator": "newB", "target": "newD"} if function is ik.mechanism else {}
    with pytest.raises(TypeError, match=r"the text 'boolean-direct'.*did you mean interp_kit\.load\('boolean-dir"):
        function("boolean-direct", here.batch, *more, **named)
    with pytest.raises(TypeError, match=MODEL.format("a list")):
        function([1], here.batch, *more, **named)
    for data in (["1,0,1"], "1,0", None, here.pairs if TASK in expected else here.task):
        with pytest.raises(TypeError, match=expected):
            function(here.model, data, *more, **named)


def test_other_first_arguments_get_one_sentence_too(here: SimpleNamespace, tmp_path: Any) -> None:
    for call, sentence in (
        (lambda: ik.load(3), "name is a int; expected str or Path or Module"),
        (lambda: ik.load("boolean-direct", config=[("n_heads", 3)]), "config is a list; expected Mapping or NoneType"),
        (lambda: ik.untrained("boolean-direct"), r"did you mean interp_kit\.load"),
        (lambda: ik.task_of("boolean-direct"), r"did you mean interp_kit\.load"),
        (lambda: ik.completer("boolean-direct", 8), r"did you mean interp_kit\.load"),
        (lambda: ik.decode("boolean-direct", here.batch.tokens, here.batch.mask), r"did you mean interp_kit\.load"),
        (lambda: ik.decode(here.model, [[1]], here.batch.mask), "tokens is a list; expected Tensor"),
        (lambda: ik.jaccard(here.probe, here.ablated), "a ProbeResult; expected AblationResult"),
        (lambda: ik.readability(here.probe), "results is a ProbeResult; expected list or tuple"),
        (lambda: ik.readability([here.ablated] * 3), "an? AblationResult; expected ProbeResult"),
        (lambda: ik.report("a result", tmp_path / "r.html"), "results is the text 'a result'; expected list or tuple"),
        (lambda: ik.report([here.batch], tmp_path / "r.html"), "a TokenBatch; expected AbstractResult"),
        (lambda: ik.train_sft("boolean", [], tmp_path / "m"), "task is the text 'boolean'; expected AbstractTask"),
        (lambda: ik.train_sft(here.task, ["1,0"], tmp_path / "m"), "the text '1,0'; expected Example"),
        (lambda: ik.logit_difference(here.batch), "target is a TokenBatch; expected PairBatch"),
        (lambda: ik.first_difference(here.batch), "pairs is a TokenBatch; expected PairBatch"),
        (lambda: ik.sweep(here.model, here.batch, [], ["accuracy"]), "a metric is the text 'accuracy'"),
        (lambda: ik.sweep(here.model, here.batch, [[[]]], ik.accuracy("newD")), "an edit is a list; expected Edit"),
        (lambda: ik.train_sae(here.model, here.task, config={}), "config is a dict; expected SAEConfig"),
        (lambda: ik.align_features(here.model, here.task, here.probe), "sae is a ProbeResult; expected SAEResult"),
        (lambda: ik.universality([here.model] * 2, here.task), "expected TokenBatch"),
        (lambda: ik.universality([here.model] * 2, here.batch, saes=[here.probe] * 2), "expected SAEResult"),
        (lambda: ik.universal_features(here.probe, []), "found is a ProbeResult; expected UniversalityResult"),
        (
            lambda: ik.train_saes(here.model, here.task, ik.SAEConfig()),
            "configs is a SAEConfig; expected list or tuple",
        ),
        (lambda: ik.train_saes(here.model, here.task, ["topk"]), "a config is the text 'topk'; expected SAEConfig"),
        (lambda: ik.train_sft(here.task, [], tmp_path / "m", {}), "config is a dict; expected SFTConfig"),
    ):
        with pytest.raises(TypeError, match=sentence):
            call()
    assert list(tmp_path.iterdir()) == []


def test_one_result_is_a_report(here: SimpleNamespace, tmp_path: Any) -> None:
    assert "ablation" in ik.report(here.ablated, tmp_path / "one.html").read_text(encoding="utf-8")


def test_whole_completions_are_no_metric_of_pairs(here: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="log_probability of a batch of pairs: it is measured over the whole comple"):
        ik.patch(here.model, here.pairs, metric=ik.log_probability)
