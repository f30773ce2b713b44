"""Reference activations: what the unedited model has at the sites that edits copy, average or resample."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.engine.edits import Edit, EditGroup, Source
from interp_kit.engine.fast.forward import BEHIND, INSIDE, Executor
from interp_kit.engine.inputs import unpadded
from interp_kit.engine.sites import hook_name
from interp_kit.models.hooked_model import HookedModel

Activations = dict[tuple[TokenBatch, str], Tensor]  # (batch, hook) -> (batch, pos, …)


class References:
    """Activations that the edits of `batch` refer to, each computed once, and the new values that follow.

    executor: what computes activations; the model itself where it is None. known: activations of this model that were
    computed before, which those computed here join. Edits must be checked before (`edit_checks.check_edits`).
    """

    def __init__(
        self, model: HookedModel, batch: TokenBatch, executor: Executor | None = None, known: Activations | None = None
    ) -> None:
        self.model, self.batch, self.executor = model, batch, executor
        self._activations: Activations = {} if known is None else known
        self._shared: dict[tuple[Source, str], Tensor] = {}

    def new_value(self, edit: Edit, where: tuple) -> Callable[[Tensor], Tensor]:
        """A function from the edited slice to what replaces it. where: the slice's index into the activation."""
        source, given = edit.source, None
        if (numbers := source.numbers) is not None:
            given = self._part(numbers, where)
        elif (over := source.needs(self.batch)) is not None:
            given = self._reference(edit, over)[where]

        def new(old: Tensor) -> Tensor:
            found = source.new(old, given)
            if found.shape != old.shape:
                raise ValueError(
                    f"{edit}: `new` gave values of shape {tuple(found.shape)}; expected the edited slice's"
                    f" {tuple(old.shape)}"
                )
            return found

        return new

    def harvest(
        self, groups: Iterable[EditGroup], whole: TokenBatch | None = None, reads: Tensor | None = None
    ) -> Tensor | None:
        """Compute what activations the edits refer to, each batch in one run. Gives (batch, read, d_model) the residual
        stream after the last block at positions `reads` (batch, read) of `whole`, one of these batches or another,
        where there is an executor."""
        needed: dict[TokenBatch, set[tuple[str, int | None]]] = {}
        for edit in (edit for group in groups for edit in group):
            if (over := edit.source.needs(self.batch)) is not None:
                needed.setdefault(over, set()).add((edit.site, edit.layer))
        if whole is not None and self.executor is not None:
            needed.setdefault(whole, set())
        hidden = None
        for over, sites in needed.items():
            found = self._harvest(over, sites, reads if over is whole else None)
            hidden = found if over is whole else hidden
        return hidden

    def activation(self, batch: TokenBatch, site: str, layer: int | None) -> Tensor:
        """(batch, pos, …) the activation of a site on `batch`, computed once."""
        key = batch, hook_name(site, layer)
        if key not in self._activations:
            self._harvest(batch, {(site, layer)})
        return self._activations[key]

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
            # pos_embed is one row for all
            self._activations.setdefault((over, name), found[name].expand(len(over), *found[name].shape[1:]))
        return hidden

    def _reference(self, edit: Edit, over: TokenBatch) -> Tensor:
        """(batch, pos, …) what the source makes of the activation that it needs."""
        activation = self.activation(over, edit.site, edit.layer)
        if not edit.source.shared(edit.position):
            return self._fitting(edit, edit.source.reference(activation, self.batch, edit.position))
        key = edit.source, hook_name(edit.site, edit.layer)
        if key not in self._shared:
            self._shared[key] = self._fitting(edit, edit.source.reference(activation, self.batch, edit.position))
        return self._shared[key]

    def _fitting(self, edit: Edit, reference: Tensor) -> Tensor:
        """The reference. Raises ValueError if it has not the rows and positions of the batch."""
        if reference.shape[:2] != self.batch.tokens.shape:
            raise ValueError(
                f"{edit}: `reference` gave a tensor of shape {tuple(reference.shape)}; expected (batch, pos, …) with"
                f" {tuple(self.batch.tokens.shape)} in front"
            )
        return reference

    def _part(self, value: Tensor, where: tuple) -> Tensor:
        """Part of a value broadcast to (batch, pos, …) that falls on the positions of an index."""
        behind = sum(isinstance(i, slice) for i in where[2:])  # axes after batch and pos in the edited slice
        axis = value.ndim - behind - 1
        if isinstance(where[0], slice):  # positions from one to another, of every row
            if axis < 0 or value.shape[axis] != self.batch.tokens.shape[1]:
                return value
            return value.narrow(axis, where[1].start, where[1].stop - where[1].start)
        if where[0].ndim == 2:  # some positions of each row
            value = value[(None,) * (behind + 2 - value.ndim)]
            return value.expand(*self.batch.tokens.shape, *value.shape[2:])[where[:2]]
        return value
