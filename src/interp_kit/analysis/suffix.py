"""Many edits at once, at the cost of what they can change: the fast executor behind `sweep`.

Edits become rows of one growing batch. A row enters at the layer of its first edit, from residuals of the unedited run;
it carries only positions from its first edited one to the last that a metric reads, with keys and values of earlier
ones from the unedited run; and the last layer runs only where a metric reads. Edits of z, attn_out, mlp_post and
mlp_out enter as a difference, so that their own layer is not run again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
WORTH = 2048  # tokens from which on a batch is large enough to start a new one for later positions

NewValue = Callable[[Edit, tuple], Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Planned:
    """A group of edits: its number in the sweep, where it enters (layer, stage) and its first position."""

    number: int
    edits: EditGroup
    entry: tuple[int, int]
    start: int


class Suffix:
    """The unedited run of a batch, and edited runs from it.

    reads: (batch, read) positions whose logits are wanted. new_value: as `Engine._new_value`, gives for an edit and an
    index into its site's activation the function from old to new values there.
    """

    def __init__(self, executor: Executor, batch: TokenBatch, reads: Tensor, new_value: NewValue) -> None:
        self.x, self.batch, self.reads, self.new_value = executor, batch, reads, new_value
        self.end = int(reads.max()) + 1
        self.rows = torch.arange(len(batch), device=batch.tokens.device)
        self.sites: dict[tuple[str, int], Tensor] = {}
        tokens = batch.tokens[:, : self.end]
        hidden = executor.run(tokens, lambda site, layer, value: self.sites.__setitem__((site, layer), value))
        self.logits = executor.read_out(self._take(hidden, reads))

    def plan(self, number: int, group: EditGroup) -> Planned | None:
        """Where a group enters; None where none of its edits can reach what is read."""
        kept = tuple(edit for edit in group if self._first(edit) < self.end)
        if not kept:
            return None
        entry = min((edit.layer or 0, STAGE[edit.site]) for edit in kept)
        return Planned(number, kept, entry, min(self._first(edit) for edit in kept))

    def _first(self, edit: Edit) -> int:
        if edit.position is None:
            return 0
        return int(self.batch.position(edit.position).min()) if isinstance(edit.position, str) else edit.position

    def chunks(self, planned: Sequence[Planned], memory: int) -> Iterator[list[Planned]]:
        """Groups to run together: by first position, as many as `memory` bytes take, and at least one."""
        layer = self.x.layers[0]
        hidden = 0 if layer.mlp_in is None else len(layer.mlp_in[0])
        width = self.x.embed.shape[1] + 2 * self.x.n_heads * self.x.d_head
        a_token = self.x.embed.element_size() * (4 * width + 2 * hidden + 3 * self.x.n_heads * self.end)
        most = memory // a_token
        chunk: list[Planned] = []
        for group in sorted(planned, key=lambda p: (p.start, p.entry)):
            if chunk:
                size = len(self.batch) * (self.end - chunk[0].start)
                full = (len(chunk) + 1) * size > most
                if full or (group.start > chunk[0].start and len(chunk) * size >= WORTH):
                    yield chunk
                    chunk = []
            chunk.append(group)
        if chunk:
            yield chunk

    def run(self, groups: Sequence[Planned]) -> Tensor:
        """(group, batch, read, vocab) logits where they are read, in the order of `groups`."""
        order = sorted(range(len(groups)), key=lambda i: groups[i].entry)
        logits = _Run(self, [groups[i] for i in order]).logits()
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
            final = number == self.last
            active = self._enter_pre(number, active)
            if final:
                x, active = self._final(number, layer, active)
                break
            if active:
                x = self.state[:active]
                qkv = self._qkv(layer, number, x)
                x += self._visit("attn_out", number, self._attend(layer, number, *qkv))
                self._visit("resid_mid", number, x)
            active = self._enter_mid(number, active, self.state)
            if active:
                x = self.state[:active]
                x += self._mlp(layer, number, x)
                self._visit("resid_post", number, x)
            active = self._enter_post(number, active, self.state)
        out = s.x.read_out(x)
        before = (s.reads < self.start)[None, :, :, None]
        return torch.where(before, s.logits[None], out) if bool(before.any()) else out

    def _final(self, number: int, layer: Layer, active: int) -> tuple[Tensor, int]:
        """The last layer: keys and values for the window, all else where it is read."""
        s = self.s
        take = torch.arange(len(s.batch), device=self.state.device)[:, None], self.slots
        x = self.state.new_empty(len(self.groups), *self.slots.shape, self.state.shape[-1])
        if active:
            q, k, v = self._qkv(layer, number, self.state[:active])
            x[:active] = self.state[:active][:, take[0], take[1]]
            self.at_read = True
            out = self._attend(layer, number, q[:, take[0], take[1]], k, v, self.slots)
            x[:active] += self._visit("attn_out", number, out)
            self._visit("resid_mid", number, x[:active])
        self.at_read = True
        active = self._enter_mid(number, active, x)
        if active:
            x[:active] += self._mlp(layer, number, x[:active])
            self._visit("resid_post", number, x[:active])
        active = self._enter_post(number, active, x)
        return x, active

    def _qkv(self, layer: Layer, number: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(group, batch, pos, head, d_head) queries, keys and values."""
        ex = self.s.x
        q, k, v = F.linear(layer.norm1(x), *layer.qkv).unflatten(-1, (3, ex.n_heads, ex.d_head)).unbind(-3)
        return self._visit("q", number, q), self._visit("k", number, k), self._visit("v", number, v)

    def _attend(
        self, layer: Layer, number: int, q: Tensor, k: Tensor, v: Tensor, slots: Tensor | None = None
    ) -> Tensor:
        """(group, batch, query, d_model) what attention adds: earlier keys and values are the unedited run's.

        slots: (batch, query) places of the queries in the window; all of it where None.
        """
        groups, _, n = q.shape[:3]
        q, k, v = (a.permute(1, 3, 0, 2, 4) for a in (q, k, v))  # batch, head, group, pos, d_head
        size = k.shape[3]
        at = torch.arange(size, device=q.device)
        later = at > (at[:, None] if slots is None else slots[:, None, None, :, None])
        q = q * layer.scale
        scores = (q @ k.mT).masked_fill_(later, -torch.inf)
        if self.start == 0:
            z = scores.softmax(-1) @ v
        else:
            keys, values = (self.s.sites[name, number][:, : self.start].transpose(1, 2) for name in "kv")
            before = (q.flatten(2, 3) @ keys.mT).unflatten(2, (groups, n))
            pattern = torch.cat([before, scores], -1).softmax(-1)
            z = (pattern[..., : self.start].flatten(2, 3) @ values).unflatten(2, (groups, n))
            z = z + pattern[..., self.start :] @ v
        z = self._visit("z", number, z.permute(2, 0, 3, 1, 4).contiguous())
        return F.linear(z.flatten(-2), *layer.out)

    def _mlp(self, layer: Layer, number: int, x: Tensor) -> Tensor:
        if layer.norm2 is None or layer.mlp_in is None or layer.mlp_out is None:
            return torch.zeros_like(x)
        post = self._visit("mlp_post", number, self.s.x.act(F.linear(layer.norm2(x), *layer.mlp_in)))
        return self._visit("mlp_out", number, F.linear(post, *layer.mlp_out))

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
                    for slot, edit in self.later.get((site, 0), []):
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
            for edit in self._at(edits, "attn_out", number):
                self._write(out, edit)
            state[slot] = self._base("resid_pre", number, copy=False) + out
            for edit in self._at(edits, "resid_mid", number):
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
                for edit in self._at(edits, "mlp_out", number):
                    self._write(out, edit)
                mid += out
            state[slot] = mid
            for edit in self._at(edits, "resid_post", number):
                self._write(state[slot], edit)
        return max(active, entering.stop)

    def _difference(self, site: str, number: int, edits: EditGroup, out: Tensor, weight: Tensor) -> Tensor:
        """`out` (batch, pos, d_model) after edits of what `weight` (d_model, in) maps to it."""
        chosen = self._at(edits, site, number)
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
    def _at(edits: EditGroup, site: str, number: int) -> list[Edit]:
        return [edit for edit in edits if edit.site == site and edit.layer == number]

    def _base(self, site: str, number: int, *, copy: bool = True) -> Tensor:
        """(batch, pos, …) of the unedited run, at the positions that are now carried."""
        value = self.s.sites[site, number]
        if self.at_read:
            return self.s._take(value, self.s.reads)
        return value[:, self.window].clone() if copy else value[:, self.window]

    def _visit(self, site: str, number: int, value: Tensor) -> Tensor:
        """Apply what edits there are at a site to the rows that are under way."""
        for slot, edit in self.later.get((site, number), []):
            if slot < len(value):
                self._write(value[slot], edit)
        return value

    def _write(self, value: Tensor, edit: Edit) -> None:
        """Edit (batch, carried, …) in place."""
        tail: tuple = (slice(None) if edit.head is None else edit.head,) if edit.site in ("q", "k", "v", "z") else ()
        tail = (*tail, slice(None) if edit.neuron is None else edit.neuron)
        narrowed = self.at_read and edit.site not in ("k", "v", "q", "resid_pre")
        if edit.position is None:
            if narrowed:
                where: tuple = (self.s.rows[:, None], self.s.reads, *tail)
            else:
                where = (slice(None), self.window, *tail)
            here = (slice(None), slice(None), *tail)
            value[here] = self.s.new_value(edit, where)(value[here]).to(value.dtype)
            return
        batch = self.s.batch
        at = (
            batch.position(edit.position)
            if isinstance(edit.position, str)
            else torch.full_like(self.s.rows, edit.position)
        )
        new = self.s.new_value(edit, (self.s.rows, at, *tail))
        if not narrowed:
            inside = at < self.end
            if bool(inside.all()):
                here = (self.s.rows, at - self.start, *tail)
                value[here] = new(value[here]).to(value.dtype)
                return
            slots = (at - self.start).clamp(max=value.shape[1] - 1)
            here = (self.s.rows, slots, *tail)
            old = value[here]
            keep = inside.view(-1, *[1] * (old.ndim - 1))
            value[here] = torch.where(keep, new(old).to(value.dtype), old)
            return
        match = self.s.reads == at[:, None]
        for column in range(match.shape[1]):
            if bool(match[:, column].any()):
                here = (self.s.rows, torch.full_like(self.s.rows, column), *tail)
                old = value[here]
                keep = match[:, column].view(-1, *[1] * (old.ndim - 1))
                value[here] = torch.where(keep, new(old).to(value.dtype), old)
