"""Edited runs of one batch side by side in one tensor, each with the positions that it carries and no others.

A run is a slot. Of slot after slot, row after row, tokens stand one after the other, so that what works token by token
(norms, products) takes any number of slots at once; attention alone wants texts of one length.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor


class Windows:
    """Slots that carry the positions from one of their own on, `starts`, to the last before `end`."""

    def __init__(self, starts: Sequence[int], end: int, rows: Tensor) -> None:
        self.starts, self.end, self.rows = starts, end, rows
        self.first = [0]  # of each slot, its first token, and after the last the number of all
        for start in starts:
            self.first.append(self.first[-1] + len(rows) * (end - start))

    def span(self, slots: range) -> slice:
        """The tokens of slots that follow each other."""
        return slice(self.first[slots.start], self.first[max(slots.start, slots.stop)])

    def carried(self, slot: int) -> slice:
        """The positions of a slot."""
        return slice(self.starts[slot], self.end)

    def of(self, value: Tensor, slot: int, begin: int = 0) -> Tensor:
        """(batch, carried, …) one slot of a value (token, …) that begins with the slot `begin`: a view."""
        ahead = self.first[begin]
        return value[self.first[slot] - ahead : self.first[slot + 1] - ahead].unflatten(0, (len(self.rows), -1))

    def take(self, value: Tensor, slot: int) -> Tensor:
        """(batch, carried, …) what a slot carries of a value (batch, pos, …): a view."""
        return value[:, self.starts[slot] : self.end]

    def fill(self, into: Tensor, value: Tensor, slots: range) -> None:
        """Copy what slots carry of a value (batch, pos, …) to `into` (token, …)."""
        low = self.low(slots)
        if self._alike(slots, low):
            into.unflatten(0, (len(slots), len(self.rows), self.end - low)).copy_(value[:, low : self.end])
        else:
            into.copy_(value.flatten(0, 1)[self._tokens[self.span(slots)]])

    def pick(self, value: Tensor, rows: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
        """(n, …) of a value (batch, pos, …) what stands at n tokens, whose rows and positions are these."""
        return value[rows, at]

    def find(self, slots: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of positions `at` (n, batch) in slots (n,) those that are carried: which of n, which row, and which token."""
        number, rows = ((at >= self._start[slots, None]) & (at < self.end)).nonzero().unbind(1)
        return number, rows, self._token(slots[number], rows, at[number, rows])

    def read(self, reads: Tensor, slots: range) -> Tensor:
        """(slot batch read) the tokens at positions `reads` (batch, read), or the first of a row that begins later."""
        number = torch.arange(slots.start, slots.stop, device=reads.device)[:, None, None]
        at = reads.maximum(self._start[number])
        return self._token(number, self.rows[:, None], at).flatten()

    def at(self, slots: range) -> Tensor:
        """(token,) the position of every token of the slots."""
        return self._cells[self.span(slots)] % self.end

    def low(self, slots: range) -> int:
        """The first position that any of the slots carries."""
        return min(self.starts[slots.start : slots.stop])

    def texts(self, value: Tensor, slots: range, low: int) -> Tensor:
        """(slot batch, end - low, …) a value (token, …) as texts of one length; what a slot does not carry is 0."""
        shape = len(slots) * len(self.rows), self.end - low
        if self._alike(slots, low):
            return value.unflatten(0, shape)
        texts = value.new_zeros(shape[0] * shape[1], *value.shape[1:])
        return texts.index_copy_(0, self._places(slots, low), value).unflatten(0, shape)

    def tokens(self, texts: Tensor, slots: range, low: int) -> Tensor:
        """(token, …) of texts as `texts` makes them."""
        texts = texts.flatten(0, 1)
        return texts if self._alike(slots, low) else texts[self._places(slots, low)]

    def whole(self, value: Tensor, slots: range, beside: "Beside") -> Tensor:
        """(slot batch, end, n, …) n values (token, n, …), and those `beside` them where a slot carries nothing."""
        low, high = self.low(slots), max(self.starts[slots.start : slots.stop])
        if high == 0:
            return value.unflatten(0, (len(slots) * len(self.rows), self.end))
        texts = beside.texts(value.new_empty, (len(slots), len(self.rows), self.end, *value.shape[1:]), low, high)
        if low == high:
            texts[:, :, low:] = value.unflatten(0, (*texts.shape[:2], -1))
        else:
            texts.flatten(0, 2).index_copy_(0, self._places(slots, 0), value)
        return texts.flatten(0, 1)

    def _alike(self, slots: range, low: int) -> bool:
        return max(self.starts[slots.start : slots.stop]) == low

    def _token(self, slots: Tensor, rows: Tensor, at: Tensor) -> Tensor:
        start = self._start[slots]
        return self._first[slots] + rows * (self.end - start) + at - start

    @cached_property
    def _start(self) -> Tensor:
        return torch.tensor(self.starts, device=self.rows.device)

    @cached_property
    def _first(self) -> Tensor:
        return torch.tensor(self.first[:-1], device=self.rows.device)

    @cached_property
    def _text(self) -> Tensor:
        """(token,) the text of each token, of (slot batch)."""
        each = (self.end - self._start).repeat_interleave(len(self.rows))
        return torch.arange(len(each), device=each.device).repeat_interleave(each, output_size=self.first[-1])

    @cached_property
    def _cells(self) -> Tensor:
        """(token,) where each token stands among (slot batch pos)."""
        width = (self.end - self._start).repeat_interleave(len(self.rows))
        ahead = torch.arange(1, len(width) + 1, device=width.device) * self.end - width.cumsum(0)  # not carried
        return torch.arange(self.first[-1], device=width.device) + ahead[self._text]

    @cached_property
    def _tokens(self) -> Tensor:
        """(token,) where each token stands among (batch pos)."""
        return self._cells % (len(self.rows) * self.end)

    def _places(self, slots: range, low: int) -> Tensor:
        """(token,) where each token of the slots stands among (slot batch pos), positions from `low` on."""
        here, ahead = self.span(slots), slots.start * len(self.rows) * (self.end - low)
        return self._cells[here] - (self._text[here] * low + low + ahead if low else ahead)


