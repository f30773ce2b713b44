"""Texts that no task made: what `from_tokens` builds, what it refuses, and that a model directory and two tensors are
enough for every analysis, with the numbers that a task's own batch gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.core.identity import Identity
from interp_kit.core.own_tokens import position_names
from interp_kit.core.pairs import PairBatch
from interp_kit.tasks.boolean import BooleanTask

TOKENS = torch.tensor([[3, 1, 4], [1, 5, 9]])


def test_what_is_built() -> None:
    batch = ik.TokenBatch.from_tokens(TOKENS, [2, 6], labels={"first": np.array([True, False])})
    assert list(batch.positions) == ["0", "1", "2"]
    assert batch.position("1").tolist() == [1, 1]
    assert batch.identity == Identity(None)
    assert batch.fields == (ik.Field("answer", "2", (2, 6), (2, 6)),)
    assert {name: value.tolist() for name, value in batch.labels.items()} == {"first": [1, 0], "answer": [2, 6]}
    assert batch.prompt_length.tolist() == [3, 3]
    assert ik.TokenBatch.from_tokens(TOKENS).fields == ()
    wide = ik.TokenBatch.from_tokens(TOKENS, [2, 6], candidates=(2, 6, 7), predict="1")
    assert wide.fields == (ik.Field("answer", "1", (2, 6, 7), (2, 6, 7)),)


def test_positions_are_named_by_column_by_index_or_per_row() -> None:
    named = ik.TokenBatch.from_tokens(TOKENS, [2, 6], positions=["a", "b", "c"])
    assert (list(named.positions), named.fields[0].predict) == (["a", "b", "c"], "c")
    own = ik.TokenBatch.from_tokens(TOKENS, [2, 6], positions={"late": 1, "odd": [0, -1]})
    assert own.positions["odd"].tolist() == [0, -1]
    assert list(own.positions) == ["odd", "late", "last"]
    assert own.fields[0].predict == "last"


@pytest.mark.parametrize("left", [False, True])
def test_padded_rows_are_named_from_their_first_token(left: bool) -> None:
    rows = torch.tensor([[0, 7, 8], [4, 5, 6]] if left else [[7, 8, 0], [4, 5, 6]])
    mask = torch.tensor([[not left, True, left], [True, True, True]])
    batch = ik.TokenBatch.from_tokens(rows, [1, 2], mask=mask)
    assert {name: index.tolist() for name, index in batch.positions.items()} == {
        "0": [0, 0], "1": [-1, 1], "last": [1, 2],
    }  # fmt: skip
    assert batch.tokens[0, :2].tolist() == [7, 8]
    assert batch.fields[0].predict == "last"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": [1, 2]}, r"tokens are of shape \(2,\); expected \(batch, pos\).*; of one text, give \[tokens\]$"),
        ({"tokens": [[1.0, 2.0]]}, "tokens: torch.float32; expected whole numbers"),
        ({"tokens": [[1], [1, 2]]}, "tokens: no array of numbers .*rows of one length"),
        ({"tokens": [[-1, 2]]}, "tokens have ids from -1; expected ids of 0 or more"),
        ({"tokens": torch.zeros(0, 3).long()}, r"tokens are of shape \(0, 3\); expected"),
        ({"answer": [1]}, r"answer: shape \(1,\); expected \(2,\), one number per row"),
        ({"answer": [1, 1]}, "the answer is token 1 in every row; name what else it could be"),
        ({"answer": [1, 2], "candidates": (1, 3)}, r"candidates are \[1, 3\]; .* among them the answers \[1, 2\]"),
        ({"candidates": (1, 3)}, "candidates are given without an answer"),
        ({"labels": {"x": [1, 2, 3]}}, r"label 'x': shape \(3,\)"),
        ({"labels": {"x": [0.5, 1]}}, "label 'x': torch.float32; expected whole numbers"),
        ({"answer": [1, 2], "labels": {"answer": [1, 2]}}, "labels hold 'answer'"),
        ({"positions": ["a", "b"]}, "positions names 2 tokens; the texts have 3"),
        ({"positions": ["a", "b", "a"]}, "positions holds 'a' twice"),
        ({"positions": {"a": 3}}, r"position 'a' is \[3\]; expected the index of a real token, 0 to 2, or -1"),
        ({"positions": {"a": [0, 1, 2]}}, "position 'a': shape"),
        ({"answer": [1, 2], "predict": "zz"}, "predict is 'zz'; expected a position of every row, one of 0, 1, 2"),
        ({"mask": [[1, 2, 1]] * 2}, "mask is torch.int64 of shape .* or whole numbers 0 and 1"),
        ({"mask": [[False] * 3] * 2}, "with a True in every row"),
        ({"numeric": ["x"]}, "numeric holds 'x'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ik.TokenBatch.from_tokens(**{"tokens": TOKENS, **options})


@pytest.mark.parametrize(
    ("answer", "corrupt", "message"),
    [
        (([1, 2], [1, 3]), TOKENS + 1, "pair 0 has equal answers on both sides"),
        (([1, 2], [2, 1]), TOKENS, "pair 0 has equal texts on both sides"),
        ([1, 2, 3], TOKENS + 1, "answer is not two of"),
        (None, TOKENS + 1, "answer is not two of"),
        (([1, 2], [2, 1]), TOKENS[:, :2], "clean and corrupt are of different length"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(answer: Any, corrupt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairBatch.from_tokens(TOKENS, corrupt, answer)


@pytest.fixture(scope="module")
def model() -> Any:
    return ik.load("boolean-gpt2")


@pytest.fixture(scope="module")
def sides(task: BooleanTask) -> tuple[PairBatch, PairBatch]:
    """The task's own pairs, and the same texts up to the answer as tensors alone."""
    theirs = task.pairs("newB", "newD")
    end = int(theirs.clean.position(theirs.clean.field("newD").predict)[0]) + 1
    answers = theirs.clean.answer["newD"], theirs.corrupt.answer["newD"]
    names = list(theirs.clean.positions)[:end]
    return theirs, PairBatch.from_tokens(
        theirs.clean.tokens[:, :end], theirs.corrupt.tokens[:, :end], answers, positions=names
    )


