"""Groups of edits through the layers as one growing batch, as `Suffix` planned them."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kit.engine.edits import EditGroup
from interp_kit.engine.fast.forward import INSIDE
from interp_kit.engine.fast.layers import Layer
from interp_kit.engine.fast.plan import STAGE, Planned, Suffix
from interp_kit.engine.fast.ragged import Beside, Reads, Windows
from interp_kit.engine.fast.stream import Placed, Stream, chosen, copies_together

TILE = 1024  # tokens that go through a layer's attention at once


def logits_under(suffix: Suffix, groups: Sequence[EditGroup]) -> Tensor:
    """(group, batch, read, vocab) logits where `suffix` reads them, under each group of one of its chunks. Raises
    ValueError for a group that reaches nothing that is read."""
    planned = [plan for group in groups if (plan := suffix.plan(group))]
    if len(planned) < len(groups):
        raise ValueError("a group of edits that reaches nothing that is read")
    order = sorted(range(len(planned)), key=lambda i: (planned[i].entry, planned[i].local, planned[i].start))
    logits = _Run(suffix, [planned[i] for i in order]).logits()
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return logits[back.to(logits.device)]


class _Run:
    """One batch of groups, sorted by entry, through the layers."""

    def __init__(self, suffix: Suffix, groups: Sequence[Planned]) -> None:
        self.s, self.groups = suffix, groups
        self.windows = Windows([group.start for group in groups], suffix.end, suffix.rows)
        self.last = len(suffix.x.layers) - 1
        self.unseen = self.unread = suffix.x.embed.new_empty(0)  # masks of scores, kept for the next tile
        self.later: dict[tuple[str, int], list[Placed]] = {}
        for slot, group in enumerate(groups):
            for edit in group.edits:
                if (edit.layer or 0, STAGE[edit.site]) != group.entry or STAGE[edit.site] == 0:
                    self.later.setdefault((edit.site, edit.layer or 0), []).append((slot, edit))

    def logits(self) -> Tensor:
        s, active = self.s, 0
        stream = Stream(s, self.windows, self._empty(self.windows.first[-1]), self.later)
        for number, layer in enumerate(s.x.layers):
            before, active = active, self._enter_pre(stream, number, active)
            source = stream.up_to(active).clone() if layer.parallel else None
            if number == self.last:
                stream, source = self._read_attention(stream, layer, before, active)
            else:
                beside, heads = self._beside(number), s.x.n_heads
                for slots in self._tiles(active):
                    qkv = self._qkv(stream, layer, number, before, slots)
                    out = self._attend(stream, layer, number, slots, beside, qkv[:, :heads], qkv[:, heads:])
                    stream.x[self.windows.span(slots)] += out
            active = self._behind_attention(stream, number, layer, active, source)
        out = s.x.read_out(stream.x.unflatten(0, (len(self.groups), *s.reads.shape)))
        unreached = s.reads < torch.tensor(self.windows.starts, device=s.reads.device)[:, None, None]
        return torch.where(unreached[..., None], s.logits, out) if bool(unreached.any()) else out

    def _empty(self, tokens: int) -> Tensor:
        return self.s.x.embed.new_empty(tokens, self.s.x.embed.shape[1])

    def _read_attention(self, stream: Stream, layer: Layer, before: int, active: int) -> tuple[Stream, Tensor | None]:
        """The last layer's attention: keys and values of all that is carried; queries, and all behind them, where
        logits are read. Gives the stream there, and what it was before attention if the MLP reads that."""
        number, ex, reads = self.last, self.s.x, Reads(self.s.reads)
        read = Stream(self.s, reads, self._empty(len(self.groups) * reads.each), self.later)
        weight, bias = (w[: ex.n_heads * ex.d_head] for w in layer.qkv)
        beside = self._beside(number)
        source = self._empty(active * reads.each) if layer.parallel else None
        for slots in self._tiles(active):
            kv = self._qkv(stream, layer, number, before, slots)
            here = stream.x[self.windows.read(self.s.reads, slots)]
            q = ex.linear(layer.norm1(here), weight, bias).unflatten(-1, (ex.n_heads, ex.d_head))
            q = read.visit("q", number, q, slots)
            read.x[reads.span(slots)] = here + self._attend(read, layer, number, slots, beside, q, kv)
            if source is not None:
                source[reads.span(slots)] = here
        return read, source

    def _behind_attention(self, stream: Stream, number: int, layer: Layer, active: int, source: Tensor | None) -> int:
        """The rest of a layer, where more groups enter. source: what the MLP of a parallel block reads, of the groups
        that entered before."""
        stream.visit("resid_mid", number, stream.up_to(active), range(active))
        before, active = active, self._enter_mid(stream, number, active)
        entered = range(before, active)
        if source is not None and entered and not any(stream.edits(site, number, entered) for site in INSIDE):
            self._add_unedited_mlp(stream, number, entered)
            if before:
                self._mlp(stream, layer, number, before, source)
        elif active:
            if source is not None and entered:
                fresh = Stream(self.s, stream.carried, self._empty(stream.carried.span(range(active)).stop), {})
                fresh.x[: len(source)] = source
                fresh.fill("resid_pre", number, entered)
                source = fresh.x
            self._mlp(stream, layer, number, active, source)
        if active:
            stream.visit("resid_post", number, stream.up_to(active), range(active))
        return self._enter_post(stream, number, active)

    def _add_unedited_mlp(self, stream: Stream, number: int, slots: range) -> None:
        """Add what the MLP gives in the unedited run: in a parallel block it does not read what attention gives."""
        here, span = self._empty(stream.carried.span(slots).stop), stream.carried.span(slots)
        aside = Stream(self.s, stream.carried, here, {})
        for site, sign in (("resid_post", 1), ("resid_mid", -1)):
            aside.fill(site, number, slots)
            stream.x[span] += sign * here[span]

    def _tiles(self, active: int) -> Iterator[range]:
        """The slots up to `active`, so many at once that what attention makes of them stays in the processor's cache,
        elsewhere than there as many as start alike: so that no more than half of the queries is padding."""
        first, starts = self.windows.first, self.windows.starts
        most = TILE if self.s.x.embed.device.type == "cpu" else first[-1]
        begin, low = 0, self.s.end
        for slot in range(active):
            low, tokens = min(low, starts[slot]), first[slot + 1] - first[begin]
            padded = (slot + 1 - begin) * len(self.s.batch) * (self.s.end - low)
            if slot > begin and (tokens > most or padded > 2 * tokens):
                yield range(begin, slot)
                begin, low = slot, starts[slot]
        if active:
            yield range(begin, active)

    def _qkv(self, stream: Stream, layer: Layer, number: int, before: int, slots: range) -> Tensor:
        """(token, head, d_head) the heads of queries, then of keys, then of values, edited; in the last layer of keys
        and values alone.

        Of groups from `before` on, which enter here, those that change single positions have the unedited run's
        anywhere else.
        """
        ex, names, windows = self.s.x, "kv" if number == self.last else "qkv", self.windows
        x, heads = stream.x[windows.span(slots)], ex.heads[3 - len(names) :]
        weight, bias = (w[len(w) - sum(heads) * ex.d_head :] for w in layer.qkv)
        shape = (sum(heads), ex.d_head)
        local = next((slot for slot in slots if slot >= before and self.groups[slot].local), slots.stop)
        if local == slots.stop:
            result = ex.linear(layer.norm1(x), weight, bias).unflatten(-1, shape)
        else:
            ahead = windows.first[slots.start]
            whole, kept = windows.first[local] - ahead, range(local, slots.stop)
            result = x.new_empty(len(x), *shape)
            if whole:
                result[:whole] = ex.linear(layer.norm1(x[:whole]), weight, bias).unflatten(-1, shape)
            for name, part in zip(names, result[whole:].split(heads, 1), strict=True):
                windows.fill(part, self.s.sites[name, number], kept)
            sites = ("embed", "pos_embed", "resid_pre")
            edits = [found for site in sites for found in stream.edits(site, number, kept)]
            if edits:
                tokens = stream.places(edits)[-1] - ahead
                result[tokens] = ex.linear(layer.norm1(x[tokens]), weight, bias).view(-1, *shape)
        for name, part in zip(names, result.split(heads, 1), strict=True):
            stream.visit(name, number, part, slots)
        return result

    def _beside(self, number: int) -> Beside:
        return Beside([self.s.keys(number), self.s.sites["v", number]])

    def _attend(
        self, stream: Stream, layer: Layer, number: int, slots: range, beside: Beside, q: Tensor, kv: Tensor
    ) -> Tensor:
        """(token, d_model) what attention adds to a stream, of whose tokens q are the queries; kv of all that windows
        carry: earlier keys and values are the unedited run's."""
        windows, batch, read = self.windows, len(slots) * len(self.s.batch), isinstance(stream.carried, Reads)
        low, kv = windows.low(slots), kv.unflatten(1, (2, -1))
        if layer.places_count:
            q = layer.query(q, stream.carried.at(slots))
            kv[:, 0] = layer.key(kv[:, 0], windows.at(slots))
        keys, values = windows.whole(kv, slots, beside).unbind(2)
        queries = q.unflatten(0, (batch, -1)) if read else windows.texts(q, slots, low)
        mask = self._unread(len(slots)) if read else self._unseen()[low:] if low else None
        queries, keys, values = (value.transpose(1, 2) for value in (queries, keys, values))
        z = self.s.x.attend(queries, keys, values, layer.scale, mask=mask, is_causal=mask is None).transpose(1, 2)
        z = z.flatten(0, 1) if read else windows.tokens(z, slots, low)
        z = stream.visit("z", number, z, slots)
        return stream.visit("attn_out", number, self.s.x.linear(z.flatten(1), *layer.out), slots)

    def _unseen(self) -> Tensor:
        """(query, key) what is added to scores of all positions: 0 up to a query's own, -inf behind it."""
        if not len(self.unseen):
            every = torch.arange(self.s.end, device=self.s.reads.device)
            self.unseen = self._masked(every > every[:, None])
        return self.unseen

    def _unread(self, slots: int) -> Tensor:
        """(slot batch, 1, read, key) the same where logits are read."""
        if len(self.unread) != slots * len(self.s.batch):
            behind = torch.arange(self.s.end, device=self.s.reads.device) > self.s.reads[:, None, :, None]
            self.unread = self._masked(behind).repeat(slots, 1, 1, 1)
        return self.unread

    def _masked(self, behind: Tensor) -> Tensor:
        return self.s.x.embed.new_zeros(behind.shape).masked_fill_(behind, -torch.inf)

    def _mlp(self, stream: Stream, layer: Layer, number: int, active: int, source: Tensor | None) -> None:
        """Add to the residual stream what the MLP makes of it, or of what it was before attention (`source`)."""
        if layer.mlp is None:
            return
        x, slots = stream.up_to(active), range(active)
        source = x if source is None else source
        if not any((site, number) in self.later for site in INSIDE):
            self.s.x.add_mlp(layer.mlp, source, x, x)
            return
        post = layer.mlp.hidden(source, self.s.x.linear)
        post = stream.visit("mlp_post", number, post, slots)
        x += stream.visit("mlp_out", number, self.s.x.linear(post, *layer.mlp.out), slots)

    def _entering(self, number: int, stage: int, active: int) -> range:
        stop = active
        while stop < len(self.groups) and self.groups[stop].entry == (number, stage):
            stop += 1
        return range(active, stop)

    def _enter_pre(self, stream: Stream, number: int, active: int) -> int:
        entering = self._entering(number, 0, active)
        if entering:
            stream.fill("resid_pre", number, entering)
            if number == 0:
                # an edit of one of the two embeddings changes the other's sum by what it adds
                for site in ("embed", "pos_embed"):
                    changed: dict[int, Tensor] = {}
                    for slot, edit in stream.edits(site, 0, entering):
                        if slot not in changed:
                            changed[slot] = stream.base_of(site, 0, slot).clone()
                        stream.write(changed[slot], edit, slot)
                    for slot, value in changed.items():
                        stream.of(slot).add_(value - stream.base_of(site, 0, slot))
        active = max(active, entering.stop)
        if active:
            stream.visit("resid_pre", number, stream.up_to(active), range(active))
        return active

    def _enter_mid(self, stream: Stream, number: int, active: int) -> int:
        entering = self._entering(number, 1, active)
        if entering:
            stream.fill("resid_mid", number, entering)
            out = self.s.x.layers[number].out[0]
            for slot in self._heads_copied(stream, number, entering):
                self._change(stream, slot, number, ("resid_pre", "z", "attn_out", "resid_mid"), out)
        return max(active, entering.stop)

    def _enter_post(self, stream: Stream, number: int, active: int) -> int:
        entering = self._entering(number, 2, active)
        if entering:
            stream.fill("resid_post", number, entering)
            mlp = self.s.x.layers[number].mlp
            for slot in entering:
                sites = ("resid_mid", "mlp_post", "mlp_out", "resid_post")
                self._change(stream, slot, number, sites, None if mlp is None else mlp.out[0])
        return max(active, entering.stop)

    def _change(
        self, stream: Stream, slot: int, number: int, sites: tuple[str, str, str, str], weight: Tensor | None
    ) -> None:
        """Change that edits of its last three sites make in a slot that holds the unedited run.

        sites: the residual stream before, what `weight` (d_model, in) maps, what it gives, the residual stream after.
        """
        before, inner, outer, behind = sites
        edits, x = self.groups[slot].edits, stream.of(slot)
        changes = [] if weight is None else self._difference(stream, inner, number, slot, weight)
        written = chosen(edits, outer, number)
        if written:
            out = stream.base_of(outer, number, slot).clone()
            for change in changes:
                out += change
            for edit in written:
                stream.write(out, edit, slot)
            changes = []
            x.copy_(stream.base_of(before, number, slot) + out)
        for change in changes:
            x += change
        for edit in chosen(edits, behind, number):
            stream.write(x, edit, slot)

    def _heads_copied(self, stream: Stream, number: int, entering: range) -> list[int]:
        """Add to slots that hold the unedited run what changes where one head's output at a single position is copied;
        gives the slots whose edits behind this layer's attention are others."""
        single, size = [], self.s.x.d_head
        for slot in entering:
            own = [edit for edit in self.groups[slot].edits if (edit.layer, STAGE[edit.site]) == (number, 1)]
            if len(own) == 1 and own[0].site == "z" and own[0].head is not None and own[0].neuron is None:
                single.append((slot, own[0]))
        copied, others = copies_together(single)
        for copies in copied:
            rows, at, tokens = stream.places(copies)
            edit = copies[0][1]
            assert edit.head is not None
            old = stream.carried.pick(stream.unedited("z", number), rows, at, tokens)[:, edit.head]
            new = self.s.new_value(edit, (rows, at, *edit.tail))(old)
            weight = self.s.x.layers[number].out[0][:, edit.head * size : (edit.head + 1) * size]
            stream.x[tokens] += F.linear(new - old, weight)
        done = {slot for slot, _ in single} - {slot for slot, _ in others}
        return [slot for slot in entering if slot not in done]

    def _difference(self, stream: Stream, site: str, number: int, slot: int, weight: Tensor) -> list[Tensor]:
        """(batch, carried, d_model) what a slot's edits of a site change behind `weight` (d_model, in), in parts."""
        edits = chosen(self.groups[slot].edits, site, number)
        if not edits:
            return []
        base, size = stream.base_of(site, number, slot), self.s.x.d_head
        changed = base.clone()
        for edit in edits:
            stream.write(changed, edit, slot)
        changed -= base
        heads = {edit.head for edit in edits}
        if site != "z" or None in heads:
            return [F.linear(changed.flatten(2), weight)]
        return [F.linear(changed[..., h, :], weight[:, h * size : (h + 1) * size]) for h in heads if h is not None]
