"""Whatever a user prints is one line, and a short, escaped table in a notebook."""

import dataclasses
import html
import inspect
import io
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import interp_kit as ik
from interp_kit.analysis.behaviour.held_out import summarise_held_out
from interp_kit.core.result import _DEFINED_IN, AbstractResult
from interp_kit.core.showing import LONGEST, PROGRESS, ROWS, SECONDS, bar, html_table, line, numbered, preview
from interp_kit.registry.tasks import TASKS
from interp_kit.studies.audit.programs.result import ProgramsResult
from interp_kit.studies.audit.result import AuditResult
from interp_kit.studies.culture.rules.exchange import RuleExchange
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


def programs() -> ProgramsResult:
    one = np.ones((1, 1))
    return ProgramsResult(
        method=("eap",), level=("nodes",), cell=("latent",), number=(0,), auroc=one, seconds=one, alone=np.ones((3, 1)),
        least_true=one, most_false=one, control=one, trained=one, trained_number=(0,), follows=np.ones(1),
        config={"analysis": "audit of programs", "seed": 0},
    )  # fmt: skip


def culture() -> CultureTests:
    cube, rows = np.ones((1, 1, 4)), np.zeros(4, dtype=int)
    return CultureTests(
        models=("culture-0",), tasks=("task",), structures=("forward",), noise=np.zeros(1), task=rows, structure=rows,
        right=cube > 0, expected=cube, cells=cube, loss=cube, copied=np.ones(4), ceiling=np.ones(4),
        config={"task": "culture", "models": ["culture-0"], "greedy": True, "culture": 0, "n": 4, "seed": 0},
    )  # fmt: skip


