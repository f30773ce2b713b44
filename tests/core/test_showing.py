"""Whatever a user prints is one line, and a short, escaped table in a notebook."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp_kit as ik
from interp_kit.analysis.behaviour.evaluation import summarise_held_out
from interp_kit.core.result import _DEFINED_IN, AbstractResult
from interp_kit.core.showing import LONGEST, ROWS, line, preview
from interp_kit.registry.tasks import TASKS
from interp_kit.studies.audit.result import AuditResult
from interp_kit.studies.culture.scores import CultureTests

EVIL = "<script>alert('&')</script>\nsecond line"


def checked(shown: object) -> str:
    """The `repr`, after it and the table were found short and escaped."""
    text, page = repr(shown), shown._repr_html_()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(text) <= LONGEST, text
    assert "\n" not in text
    assert text.startswith(f"{type(shown).__name__}(")
    assert "<script" not in page
    assert page.count("<tr>") <= 1 + ROWS
    assert "<table>" in page
    return text


def audit() -> AuditResult:
    one = np.ones((1, 1))
    return AuditResult(
        method=("eap",), level=("nodes",), circuit=("induction",), seeds=(0,), twins=("t",), twin_of=("induction",),
        auroc=one[..., None], trained=one, control=one, forwards=one, seconds=one,
        config={"analysis": "audit", "pairs": 4, "edge": 0.05},
    )  # fmt: skip


def culture() -> CultureTests:
    cube, rows = np.ones((1, 1, 4)), np.zeros(4, dtype=int)
    return CultureTests(
        models=("culture-0",), tasks=("task",), structures=("forward",), noise=np.zeros(1), task=rows, structure=rows,
        right=cube > 0, expected=cube, cells=cube, loss=cube, copied=np.ones(4), ceiling=np.ones(4),
        config={"task": "culture", "models": ["culture-0"], "greedy": True, "n": 4, "seed": 0},
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(task: ik.BooleanTask) -> dict[str, AbstractResult]:
    """Class -> a result of it, of a model whose name is markup."""
    model = ik.planted("boolean-direct")
    pairs, batch = task.pairs("newB", "newD"), task.batch(task.enumerate())
    edges = ik.score_edges(model, pairs, method="eap")
    ablated = ik.ablate(model, batch, kind="zero", units=["layer"])
    probe = ik.probe(model, batch, "newA", positions=["newA?"], repeats=1, control_repeats=0)
    config = ik.SAEConfig(width=8, k=2, training_samples=4096)
    left_out = ik.evaluate(model, task, omitted=task.enumerate()[:4])
    found = [
        ablated, audit(), culture(), edges, probe, left_out,
        ik.attention_lags(model, batch, lags=[1]),
        ik.das(model, task, "newB", "newD", layer=0, position="D", seeds=(0,), steps=0, controls=False),
        ik.faithfulness(model, pairs, edges, controls=0),
        ik.generate_under(model, batch.take([0, 1]), {"a": ik.Edit("z", 0)}),
        summarise_held_out([left_out]),
        ik.interchange(model, task, "newB", "newD", by="all"),
        ik.jaccard(ablated, ablated, k=1),
        ik.logit_lens(model, pairs, "newD"),
        ik.direct_logit_attribution(model, pairs),
        ik.mechanism(model, task, mediator="newB", target="newD"),
        ik.patch(model, pairs, by="all"),
        ik.path_patch(model, pairs, paths=[ik.Edge("embed", "logits", "logits")]),
        ik.readability([probe] * 3),
        ik.train_sae(model, task, config=config, progress=False),
    ]  # fmt: skip
    return {type(result).__name__: result for result in found}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", _DEFINED_IN)
def test_every_class_of_result_is_one_line_and_a_table(results: dict[str, AbstractResult], name: str) -> None:
    text = checked(results[name])
    assert f"{len(results[name].to_frame()):,} row" in text


def test_a_result_says_what_was_asked_of_what(results: dict[str, AbstractResult]) -> None:
    assert repr(results["PatchingResult"]).startswith("PatchingResult(boolean-direct@0 on boolean, newB -> newD, ")
    assert repr(results["MechanismResult"]).startswith("MechanismResult(boolean-direct@0 on boolean, newB -> newD, ")
    assert f"n = {results['Circuit'].n})" in repr(results["Circuit"])  # pyright: ignore[reportAttributeAccessIssue]


class Named(AbstractResult):
    """A class that is not decorated as a dataclass."""

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({EVIL: [EVIL] * 30, "value": 1 / 3, "n": range(30)})

    def plot(self, ax: Any = None) -> Any:
        raise AssertionError("a table is no figure")

    def caption(self) -> str:
        return EVIL


def test_texts_are_escaped_and_rows_counted() -> None:
    shown = Named(config={"model": EVIL * 50, "task": "x" * 500})
    text, page = checked(shown), shown._repr_html_()
    assert text.endswith("…)")
    assert page.count(html.escape(EVIL)) == 1 + 1 + ROWS
    assert '<td class="number">0.33</td>' in page
    assert "… 10 more rows" in page
    assert repr(Named(config={})) == "Named(30 rows, n = 0 to 29)"


def test_nothing_more_is_said_of_a_table_that_is_whole() -> None:
    assert "more row" not in preview("", {"a": range(ROWS)})
    assert "… 1 more row<" in preview("", {"a": range(ROWS + 1)})
    assert "… 5 more rows<" in preview("", {"a": range(ROWS)}, ROWS + 5)
    assert line("A", "", None, 0, "b\nc") == "A(0, b c)"


@pytest.mark.parametrize("name", TASKS)
def test_tasks_examples_batches_and_pairs(name: str) -> None:
    task = ik.task(name)
    examples = task.sample(3, 0)
    batch = task.batch(examples)
    checked(task)
    checked(examples[0])
    assert f"3 examples of {task.name}" in checked(batch)


def test_pairs_sweeps_and_harvests(task: ik.BooleanTask, tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    pairs, batch = task.pairs("newB", "newD"), task.batch(task.enumerate())
    assert f"PairBatch({len(pairs)} pairs of boolean, newB -> newD" in checked(pairs)
    assert f"… {len(pairs) - ROWS} more rows" in pairs._repr_html_()
    assert f"… {len(batch) - ROWS} more rows" in batch._repr_html_()
    model = tiny_model()
    edits = [ik.Edit("z", 0, head=0), ik.Edit("z", 0, head=1)]
    swept = ik.sweep(model, batch, edits, ik.accuracy("newD"))
    assert checked(swept) == f"SweepValues(2 edits, 1 metric, {len(batch)} examples, 0 by hooks)"
    assert "1 shard" in checked(ik.harvest_to(tmp_path / "h", model, batch, "resid_pre.0", progress=False))


def test_a_text_of_markup_is_escaped_in_an_example() -> None:
    checked(ik.Example(EVIL, (1, 2), 1, {}, {EVIL: 1}))


def test_a_batch_without_vocabulary_or_on_no_device_shows_itself(task: ik.BooleanTask) -> None:
    import dataclasses

    batch = dataclasses.replace(task.batch(task.sample(2, 0)), vocabulary=())
    assert str(batch.tokens[0, 0].item()) in batch._repr_html_()
    with torch.device("meta"):
        assert "2 examples" in repr(batch.to("meta"))