class Beside:
    """n values (batch, pos, …) of the unedited run, which complete those of slots after slots: as long as so many slots
    go at once in the same memory, so that each time what was given before is gone."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self.values, self.held = values, torch.empty(0)
        self.until = 0  # up to where `held` has the unedited values

    def texts(self, make: Callable[[Sequence[int]], Tensor], shape: Sequence[int], low: int, high: int) -> Tensor:
        """(slot, batch, end, n, …) of `shape` with the unedited values up to `high`; from `low` on they are written
        over."""
        if self.held.shape != torch.Size(shape):
            self.held, self.until = make(shape), 0
        for i, value in enumerate(self.values):
            self.held[:, :, self.until : high, i] = value[:, self.until : high]
        self.until = low
        return self.held


class Reads:
    """Slots that carry `reads` (batch, read), positions in any order and number, the same for all. Values are (batch,
    read, …) instead of (batch, pos, …)."""

    def __init__(self, reads: Tensor) -> None:
        self.reads, self.each = reads, reads.numel()

    def span(self, slots: range) -> slice:
        return slice(slots.start * self.each, max(slots.start, slots.stop) * self.each)

    def carried(self, slot: int) -> Tensor:
        return self.reads

    def at(self, slots: range) -> Tensor:
        return self.reads.flatten().repeat(len(slots))

    def of(self, value: Tensor, slot: int, begin: int = 0) -> Tensor:
        return value[(slot - begin) * self.each : (slot - begin + 1) * self.each].unflatten(0, self.reads.shape)

    def take(self, value: Tensor, slot: int) -> Tensor:
        return value

    def fill(self, into: Tensor, value: Tensor, slots: range) -> None:
        into.unflatten(0, (len(slots), *self.reads.shape)).copy_(value)

    def pick(self, value: Tensor, rows: Tensor, at: Tensor, tokens: Tensor) -> Tensor:
        return value[rows, tokens % self.reads.shape[1]]

    def find(self, slots: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        number, rows, places = (self.reads == at[..., None]).nonzero().unbind(1)
        return number, rows, slots[number] * self.each + rows * self.reads.shape[1] + places