def test_pairs_give_the_numbers_of_the_tasks_own(model: Any, sides: tuple[PairBatch, PairBatch]) -> None:
    theirs, ours = sides
    positions = list(ours.clean.positions)
    a, b = ik.patch(model, theirs, positions=positions), ik.patch(model, ours)
    np.testing.assert_allclose(b.recovered, a.recovered, atol=1e-5)
    assert b.position == a.position
    assert "no completions" in b.caption()
    a, b = (ik.score_edges(model, pairs, method="eap") for pairs in sides)
    np.testing.assert_allclose(b.to_frame()["score"], a.to_frame()["score"], atol=1e-5)
    a, b = (ik.direct_logit_attribution(model, pairs) for pairs in sides)
    np.testing.assert_allclose(b.to_frame().iloc[:, -4:].to_numpy(float), a.to_frame().iloc[:, -4:], atol=1e-5)


OURS: dict[str, Callable[[Any, ik.TokenBatch], Any]] = {
    "probe": lambda m, b: ik.probe(m, b, ["even", "answer"], positions=["3", "15"], repeats=1, control_repeats=0),
    "ablate": lambda m, b: ik.ablate(m, b),
    "train_sae": lambda m, b: ik.train_sae(
        m, b, progress=False, config=ik.SAEConfig(architecture="topk", width=8, k=2, training_samples=2048)
    ),
}  # fmt: skip


def test_a_directory_and_two_tensors_are_enough(
    model: Any, task: BooleanTask, sides: tuple[PairBatch, PairBatch], tmp_path: Path
) -> None:
    worlds = task.batch(task.enumerate())
    at = worlds.field("newD").predict
    end = int(worlds.position(at)[0]) + 1
    batch = ik.TokenBatch.from_tokens(
        worlds.tokens[:, :end], worlds.answer["newD"], labels={"even": worlds.label("sum1") % 2}
    )
    results = [made(model, batch) for made in OURS.values()]
    results += [ik.patch(model, sides[1]), ik.logit_lens(model, sides[1])]
    page = ik.report(results, tmp_path / "r.html")
    assert page.exists()
    for result in results:
        assert len(result.to_frame())
        assert type(result).load(result.save(tmp_path / "saved")).to_frame().equals(result.to_frame())
    theirs = ik.ablate(model, worlds, fields=["newD"], kind="zero").importance()
    np.testing.assert_allclose(ik.ablate(model, batch, kind="zero").importance(), theirs, atol=1e-5)


def test_what_needs_more_says_so(model: Any) -> None:
    bare, asked = ik.TokenBatch.from_tokens(TOKENS), ik.TokenBatch.from_tokens(TOKENS, [1, 2])
    with pytest.raises(ValueError, match="the batch asks for no answer"):
        ik.train_sae(model, bare)
    with pytest.raises(ValueError, match="the batch asks for no answer, so there is nothing"):
        ik.ablate(model, bare)
    with pytest.raises(ValueError, match="row 0 of the batch has no completion, over which exact match"):
        ik.ablate(model, asked, metric=ik.exact_match)


def test_a_mask_of_0_and_1_is_one_of_booleans() -> None:
    rows = torch.tensor([[7, 8, 0], [4, 5, 6]])
    whole, flags = (ik.TokenBatch.from_tokens(rows, mask=mask) for mask in ([[1, 1, 0], [1, 1, 1]], rows > 0))
    assert torch.equal(whole.mask, flags.mask)
    assert list(whole.positions) == list(flags.positions)


