"""Packed runs against the same values laid out one by one."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp_kit.engine.fast.ragged import Beside, Reads, Windows

ROWS, END = 2, 4
STARTS = st.lists(st.integers(0, END - 1), min_size=1, max_size=7)
VALUE = torch.arange(1.0, 1 + ROWS * END * 3).view(ROWS, END, 3)  # (batch, pos, …)


def packed(starts: list[int]) -> tuple[Windows, list[Tensor], Tensor]:
    """Windows, what each slot carries (batch, carried, 3), all different, and the same packed (token, 3)."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(ROWS, END - start, 3, generator=generator) for start in starts]
    return Windows(starts, END, torch.arange(ROWS)), parts, torch.cat([part.flatten(0, 1) for part in parts])


def tiles(size: int, n: int) -> list[range]:
    return [range(at, min(at + size, n)) for at in range(0, n, size)]


@given(starts=STARTS, size=st.integers(1, 3))
def test_slots_fill_and_give_texts(starts: list[int], size: int) -> None:
    windows, parts, value = packed(starts)
    for slots in tiles(size, len(starts)):
        here = windows.span(slots)
        assert torch.equal(value[here], torch.cat([parts[slot].flatten(0, 1) for slot in slots]))
        for slot in slots:
            assert torch.equal(windows.of(value[here], slot, slots.start), parts[slot])
        filled = torch.zeros(here.stop - here.start, 3)
        windows.fill(filled, VALUE, slots)
        expected = [VALUE[:, starts[slot] :] for slot in slots]
        assert torch.equal(filled, torch.cat([part.flatten(0, 1) for part in expected]))
        for slot, part in zip(slots, expected, strict=True):
            assert torch.equal(windows.take(VALUE, slot), part)
            assert torch.equal(VALUE[:, windows.carried(slot)], part)
        low = windows.low(slots)
        texts = windows.texts(value[here], slots, low).unflatten(0, (len(slots), ROWS))
        for text, slot in zip(texts, slots, strict=True):
            carried = starts[slot] - low
            assert torch.equal(text[:, carried:], parts[slot])
            assert not text[:, :carried].any()
        assert torch.equal(windows.tokens(texts.flatten(0, 1), slots, low), value[here])


@given(starts=STARTS, size=st.integers(1, 3))
def test_texts_are_complete_whatever_tile_came_before(starts: list[int], size: int) -> None:
    windows, parts, value = packed(starts)
    pair, unedited = torch.stack([value, -value], 1), [VALUE, VALUE * 2]
    beside = Beside(unedited)
    for slots in tiles(size, len(starts)):
        found = windows.whole(pair[windows.span(slots)], slots, beside).unflatten(0, (len(slots), ROWS))
        for text, slot in zip(found, slots, strict=True):
            for i, (sign, kept) in enumerate(zip((1, -1), unedited, strict=True)):
                assert torch.equal(text[:, : starts[slot], i], kept[:, : starts[slot]])
                assert torch.equal(text[:, starts[slot] :, i], sign * parts[slot])


@given(
    starts=STARTS,
    at=st.lists(st.lists(st.integers(0, END), min_size=ROWS, max_size=ROWS), min_size=1, max_size=3),
    reads=st.lists(st.lists(st.integers(0, END - 1), min_size=3, max_size=3), min_size=ROWS, max_size=ROWS),
    data=st.data(),
)
def test_positions_are_found(
    starts: list[int], at: list[list[int]], reads: list[list[int]], data: st.DataObject
) -> None:
    slots = [data.draw(st.integers(0, len(starts) - 1)) for _ in at]
    windows, parts, value = packed(starts)
    number, rows, tokens = windows.find(torch.tensor(slots), torch.tensor(at))
    places = [(n, row) for n, slot in enumerate(slots) for row in range(ROWS) if starts[slot] <= at[n][row] < END]
    assert list(zip(number.tolist(), rows.tolist(), strict=True)) == places
    for (n, row), token in zip(places, tokens.tolist(), strict=True):
        assert torch.equal(value[token], parts[slots[n]][row, at[n][row] - starts[slots[n]]])
    positions = torch.tensor([at[n][row] for n, row in places], dtype=torch.long)
    assert torch.equal(windows.pick(VALUE, rows, positions, tokens), VALUE[rows, positions])

    wanted = torch.tensor(reads)
    some = range(data.draw(st.integers(0, len(starts) - 1)), len(starts))
    found = value[windows.read(wanted, some)].view(len(some), ROWS, 3, 3)
    for slot, text in zip(some, found, strict=True):
        for row in range(ROWS):
            for i, position in enumerate(reads[row]):
                assert torch.equal(text[row, i], parts[slot][row, max(0, position - starts[slot])])

    read, each = Reads(wanted), torch.randn(len(starts), ROWS, 3, 3)
    flat = each.flatten(0, 2)
    number, rows, tokens = read.find(torch.tensor(slots), torch.tensor(at))
    places = [
        (n, row, i) for n in range(len(at)) for row in range(ROWS) for i in range(3) if reads[row][i] == at[n][row]
    ]
    assert list(zip(number.tolist(), rows.tolist(), strict=True)) == [place[:2] for place in places]
    for (n, row, i), token in zip(places, tokens.tolist(), strict=True):
        assert torch.equal(flat[token], each[slots[n], row, i])
        assert (
            read.pick(VALUE, torch.tensor([row]), wanted[row, i : i + 1], torch.tensor([token]))[0, 0]
            == VALUE[row, i, 0]
        )
    assert torch.equal(read.of(flat[read.span(some)], some.stop - 1, some.start), each[-1])
    into = torch.zeros(len(some) * read.each, 3)
    read.fill(into, VALUE[:, :3], some)
    assert torch.equal(into.view(len(some), ROWS, 3, 3), VALUE[:, :3].expand(len(some), -1, -1, -1))
