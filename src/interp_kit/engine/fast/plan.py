"""Many edits at once, at the cost of what they can change: what the fast executor behind `sweep` plans.

Edits become rows of one growing batch. A row enters at the layer of its first edit, from residuals of the unedited run;
it carries only positions from its first edited one to the last that a metric reads (`ragged.py`), with keys and values
of earlier ones from the unedited run; and the last layer runs only where a metric reads. Edits of z, attn_out, mlp_post
and mlp_out enter as a difference, so that their own layer is not run again. `batched.py` carries it out.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.edits import Edit, EditGroup
from interp_kit.engine.fast.forward import BEHIND, Executor
from interp_kit.engine.fast.layers import Unsupported
from interp_kit.engine.fast.write import NewValue, position_of
from interp_kit.engine.sources.kinds import copied

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
FILLED = 0.6  # of the memory that is allowed: the rest is for what allocators keep
INDICES = 24  # bytes for where a token stands
CHUNK = 2**15  # tokens that a processor has at once, where memory would allow more


@dataclass(frozen=True)
class Entries:
    """Entry points of groups of edits: (group,) first position, -1 where none of their edits can reach what is read;
    layer; stage. Arrays, so that any number of groups takes little memory."""

    start: NDArray[np.int32]
    layer: NDArray[np.int32]
    stage: NDArray[np.int32]

    def order(self) -> NDArray[np.intp]:
        """The groups that can reach what is read, by where they enter."""
        order = np.lexsort((self.start, self.stage, self.layer))
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

    reads: (batch, read) positions whose logits are wanted. new_value: `References.new_value`, which gives for an edit
    and an index into its site's activation the function from old to new values there. inside: whether edits of sites
    that are INSIDE may come. Raises Unsupported for a model without blocks.
    """

    def __init__(
        self, executor: Executor, batch: TokenBatch, reads: Tensor, new_value: NewValue, *, inside: bool = True
    ) -> None:
        if not executor.layers:
            raise Unsupported("the model has no blocks")
        self.x, self.batch, self.reads, self.new_value = executor, batch, reads, new_value
        self.end = int(reads.max()) + 1
        self.rows = torch.arange(len(batch), device=batch.tokens.device)
        self.sites: dict[tuple[str, int], Tensor] = {}  # in the last layer from z on: where logits are read
        self._at: dict[str | int, Tensor] = {}
        self._keys: dict[int, Tensor] = {}
        self._reach: dict[tuple[int | str | None, TokenBatch | None], tuple[int, int]] = {}
        tokens = batch.tokens[:, : self.end]
        keep = self.sites.__setitem__
        # (batch, read, d_model) after the last layer
        self.hidden = executor.run(
            tokens, lambda site, layer, value: keep((site, layer), value), at=reads, inside=inside
        )
        self.logits = executor.read_out(self.hidden)

    def finite(self) -> bool:
        """True if the unedited run is free of nan and inf, padding apart."""
        before = self.sites["resid_pre", len(self.x.layers) - 1][self.batch.mask[:, : self.end]]
        return all(bool(x.isfinite().all()) for x in (before, self.hidden, self.logits))

    def read(self, site: str, layer: int) -> Tensor:
        """(batch, read, …) what the unedited run has at a site where logits are read, in the last layer."""
        value = self.sites[site, layer]
        return value if site in BEHIND else value[self.rows[:, None], self.reads]

    def keys(self, layer: int) -> Tensor:
        """(batch, pos, group, d_head) the unedited run's keys, as scores have them."""
        weights = self.x.layers[layer]
        if not weights.places_count:
            return self.sites["k", layer]
        if layer not in self._keys:
            self._keys[layer] = weights.key(self.sites["k", layer], slice(0, self.end))
        return self._keys[layer]

    def entries(self, groups: Iterable[EditGroup]) -> Entries:
        """Entry point of each group."""
        found = array("i")
        for group in groups:
            plan = self.plan(group)
            found.extend((plan.start, *plan.entry) if plan else (-1, 0, 0))
        start, layer, stage = np.array(found, dtype=np.int32).reshape(-1, 3).T
        return Entries(start, layer, stage)

    def plan(self, group: EditGroup) -> Planned | None:
        """None where none of the edits can reach what is read."""
        reach = [self._reach_of(edit) for edit in group]
        start = min((first for first, _ in reach), default=self.end)
        if start >= self.end:
            return None
        # a copy that changes nothing by itself may undo what an earlier edit changed
        kept = tuple(edit for edit, (_, last) in zip(group, reach, strict=True) if last >= start)
        entry = min((edit.layer or 0, STAGE[edit.site]) for edit in kept)
        before = [edit for edit in kept if ((edit.layer or 0), STAGE[edit.site]) == (entry[0], 0)]
        local = all(edit.position is not None or edit.site in ("q", "k", "v") for edit in before)
        return Planned(kept, entry, start, local)

    def _reach_of(self, edit: Edit) -> tuple[int, int]:
        """The first position at which an edit alone can change anything, `end` where there is none before it, and the
        last that it writes. Up to where two texts first differ their activations are the same, so that copying one
        between them changes nothing there."""
        other = copied(edit.source)
        key = edit.position, other
        if key not in self._reach:
            at = torch.zeros_like(self.rows) if edit.position is None else self.at(edit)
            last = self.end - 1 if edit.position is None else int(at.max())
            if other is not None:
                tokens = self.batch.tokens[:, : self.end]
                differ = (tokens != other.tokens[:, : self.end]).cummax(1).values
                reached = differ.sum(1)  # how many of the last positions stand after a difference
                since = self.end - reached
                at = torch.maximum(at, since) if edit.position is None else at.where(at >= since, self.end)
            self._reach[key] = min(int(at.min()), self.end), last
        return self._reach[key]

    def at(self, edit: Edit) -> Tensor:
        """(batch,) the position of an edit that has one."""
        assert edit.position is not None
        if edit.position not in self._at:
            self._at[edit.position] = position_of(edit, self.batch)
        return self._at[edit.position]

    def chunks(self, entries: Entries, memory: int) -> Iterator[NDArray[np.intp]]:
        """Numbers of groups to run together: as many as `memory` bytes take, and at least one."""
        order = entries.order()
        windows = self.end - entries.start[order].astype(np.int64)
        taken = len(self.batch) * np.array([self._bytes(window) for window in range(self.end + 1)])[windows].cumsum()
        tokens, at = len(self.batch) * windows.cumsum(), 0
        most = CHUNK if self.x.embed.device.type == "cpu" else len(self.batch) * windows.sum()
        memory -= self.x.embed.element_size() * self.end**2  # a mask
        while at < len(order):
            used, run = (taken[at - 1], tokens[at - 1]) if at else (0, 0)
            fit = np.searchsorted(taken, used + memory * FILLED, side="right")
            cut = max(at + 1, int(min(fit, np.searchsorted(tokens, run + most, side="right"))))
            yield order[at:cut]
            at = cut

    def _bytes(self, window: int) -> int:
        """Memory of one row under one group of edits at most, `window` positions being carried."""
        layer, width, heads = self.x.layers[0], self.x.embed.shape[1], self.x.n_heads * self.x.d_head
        hidden = 0 if layer.mlp is None else len(layer.mlp.into[0])
        read = self.reads.shape[1]
        logits = LOGITS * read * len(self.x.unembed[0])
        carried = max(window, read) * (4 * width + 5 * heads + 2 * hidden) + (4 * heads + 2 * read) * self.end
        return self.x.embed.element_size() * (max(logits, carried) + window * width) + INDICES * window
