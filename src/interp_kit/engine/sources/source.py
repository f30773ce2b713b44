"""The base class of sources: what new values follow from, and how."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from interp_kit.core.batch import TokenBatch
from interp_kit.models.following import Follows

Position = str | int | None


class Source(Follows, ABC):
    """Value that an edit puts at its site. A subclass of your own works wherever an edit does; `new` is all it needs.

    Write it as `@dataclass(frozen=True, eq=False)`: sources are hashed. An example that sets one latent of an SAE:

        @dataclass(frozen=True, eq=False)
        class SetLatent(Source):
            sae: MySAE
            latent: int
            value: float

            def new(self, old, given):
                change = self.value - self.sae.encode(old)[..., self.latent]
                return old + change[..., None] * self.sae.decoder[self.latent]
    """

    of_weights: ClassVar[bool] = False  # True if it can be put at a weight too

    @property
    def numbers(self) -> Tensor | None:
        """Numbers that are broadcast to the edited slice, if any: the part of them that falls on it is given to `new`.
        (batch, …) at a named position, (batch, pos, …) elsewhere."""
        return None

    def needs(self, batch: TokenBatch) -> TokenBatch | None:
        """The batch whose unedited activation of the site is needed, if any. batch: the edited one."""
        return None

    def check(self, batch: TokenBatch, position: Position) -> None:
        """Raise ValueError if the batch needed does not fit the edited one. By default it must have the same shape."""
        if (other := self.needs(batch)) is not None:
            check_aligned(batch, other, [position] if isinstance(position, str) else [])

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the source does not fit an edited slice of this shape: (batch, …) at a position, (batch,
        pos, …) elsewhere, then the site's own axes. By default `numbers` must broadcast to it."""
        if (numbers := self.numbers) is None:
            return
        pairs = zip(reversed(numbers.shape), reversed(shape), strict=False)
        if numbers.ndim > len(shape) or any(given not in (1, wanted) for given, wanted in pairs):
            raise ValueError(f"numbers of shape {tuple(numbers.shape)} do not fit the edited slice {tuple(shape)}")

    def shared(self, position: Position) -> bool:
        """True if `reference` is the same at every position, and is then computed once per site."""
        return True

    def reference(self, activation: Tensor, batch: TokenBatch, position: Position) -> Tensor:
        """(batch, pos, …) of the edited batch, of which `new` is given the edited slice. By default the activation
        itself. activation: (batch, pos, …) that of the batch needed."""
        return activation

    @abstractmethod
    def new(self, old: Tensor, given: Tensor | None) -> Tensor:
        """New values of the edited slice, in its shape.

        Rows and positions must be treated alike and apart: the slice may hold any of them, in any number.

        Args:
            old: (…, *site) Values of the slice. Not to be changed in place.
            given: The part of `numbers` or of `reference` that belongs to it; None for a source that has neither.
        """


def check_aligned(batch: TokenBatch, other: TokenBatch, names: Sequence[str]) -> None:
    """Raise ValueError if another batch has not the edited one's shape, or these names at other positions."""
    if other.tokens.shape != batch.tokens.shape or not torch.equal(other.mask, batch.mask):
        raise ValueError(
            f"the batch copied from has tokens {tuple(other.tokens.shape)},"
            f" the edited one {tuple(batch.tokens.shape)}; rows must be of equal length"
        )
    for name in names:
        if not torch.equal(other.position(name), batch.position(name)):
            raise ValueError(f"position {name!r} stands elsewhere in the batch copied from")
