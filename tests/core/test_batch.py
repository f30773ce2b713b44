"""Ragged rows share a batch without touching each other, and positions are found by name."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp_kit.core.batch import TokenBatch, collate
from interp_kit.core.pairs import PairBatch, make_pairs
from interp_kit.core.task import AbstractTask
from interp_kit.tasks.boolean import BooleanTask

ROWS = [(1,), (0, 1, 1), (1, 0)]


@pytest.fixture
def ragged(parity: AbstractTask) -> TokenBatch:
    """One, three and two bits."""
    return parity.batch([parity.example(row) for row in ROWS])


def assert_same(a: TokenBatch, b: TokenBatch) -> None:
    """Every field equal, the order of names included."""
    for name in ("tokens", "mask", "prompt_length"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("positions", "labels", "answer"):
        left, right = getattr(a, name), getattr(b, name)
        assert list(left) == list(right), name
        assert all(torch.equal(left[key], right[key]) for key in left), name
    for name in ("fields", "inputs", "numeric", "task", "vocabulary"):
        assert getattr(a, name) == getattr(b, name), name


def test_ragged_rows_are_padded_on_the_right(ragged: TokenBatch) -> None:
    assert ragged.tokens.tolist() == [[1, 2, 1, 4, 4, 4], [0, 1, 1, 2, 0, 4], [1, 0, 2, 1, 3, 4]]
    assert ragged.mask.int().tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6, [1] * 6]
    assert ragged.prompt_length.tolist() == [2, 4, 3]
    assert len(ragged) == 3


def padded_left(batch: TokenBatch) -> dict[str, object]:
    """The fields of the same rows with their padding in front."""
    pads = (~batch.mask).sum(1)
    order = (torch.arange(batch.tokens.shape[1]) - pads[:, None]) % batch.tokens.shape[1]
    moved = {name: torch.where(at < 0, at, at + pads) for name, at in batch.positions.items()}
    return {"tokens": batch.tokens.gather(1, order), "mask": batch.mask.gather(1, order), "positions": moved}


def test_rows_padded_on_the_left_are_the_same_batch(ragged: TokenBatch) -> None:
    moved = padded_left(ragged)
    assert not torch.equal(moved["mask"], ragged.mask)  # pyright: ignore[reportArgumentType]
    batch = replace(ragged, **moved)  # pyright: ignore[reportArgumentType]
    assert torch.equal(batch.mask, ragged.mask)
    assert torch.equal(batch.tokens[batch.mask], ragged.tokens[ragged.mask])
    for name, at in ragged.positions.items():
        assert torch.equal(batch.positions[name], at), name


def test_padding_between_tokens_is_refused(ragged: TokenBatch) -> None:
    mask = ragged.mask.clone()
    mask[1, 1] = False
    with pytest.raises(ValueError, match="row 1 of the batch has padding between its tokens"):
        replace(ragged, mask=mask)


def test_every_example_is_found_again_in_its_row(parity: AbstractTask) -> None:
    examples = parity.enumerate()
    batch = parity.batch(examples)
    for row, example in enumerate(examples):
        assert tuple(batch.tokens[row][batch.mask[row]].tolist()) == example.tokens
        assert {name: int(batch.label(name)[row]) for name in parity.variables} == example.labels
        here = {name: int(index[row]) for name, index in batch.positions.items() if index[row] >= 0}
        assert here == example.positions
        answer = batch.field("parity").candidates[example.labels["parity"]]
        assert int(batch.answer["parity"][row]) == answer == example.tokens[example.positions["parity"]]


def test_positions_stand_in_the_order_of_the_text(ragged: TokenBatch, task: BooleanTask) -> None:
    assert list(ragged.positions) == ["bit0", "bit1", "bit2", "parity?", "parity", "dot", "eos"]
    batch = task.batch(task.enumerate())
    assert [int(index[0]) for index in batch.positions.values()] == list(range(23))


def test_named_position(ragged: TokenBatch) -> None:
    assert ragged.position("parity?").tolist() == [1, 3, 2]
    with pytest.raises(ValueError, match="no position 'newD'; there are bit0, bit1, bit2, parity"):
        ragged.position("newD")
    with pytest.raises(ValueError, match="row 1 of the batch has no position 'dot'"):
        ragged.take([2, 1]).position("dot")
    assert ragged.take([2]).position("dot").tolist() == [4]


def test_positions_to_a_field_are_those_of_every_row_up_to_its_prediction(
    ragged: TokenBatch, task: BooleanTask
) -> None:
    assert ragged.positions_to("parity") == ["bit0", "parity?"]  # bit1 and dot are not in every row
    assert ragged.take([2, 1]).positions_to("parity") == ["bit0", "bit1", "parity?"]
    batch = task.batch(task.enumerate())
    names = list(batch.positions)
    for field in task.fields:
        assert batch.positions_to(field.name) == names[: names.index(field.predict) + 1]


def test_unknown_names_list_the_known_ones(ragged: TokenBatch) -> None:
    with pytest.raises(ValueError, match="no label 'z'; there are x, y, bits, parity"):
        ragged.label("z")
    with pytest.raises(ValueError, match="no field 'x'; there are parity"):
        ragged.field("x")


def test_what_the_task_says_stands_in_the_batch(ragged: TokenBatch, parity: AbstractTask) -> None:
    assert (ragged.task, ragged.inputs, ragged.numeric) == (parity.name, parity.inputs, parity.numeric)
    assert (ragged.vocabulary, ragged.fields) == (parity.vocabulary, parity.fields)


@pytest.mark.parametrize("rows", [[2, 0], [1], [0, 0, 1], range(1, 3), torch.tensor([2, 1]), [-1]], ids=str)
def test_take_is_the_batch_of_those_examples(parity: AbstractTask, ragged: TokenBatch, rows: list[int]) -> None:
    taken = ragged.take(rows)
    alone = parity.batch([parity.example(ROWS[int(row)]) for row in [*rows, -1, 1]])  # Padded as wide as the whole.
    expected = alone.take(list(range(len(rows))))
    assert list(taken.positions) == list(ragged.positions)
    assert_same(taken, replace(expected, positions={name: expected.positions[name] for name in ragged.positions}))


@pytest.mark.parametrize("rows", [[], torch.tensor([], dtype=torch.long)], ids=str)
def test_take_of_no_rows_is_refused(ragged: TokenBatch, rows: list[int]) -> None:
    with pytest.raises(ValueError, match="a batch of no rows"):
        ragged.take(rows)


def test_take_is_no_mask(ragged: TokenBatch, task: BooleanTask) -> None:
    with pytest.raises(ValueError, match="mask"):
        ragged.take(ragged.label("x") == 1)
    pairs = task.conflict_pairs("newB", "newD")
    with pytest.raises(ValueError, match="mask"):
        pairs.take(pairs.clean.label("C") == 1)


def test_to_moves_every_tensor(ragged: TokenBatch) -> None:
    moved = ragged.to("meta")
    tensors = [moved.tokens, moved.mask, moved.prompt_length]
    tensors += [*moved.positions.values(), *moved.labels.values(), *moved.answer.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert_same(ragged.to("cpu"), ragged)


def test_no_examples_are_refused(parity: AbstractTask) -> None:
    with pytest.raises(ValueError, match="a batch of parity needs at least one example"):
        collate(parity, [])


def test_label_that_no_field_can_have_is_refused(parity: AbstractTask) -> None:
    example = parity.example((1,))
    with pytest.raises(ValueError, match="parity cannot be 2; it is one of"):
        parity.batch([replace(example, labels={**example.labels, "parity": 2})])


def test_pairs_of_unequal_length_are_refused(parity: AbstractTask, ragged: TokenBatch) -> None:
    def pair(clean: list[int], corrupt: list[int]) -> PairBatch:
        return PairBatch(ragged.take(clean), ragged.take(corrupt), "x", "parity", "own", (("x",),) * len(clean))

    assert len(pair([1, 2], [2, 1])) == 2
    with pytest.raises(ValueError, match="clean and corrupt are of different length"):
        pair([1], [0])  # As wide, but one is padded.
    with pytest.raises(ValueError, match="clean and corrupt are of different length"):
        pair([1, 1], [1])


def test_pairs_take_and_swap(task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD", hold=())
    assert len({pairs.differs[i] for i in range(len(pairs))}) > 1
    taken = pairs.take([3, 0, 3])
    for side in ("clean", "corrupt"):
        assert_same(getattr(taken, side), getattr(pairs, side).take([3, 0, 3]))
    assert taken.differs == tuple(pairs.differs[i] for i in (3, 0, 3))
    swapped = taken.swapped()
    assert_same(swapped.clean, taken.corrupt)
    assert_same(swapped.corrupt, taken.clean)
    assert (swapped.variable, swapped.target, swapped.differs) == ("newB", "newD", taken.differs)
    assert torch.equal(swapped.token_differs, taken.token_differs)


def test_token_differs_marks_where_the_texts_do(task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    for row in range(len(pairs)):
        clean, corrupt = pairs.clean.tokens[row].tolist(), pairs.corrupt.tokens[row].tolist()
        assert pairs.token_differs[row].tolist() == [a != b for a, b in zip(clean, corrupt, strict=True)]


def test_pairs_apart_are_as_many_as_can_be(task: BooleanTask) -> None:
    """Four texts in a row, 0-1-2-3: whoever takes the pair in the middle first has one, and there are two."""
    texts, links = (
        task.examples([[a, 0, 0, 0, e] for a, e in ((0, 0), (0, 1), (1, 0), (1, 1))]),
        [(1, 2), (1, 0), (2, 3)],
    )
    pairs = make_pairs(task, [texts[a] for a, _ in links], [texts[b] for _, b in links], "A", "newA", "own")
    assert pairs.apart().texts() == [pairs.texts()[1], pairs.texts()[2]]


def test_a_pair_and_its_reverse_are_kept_together(task: BooleanTask) -> None:
    pairs = task.pairs("newB", "newD")
    assert pairs.apart(both_ways=True).texts() == pairs.texts()
    assert pairs.apart().texts() == [
        pair for i, pair in enumerate(pairs.texts()) if pair[::-1] not in pairs.texts()[:i]
    ]


def test_rows_that_repeat_a_text_are_one_unit(task: BooleanTask) -> None:
    batch = task.batch(task.enumerate()[:8])
    assert batch.distinct() is batch
    four = batch.take(list(range(8)) * 4)
    assert len(np.unique(four.units())) == 8
    with pytest.warns(UserWarning, match="24 of 32 rows repeat an earlier one"):
        once = four.distinct()
    assert torch.equal(once.tokens, batch.tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert torch.equal(four.distinct().tokens, batch.tokens)
    other = TokenBatch.from_tokens([[1, 2], [1, 2]], [3, 4])
    assert len(other.distinct()) == 2, "the same text with another answer"


def test_all_examples_with_a_repetition_are_still_all(task: BooleanTask) -> None:
    everything = task.enumerate()
    with pytest.warns(UserWarning, match="1 of"):
        assert task.batch([*everything, everything[0]]).distinct().whole
