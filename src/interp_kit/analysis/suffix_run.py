"""Groups of edits through the layers as one growing batch, as `Suffix` planned them."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kit.analysis.sites import Copy, Edit, EditGroup
from interp_kit.analysis.suffix import STAGE, Planned, Suffix
from interp_kit.analysis.writing import write
from interp_kit.models.plain import Layer
from interp_kit.models.products import blocks

TILE = 1024  # tokens that go through a layer's attention at once


def logits_under(suffix: Suffix, groups: Sequence[EditGroup]) -> Tensor:
    """(group, batch, read, vocab) logits where `suffix` reads them, under each group of one of its chunks. Raises
    ValueError for a group that reaches nothing that is read."""
    planned = [plan for group in groups if (plan := suffix.plan(group))]
    if len(planned) < len(groups):
        raise ValueError("a group of edits that reaches nothing that is read")
    order = sorted(range(len(planned)), key=lambda i: (planned[i].entry, planned[i].local))
    logits = _Run(suffix, [planned[i] for i in order]).logits()
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return logits[back.to(logits.device)]


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
        self.masks: dict[int, Tensor] = {}  # for so many slots, read positions alone; 0: all positions
        self.later: dict[tuple[str, int], list[tuple[int, Edit]]] = {}
        for slot, group in enumerate(groups):
            for edit in group.edits:
                if (edit.layer or 0, STAGE[edit.site]) != group.entry or STAGE[edit.site] == 0:
                    self.later.setdefault((edit.site, edit.layer or 0), []).append((slot, edit))

    def logits(self) -> Tensor:
        s, active, x = self.s, 0, self.state
        for number, layer in enumerate(s.x.layers):
            before, active = active, self._enter_pre(number, active)
            if number == self.last:
                x, active = self._final(number, layer, before, active)
                break
            for slots in self._tiles(active):
                q, k, v = self._qkv(layer, number, before, slots)
                self.state[slots.start : slots.stop] += self._attend(layer, number, slots, q, k, v)
            self._visit("resid_mid", number, self.state[:active])
            active = self._enter_mid(number, active, self.state)
            if active:
                x = self.state[:active]
                self._mlp(layer, number, x)
                self._visit("resid_post", number, x)
            active = self._enter_post(number, active, self.state)
        out = s.x.read_out(x)
        unreached = (s.reads < self.start)[None, :, :, None]
        return torch.where(unreached, s.logits[None], out) if bool(unreached.any()) else out

    def _final(self, number: int, layer: Layer, before: int, active: int) -> tuple[Tensor, int]:
        """The last layer: keys and values for the window, all else where it is read."""
        s = self.s
        take = torch.arange(len(s.batch), device=self.state.device)[:, None], self.slots
        x = self.state.new_empty(len(self.groups), *self.slots.shape, self.state.shape[-1])
        for slots in self._tiles(active):
            self.at_read, here = False, slice(slots.start, slots.stop)
            k, v = self._qkv(layer, number, before, slots)
            x[here] = self.state[here, take[0], take[1]]
            self.at_read = True
            weight, bias = (w[: s.x.n_heads * s.x.d_head] for w in layer.qkv)
            q = s.x.linear(layer.norm1(x[here]), weight, bias).unflatten(-1, (s.x.n_heads, s.x.d_head))
            q = self._visit("q", number, q, slots)
            x[here] += self._attend(layer, number, slots, q, k, v, self.slots)
        self.at_read = True
        self._visit("resid_mid", number, x[:active])
        active = self._enter_mid(number, active, x)
        if active:
            self._mlp(layer, number, x[:active])
            self._visit("resid_post", number, x[:active])
        active = self._enter_post(number, active, x)
        return x, active

    def _tiles(self, active: int) -> Iterator[range]:
        """The slots up to `active`, so many at once that what attention makes of them stays in the processor's cache;
        elsewhere than there all at once."""
        step = -(-TILE // (self.state.shape[1] * self.state.shape[2])) if self.state.device.type == "cpu" else active
        return (range(at, min(at + step, active)) for at in range(0, active, max(1, step)))

    def _qkv(self, layer: Layer, number: int, before: int, slots: range) -> list[Tensor]:
        """Queries, keys and values (slot, batch, pos, head, d_head), edited; in the last layer keys and values alone.

        Of groups from `before` on, which enter here, those that change single positions have the unedited run's
        anywhere else.
        """
        ex, names = self.s.x, "kv" if number == self.last else "qkv"
        x, size = self.state[slots.start : slots.stop], ex.n_heads * ex.d_head
        weight, bias = (w[(3 - len(names)) * size :] for w in layer.qkv)
        shape = (len(names), ex.n_heads, ex.d_head)
        whole = next((i for i, slot in enumerate(slots) if slot >= before and self.groups[slot].local), len(slots))
        if whole == len(slots):
            result = ex.linear(layer.norm1(x), weight, bias).unflatten(-1, shape)
        else:
            result = x.new_empty(*x.shape[:3], *shape)
            result[:whole] = ex.linear(layer.norm1(x[:whole]), weight, bias).unflatten(-1, shape)
            for i, name in enumerate(names):
                result[whole:, :, :, i] = self.s.sites[name, number][:, self.window]
            edits = [
                (slot - slots.start, edit)
                for site in ("embed", "pos_embed", "resid_pre")
                for slot, edit in self._later(site, number, slots[whole:])
            ]
            where = [(slot, self.s.at(edit)) for slot, edit in edits]
            if where:
                places = torch.stack([place for _, place in where]) - self.start
                number_of = torch.tensor([slot for slot, _ in where], device=x.device)[:, None].expand_as(places)
                rows, reached = self.s.rows.expand(len(places), -1), (places >= 0) & (places < x.shape[2])
                chosen = number_of[reached], rows[reached], places[reached]
                result[chosen] = ex.linear(layer.norm1(x[chosen]), weight, bias).view(-1, *shape)
        return [self._visit(name, number, part, slots) for name, part in zip(names, result.unbind(3), strict=True)]

    def _later(self, site: str, number: int, slots: range | None = None) -> list[tuple[int, Edit]]:
        """(slot, edit) of a site, of some slots alone where these are given."""
        found = self.later.get((site, number), [])
        return found if slots is None else [(slot, edit) for slot, edit in found if slot in slots]

    def _attend(
        self, layer: Layer, number: int, slots: range, q: Tensor, k: Tensor, v: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """(slot, batch, query, d_model) what attention adds: earlier keys and values are the unedited run's.

        at: (batch, query) places of the queries in the window; all of it where None.
        """
        if self.start:
            k, v = (self._whole(name, number, value) for name, value in (("k", k), ("v", v)))
        options: dict = {"is_causal": True}
        if self.start or at is not None:
            options = {"attn_mask": self._unseen(q, at)}
        queries, keys, values = (value.flatten(0, 1).transpose(1, 2) for value in (q, k, v))
        z = F.scaled_dot_product_attention(queries, keys, values, scale=layer.scale, **options)
        z = z.transpose(1, 2).unflatten(0, q.shape[:2])
        z = self._visit("z", number, z, slots)
        return self._visit("attn_out", number, self.s.x.linear(z.flatten(-2), *layer.out), slots)

    def _unseen(self, q: Tensor, at: Tensor | None) -> Tensor:
        """(…, query, key) what is added to the scores of queries (slot, batch, query, head, d_head): 0 up to their own
        position, -inf behind it."""
        rows = 0 if at is None else len(q)
        if rows not in self.masks:
            places = torch.arange(q.shape[2], device=q.device) if at is None else at.repeat(len(q), 1)[:, None]
            behind = torch.arange(self.end, device=q.device) > (places + self.start)[..., None]
            self.masks[rows] = q.new_zeros(behind.shape).masked_fill_(behind, -torch.inf)
        return self.masks[rows]

    def _whole(self, name: str, number: int, window: Tensor) -> Tensor:
        """Keys or values of all positions: the unedited run's, then those of the window."""
        whole = window.new_empty(*window.shape[:2], self.end, *window.shape[3:])
        whole[:, :, : self.start] = self.s.sites[name, number][:, : self.start]
        whole[:, :, self.start :] = window
        return whole

    def _mlp(self, layer: Layer, number: int, x: Tensor) -> None:
        """Add to the residual stream x (group, batch, pos, d_model) what the MLP makes of it."""
        if layer.norm2 is None or layer.mlp_in is None or layer.mlp_out is None:
            return
        linear = self.s.x.linear
        if not self._later("mlp_post", number) and not self._later("mlp_out", number):
            for rows in blocks(x):
                rows += linear(linear(layer.norm2(rows), *layer.mlp_in, act=True), *layer.mlp_out)
            return
        post = self._visit("mlp_post", number, linear(layer.norm2(x), *layer.mlp_in, act=True))
        x += self._visit("mlp_out", number, linear(post, *layer.mlp_out))

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
        if entering:
            state[entering.start : entering.stop] = self._base("resid_mid", number, copy=False)
        for slot in self._heads_copied(number, entering, state):
            edits = self.groups[slot].edits
            out = self._base("attn_out", number)
            out = self._difference("z", number, edits, out, layer.out[0])
            for edit in self._of(edits, "attn_out", number):
                self._write(out, edit)
            state[slot] = self._base("resid_pre", number, copy=False) + out
            for edit in self._of(edits, "resid_mid", number):
                self._write(state[slot], edit)
        return max(active, entering.stop)

    def _heads_copied(self, number: int, entering: range, state: Tensor) -> list[int]:
        """Add to rows that hold the unedited run what changes where one head's output at a single position is copied;
        gives the slots whose edits behind this layer's attention are others."""
        single, size = [], self.s.x.d_head
        for slot in entering:
            own = [edit for edit in self.groups[slot].edits if (edit.layer, STAGE[edit.site]) == (number, 1)]
            if len(own) == 1 and own[0].site == "z" and own[0].head is not None and own[0].neuron is None:
                single.append((slot, own[0]))
        copied, others = _copies(single)
        for copies in copied:
            slots, rows, at, places = self._places(copies)
            edit = copies[0][1]
            assert edit.head is not None
            old = self.s.sites["z", number][rows, at, edit.head]
            new = self.s.new_value(edit, (rows, at, *edit.tail))(old)
            weight = self.s.x.layers[number].out[0][:, edit.head * size : (edit.head + 1) * size]
            state[slots, rows, places] += F.linear(new - old, weight)
        done = {slot for slot, _ in single} - {slot for slot, _ in others}
        return [slot for slot in entering if slot not in done]

    def _places(self, edits: Sequence[tuple[int, Edit]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slots, rows, positions and places among those that are now carried, of all that edits at single positions
        write."""
        at = torch.stack([self.s.at(edit) for _, edit in edits])
        if self.at_read:
            number, rows, places = (self.s.reads == at[..., None]).nonzero().unbind(1)
        else:
            number, rows = ((at >= self.start) & (at < self.end)).nonzero().unbind(1)
            places = at[number, rows] - self.start
        return torch.tensor([slot for slot, _ in edits], device=at.device)[number], rows, at[number, rows], places

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
            return self.s.take(value, self.s.reads)
        return value[:, self.window].clone() if copy else value[:, self.window]

    def _visit(self, site: str, number: int, value: Tensor, slots: range | None = None) -> Tensor:
        """Apply what edits there are at a site to its value (slot, batch, pos, …) in `slots`, by default the first."""
        slots = slots or range(len(value))
        copied, others = _copies([(slot - slots.start, edit) for slot, edit in self._later(site, number, slots)])
        for copies in copied:
            number_of, rows, at, places = self._places(copies)
            edit = copies[0][1]
            here = (number_of, rows, places, *edit.tail)
            old = value[here]
            value[here] = self.s.new_value(edit, (rows, at, *edit.tail))(old).to(old.dtype)
        for slot, edit in others:
            self._write(value[slot], edit)
        return value

    def _write(self, value: Tensor, edit: Edit) -> None:
        """Edit (batch, carried, …) in place."""
        write(value, edit, self.s.reads if self.at_read else self.window, self.s.batch, self.s.new_value)


def _copies(edits: Sequence[tuple[int, Edit]]) -> tuple[list[list[tuple[int, Edit]]], list[tuple[int, Edit]]]:
    """Edits (slot, edit) of one site: those that can be written together (copies from one batch into one part of the
    activation, at a single position each and alone in their slots), and the others in their order."""
    count = Counter(slot for slot, _ in edits)
    alike: dict[tuple, list[tuple[int, Edit]]] = {}
    others = []
    for slot, edit in edits:
        if isinstance(edit.source, Copy) and edit.position is not None and count[slot] == 1:
            alike.setdefault((id(edit.source.batch), edit.head, edit.neuron), []).append((slot, edit))
        else:
            others.append((slot, edit))
    return list(alike.values()), others
