"""One batch on one model under edits: what each edit writes, and the reference activations that edits copy, average or
resample. `sweep` runs many of them, `editing` and `decode` one group.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.apply import write
from interp_kit.engine.decode import Change
from interp_kit.engine.edits import Add, Copy, CopyAttended, Edit, EditGroup, Mean, Resample, Scale, Set, Zero
from interp_kit.engine.fast.forward import BEHIND, INSIDE, Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.inputs import check_fits, unpadded, whole_text
from interp_kit.engine.sites import hook_name
from interp_kit.engine.weight_edits import edited_weights
from interp_kit.models.hold import check_padding
from interp_kit.models.hooked_model import Hook, HookedModel

NOT_FINITE = "the unedited model gives nan or infinite logits on this batch"


def needs_hooks(edit: Edit) -> bool:
    """Whether an edit is none of an activation alone, and runs through TransformerLens hooks."""
    return edit.is_weight or isinstance(edit.source, CopyAttended)


class Engine:
    """One batch on one model: the unedited run, and cached reference activations for the edits."""

    def __init__(self, model: HookedModel, batch: TokenBatch) -> None:
        check_fits(batch.tokens, model.cfg.n_ctx, model.cfg.d_vocab)
        check_padding(model, batch.mask)
        self.model, self.batch = model, batch
        self.rows = torch.arange(len(batch), device=batch.tokens.device)
        self.executor: Executor | None = None  # what computes reference activations, else the model itself does
        self._cache: dict[tuple[object, ...], Tensor] = {}
        self._kept: list[object] = []  # keeps the batches alive whose id is a key
        self._called: set[str] = set()  # hooks that an edit was applied at
        self._aligned: set[tuple[int, str | None]] = set()  # batches, and names in them, that were found aligned

    @functools.cached_property
    def logits(self) -> Tensor:
        """(batch, pos, vocab) of the unedited run, through the model itself. Raises FloatingPointError where they are
        not finite."""
        logits = whole_text(self.model, self.batch.tokens)
        if not torch.isfinite(logits[self.batch.mask]).all():
            raise FloatingPointError(NOT_FINITE)
        return logits

    def run(self, group: EditGroup) -> Tensor:
        """(batch, pos, vocab) logits under the edits of one group."""
        hooks = self.hooks(group)  # before the weights change: what is copied or averaged is the unedited model's
        with edited_weights(self.model, group):
            tokens = self.batch.tokens
            logits = self.model.run_with_hooks(tokens, fwd_hooks=hooks, **unpadded(self.model, tokens))
        for edit in group:
            if not needs_hooks(edit) and hook_name(edit.site, edit.layer) not in self._called:
                raise ValueError(f"{edit}: the model never calls {hook_name(edit.site, edit.layer)}")
        return logits

    def hooks(self, group: EditGroup) -> list[Hook]:
        """The hooks of a group's activation edits."""
        return [hook for edit in group if not edit.is_weight for hook in self._hooks(edit)]

    def change(self, group: EditGroup) -> Change:
        """The group's activation edits for `decode`, at the batch's own positions: the text behind them is new. Raises
        Unsupported where it has edits by sender."""
        edits = [edit for edit in group if not edit.is_weight]
        if any(needs_hooks(edit) for edit in edits):
            raise Unsupported("senders are edited")
        self.harvest([group])  # before weights change
        length = self.batch.tokens.shape[1]

        def apply(site: str, layer: int, start: int, value: Tensor) -> None:
            here = slice(start, min(start + value.shape[1], length))
            for edit in edits:
                if (edit.site, edit.layer or 0) == (site, layer) and start < length:
                    write(value[:, : here.stop - start], edit, here, self.batch, self.new_value)

        return apply

    def check(self, edit: Edit) -> None:
        """Raise ValueError where an edit copies from a batch that is not aligned with this one."""
        if isinstance(edit.source, Copy | CopyAttended):
            self._check_aligned(edit.source.batch, edit)

    def harvest(
        self, groups: Iterable[EditGroup], whole: TokenBatch | None = None, reads: Tensor | None = None
    ) -> Tensor | None:
        """Compute what activations the edits refer to, each batch in one run. Gives (batch, read, d_model) the residual
        stream behind the last block at positions `reads` (batch, read) of `whole`, one of these batches or another,
        where there is an executor."""
        needed: dict[int, tuple[TokenBatch, set[tuple[str, int | None]]]] = {}
        for edit in (edit for group in groups for edit in group):
            match edit.source:
                case Copy(batch=over):
                    pass
                case Mean(over=over) | Resample(over=over):
                    over = over or self.batch
                case _:
                    continue
            needed.setdefault(id(over), (over, set()))[1].add((edit.site, edit.layer))
        if whole is not None and self.executor is not None:
            needed.setdefault(id(whole), (whole, set()))
        hidden = None
        for over, sites in needed.values():
            found = self._harvest(over, sites, reads if over is whole else None)
            hidden = found if over is whole else hidden
        return hidden

    def _harvest(
        self, over: TokenBatch, sites: set[tuple[str, int | None]], reads: Tensor | None = None
    ) -> Tensor | None:
        names, hidden = {hook_name(site, layer): (site, layer or 0) for site, layer in sites}, None
        if self.executor is None:
            _, found = self.model.run_with_cache(
                over.tokens, names_filter=list(names), return_type=None, **unpadded(self.model, over.tokens)
            )
        else:
            here: dict[tuple[str, int], Tensor] = {}
            wanted, stop = set(names.values()), max((layer for _, layer in names.values()), default=0) + 1

            def keep(site: str, layer: int, value: Tensor) -> None:
                if (site, layer) in wanted:
                    here[site, layer] = value

            inside = any(site in INSIDE for site, _ in wanted)
            if reads is None:
                self.executor.run(over.tokens, keep, stop, inside=inside)
            else:
                behind = any(layer == len(self.executor.layers) - 1 and site in BEHIND for site, layer in wanted)
                hidden = self.executor.run(over.tokens, keep, at=None if behind else reads, inside=inside)
                if behind:
                    hidden = hidden[torch.arange(len(over), device=reads.device)[:, None], reads]
            found = {name: here[at] for name, at in names.items()}
        for name in names:
            value = found[name].expand(len(over), *found[name].shape[1:])  # pos_embed is one row for all
            self._once(("activation", id(over), name), over, lambda value=value: value)
        return hidden

    def activation(self, batch: TokenBatch, site: str, layer: int | None) -> Tensor:
        """(batch, pos, …) the activation of a site on `batch`, computed once."""
        key = ("activation", id(batch), hook_name(site, layer))
        if key not in self._cache:
            self._harvest(batch, {(site, layer)})
        return self._cache[key]

    def _once(self, key: tuple[object, ...], batch: TokenBatch, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._cache:
            self._cache[key] = compute()
            self._kept.append(batch)
        return self._cache[key]

    def _hooks(self, edit: Edit) -> list[Hook]:
        if isinstance(edit.source, CopyAttended):
            return self._attended_hooks(edit, edit.source)
        name = hook_name(edit.site, edit.layer)
        where = self._index(edit)
        new = self.new_value(edit, where)

        def apply(activation: Tensor, hook: object) -> Tensor:
            self._called.add(name)
            activation = activation.clone()
            activation[where] = new(activation[where]).to(activation.dtype)
            return activation

        return [(name, apply)]

    def _index(self, edit: Edit) -> tuple:
        """The edited slice of a site's activation: (batch, …) at a position, (batch, pos, …) at all."""
        if edit.position is None:
            # only the batch's own positions: under decoding the text behind it is new
            return (slice(None), slice(0, self.batch.tokens.shape[1]), *edit.tail)
        at = self.batch.position(edit.position) if isinstance(edit.position, str) else edit.position
        return (self.rows, at, *edit.tail)

    def new_value(self, edit: Edit, where: tuple) -> Callable[[Tensor], Tensor]:
        """A function from the edited slice to what replaces it. where: the slice's index into the activation."""
        name = hook_name(edit.site, edit.layer)
        match edit.source:
            case Zero():
                return torch.zeros_like
            case Scale(factor=factor):
                return lambda old: old * factor
            case Add(vector=vector, scale=scale):
                part = self._part(vector, where)
                return lambda old: old + scale * part.to(old)
            case Set(value=value):
                part = self._part(value, where)
                return lambda old: part.to(old).expand_as(old)
            case Copy(batch=other):
                self._check_aligned(other, edit)
                reference = self.activation(other, edit.site, edit.layer)
            case Mean(over=over):
                over = over or self.batch
                self._check_named(edit, over)
                reference = self._once(("mean", id(over), name), over, lambda: self._named_mean(over, edit))
            case Resample(seed=seed, over=over):
                over = over or self.batch
                self._check_named(edit, over)
                if isinstance(edit.position, str):
                    reference = self._resampled(over, edit, seed, [edit.position])
                else:
                    key, names = ("resample", id(over), name, seed), list(self.batch.positions)
                    reference = self._once(key, over, lambda: self._resampled(over, edit, seed, names))
            case _:
                raise TypeError(f"unknown source {type(edit.source).__name__}")
        new = reference[where]
        return lambda old: new

    def _part(self, value: Tensor, where: tuple) -> Tensor:
        """What of a value that is broadcast to (batch, pos, …) falls on the positions of an index."""
        behind = sum(isinstance(i, slice) for i in where[2:])  # axes behind batch and pos in the edited slice
        axis = value.ndim - behind - 1
        if isinstance(where[0], slice):  # positions from one to another, of every row
            if axis < 0 or value.shape[axis] != self.batch.tokens.shape[1]:
                return value
            return value.narrow(axis, where[1].start, where[1].stop - where[1].start)
        if where[0].ndim == 2:  # some positions of each row
            value = value[(None,) * (behind + 2 - value.ndim)]
            return value.expand(*self.batch.tokens.shape, *value.shape[2:])[where[:2]]
        return value

    def _check_aligned(self, other: TokenBatch, edit: Edit) -> None:
        names = [edit.position] if isinstance(edit.position, str) else []
        names += edit.source.senders if isinstance(edit.source, CopyAttended) else ()
        if {(id(other), name) for name in (None, *names)} <= self._aligned:
            return
        if other.tokens.shape != self.batch.tokens.shape or not torch.equal(other.mask, self.batch.mask):
            raise ValueError(
                f"{edit}: the batch copied from has tokens {tuple(other.tokens.shape)},"
                f" the edited one {tuple(self.batch.tokens.shape)}; rows must be of equal length"
            )
        for name in names:
            if not torch.equal(other.position(name), self.batch.position(name)):
                raise ValueError(f"{edit}: position {name!r} stands elsewhere in the batch copied from")
        self._aligned |= {(id(other), name) for name in (None, *names)}
        self._kept.append(other)

    def _named(self) -> Tensor:
        """(batch, pos) the number of each token's position name, -1 where it has none."""
        named = torch.full_like(self.batch.tokens, -1)
        for number, index in enumerate(self.batch.positions.values()):
            has = index >= 0
            named[self.rows[has], index[has]] = number
        return named

    def _named_mean(self, over: TokenBatch, edit: Edit) -> Tensor:
        """(batch, pos, …) at each named position the mean of `over`'s rows that have it."""
        reference = self.activation(over, edit.site, edit.layer)
        rows = torch.arange(len(over), device=over.tokens.device)
        table = torch.zeros(
            len(self.batch.positions), *reference.shape[2:], dtype=reference.dtype, device=reference.device
        )
        for number, position in enumerate(self.batch.positions):
            index = over.positions.get(position)
            if index is not None and (index >= 0).any():
                has = index >= 0
                table[number] = reference[rows[has], index[has]].mean(0)
        return table[self._named().clamp(min=0)]

    def _resampled(self, over: TokenBatch, edit: Edit, seed: int, names: Sequence[str]) -> Tensor:
        """(batch, pos, …) at each of the named positions the activation of another random row of `over`."""
        donor = torch.from_numpy(self._donors(over, seed, names)).to(self.batch.tokens.device)
        # donor rows are stretched to this batch's positions by name
        reference = self.activation(over, edit.site, edit.layer)[donor]
        result = reference.new_zeros(len(self.batch), self.batch.tokens.shape[1], *reference.shape[2:])
        for position in names:
            index = self.batch.positions[position]
            has = index >= 0
            if has.any():
                result[self.rows[has], index[has]] = reference[self.rows[has], over.positions[position][donor][has]]
        return result

    def _donors(self, over: TokenBatch, seed: int, names: Sequence[str]) -> np.ndarray:
        """(batch,) for each row a row of `over` that has the same ones of the named positions (or more, in another
        batch). In the batch itself it is a permutation that leaves no row where it was."""
        itself, generator = over is self.batch, np.random.default_rng(seed)
        if itself and len(self.batch) < 2:
            raise ValueError("resampling from the batch itself needs at least two rows")
        absent = torch.full_like(over.prompt_length, -1)
        has = np.stack([(self.batch.positions[p] >= 0).cpu().numpy() for p in names], axis=1)
        there = np.stack([(over.positions.get(p, absent) >= 0).cpu().numpy() for p in names], axis=1)
        donor = np.empty(len(has), dtype=np.int64)
        for kind in np.unique(has, axis=0):
            rows = np.flatnonzero((has == kind).all(1))
            able = rows if itself else np.flatnonzero(there[:, kind].all(1))
            if len(able) < 1 + itself:
                raise ValueError(f"row {rows[0]} of the batch: no other row to resample from has the same positions")
            if itself:
                order = generator.permutation(rows)
                donor[order] = np.roll(order, 1)
            else:
                donor[rows] = generator.choice(able, size=len(rows))
        return donor

    def _check_named(self, edit: Edit, over: TokenBatch) -> None:
        """Raise ValueError where a token to be edited has no name, or no row of `over` has that position."""
        if isinstance(edit.position, str):
            needed = [edit.position]
        else:
            needed = [name for name, index in self.batch.positions.items() if (index >= 0).any()]
            nameless = (self._named() < 0) & self.batch.mask
            if nameless.any():
                row, pos = nameless.nonzero()[0].tolist()
                raise ValueError(f"{edit}: token {pos} of row {row} has no position name, so it has no mean or donor")
        for name in needed:
            if name not in over.positions or not (over.positions[name] >= 0).any():
                raise ValueError(f"{edit}: the reference batch has no position {name!r}")

    def _attended_hooks(self, edit: Edit, source: CopyAttended) -> list[Hook]:
        """Recompute what the receiver reads from the senders, with their keys and values from `source.batch`."""
        assert edit.layer is not None
        assert isinstance(edit.position, str)
        self._check_aligned(source.batch, edit)
        prefix = f"blocks.{edit.layer}.attn"
        at = self.batch.position(edit.position)
        heads = slice(None) if edit.head is None else slice(edit.head, edit.head + 1)
        keys = self._heads(self.activation(source.batch, "k", edit.layer))
        values = self._heads(self.activation(source.batch, "v", edit.layer))
        scale = self.model.blocks[edit.layer].attn.attn_scale  # pyright: ignore[reportAttributeAccessIssue]
        senders = [self.batch.position(name) for name in dict.fromkeys(source.senders)]
        if any((sender > at).any() for sender in senders):
            raise ValueError(f"{edit}: a sender stands behind the receiver {edit.position!r}")
        seen: dict[str, Tensor] = {}

        def remember(name: str) -> Hook:
            return (f"{prefix}.hook_{name}", lambda activation, hook: seen.__setitem__(name, activation))

        def scores(activation: Tensor, hook: object) -> Tensor:
            activation = activation.clone()
            query = seen["q"][self.rows, at]
            for sender in senders:
                new = torch.einsum("bhd,bhd->bh", query, keys[self.rows, sender]) / scale
                activation[self.rows, heads, at, sender] = new[:, heads]
            return activation

        def mixed(activation: Tensor, hook: object) -> Tensor:
            activation = activation.clone()
            for sender in senders:
                weight = seen["pattern"][self.rows, :, at, sender]
                change = values[self.rows, sender] - self._heads(seen["v"])[self.rows, sender]
                activation[self.rows, at, heads] += (weight[..., None] * change)[:, heads]
            return activation

        return [
            *(remember(name) for name in ("q", "v", "pattern")),
            (f"{prefix}.hook_attn_scores", scores),
            (f"{prefix}.hook_z", mixed),
        ]

    def _heads(self, activation: Tensor) -> Tensor:
        """Repeat grouped keys or values to one a query head."""
        return activation.repeat_interleave(self.model.cfg.n_heads // activation.shape[2], dim=2)
