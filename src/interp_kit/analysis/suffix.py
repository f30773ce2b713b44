"""Many edits at once, at the cost of what they can change: the fast executor behind `sweep`.

Edits become rows of one growing batch. A row enters at the layer of its first edit, from residuals of the unedited run;
it carries only positions from its first edited one to the last that a metric reads, with keys and values of earlier
ones from the unedited run; and the last layer runs only where a metric reads. Edits of z, attn_out, mlp_post and
mlp_out enter as a difference, so that their own layer is not run again.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from interp_kit.analysis.sites import Edit, EditGroup
from interp_kit.core.batch import TokenBatch
from interp_kit.models.executor import Executor, Layer

# In the order in which a block computes them; a row enters at one of three stages of a layer.
ORDER = (
    "embed",
    "pos_embed",
    "resid_pre",
    "q",
    "k",
    "v",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_post",
    "mlp_out",
    "resid_post",
)
STAGE = {site: 0 if i < 6 else 1 if i < 9 else 2 for i, site in enumerate(ORDER)}
LOGITS = 4  # copies of logits that a metric makes
FILLED = 0.67  # of the memory that is allowed: the rest is for what allocators keep
WORTH = 1024  # tokens from which on a batch is large enough to start a new one for later positions

NewValue = Callable[[Edit, tuple], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Entries:
    """Where groups of edits enter: (group,) first position, -1 where none of their edits can reach what is read; layer;
    stage. Arrays, so that any number of groups takes little memory."""

    start: NDArray[np.int32]
    layer: NDArray[np.int32]
    stage: NDArray[np.int32]

    def order(self) -> NDArray[np.intp]:
        """The groups that can reach what is read, by first position."""
        order = np.lexsort((self.stage, self.layer, self.start))
        return order[self.start[order] >= 0]


@dataclass(frozen=True)
class Planned:
    """A group of edits: where it enters (layer, stage), its first position, and whether before the layer's attention
    it changes single positions alone."""

    edits: EditGroup
    entry: tuple[int, int]
    start: int
    local: bool


class Suffix:
    """The unedited run of a batch, and edited runs from it.

    reads: (batch, read) positions whose logits are wanted. new_value: as `Engine.new_value`, gives for an edit and an
    index into its site's activation the function from old to new values there.
    """

    def __init__(self, executor: Executor, batch: TokenBatch, reads: Tensor, new_value: NewValue) -> None:
        self.x, self.batch, self.reads, self.new_value = executor, batch, reads, new_value
        self.end = int(reads.max()) + 1
        self.rows = torch.arange(len(batch), device=batch.tokens.device)
        self.sites: dict[tuple[str, int], Tensor] = {}
        self._starts: dict[str, int] = {}  # first place of a named position
        tokens = batch.tokens[:, : self.end]
        hidden = executor.run(tokens, lambda site, layer, value: self.sites.__setitem__((site, layer), value))
        self.hidden, self.logits = hidden, executor.read_out(self._take(hidden, reads))

    def finite(self) -> bool:
        """Whether the unedited run is free of nan and inf, padding apart."""
        return bool(self.hidden[self.batch.mask[:, : self.end]].isfinite().all() and self.logits.isfinite().all())

    def entries(self, groups: Iterable[EditGroup]) -> Entries:
        """Where each group enters."""
        found = array("i")
        for group in groups:
            plan = self._plan(group)
            found.extend((plan.start, *plan.entry) if plan else (-1, 0, 0))
        start, layer, stage = np.array(found, dtype=np.int32).reshape(-1, 3).T
        return Entries(start, layer, stage)

    def _plan(self, group: EditGroup) -> Planned | None:
        """None where none of the edits can reach what is read."""
        kept = tuple(edit for edit in group if self._first(edit) < self.end)
        if not kept:
            return None
        entry = min((edit.layer or 0, STAGE[edit.site]) for edit in kept)
        before = [edit for edit in kept if ((edit.layer or 0), STAGE[edit.site]) == (entry[0], 0)]
        local = all(edit.position is not None or edit.site in ("q", "k", "v") for edit in before)
        return Planned(kept, entry, min(self._first(edit) for edit in kept), local)

    def _first(self, edit: Edit) -> int:
        if not isinstance(edit.position, str):
            return edit.position or 0
        if edit.position not in self._starts:
            self._starts[edit.position] = int(self.batch.position(edit.position).min())
        return self._starts[edit.position]

    def chunks(self, entries: Entries, memory: int) -> Iterator[NDArray[np.intp]]:
        """Numbers of groups to run together: by first position, as many as `memory` bytes take, and at least one."""
        order = entries.order()
        while len(order):
            start = entries.start[order]
            window = self.end - int(start[0])
            fit = max(1, int(memory * FILLED) // (len(self.batch) * self._bytes(window)))
            # once a batch is large enough, later positions begin one of their own
            worth = -(-WORTH // (len(self.batch) * window))
            later = int(np.searchsorted(start, start[0], side="right"))
            cut = min(fit, max(worth, later))
            yield order[:cut]
            order = order[cut:]

    def _bytes(self, window: int) -> int:
        """What one row under one group of edits takes at most, `window` positions being carried."""
        layer, width, heads = self.x.layers[0], self.x.embed.shape[1], self.x.n_heads * self.x.d_head
        hidden = 0 if layer.mlp_in is None else len(layer.mlp_in[0])
        logits = LOGITS * self.reads.shape[1] * len(self.x.unembed[0])
        carried = window * (4 * width + 5 * heads + 2 * hidden) + 2 * self.end * heads
        return self.x.embed.element_size() * (max(logits, carried) + window * width)

    def run(self, groups: Sequence[EditGroup]) -> Tensor:
        """(group, batch, read, vocab) logits where they are read, under each group of a chunk."""
        planned = [plan for group in groups if (plan := self._plan(group))]
        if len(planned) < len(groups):
            raise ValueError("a group of edits that reaches nothing that is read")
        order = sorted(range(len(planned)), key=lambda i: (planned[i].entry, planned[i].local))
        logits = _Run(self, [planned[i] for i in order]).logits()
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return logits[back.to(logits.device)]

    def _take(self, x: Tensor, at: Tensor) -> Tensor:
        """(…, batch, n, …) the positions `at` (batch, n) of x (batch, pos, …)."""
        return x[self.rows[:, None], at]


class _Run:
    """One batch of groups, sorted by entry, through the layers."""

    def __init__(self, suffix: Suffix, groups: Sequence[Planned]) -> None:
        self.s, self.groups = suffix, groups
        self.start, self.end = min(group.start for group in groups), suffix.end
        self.window = slice(self.start, self.end)
        n_layers, batch = len(suffix.x.layers), len(suffix.batch)
        width = suffix.x.embed.shape[1]
        self.state = suffix.x.embed.new_empty(len(groups), batch, self.end - self.start, width)
        self.last = n_layers - 1
        read = suffix.reads
        self.slots = (read - self.start).clamp(min=0)
        self.at_read = False  # whether tensors hold the positions that are read, not the window
        self.later: dict[tuple[str, int], list[tuple[int, Edit]]] = {}
        for slot, group in enumerate(groups):
            for edit in group.edits:
                if (edit.layer or 0, STAGE[edit.site]) != group.entry or STAGE[edit.site] == 0:
                    self.later.setdefault((edit.site, edit.layer or 0), []).append((slot, edit))

    def logits(self) -> Tensor:
        s, active, x = self.s, 0, self.state
        for number, layer in enumerate(s.x.layers):
            before, active = active, self._enter_pre(number, active)
            qkv = self._qkv(layer, number, before, active) if active else None
            if number == self.last:
                x, active = self._final(number, layer, active, qkv)
                break
            if qkv is not None:
                x = self.state[:active]
                q, k, v = (self._visit(name, number, value) for name, value in zip("qkv", qkv.unbind(3), strict=True))
                x += self._visit("attn_out", number, self._attend(layer, number, q, k, v))
                self._visit("resid_mid", number, x)
            active = self._enter_mid(number, active, self.state)
            if active:
                x = self.state[:active]
                x += self._mlp(layer, number, x)
                self._visit("resid_post", number, x)
            active = self._enter_post(number, active, self.state)
        out = s.x.read_out(x)
        unreached = (s.reads < self.start)[None, :, :, None]
        return torch.where(unreached, s.logits[None], out) if bool(unreached.any()) else out

    def _final(self, number: int, layer: Layer, active: int, qkv: Tensor | None) -> tuple[Tensor, int]:
        """The last layer: keys and values for the window, all else where it is read."""
        s = self.s
        take = torch.arange(len(s.batch), device=self.state.device)[:, None], self.slots
        x = self.state.new_empty(len(self.groups), *self.slots.shape, self.state.shape[-1])
        if qkv is not None:
            k, v = (self._visit(name, number, value) for name, value in zip("kv", qkv.unbind(3), strict=True))
            x[:active] = self.state[:active][:, take[0], take[1]]
            self.at_read = True
            weight, bias = (w[: s.x.n_heads * s.x.d_head] for w in layer.qkv)
            q = s.x.linear(layer.norm1(x[:active]), weight, bias).unflatten(-1, (s.x.n_heads, s.x.d_head))
            out = self._attend(layer, number, self._visit("q", number, q), k, v, self.slots)
            x[:active] += self._visit("attn_out", number, out)
            self._visit("resid_mid", number, x[:active])
        self.at_read = True
        active = self._enter_mid(number, active, x)
        if active:
            x[:active] += self._mlp(layer, number, x[:active])
            self._visit("resid_post", number, x[:active])
        active = self._enter_post(number, active, x)
        return x, active

    def _qkv(self, layer: Layer, number: int, before: int, active: int) -> Tensor:
        """(group, batch, pos, 3, head, d_head) queries, keys and values; in the last layer keys and values alone.

        Of groups from `before` on, which enter here, those that change single positions have the unedited run's
        anywhere else.
        """
        ex, x, names = self.s.x, self.state[:active], "kv" if number == self.last else "qkv"
        size = ex.n_heads * ex.d_head
        weight, bias = (w[(3 - len(names)) * size :] for w in layer.qkv)
        shape = (len(names), ex.n_heads, ex.d_head)
        while before < active and not self.groups[before].local:
            before += 1
        if before == active:
            return ex.linear(layer.norm1(x), weight, bias).unflatten(-1, shape)
        result = x.new_empty(*x.shape[:3], *shape)
        if before:
            result[:before] = ex.linear(layer.norm1(x[:before]), weight, bias).unflatten(-1, shape)
        if before < active:
            for i, name in enumerate(names):
                result[before:, :, :, i] = self.s.sites[name, number][:, self.window]
            edits = [
                (slot, edit) for site in ("embed", "pos_embed", "resid_pre") for slot, edit in self._later(site, number)
            ]
            where = [(slot, position_of(edit, self.s.batch)) for slot, edit in edits if before <= slot < active]
            if where:
                slots = torch.tensor([slot for slot, _ in where], device=x.device)[:, None]
                places = torch.stack([place for _, place in where]) - self.start
                rows, reached = self.s.rows.expand(len(places), -1), places < x.shape[2]
                chosen = slots.expand_as(places)[reached], rows[reached], places[reached]
                new = ex.linear(layer.norm1(x[chosen]), weight, bias)
                result[chosen] = new.view(-1, *shape)
        return result

    def _later(self, site: str, number: int) -> list[tuple[int, Edit]]:
        return self.later.get((site, number), [])

    def _attend(
        self, layer: Layer, number: int, q: Tensor, k: Tensor, v: Tensor, slots: Tensor | None = None
    ) -> Tensor:
        """(group, batch, query, d_model) what attention adds: earlier keys and values are the unedited run's.

        slots: (batch, query) places of the queries in the window; all of it where None.
        """
        size = self.end - self.start
        if self.start:
            k, v = (self._whole(name, number, value) for name, value in (("k", k), ("v", v)))
        options: dict = {"is_causal": True}
        if self.start or slots is not None:
            places = torch.arange(size, device=q.device) if slots is None else slots.repeat(len(q), 1)[:, None]
            seen = torch.arange(self.end, device=q.device) <= (places + self.start)[..., None]
            options = {"attn_mask": seen}
        queries, keys, values = (value.flatten(0, 1).transpose(1, 2) for value in (q, k, v))
        z = F.scaled_dot_product_attention(queries, keys, values, scale=layer.scale, **options)
        z = z.transpose(1, 2).unflatten(0, q.shape[:2])
        z = self._visit("z", number, z)
        return self.s.x.linear(z.flatten(-2), *layer.out)

    def _whole(self, name: str, number: int, window: Tensor) -> Tensor:
        """Keys or values of all positions: the unedited run's, then those of the window."""
        whole = window.new_empty(*window.shape[:2], self.end, *window.shape[3:])
        whole[:, :, : self.start] = self.s.sites[name, number][:, : self.start]
        whole[:, :, self.start :] = window
        return whole

    def _mlp(self, layer: Layer, number: int, x: Tensor) -> Tensor:
        if layer.norm2 is None or layer.mlp_in is None or layer.mlp_out is None:
            return torch.zeros_like(x)
        post = self._visit("mlp_post", number, self.s.x.linear(layer.norm2(x), *layer.mlp_in, act=True))
        return self._visit("mlp_out", number, self.s.x.linear(post, *layer.mlp_out))

    def _entering(self, number: int, stage: int, active: int) -> range:
        stop = active
        while stop < len(self.groups) and self.groups[stop].entry == (number, stage):
            stop += 1
        return range(active, stop)

    def _enter_pre(self, number: int, active: int) -> int:
        entering = self._entering(number, 0, active)
        if entering:
            x = self.state[entering.start : entering.stop]
            x[:] = self.s.sites["resid_pre", number][:, self.window]
            if number == 0:
                # an edit of one of the two embeddings changes the other's sum by what it adds
                for site in ("embed", "pos_embed"):
                    base = self.s.sites[site, 0][:, self.window]
                    changed: dict[int, Tensor] = {}
                    for slot, edit in self._later(site, 0):
                        self._write(changed.setdefault(slot, base.clone()), edit)
                    for slot, value in changed.items():
                        self.state[slot] += value - base
        stop = max(active, entering.stop)
        if stop:
            self._visit("resid_pre", number, self.state[:stop])
        return stop

    def _enter_mid(self, number: int, active: int, state: Tensor) -> int:
        entering = self._entering(number, 1, active)
        layer = self.s.x.layers[number]
        for slot in entering:
            edits = self.groups[slot].edits
            out = self._base("attn_out", number)
            out = self._difference("z", number, edits, out, layer.out[0])
            for edit in self._of(edits, "attn_out", number):
                self._write(out, edit)
            state[slot] = self._base("resid_pre", number, copy=False) + out
            for edit in self._of(edits, "resid_mid", number):
                self._write(state[slot], edit)
        return max(active, entering.stop)

    def _enter_post(self, number: int, active: int, state: Tensor) -> int:
        entering = self._entering(number, 2, active)
        layer = self.s.x.layers[number]
        for slot in entering:
            edits = self.groups[slot].edits
            mid = self._base("resid_mid", number)
            if layer.mlp_out is not None:
                out = self._difference("mlp_post", number, edits, self._base("mlp_out", number), layer.mlp_out[0])
                for edit in self._of(edits, "mlp_out", number):
                    self._write(out, edit)
                mid += out
            state[slot] = mid
            for edit in self._of(edits, "resid_post", number):
                self._write(state[slot], edit)
        return max(active, entering.stop)

    def _difference(self, site: str, number: int, edits: EditGroup, out: Tensor, weight: Tensor) -> Tensor:
        """`out` (batch, pos, d_model) after edits of what `weight` (d_model, in) maps to it."""
        chosen = self._of(edits, site, number)
        if not chosen:
            return out
        base = self._base(site, number, copy=False)
        changed = base.clone()
        for edit in chosen:
            self._write(changed, edit)
        heads = {edit.head for edit in chosen if edit.head is not None}
        if site == "z" and all(edit.head is not None for edit in chosen):
            for head in heads:
                part = weight[:, head * self.s.x.d_head : (head + 1) * self.s.x.d_head]
                out = out + F.linear(changed[..., head, :] - base[..., head, :], part)
            return out
        difference = changed - base
        return out + F.linear(difference.flatten(2), weight)

    @staticmethod
    def _of(edits: EditGroup, site: str, number: int) -> list[Edit]:
        return [edit for edit in edits if edit.site == site and edit.layer == number]

    def _base(self, site: str, number: int, *, copy: bool = True) -> Tensor:
        """(batch, pos, …) of the unedited run, at the positions that are now carried."""
        value = self.s.sites[site, number]
        if self.at_read:
            return self.s._take(value, self.s.reads)
        return value[:, self.window].clone() if copy else value[:, self.window]

    def _visit(self, site: str, number: int, value: Tensor) -> Tensor:
        """Apply what edits there are at a site to the rows that are under way."""
        for slot, edit in self._later(site, number):
            if slot < len(value):
                self._write(value[slot], edit)
        return value

    def _write(self, value: Tensor, edit: Edit) -> None:
        """Edit (batch, carried, …) in place."""
        write(value, edit, self.s.reads if self.at_read else self.window, self.s.batch, self.s.new_value)