def exchanged() -> RuleExchange:
    rows = np.array([0, 4])
    return RuleExchange(
        what=("everything",), place=("markers",), layer=np.array([1]), answers=np.array([[1, 2]]), unedited=np.ones(2),
        own=rows, other=rows[::-1], config={"task": "culture", "model": "culture-0"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def here(task: ik.BooleanTask) -> SimpleNamespace:
    """What most results are made of."""
    model = ik.planted("boolean-direct")
    pairs, batch = task.pairs("newB", "newD"), task.batch(task.enumerate())
    return SimpleNamespace(
        model=model,
        task=task,
        pairs=pairs,
        batch=batch,
        edges=ik.score_edges(model, pairs, method="eap", progress=False),
        ablated=ik.ablate(model, batch, kind="zero", units=["layer"]),
        probe=ik.probe(model, batch, "newA", positions=["newA?"], repeats=1, control_repeats=0),
        evaluated=ik.evaluate(model, task, omitted=task.enumerate()[:4]),
        sae=ik.train_sae(model, task, config=ik.SAEConfig(width=8, k=2, training_samples=4096), progress=False),
    )


MADE: dict[str, Callable[[SimpleNamespace], AbstractResult]] = {
    "AblationResult": lambda h: h.ablated,
    "AlignmentResult": lambda h: ik.align_features(
        h.model, h.task, h.sae, variables="newB", positions="newB?", target="newD", permutations=2
    ),
    "AttentionLags": lambda h: ik.attention_lags(h.model, h.batch, lags=[1]),
    "AuditResult": lambda h: audit(),
    "Circuit": lambda h: h.edges,
    "CultureTests": lambda h: culture(),
    "DASResult": lambda h: ik.das(
        h.model, h.task, "newB", "newD", layer=0, position="D", seeds=(0,), steps=0, controls=False
    ),
    "EvaluationResult": lambda h: h.evaluated,
    "FaithfulnessResult": lambda h: ik.faithfulness(h.model, h.pairs, h.edges, sizes=[1], controls=0),
    "Generations": lambda h: ik.generate_under(h.model, h.batch.take([0, 1]), {"a": ik.Edit("z", 0)}),
    "HeldOutResult": lambda h: summarise_held_out([h.evaluated]),
    "InterchangeResult": lambda h: ik.interchange(h.model, h.task, "newB", "newD", by="all"),
    "JaccardResult": lambda h: ik.jaccard(h.ablated, h.ablated, k=1),
    "LesionResult": lambda h: ik.lesion(
        h.model, h.task, ik.Edit("z", 0), steps=1, seeds=(0,), batch_size=2, limit=4, progress=False
    ),
    "ModelDiffResult": lambda h: ik.diff_models(h.model, h.model, h.batch),
    "LensResult": lambda h: ik.logit_lens(h.model, h.pairs, "newD"),
    "LogitAttributionResult": lambda h: ik.direct_logit_attribution(h.model, h.pairs),
    "MechanismResult": lambda h: ik.mechanism(h.model, h.task, mediator="newB", target="newD"),
    "NodeScores": lambda h: ik.score_nodes(h.model, h.pairs),
    "PatchingResult": lambda h: ik.patch(h.model, h.pairs, by="all"),
    "PathPatchingResult": lambda h: ik.path_patch(h.model, h.pairs, paths=[ik.Edge("embed", "logits", "logits")]),
    "ProbeResult": lambda h: h.probe,
    "ProgramsResult": lambda h: programs(),
    "ReadabilityResult": lambda h: ik.readability(
        [dataclasses.replace(h.probe, config={**h.probe.config, "seed": i}) for i in range(3)]
    ),
    "RuleExchange": lambda h: exchanged(),
    "SAEResult": lambda h: h.sae,
    "UniversalityResult": lambda h: ik.universality([h.model, h.model], h.batch, rotations=1),
}
ASKED = {"Circuit", "DASResult", "FaithfulnessResult", "InterchangeResult", "MechanismResult", "PatchingResult"}


def test_every_class_of_result_is_tried() -> None:
    assert set(MADE) == set(_DEFINED_IN)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MADE)
def test_every_class_of_result_is_one_line_and_a_table(here: SimpleNamespace, name: str) -> None:
    result = MADE[name](here)
    text = checked(result)
    assert f"{len(result.to_frame()):,} row" in text
    if name in ASKED:
        assert text.startswith(f"{name}(boolean-direct@0 on boolean, newB -> newD, ")


class Named(AbstractResult):
    """A class that is not decorated as a dataclass."""

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({EVIL: [EVIL] * 30, "value": 1 / 3, "n": range(30)})

    def plot(self, ax: Any = None) -> Any:
        raise AssertionError("a table is not a figure")

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


def test_missing_values_are_a_dash_and_numbers_stand_below_their_name() -> None:
    lines = pd.array([1, pd.NA], dtype="Int64")
    shown = html_table(pd.DataFrame({"line": lines, "share": [0.5, None], "of": [None, "a"]}, dtype=object))
    assert "NA" not in shown
    assert "None" not in shown
    assert shown.count("–") == 3
    shown = html_table(pd.DataFrame({"name": ["a"], "share": [0.5]}))
    assert '<th class="text">name</th><th class="number">share</th>' in shown


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
    assert "more row" not in pairs._repr_html_()  # of 16 pairs
    assert f"… {len(batch) - ROWS} more rows" in batch._repr_html_()
    model = tiny_model()
    edits = [ik.Edit("z", 0, head=0), ik.Edit("z", 0, head=1)]
    swept = ik.sweep(model, batch, edits, ik.accuracy("newD"))
    assert checked(swept) == f"SweepValues(2 edits, 1 metric, {len(batch)} examples, see .values, .to_frame())"
    frame = swept.to_frame()
    assert frame[["edit", "metric", "n"]].values.tolist() == [
        [0, "accuracy of newD", 32],
        [1, "accuracy of newD", 32],
    ]
    np.testing.assert_allclose(frame["mean"], swept.values.mean(-1)[:, 0])
    np.testing.assert_allclose(frame["unedited"], swept.baseline.mean())
    other = ik.sweep(model, batch, edits, ik.logit_difference("newD")).to_frame()
    assert (other["low"] < other["mean"]).all()
    assert (other["mean"] < other["high"]).all()
    assert "1 shard" in checked(ik.harvest_to(tmp_path / "h", model, batch, "resid_pre.0", progress=False))


def test_a_warning_names_the_line_of_the_user(task: ik.BooleanTask, tiny_model: Callable[..., Any]) -> None:
    pairs = task.pairs("newB", "newD", limit=4)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ik.patch(tiny_model(), pairs, sites="z", progress=False)
        ik.score_edges(tiny_model(), pairs, method="eap", progress=False)
    few = [warning.filename for warning in found if "fewer than 50%" in str(warning.message)]
    assert few == [__file__, __file__]


def test_a_text_of_markup_is_escaped_in_an_example() -> None:
    checked(ik.Example(EVIL, (1, 2), 1, {}, {EVIL: 1}))


def test_a_batch_without_vocabulary_or_on_no_device_shows_itself(task: ik.BooleanTask) -> None:
    batch = dataclasses.replace(task.batch(task.sample(2, 0)), vocabulary=())
    assert str(batch.tokens[0, 0].item()) in batch._repr_html_()
    assert "2 examples" in repr(batch.to("meta"))


# --------------------------------------------------------------------------------------------------------------- bars


class Bars(list[dict[str, Any]]):
    """What was drawn in place of tqdm: one dictionary per bar."""

    def __call__(self, **options: Any) -> Any:
        made = SimpleNamespace(total=options["total"], done=0, drawn=0, told=[], options=options)
        self.append(vars(made))

        class Bar:
            """As much of tqdm as is used."""

            fp = io.StringIO()
            total = property(lambda _: made.total, lambda _, value: setattr(made, "total", value))

            def update(self, n: int = 1) -> None:
                made.done += n

            def set_postfix_str(self, text: str, refresh: bool = True) -> None:
                self.postfix = text
                made.told.append(text)

            def set_description_str(self, text: str, refresh: bool = True) -> None:
                made.told.append(text)

            def refresh(self) -> None:
                made.drawn += 1

        return nullcontext(Bar())

    def shown(self) -> list[tuple[str, int, int]]:
        """(what, total, done) of those that are not hidden."""
        return [(b["options"]["desc"], b["total"], b["done"]) for b in self if not b["options"]["disable"]]


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    """All bars that are made."""
    made = Bars()
    monkeypatch.setattr("tqdm.auto.tqdm", made)
    return made


COUNTED: dict[str, Callable[[SimpleNamespace, dict[str, Any]], object]] = {
    "mechanism": lambda h, o: ik.mechanism(h.model, h.task, mediator="newB", target="newD", **o),
    "interchange": lambda h, o: ik.interchange(h.model, h.task, "newB", "newD", by="all", **o),
    "score_edges": lambda h, o: ik.score_edges(h.model, h.pairs.take([0, 1]), **o),
    "score_nodes": lambda h, o: ik.score_nodes(h.model, h.pairs.take([0, 1]), **o),
    "score_edges exact": lambda h, o: ik.score_edges(h.model, h.pairs.take([0, 1]), method="exact", **o),
    "faithfulness": lambda h, o: ik.faithfulness(h.model, h.pairs, h.edges, sizes=[1, 2], controls=1, **o),
    "evaluate": lambda h, o: ik.evaluate(h.model, h.task, **o),
    "generate_under": lambda h, o: ik.generate_under(h.model, h.batch.take([0]), {"a": ik.Edit("z", 0)}, **o),
    "probe": lambda h, o: ik.probe(h.model, h.batch, ["newA", "A"], positions=["newA?"], repeats=1, **o),
    "harvest": lambda h, o: ik.harvest(h.model, h.batch, "z.0", **o),
    "attention_lags": lambda h, o: ik.attention_lags(h.model, h.batch, lags=[1], **o),
    "acdc": lambda h, o: ik.acdc(h.model, h.pairs.take([0, 1]), threshold=0.5, **o),
    "patch": lambda h, o: ik.patch(h.model, h.pairs, by="all", **o),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", COUNTED)
def test_a_bar_counts_to_its_end_and_only_one_is_shown(here: SimpleNamespace, bars: Bars, name: str) -> None:
    COUNTED[name](here, {})
    assert len(bars.shown()) == 1, bars.shown()
    ((_, total, done),) = bars.shown()
    assert total == done > 0
    assert all(one["options"]["delay"] == SECONDS for one in bars)
    bars.clear()
    COUNTED[name](here, {"progress": False})
    assert bars.shown() == []


def test_work_inside_of_work_has_no_bar_and_an_error_leaves_nothing_hidden(bars: Bars) -> None:
    with pytest.raises(KeyError), bar(2, "outer", True), bar(3, "inner", True):
        raise KeyError
    with bar(2, "hidden", False), bar(3, "inner", True):
        pass
    with bar(0, "nothing", True), bar(4, "inner", True):
        pass
    with bar(1, "after", True):
        pass
    assert [what for what, *_ in bars.shown()] == ["outer", "after"]


def test_work_inside_is_counted_in_the_line_of_the_bar_around_it(bars: Bars) -> None:
    with bar(1, "outer", True) as outer, bar(3, "edits", True) as inner:
        inner.update(2)
        with bar(5, "hidden", False) as silent:
            silent.update()
            with bar(7, "inside of hidden", True) as deep:
                deep.update()
        inner.update()
        outer.update()
    ((told, done),) = [(one["told"], one["done"]) for one in bars]
    assert told == ["edits 0 of 3", "edits 2 of 3", "edits 2 of 3", "edits 3 of 3", ""]
    assert done == 1


def test_a_bar_is_drawn_before_its_first_step_if_that_takes_long(bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    with bar(1, "short", True):
        pass
    monkeypatch.setattr("interp_kit.core.showing.SECONDS", 0.0)
    with bar(1, "long", True):
        while not bars[1]["drawn"]:
            time.sleep(0.01)
    assert [(one["drawn"] > 0, one["done"]) for one in bars] == [(False, 0), (True, 0)]


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_in_a_file_is_written_now_and_then(monkeypatch: pytest.MonkeyPatch, watched: bool) -> None:
    class Written(io.StringIO):
        def isatty(self) -> bool:
            return watched

    written = Written()
    monkeypatch.setattr("interp_kit.core.showing.SECONDS", 0.0)
    with redirect_stderr(written), bar(20, "steps", True) as shown:
        for _ in range(20):
            shown.update()
            time.sleep(0.11)  # tqdm draws a tenth of a second after the last time
    drawn = written.getvalue().count("steps:")
    assert "20/20" in written.getvalue()
    assert drawn > 10 if watched else drawn <= 3, written.getvalue()


def test_a_mechanism_says_how_many_pairs_it_follows(here: SimpleNamespace, bars: Bars) -> None:
    ik.mechanism(here.model, here.task, mediator="newB", target="newD", limit=6)
    (told,) = [one["told"] for one in bars if not one["options"]["disable"]]
    assert told[0] == "newB -> newD, 6 pairs"
    assert "edits 0 of 4" in told


def test_a_mechanism_shows_its_verdict(here: SimpleNamespace) -> None:
    found = ik.mechanism(here.model, here.task, mediator="newB", target="newD")
    assert "newB -> newD, verdict: direct, " in repr(found)


def test_every_option_progress_has_the_one_default() -> None:
    functions = {name: getattr(ik, name) for name in ik.__all__ if inspect.isfunction(getattr(ik, name))}
    defaults = {
        name: inspect.signature(function).parameters["progress"].default
        for name, function in functions.items()
        if "progress" in inspect.signature(function).parameters
    }
    assert len(defaults) > 15
    assert set(defaults.values()) == {PROGRESS}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MADE)
def test_no_heading_and_no_caption_is_the_name_of_a_class(here: SimpleNamespace, name: str) -> None:
    result = MADE[name](here)
    nameless = dataclasses.replace(result, config={k: v for k, v in result.config.items() if k != "analysis"})
    for shown in (result.heading(), result.made_by(), nameless.heading(), nameless.made_by()):
        assert shown.strip()
        assert type(result).__name__ not in shown


@pytest.mark.parametrize(
    ("n", "units", "said"),
    [
        (5, "omission sets", "5 omission sets"),
        (0, "pairs", "0 pairs"),
        (1, "omission sets", "1 omission set"),
        (1, "distinct quizzes", "1 distinct quiz"),
        (1, "visible prefixes", "1 visible prefix"),
        (1, "inputs, all there are", "1 input, all there is"),
        (1, "independent pairs that differ", "1 independent pair that differs"),
        (np.int64(1), "minimal pairs that flip x and y", "1 minimal pair that flips x and y"),
        (1, "pairs of worlds", "1 pair of worlds"),
        ("1", "bases", "1 base"),
        ("1 to 3", "bases", "1 to 3 bases"),
    ],
)
def test_one_unit_is_a_singular(n: int | np.integer | str, units: str, said: str) -> None:
    assert numbered(n, units) == said
