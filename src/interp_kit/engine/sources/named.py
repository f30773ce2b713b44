"""Sources that take other rows' activations at the same named position: their mean, or one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_seed
from interp_kit.engine.sources.source import Position, Source


@dataclass(frozen=True)
class Mean(Source):
    """Write the mean over the rows of `over` (the batch itself by default) at the same named position."""

    over: TokenBatch | None = None

    def needs(self, batch: TokenBatch) -> TokenBatch:
        return batch if self.over is None else self.over

    def check(self, batch: TokenBatch, position: Position) -> None:
        _check_named(batch, self.needs(batch), position)

    def reference(self, activation: Tensor, batch: TokenBatch, position: Position) -> Tensor:
        """(batch, pos, …) at each named position the mean of the rows that have it."""
        over = self.needs(batch)
        rows = torch.arange(len(over), device=over.tokens.device)
        table = activation.new_zeros(len(batch.positions), *activation.shape[2:])
        for number, name in enumerate(batch.positions):
            if len(there := _rows(over, name, rows)):
                table[number] = activation[there, over.positions[name][there]].mean(0)
        return table[_named(batch).clamp(min=0)]

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return given


@dataclass(frozen=True)
class Resample(Source):
    """Write the activation of another row of `over` (the batch itself by default) at the same named position.

    From the batch itself, no row keeps its own activation.
    """

    seed: int = 0
    over: TokenBatch | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def needs(self, batch: TokenBatch) -> TokenBatch:
        return batch if self.over is None else self.over

    def check(self, batch: TokenBatch, position: Position) -> None:
        _check_named(batch, self.needs(batch), position)

    def shared(self, position: Position) -> bool:
        """False at a named position: a donor then needs that one alone."""
        return not isinstance(position, str)

    def reference(self, activation: Tensor, batch: TokenBatch, position: Position) -> Tensor:
        """(batch, pos, …) at the named position, or at all, the activation of another random row."""
        over, rows = self.needs(batch), torch.arange(len(batch), device=batch.tokens.device)
        names = [position] if isinstance(position, str) else list(batch.positions)
        donor = torch.from_numpy(_donors(batch, over, self.seed, names)).to(batch.tokens.device)
        # donor rows are stretched to this batch's positions by name
        found = activation[donor]
        result = found.new_zeros(len(batch), batch.tokens.shape[1], *found.shape[2:])
        for name in names:
            if len(here := _rows(batch, name, rows)):
                result[here, batch.positions[name][here]] = found[here, over.positions[name][donor][here]]
        return result

    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        assert given is not None
        return given


def _named(batch: TokenBatch) -> Tensor:
    """(batch, pos) the number of each token's position name, -1 where it has none."""
    named, rows = torch.full_like(batch.tokens, -1), torch.arange(len(batch), device=batch.tokens.device)
    for number, (name, index) in enumerate(batch.positions.items()):
        here = _rows(batch, name, rows)
        named[here, index[here]] = number
    return named


def _rows(batch: TokenBatch, name: str, every: Tensor) -> Tensor:
    """(row,) those of `every` row of the batch that have a named position."""
    has = batch.has(name)
    return every if has.all() else torch.from_numpy(np.flatnonzero(has)).to(every.device)


def _donors(batch: TokenBatch, over: TokenBatch, seed: int, names: Sequence[str]) -> np.ndarray:
    """(batch,) for each row a row of `over` that has the same ones of the named positions (or more, in another
    batch). In the batch itself it is a permutation that leaves no row where it was."""
    itself, generator = over is batch, np.random.default_rng(seed)
    if itself and len(batch) < 2:
        raise ValueError("resampling from the batch itself needs at least two rows")
    has, there = (np.stack([side.has(name) for name in names], axis=1) for side in (batch, over))
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


def _check_named(batch: TokenBatch, over: TokenBatch, position: Position) -> None:
    """Raise ValueError if a token to be edited has no name, or no row of `over` has that position."""
    if isinstance(position, str):
        needed = [position]
    else:
        needed = [name for name in batch.positions if batch.has(name).any()]
        nameless = (_named(batch) < 0) & batch.mask
        if nameless.any():
            row, pos = nameless.nonzero()[0].tolist()
            raise ValueError(f"token {pos} of row {row} has no position name, so it has no mean or donor")
    for name in needed:
        if not over.has(name).any():
            raise ValueError(f"the reference batch has no position {name!r}")