def write(value: Tensor, edit: Edit, carried: slice | Tensor, batch: TokenBatch, new_value: NewValue) -> None:
    """Edit a site's activation (batch, n, …) in place, which has the positions `carried`, a slice or (batch, n)."""
    rows, tail = torch.arange(len(batch), device=value.device), edit.tail
    if edit.position is None:
        here: tuple = (slice(None), slice(None), *tail)
        of_rows = slice(None) if isinstance(carried, slice) else rows[:, None]
        value[here] = new_value(edit, (of_rows, carried, *tail))(value[here]).to(value.dtype)
        return
    at = position_of(edit, batch)
    if isinstance(carried, slice):
        match = None
        there, column = (at >= carried.start) & (at < carried.stop), (at - carried.start).clamp(0, value.shape[1] - 1)
    else:
        match = carried == at[:, None]
        there, column = match.any(1), match.int().argmax(1)
    if not bool(there.any()):
        return
    here = (rows, column, *tail)
    old = value[here]
    new = new_value(edit, (rows, at, *tail))(old).to(value.dtype)
    if match is None:
        value[here] = new if bool(there.all()) else torch.where(there.view(-1, *[1] * (old.ndim - 1)), new, old)
    else:  # a position may be carried more than once
        every = (slice(None), slice(None), *tail)
        value[every] = torch.where(match.view(*match.shape, *[1] * (old.ndim - 1)), new[:, None], value[every])


def position_of(edit: Edit, batch: TokenBatch) -> Tensor:
    """(batch,) the position of an edit that has one."""
    if isinstance(edit.position, str):
        return batch.position(edit.position)
    assert edit.position is not None
    return torch.full_like(batch.prompt_length, edit.position)
