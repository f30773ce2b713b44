"""The parts of the study on models whose answers are known: ones that are right, ones that follow a trace, ones that do
not."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from interp_kit.models.checkpoints import Provenance
from interp_kit.models.hooked_model import attach
from interp_kit.studies.graphs import accuracy, overwritten
from interp_kit.studies.graphs.accuracy import evaluate_graphs
from interp_kit.studies.graphs.arms import arms, prompts_of, questions, rewards, rows_of, train
from interp_kit.studies.graphs.chain import MEDIATORS, ChainTask
from interp_kit.studies.graphs.words import against, ahead, deeper, follows
from interp_kit.tasks.graphs import layout
from interp_kit.tasks.graphs.compact import UNIT, draw, solve
from interp_kit.tasks.graphs.questions.verifier import score
from interp_kit.tasks.graphs.structure import STEPS
from interp_kit.tasks.graphs.task import CompactGraphsTask

Writer = Callable[..., np.ndarray]


Maker = Callable[..., Any]


@pytest.fixture
def nobody(tiny_model: Any) -> Maker:
    """nobody(form): a random model of the task; what it writes is patched in."""

    def make(form: str = "direct") -> Any:
        model = tiny_model(n_ctx=96, d_vocab=len(layout.VOCABULARY))
        task = CompactGraphsTask(form)
        attach(model, provenance=Provenance("nobody", "", "", task=task.name, description=task.describe()))
        return model

    return make


def oracle(model: Any, form: str, worlds: Any, given: np.ndarray | None = None) -> np.ndarray:
    """Right completions, whatever is given."""
    truth = solve(worlds)
    answer = layout.AMOUNTS + truth.answer[:, None]
    if form == "direct":
        return answer
    return np.concatenate([layout.trace_tokens(layout.trace_values(truth)), answer], axis=1)


def obedient(model: Any, form: str, worlds: Any, given: np.ndarray | None = None) -> np.ndarray:
    """Completions that go on from the last given factor by the task's own semantics."""
    right = oracle(model, form, worlds)
    if given is None:
        return right
    task = CompactGraphsTask("trace")
    rows = []
    for row, example in enumerate(task.examples(worlds)):
        written = given[row]
        values = {
            name: int(token) - layout.AMOUNTS
            for name, token, true in zip(layout.TRACE, written, right[row], strict=False)
            if ".f" in name and token >= 0 and token != true
        }
        labels = task.intervene(example, values) if values else example.labels
        trace = layout.trace_tokens(np.array([[labels[name] for name in layout.TRACE]]))[0]
        rows.append(np.append(trace, layout.AMOUNTS + labels["answer"]))
    return np.stack(rows)


def test_a_perfect_model_is_always_right_and_one_on_rows_is_right_as_often_as_they_are(
    nobody: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "completions", oracle)
    frame = evaluate_graphs(nobody(), n=600).to_frame()
    assert (frame["accuracy"] == 1).all()
    assert set(frame["split"]) == {"train", "test"}
    assert (frame.loc[(frame["kind"] == "do") & (frame["depth"] == 0), "own_rows"] == 1).all()
    assert frame["n"].sum() == 1200
    monkeypatch.setattr(accuracy, "completions", lambda m, f, worlds: layout.AMOUNTS + solve(worlds).rows[:, None])
    rows = evaluate_graphs(nobody(), n=600).to_frame()
    np.testing.assert_allclose(rows["accuracy"], rows["own_rows"])
    # at the commonest answer or at its own rows, nothing is above the better of both
    assert (rows["above"] <= 0).all()


def test_questions_of_the_two_splits_share_no_class() -> None:
    graphs = [accuracy.class_of(draw(300, np.random.default_rng(0), split).parents) for split in ("train", "test")]
    assert not set(graphs[0].tolist()) & set(graphs[1].tolist())


def test_a_model_that_follows_its_trace_is_told_from_one_that_does_not(
    nobody: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overwritten, "completions", obedient)
    found = overwritten.overwritten(nobody("trace"), n=60)
    assert (found.follows.value, found.again.value, found.keeps.value, found.untouched.value) == (1, 1, 0, 1)
    monkeypatch.setattr(overwritten, "completions", oracle)
    stubborn = overwritten.overwritten(nobody("trace"), n=60)
    assert (stubborn.follows.value, stubborn.keeps.value, stubborn.untouched.value) == (0, 1, 1)
    monkeypatch.setattr(overwritten, "_swapped", lambda *_: None)
    with pytest.raises(ValueError, match="only 0 of 4 traces change their answer by a swap: expected 1"):
        overwritten.overwritten(nobody("trace"), n=1)