def test_unequal_numbers_of_rows_are_named_first() -> None:
    rows = torch.arange(90).reshape(30, 3)
    with pytest.raises(ValueError, match="clean and corrupt have 30 and 29 texts; expected as many"):
        ik.PairBatch.from_tokens(rows, rows[1:], answer=(rows[:, 0], rows[:, 1]))
    with pytest.raises(ValueError, match="clean and corrupt have 29 and 30 answers; expected as many"):
        ik.PairBatch.from_tokens(rows, rows + 1, answer=(rows[1:, 0], rows[:, 1]))


def test_an_index_stands_for_the_position_that_has_it() -> None:
    at = {"a": torch.tensor([0, 0]), "b": torch.tensor([1, 2]), "c": torch.tensor([3, 3])}
    assert position_names("positions", ["a", 3], at) == ["a", "c"]
    assert position_names("positions", {"both": [0, 3]}, at) == {"both": ["a", "c"]}
    with pytest.raises(ValueError, match=r"holds 1, but no named position is token 1 in every row; .* a, b, c"):
        position_names("positions", [1], at)
    with pytest.raises(ValueError, match="positions holds -1, but an index counts from 0"):
        position_names("positions", [-1], at)


def test_padding_is_no_part_of_a_text() -> None:
    clean, corrupt = [[1, 2, 9], [1, 2, 8], [1, 2, 9]], [[3, 2, 7], [3, 2, 6], [4, 2, 9]]
    answer, mask = ([1, 1, 1], [2, 2, 2]), [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    pairs = PairBatch.from_tokens(clean, corrupt, answer, mask=mask)
    assert pairs.texts() == [((1, 2), (3, 2)), ((1, 2), (3, 2)), ((1, 2, 9), (4, 2, 9))]
    unit = pairs.units()
    assert unit[0] == unit[1] != unit[2]
    assert len(pairs.apart()) == 2
    assert pairs.token_differs.tolist() == [[True, False, False]] * 3
    with pytest.raises(ValueError, match="pair 0 has equal texts"):
        PairBatch.from_tokens([[1, 2, 0]], [[1, 2, 5]], ([1], [2]), mask=[[1, 1, 0]])


def test_a_text_without_a_task_says_so_in_its_line() -> None:
    pairs = PairBatch.from_tokens([[1, 2]], [[3, 2]], ([1], [2]))
    assert "1 pair, input -> answer" in repr(pairs)
    assert "1 example, 2 tokens" in repr(pairs.clean)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_indices_may_be_an_array(kind: Callable[[Any], Any]) -> None:
    known = {"a": torch.tensor([0, 0]), "b": torch.tensor([1, 1])}
    assert position_names("positions", kind([1, 0]), known) == ["b", "a"]


@pytest.mark.parametrize("left", [False, True])
def test_positions_of_ragged_rows_are_those_of_each_text_alone(tiny_model: Callable[..., Any], left: bool) -> None:
    model, lengths, rng = tiny_model(0), [4, 6, 3, 5, 7, 4, 6, 5], np.random.default_rng(0)
    clean = [rng.integers(0, 15, n).tolist() for n in lengths]
    corrupt = [[(text[0] + 1) % 15, *text[1:]] for text in clean]
    answer = (rng.integers(0, 7, len(clean)), rng.integers(7, 15, len(clean)))

    def padded(texts: list[list[int]], fill: int) -> list[list[int]]:
        return [[fill] * (7 - len(t)) + t if left else t + [fill] * (7 - len(t)) for t in texts]

    mask = padded([[1] * n for n in lengths], 0)
    pairs = PairBatch.from_tokens(padded(clean, 3), padded(corrupt, 5), answer, mask=mask)
    found = ik.patch(model, pairs, positions=[0, "last", 1], progress=False).to_frame()
    for layer, position, recovered in zip(found["layer"], found["position"], found["recovered"], strict=True):
        hook, at = f"blocks.{layer}.hook_resid_pre", -1 if position == "last" else int(position)
        moved, gap = 0.0, 0.0
        for good, bad, right, wrong in zip(clean, corrupt, *answer, strict=True):
            source, cache = model.run_with_cache(torch.tensor([good]))

            def copied(value: torch.Tensor, hook: Any, at: int = at, cache: Any = cache) -> torch.Tensor:
                value[:, at] = cache[hook.name][:, at]
                return value

            plain = model(torch.tensor([bad]))
            patched = model.run_with_hooks(torch.tensor([bad]), fwd_hooks=[(hook, copied)])
            differences = [float(run[0, -1, right] - run[0, -1, wrong]) for run in (plain, patched, source)]
            moved, gap = moved + differences[1] - differences[0], gap + differences[2] - differences[0]
        assert recovered == pytest.approx(moved / gap, abs=1e-4)
