"""The residual stream of edited runs side by side, and what their edits write into values that stand beside it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.edits import Edit, EditGroup
from interp_kit.engine.fast.plan import Suffix
from interp_kit.engine.fast.ragged import Reads, Windows
from interp_kit.engine.fast.write import write
from interp_kit.engine.sources.kinds import copied

Placed = tuple[int, Edit]  # a slot, and an edit of it


@dataclass(frozen=True, eq=False)
class Stream:
    """All slots between two steps of a layer.

    carried: which positions there are: windows, or in the last layer from its attention on those that are read; x:
    (token, d_model) the residual stream there; later: by site and layer, edits of slots that have entered before.
    """

    suffix: Suffix
    carried: Windows | Reads
    x: Tensor
    later: Mapping[tuple[str, int], Sequence[Placed]]

    def up_to(self, active: int) -> Tensor:
        """(token, d_model) of the first so many slots: a view."""
        return self.x[self.carried.span(range(active))]

    def of(self, slot: int) -> Tensor:
        """(batch, carried, d_model) of one slot: a view."""
        return self.carried.of(self.x, slot)

    def unedited(self, site: str, number: int) -> Tensor:
        """(batch, pos, …) of the unedited run, or (batch, read, …) if those are what is carried."""
        if isinstance(self.carried, Reads):
            return self.suffix.read(site, number)
        return self.suffix.sites[site, number]

    def base_of(self, site: str, number: int, slot: int) -> Tensor:
        """(batch, carried, …) of the unedited run, what a slot carries."""
        return self.carried.take(self.unedited(site, number), slot)

    def fill(self, site: str, number: int, slots: range) -> None:
        """Begin slots with the unedited run's residual stream."""
        self.carried.fill(self.x[self.carried.span(slots)], self.unedited(site, number), slots)

    def edits(self, site: str, number: int, slots: range) -> list[Placed]:
        """The later edits of a site, in some slots."""
        return [(slot, edit) for slot, edit in self.later.get((site, number), []) if slot in slots]

    def places(self, edits: Sequence[Placed]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, positions and tokens of all that edits at single positions write."""
        slots = torch.tensor([slot for slot, _ in edits], device=self.x.device)
        at = torch.stack([self.suffix.at(edit) for _, edit in edits])
        number, rows, tokens = self.carried.find(slots, at)
        return rows, at[number, rows], tokens

    def visit(self, site: str, number: int, value: Tensor, slots: range) -> Tensor:
        """Apply what later edits there are at a site to its value (token, …) in `slots`, in place."""
        if (site, number) not in self.later:
            return value
        copies, others = copies_together(self.edits(site, number, slots))
        for together in copies:
            rows, at, tokens = self.places(together)
            edit = together[0][1]
            here = (tokens - self.carried.span(slots).start, *edit.tail)
            old = value[here]
            value[here] = self.suffix.new_value(edit, (rows, at, *edit.tail))(old).to(old.dtype)
        for slot, edit in others:
            self.write(self.carried.of(value, slot, slots.start), edit, slot)
        return value

    def write(self, value: Tensor, edit: Edit, slot: int) -> None:
        """Edit what a slot carries (batch, carried, …) in place."""
        write(value, edit, self.carried.carried(slot), self.suffix.batch, self.suffix.new_value)


def chosen(edits: EditGroup, site: str, number: int) -> list[Edit]:
    """The edits of a site."""
    return [edit for edit in edits if edit.site == site and edit.layer == number]


def copies_together(edits: Sequence[Placed]) -> tuple[list[list[Placed]], list[Placed]]:
    """Edits of one site: those that can be written together (copies from one batch into one part of the activation, at
    a single position each and alone in their slots), and the others in their order."""
    count = Counter(slot for slot, _ in edits)
    alike: dict[tuple[TokenBatch, int | None, int | None], list[Placed]] = {}
    others = []
    for slot, edit in edits:
        batch = copied(edit.source)
        if batch is not None and edit.position is not None and count[slot] == 1:
            alike.setdefault((batch, edit.head, edit.neuron), []).append((slot, edit))
        else:
            others.append((slot, edit))
    return list(alike.values()), others