def test_the_chain_is_computed_as_by_hand() -> None:
    task = ChainTask("trace")
    for example in task.sample(20, 1):
        t = {name: example.labels[name] / 2 for name in ("d.t0", "d.t1", "a.t0", "a.t1", "c.t0", "c.t1")}
        d = t[f"d.t{example.labels['x']}"]
        a = d * t["a.t1"] + (1 - d) * t["a.t0"]
        c = a * t["c.t1"] + (1 - a) * t["c.t0"]
        found = [example.labels[name] / UNIT for name in (*MEDIATORS, "answer")]
        assert found == [d, a, c]
        for value in (0, 16, 32):
            set_a = task.intervene(example, {"P(a)": value})
            assert set_a["answer"] == value * t["c.t1"] + (UNIT - value) * t["c.t0"]
            assert set_a["P(d)"] == example.labels["P(d)"]
            set_d = task.intervene(example, {"P(d)": value})
            assert set_d["P(a)"] == value * t["a.t1"] + (UNIT - value) * t["a.t0"]
        assert len({example.labels[f"s{step}"] for step in range(1, STEPS + 1)}) == 4
    assert not task.identity.differs(CompactGraphsTask("trace").identity)
    assert ChainTask().identity.differs(task.identity)
    task = ChainTask()
    chosen = task._matching("P(d)", "answer", (), 20, 0)
    assert {(a.labels["X"], b.labels["X"]) for a, b in chosen} == {(1, 1)}
    with pytest.raises(ValueError, match="at least one example"):
        task.sample(0, 0)


@pytest.mark.parametrize("mode", ["soft", "strict"])
def test_rewards_are_those_of_the_verifier_of_written_answers(mode: str) -> None:
    """Quarters are whole hundredths, so the written form of an answer can be exact."""
    worlds = questions(0, 400)
    answer = solve(worlds).answer
    right = rewards(answer, mode)
    assert right.shape == (400, len(layout.VOCABULARY))
    assert right[:, : layout.AMOUNTS].sum() == right[:, layout.AMOUNTS + UNIT + 1 :].sum() == 0
    text = {k: f"[{1 - k / UNIT:.2f}, {k / UNIT:.2f}]" for k in range(0, UNIT + 1, 8)}
    for row in np.flatnonzero(answer % 8 == 0)[:40]:
        for k, written in text.items():
            told = score(f"ANSWER {written}", text[int(answer[row])], mode).score
            assert float(right[row, layout.AMOUNTS + k]) == pytest.approx(told, abs=1e-6)
    assert (right.max(1).values == 1).all()
    with pytest.raises(ValueError, match="mode"):
        rewards(answer, "hard")


def test_arms_read_the_same_questions(tmp_path: Any) -> None:
    worlds = questions(1, 64)
    prompts, rows = prompts_of(worlds, "strict"), rows_of(worlds)
    assert (rows.tokens[:, :41] == prompts.tokens).all()
    assert (rows.prompt_length == prompts.length).all()
    assert (prompts.reward(np.arange(64)).argmax(1).numpy() == rows.tokens[:, 41]).all()
    assert {group.split(", ")[0] for group in prompts.group} == {"do", "see"}
    assert len({arm.name for arm in arms()}) == 9
    (tmp_path / "there").mkdir()
    assert train(arms()[0], tmp_path / "none", tmp_path / "there") == tmp_path / "there"


def study_of(nobody: Maker, monkeypatch: pytest.MonkeyPatch, direct: Writer, trace: Writer) -> Any:
    found = {}
    for form, writer in (("direct", direct), ("trace", trace)):
        monkeypatch.setattr(accuracy, "completions", writer)
        found[form] = evaluate_graphs(nobody(form), form, n=800)
    return SimpleNamespace(evaluations=found)


def test_words_follow_the_figures(nobody: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def guess(model: Any, form: str, worlds: Any, given: Any = None) -> np.ndarray:
        found = oracle(model, form, worlds)
        found[:, -1] = layout.AMOUNTS + 1
        return found

    good = study_of(nobody, monkeypatch, oracle, oracle)
    assert "at 4 of 6 kinds and depths" in ahead(good, "direct")  # rows alone are right at depth 0
    assert "behind" not in ahead(good, "direct")
    assert "At no kind and depth" in against(good)
    assert deeper(good, "trace").count(", above the better baseline") == 2
    bad = study_of(nobody, monkeypatch, guess, oracle)
    assert "beats the better of both baselines at 0 of 6" in ahead(bad, "direct")
    assert "behind at do, depth 0" in ahead(bad, "direct")
    assert "do at depth 1, trace ahead (1.00 with a trace" in against(bad)
    monkeypatch.setattr(overwritten, "completions", obedient)
    good.overwritten = overwritten.overwritten(nobody("trace"), n=60)
    assert follows(good).startswith("The answer follows what is written")
    monkeypatch.setattr(overwritten, "completions", oracle)
    good.overwritten = overwritten.overwritten(nobody("trace"), n=60)
    assert follows(good).startswith("The answer does not follow")


def test_a_model_of_the_other_form_is_refused(nobody: Maker) -> None:
    with pytest.raises(ValueError, match="learned task 'graphs'"):
        evaluate_graphs(nobody("trace"), "direct", n=10)
    with pytest.raises(ValueError, match="learned task 'graphs'"):
        overwritten.overwritten(nobody("direct"), n=10)
    with pytest.raises(ValueError, match="n "):
        evaluate_graphs(nobody(), n=0)
