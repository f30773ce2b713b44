"""Controls of a score of distributed alignment search: an alignment can be found where there is no variable.

A subspace may join a direction that separates the variable's values, but that nothing downstream reads, to one that the
answer is read from, but in which the variable is not written. Swapped together they act as the variable does, by a path
that the network's own activations never take (Makelov, Lange & Nanda 2023, "Is this the subspace you are looking for?",
arXiv:2311.17030). And a search over directions finds something in most networks, and for most questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from interp_kit.analysis.causal.das_fit import SPLITS, Cell, Trials, first_basis, fit, orthonormal, parts
from interp_kit.core.identity import derive_seed
from interp_kit.models.convert import untrained
from interp_kit.models.hooked_model import HookedModel

CONTROLS = ("placebo", "untrained", "arbitrary", "row space")
FITTED = ("untrained", "arbitrary")  # which are themselves found by gradient descent
# the scores that they give, each also as …_kept, and in words
SCORES = {
    "placebo": "a change as large in random directions",
    "untrained": "a subspace learned in an untrained network",
    "arbitrary": "one learned for an arbitrary variable",
    "read": "of the learned subspace, the component that is read downstream",
    "unread": "the component that is not",
}
STEPS = 40  # of a fitted control, at most
PLACEBOS = 5  # random rotations, whose mean is taken
NONE = (float("nan"), float("nan"))
GAIN, MARGIN = 0.05, 0.1  # below it nothing is found; by what a finding must exceed every control
STANDS, OFF_PATH, CHANCE, NOTHING = "stands", "off the path", "no better than a control", "nothing found"
VERDICTS, OPEN = (STANDS, OFF_PATH, CHANCE, NOTHING), "not judged"


@dataclass(frozen=True, eq=False)
class Controls:
    """The controls of one split: two sides of trials, and the network that was never trained.

    chosen: of CONTROLS; steps: of each fitted control.
    """

    chosen: tuple[str, ...]
    sides: tuple[Trials, Trials]
    arbitrary: tuple[Trials, Trials] | None
    blank: HookedModel | None
    steps: int
    learning_rate: float
    span: str
    seed: int

    @classmethod
    def of(
        cls,
        model: HookedModel,
        sides: tuple[Trials, Trials],
        chosen: Sequence[str],
        steps: int,
        learning_rate: float,
        span: str,
        seed: int,
    ) -> "Controls":
        """Draw the untrained network and the arbitrary variable of a seed."""
        blank = untrained(model, derive_seed(seed, "das", "untrained") % 2**31) if "untrained" in chosen else None
        arbitrary = _arbitrary(sides, seed) if "arbitrary" in chosen else None
        return cls(tuple(chosen), sides, arbitrary, blank, min(steps, STEPS), learning_rate, span, seed)

    def shares(
        self, train: Cell, held: Cell, basis: Float[Tensor, "d k"], place: tuple[str, int, str]
    ) -> tuple[tuple[float, float], ...]:
        """Held-out shares (changed pairs, controls) of each of SCORES at one cell, nan where it is not asked for.

        place: site, layer and position of the cell.
        """
        k, found = basis.shape[1], dict.fromkeys(SCORES, NONE)
        if "placebo" in self.chosen:
            names = [("placebo", i, *place) for i in range(PLACEBOS)]
            turned = [orthonormal(first_basis(len(basis), k, self.seed, *name).to(basis)) for name in names]
            hits, kept = np.array([held.shares(basis, along) for along in turned]).T
            found["placebo"] = float(hits.mean()), float(kept.mean())
        if self.blank is not None:
            cells = [Cell(self.blank, side, *place) for side in self.sides]
            found["untrained"] = self._fitted(cells[0], cells[1], k, ("untrained", *place))
        if self.arbitrary is not None:
            cells = [cell.asked(trials) for cell, trials in zip((train, held), self.arbitrary, strict=True)]
            found["arbitrary"] = self._fitted(cells[0], cells[1], k, ("arbitrary", *place))
        if "row space" in self.chosen:
            within, outside = parts(basis, train.read(basis))
            found |= {"read": held.shares(within), "unread": held.shares(outside)}
        return tuple(found[name] for name in SCORES)

    def _fitted(self, train: Cell, held: Cell, k: int, names: tuple) -> tuple[float, float]:
        axes = train.axes(self.span)
        k = min(k, axes.shape[1])
        if k == 0:
            return NONE
        free = first_basis(axes.shape[1], k, self.seed, *names).to(axes)
        return held.shares(fit(train, axes, free, self.steps, self.learning_rate))


def off_path(
    gain: Float[np.ndarray, " cell"], read: Float[np.ndarray, " cell"], full: Float[np.ndarray, " cell"]
) -> Bool[np.ndarray, " cell"]:
    """See DASResult.off_path. gain, read, full: of the subspace, of its component that is read, of all dimensions."""
    half = gain / 2
    return (gain > GAIN) & (read < half) & ~(full >= half)


def verdict(
    gain: Float[np.ndarray, " cell"],
    illusory: Bool[np.ndarray, " cell"],
    rivals: Sequence[Float[np.ndarray, " cell"]],
) -> tuple[str, ...]:
    """See DASResult.verdict. rivals: gains of what a finding has to exceed, nan where it was not run."""
    rules = [~(gain > GAIN), illusory, gain < np.fmax.reduce(rivals) + MARGIN]
    return tuple(np.select(rules, [NOTHING, OFF_PATH, CHANCE], STANDS).tolist())


def checked(controls: bool | Sequence[str]) -> tuple[str, ...]:
    """The controls that are asked for. Raises ValueError for one that there is not."""
    if isinstance(controls, bool):
        return CONTROLS if controls else ()
    if isinstance(controls, str) or not set(controls) <= set(CONTROLS):
        raise ValueError(f"controls: got {controls!r}, expected True, False, or some of {', '.join(CONTROLS)}")
    return tuple(name for name in CONTROLS if name in controls)


def _arbitrary(sides: tuple[Trials, Trials], seed: int) -> tuple[Trials, Trials] | None:
    """Both sides under one drawn variable; None where few inputs let none differ on both."""
    for turn in range(SPLITS):
        train, held = (side.arbitrary(derive_seed(seed, turn)) for side in sides)
        if train is not None and held is not None:
            return train, held
    return None
