"""Evaluation counts what scripted models are known to write; its baselines and intervals are computed by hand."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from interp_kit.analysis.behaviour.evaluation import (
    EvaluationResult,
    completions,
    evaluate,
    parse_fields,
)
from interp_kit.analysis.behaviour.held_out import summarise_held_out
from interp_kit.core.example import Example
from interp_kit.core.result import AbstractResult
from interp_kit.core.task import AbstractTask
from interp_kit.engine.decode import decode
from interp_kit.tasks.boolean import BooleanTask

Tokens = list[int]
FIELDS = ("newA", "newB", "newC", "newD", "sum1", "sum2")


@dataclass(eq=False)
class Scripted:
    """Writes `next_token(text so far)` for certain; nothing else of a HookedModel is asked of it."""

    next_token: Callable[[Tokens], int]
    size: int
    n_ctx: int = 24
    name: str = "scripted"
    logit: float = 1.0

    def __post_init__(self) -> None:
        self.cfg = SimpleNamespace(d_vocab=self.size, n_ctx=self.n_ctx, device="cpu")
        self.provenance = SimpleNamespace(name=self.name, initialisation=None)

    def __call__(self, tokens: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, self.size)
        for i, row in enumerate(tokens.tolist()):
            for at in range(len(row)):
                logits[i, at, self.next_token(row[: at + 1])] = self.logit
        return logits

    def unused(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing here is to call this")

    run_with_hooks = run_with_cache = hooks = named_parameters = unused


def reciter(task: AbstractTask, texts: dict[tuple[int, ...], Tokens], name: str = "scripted") -> Scripted:
    """Writes, behind each prompt, the given text token by token, whatever it has written so far."""

    def next_token(row: Tokens) -> int:
        for prompt, text in texts.items():
            if tuple(row[: len(prompt)]) == prompt and len(row) < len(text):
                return text[len(row)]
        return 0

    return Scripted(next_token, len(task.vocabulary), name=name)


def texts_of(task: AbstractTask) -> dict[tuple[int, ...], Tokens]:
    """Prompt -> the whole true text of every input."""
    return {example.tokens[: example.prompt_length]: list(example.tokens) for example in task.enumerate()}


def spoil(
    task: AbstractTask, texts: dict[tuple[int, ...], Tokens], example: Example, position: str, piece: str
) -> None:
    """Put another token at a named position of one text."""
    at = example.positions[position]
    prompt = example.tokens[: example.prompt_length]
    assert texts[prompt][at] != task.vocabulary.index(piece)
    texts[prompt][at] = task.vocabulary.index(piece)


def flipped(example: Example, name: str) -> str:
    return str(1 - example.labels[name])


def wilson_by_hand(k: int, n: int) -> tuple[float, float]:
    z = stats.norm.ppf(0.975)
    centre, half = k / n + z**2 / (2 * n), z * math.sqrt(k * (n - k) / n**3 + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def test_what_a_scripted_model_writes_is_counted(task: BooleanTask) -> None:
    texts, examples = texts_of(task), task.enumerate()
    for example in examples[:3]:
        spoil(task, texts, example, "newA", flipped(example, "newA"))
    for example in examples[2:7]:
        spoil(task, texts, example, "newD", flipped(example, "newD"))
    result = evaluate(reciter(task, texts), task)
    wrong = {"newA": 3, "newD": 5, "exact match": 7}
    for field in ("exact match", *FIELDS):
        found = result.estimate("seen", field)
        k = 32 - wrong.get(field, 0)
        assert (found.value, found.n, found.unit) == (k / 32, 32, "inputs, all there are")
        assert (found.low, found.high) == pytest.approx(wilson_by_hand(k, 32), abs=1e-9)
    assert result.right.sum() == 32 * 6 - 8


@pytest.mark.parametrize(("position", "piece"), [("eos", "\n"), ("end", ","), ("newB?", " -"), ("sum1?", "0")])
def test_right_fields_in_a_wrong_layout_are_no_exact_match(task: BooleanTask, position: str, piece: str) -> None:
    texts, example = texts_of(task), task.example("1,0,1,0,1")
    spoil(task, texts, example, position, piece)
    result = evaluate(reciter(task, texts), task)
    assert result.right.all()
    assert result.estimate().value == 31 / 32
    assert result.inputs[~result.exact].tolist() == [[1, 0, 1, 0, 1]]


def test_the_model_lives_with_what_it_wrote(task: BooleanTask) -> None:
    """newB always wrong, newD right only behind a right newB: on the true text newD would be right on all inputs."""
    truth = texts_of(task)
    b, d = (task.format.positions[name] for name in ("newB", "newD"))

    def next_token(row: Tokens) -> int:
        text = truth.get(tuple(row[:9]))
        if text is None or len(row) >= len(text):
            return 0
        wrong = len(row) == b or (len(row) == d and row[b] != text[b])
        return 1 - text[len(row)] if wrong else text[len(row)]

    result = evaluate(Scripted(next_token, len(task.vocabulary)), task)
    assert {name: result.estimate("seen", name).value for name in FIELDS} == dict.fromkeys(FIELDS, 1.0) | {
        "newB": 0.0,
        "newD": 0.0,
    }


def test_parse_fields_reads_values_and_names_what_is_none(task: BooleanTask) -> None:
    example = task.example("1,0,1,0,1")
    row = list(example.tokens)
    assert parse_fields(task, row, example) == {"newA": 0, "newB": 1, "newC": 0, "newD": 1, "sum1": 3, "sum2": 2}
    row[example.positions["newC"]] = task.vocabulary.index(",")
    row[example.positions["sum2"]] = task.vocabulary.index("2")  # a sum2 is written " 2"
    row[example.positions["sum1"]] = task.vocabulary.index("5")
    found = parse_fields(task, torch.tensor(row), example)
    assert found == {"newA": 0, "newB": 1, "newC": None, "newD": 1, "sum1": 5, "sum2": None}
    with pytest.raises(ValueError, match=r"no token is written for sum1 in a row of 18 tokens"):
        parse_fields(task, row[:18], example)
    with pytest.raises(ValueError, match=r"no token is written for newA"):
        parse_fields(task, row, replace(example, positions={}))


def test_held_out_inputs_are_counted_apart(task: BooleanTask) -> None:
    """A model that knows the seen inputs by heart and writes a wrong newC on the others."""
    texts, examples = texts_of(task), task.enumerate()
    omitted = [examples[i] for i in (3, 17, 20, 31, 5)]
    for example in omitted[:4]:
        spoil(task, texts, example, "newC", flipped(example, "newC"))
    model = reciter(task, texts)
    result = evaluate(model, task, omitted=omitted)
    assert result.splits == ("seen", "held-out")
    assert (result.estimate("seen").value, result.estimate("seen").n) == (1.0, 27)
    assert (result.estimate("held-out").value, result.estimate("held-out").n) == (0.2, 5)
    assert result.estimate("held-out", "newC").value == 0.2
    assert result.estimate("held-out", "newD").value == 1.0
    assert {tuple(row) for row in result.inputs[result.held_out].tolist()} == {
        tuple(e.labels[i] for i in "ABCDE") for e in omitted
    }
    frame = result.to_frame()
    assert list(frame.columns) == ["split", "field", "value", "low", "high", "n", "majority", "lookup"]
    assert len(frame) == 2 * 7
    assert frame.groupby("split")["n"].unique().map(list).to_dict() == {"seen": [27], "held-out": [5]}
    assert (frame[frame["split"] == "seen"]["lookup"] == 1).all()

    everything = evaluate(model, task)
    assert everything.splits == ("seen",)
    assert set(everything.to_frame()["split"]) == {"seen"}
    some = evaluate(model, task, examples=task.enumerate()[:20])
    assert some.splits == ("given",)
    assert set(some.to_frame()["split"]) == {"given"}
    assert some.to_frame()["lookup"].isna().all()
    assert some.estimate().n == some.estimate("given").n == 20
    assert "nan" not in str(some)
    assert "Nothing says which of them it was trained on" in some.caption()
    assert "20 given inputs wholly right" in some.findings()[0]
    with pytest.raises(ValueError, match="no split 'seen'; there are given"):
        some.baseline("lookup", "seen")
    with pytest.raises(ValueError, match="no split 'held-out'; there are seen"):
        everything.estimate("held-out")
    with pytest.raises(ValueError, match="no field 'newX'"):
        everything.estimate("seen", "newX")
    with pytest.raises(ValueError, match="no baseline 'mean'"):
        everything.baseline("mean")


def test_repeats_count_once_in_any_batch_size(task: BooleanTask) -> None:
    texts, examples = texts_of(task), task.enumerate()
    spoil(task, texts, examples[9], "newB", flipped(examples[9], "newB"))
    model = reciter(task, texts)
    once = evaluate(model, task, omitted=examples[8:10], examples=examples)
    often = evaluate(model, task, omitted=examples[8:10] * 3, examples=examples[:8] * 5 + examples[10:], batch_size=7)
    assert once.to_frame().equals(often.to_frame())
    assert once.estimate("held-out").value == 0.5


def test_texts_of_different_lengths(parity: AbstractTask) -> None:
    """x, y and the number of bits leave the middle of three bits open, so there the lookup table is right on half."""
    result = evaluate(reciter(parity, texts_of(parity)), parity, batch_size=5)
    assert result.estimate().value == 1.0
    assert result.estimate().n == 14
    assert result.baseline("lookup", "seen", "parity") == 10 / 14


def test_logits_are_looked_at_with_no_token_taken_for_padding(
    tiny_model: Callable[..., Any], parity: AbstractTask, pads_with_0: SimpleNamespace
) -> None:
    """A tokenizer that pads moves what stands after its padding forward: the last position is then not looked at."""
    examples = [example for example in parity.enumerate() if example.tokens[0] == 0]
    model = tiny_model(0, d_vocab=5)
    model.tokenizer = pads_with_0
    model.pos_embed.W_pos[max(len(example.tokens) for example in examples) - 1] = torch.inf
    with pytest.raises(FloatingPointError, match="infinite logits on parity texts"):
        completions(model, parity, examples)


def test_what_cannot_be_evaluated_is_refused(task: BooleanTask) -> None:
    examples = task.enumerate()
    model = reciter(task, texts_of(task))
    with pytest.raises(ValueError, match="no examples of boolean to evaluate"):
        evaluate(model, task, examples=[])
    with pytest.raises(ValueError, match="all 32 examples are omitted"):
        evaluate(model, task, omitted=examples)
    with pytest.raises(ValueError, match="has 16 tokens, boolean has 15"):
        evaluate(Scripted(model.next_token, 16), task)
    with pytest.raises(ValueError, match="texts of 23 tokens do not fit the model's context of 22"):
        evaluate(Scripted(model.next_token, 15, n_ctx=22), task)
    broken = Scripted(model.next_token, 15, logit=math.nan)
    with pytest.raises(FloatingPointError, match="nan or infinite logits"):
        completions(broken, task, examples)


def test_baselines_by_hand(task: BooleanTask) -> None:
    """1,1,1,1,1 has five nearest inputs; by field their answers are newA 1 0 1 0 0, newB 0 0 0 1 0, newC 1 0 1 1 0,
    newD 0 1 1 1 1, sum1 4, sum2 2 1 3 3 1: the lookup says 0 0 1 1 4 1, and the truth is 0 0 1 1 5 2."""
    held_out = task.example("1,1,1,1,1")
    result = evaluate(reciter(task, texts_of(task)), task, omitted=[held_out])
    found = {field: result.baseline("lookup", "held-out", field) for field in ("exact match", *FIELDS)}
    assert found == {"exact match": 0, "newA": 1, "newB": 1, "newC": 1, "newD": 1, "sum1": 0, "sum2": 0}
    # of the 31 seen, newA is 1 in 16, newB is 1 in 16, newC is 0 in 24, newD is 1 in 23, and each of sum1's two most
    # frequent values, 2 and 3, stands in 10
    found = {field: result.baseline("majority", "held-out", field) for field in FIELDS[:-1]}
    assert found == {"newA": 0, "newB": 0, "newC": 0, "newD": 1, "sum1": 0}
    assert result.baseline("majority", "seen", "newC") == 24 / 31
    assert result.baseline("majority", "seen", "sum1") == 10 / 31


def held_out_result(task: BooleanTask, omitted: list[Example], wrong: int, name: str) -> EvaluationResult:
    """A model that is wrong on the first `wrong` of the omitted inputs and nowhere else."""
    texts = texts_of(task)
    for example in omitted[:wrong]:
        spoil(task, texts, example, "newA", flipped(example, "newA"))
    return evaluate(reciter(task, texts, name), task, omitted=omitted)


def test_the_held_out_summary_counts_omission_sets(task: BooleanTask) -> None:
    e = task.enumerate()
    results = [
        held_out_result(task, e[0:4], 0, "a"),
        held_out_result(task, e[4:8], 4, "b"),
        held_out_result(task, e[8:12], 1, "c"),
        held_out_result(task, e[8:12][::-1], 3, "d"),  # the same set as c's: the two are one unit of mean 0.5
        held_out_result(task, e[0:8], 2, "e"),
    ]
    summary = summarise_held_out(results)
    assert summary.sizes == (4, 8)
    four, units = summary.estimate(4), np.array([1.0, 0.0, 0.5])
    assert (four.value, four.n, four.unit) == (0.5, 3, "omission sets")
    assert four.value == units.mean()
    assert np.isnan(four.low)  # three sets are too few for an interval
    eight = summary.estimate(8)
    assert (eight.value, eight.n) == (0.75, 1)
    assert np.isnan(eight.low)
    frame = summary.to_frame()
    assert frame[["omitted", "models", "value"]].to_numpy().tolist() == [[4, 4, 0.5], [8, 1, 0.75]]
    for name in ("majority", "lookup"):
        of_sets = [results[i].baseline(name, "held-out") for i in (0, 1, 2)]
        assert frame[name][0] == pytest.approx(np.mean(of_sets))
    each = summary.units()
    assert each["name"].tolist() == ["a", "b", "c", "d", "e"]
    assert each["model"].tolist() == [1.0, 0.0, 0.75, 0.25, 0.75]
    assert each["omission_set"].tolist() == [0, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="no model leaves out 5 inputs; there are 4, 8"):
        summary.estimate(5)


def test_a_summary_of_nothing_held_out_is_refused(task: BooleanTask, parity: AbstractTask) -> None:
    full = evaluate(reciter(task, texts_of(task), "full"), task)
    some = held_out_result(task, task.enumerate()[:2], 0, "some")
    other = evaluate(reciter(parity, texts_of(parity)), parity, omitted=parity.enumerate()[:2])
    with pytest.raises(ValueError, match="no evaluations"):
        summarise_held_out([])
    with pytest.raises(ValueError, match="full was trained on every input"):
        summarise_held_out([some, full])
    with pytest.raises(ValueError, match="different tasks"):
        summarise_held_out([some, other])


def test_results_are_saved_drawn_and_captioned(task: BooleanTask, tmp_path: Path) -> None:
    evaluation = held_out_result(task, task.enumerate()[:4], 2, "half")
    summary = summarise_held_out([evaluation, held_out_result(task, task.enumerate()[4:8], 1, "other")])
    results: dict[str, AbstractResult] = {"evaluation": evaluation, "summary": summary}
    for name, result in results.items():
        assert type(result).load(result.save(tmp_path / name)).to_frame().equals(result.to_frame())
        assert "n = " in result.caption()
    assert "28 seen and 4 held-out" in evaluation.caption()
    ax = evaluation.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["exact match", *FIELDS]
    legend = ax.get_legend()
    assert legend is not None
    drawn = [text.get_text() for text in legend.get_texts()]
    assert drawn == ["model, seen (n = 28)", "model, held-out (n = 4)", "lookup, held-out", "majority, held-out"]
    dots = summary.plot().collections[-1]
    assert np.asarray(dots.get_offsets())[:, 0].tolist() == [0.5, 0.75]
    lines = str(evaluation).splitlines()
    assert [len(lines), lines[0].split()[0], lines[8].split()[0]] == [16, "seen", "held-out"]
    assert lines[9].split() == ["exact", "match", "0.50", "[0.15,", "0.85]", "0.00", "0.00", "4"]


def test_the_end_token_is_named_if_it_alone_fails(task: BooleanTask) -> None:
    """All fields are right: the headline is not the share of texts that are right to their end."""
    texts = texts_of(task)
    for example in task.enumerate()[:30]:
        texts[example.tokens[: example.prompt_length]][-1] = task.vocabulary.index("0")
    result = evaluate(reciter(task, texts), task)
    (finding,) = result.findings()
    assert "answers 1.00 [" in finding
    assert "of 32 seen inputs with every field right, more than the majority answer" in finding
    end, name = task.vocabulary[task.pad], "eos"
    assert f"Exact match is 0.06 [{result.estimate().low:.2f}, {result.estimate().high:.2f}]" in finding
    assert f"the end token {end!r} at {name!r} is the first wrong one in 30 of 30 texts" in finding
    assert "('0' stands there most often); leave the end token out" in finding


def test_the_end_token_is_named_for_given_examples_too(task: BooleanTask) -> None:
    texts = texts_of(task)
    for text in texts.values():
        text[-1] = task.vocabulary.index("0")
    result = evaluate(reciter(task, texts), task, examples=list(task.enumerate())[:20])
    assert result.splits == ("given",)
    (finding,) = result.findings()
    assert "of 20 given inputs with every field right" in finding
    assert "is the first wrong one in 20 of 20 texts" in finding


def test_a_token_between_the_fields_is_named(task: BooleanTask) -> None:
    texts = texts_of(task)
    for example in task.enumerate()[:9]:
        spoil(task, texts, example, "newB?", " -")
    (finding,) = evaluate(reciter(task, texts), task).findings()
    assert "at 'newB?' is the first wrong one in 9 of 9 texts" in finding
    assert "end token" not in finding


def test_texts_read_off_one_pass_are_those_that_are_written(tiny_model: Callable[..., Any], task: BooleanTask) -> None:
    """Rows that predict their own text are not written token by token; the others are, as with every token of all."""
    examples = task.enumerate()
    model = tiny_model(3)
    batch = task.batch(examples)
    free = torch.arange(batch.tokens.shape[1]) >= batch.prompt_length[:, None]
    slow = decode(model, batch.tokens, free, lengths=batch.mask.sum(1), cached=False, batch_size=None).tokens
    assert completions(model, task, examples) == slow.tolist()
    own = [replace(example, tokens=tuple(row)) for example, row in zip(examples, slow.tolist(), strict=True)]
    assert completions(model, task, [*own[:16], *examples[16:]]) == slow.tolist()


def test_baselines_of_a_sample_know_all_that_was_seen(tiny_model: Callable[..., Any], task: BooleanTask) -> None:
    model, everything = tiny_model(0), task.enumerate()
    omitted, seen = everything[:8], everything[8:]
    all_of_it = evaluate(model, task, omitted=omitted, progress=False)
    few = evaluate(model, task, omitted=omitted, examples=seen[:2], known=seen, progress=False)
    for name in ("majority", "lookup"):
        assert few.baseline(name, "held-out") == all_of_it.baseline(name, "held-out")
        whole = getattr(all_of_it, name)[~all_of_it.held_out][:2]
        assert (getattr(few, name)[~few.held_out] == whole).all()
    alone = evaluate(model, task, examples=seen[:1], known=everything, progress=False)
    assert alone.splits == ("seen",)
    assert "n = 1 seen distinct input;" in alone.caption()
    with pytest.raises(ValueError, match="known holds an omitted example; expected those seen in training"):
        evaluate(model, task, omitted=omitted, examples=seen[:2], known=everything, progress=False)
    with pytest.raises(ValueError, match="known holds no example"):
        evaluate(model, task, omitted=omitted, examples=seen[:2], known=[], progress=False)


def test_the_first_wrong_token_is_counted_among_the_texts_whose_fields_are_right(task: BooleanTask) -> None:
    """Two places fail, a third of the texts has a wrong field: the commoner place is named, with its count."""
    texts, examples = texts_of(task), task.enumerate()
    for example in examples[:9]:
        spoil(task, texts, example, "newB?", " -")
    for example in examples[9:14]:
        texts[example.tokens[: example.prompt_length]][-1] = task.vocabulary.index("0")
    for example in examples[20:]:
        spoil(task, texts, example, "newC", flipped(example, "newC"))
    (finding,) = evaluate(reciter(task, texts), task).findings()
    assert "at 'newB?' is the first wrong one in 9 of 14 texts whose fields are all right" in finding


def test_a_last_token_that_is_no_end_is_not_called_one(task: BooleanTask) -> None:
    """Examples that stop one token early end on what is no end token."""
    short = [replace(e, tokens=(*e.tokens[:-1], task.vocabulary.index(" -"))) for e in task.enumerate()]
    texts = {e.tokens[: e.prompt_length]: [*e.tokens[:-1], task.vocabulary.index("0")] for e in short}
    (finding,) = evaluate(reciter(task, texts), task, examples=short).findings()
    assert "the token ' -' at" in finding
    assert "end token" not in finding
