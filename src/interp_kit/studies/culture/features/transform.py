"""Transform cells: does a feature tell, before a cell of the answer is written, that the rule changes it?

A cell of f_B is changed if it differs from the same cell of B. Features are read where the cell is predicted, so that
its own colour is not seen. The control is what can be seen there without a rule: the colour of the same cell of B, the
last colour written, and whether that was changed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp_kit.core.stats.detection import auroc, ranked
from interp_kit.core.stats.intervals import Estimate, mean_estimate
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.grids import CELLS, COLOURS, QUARTER, SIDE

ANSWER = slice(-CELLS - 1, -1)  # positions of a text at which the cells of f_B are predicted
VISIBLE = "what is seen"
LEAST = 3  # changed cells, and others, that a quiz needs


@dataclass(frozen=True)
class TransformCells:
    """The one number of each kind that tells changed cells best.

    Attributes:
        kind: What was chosen from; `VISIBLE` is the control.
        chosen: (kind,) Its number.
        name: (kind,) Its name.
        area: (kind, quiz) Area under the ROC curve over the cells of a quiz, of quizzes that it was not chosen by.
        changed: (quiz,) Changed cells.
    """

    kind: tuple[str, ...]
    chosen: Int[np.ndarray, " kind"]
    name: tuple[str, ...]
    area: Float[np.ndarray, "kind quiz"]
    changed: Int[np.ndarray, " quiz"]

    def of(self, kind: str) -> Estimate:
        """The mean over quizzes."""
        return mean_estimate(self.area[self.kind.index(kind)], "quizzes", (0.0, 1.0))

    def above(self, kind: str, control: str = VISIBLE) -> Estimate:
        """Difference of its areas to a control's, quiz by quiz."""
        difference = self.area[self.kind.index(kind)] - self.area[self.kind.index(control)]
        return mean_estimate(difference, "quizzes", (-1.0, 1.0))


def transform_cells(
    candidates: dict[str, Float[np.ndarray, "quiz 100 unit"]], tokens: Int[np.ndarray, "quiz pos"]
) -> TransformCells:
    """Choose for each kind the unit that tells changed cells best on every second quiz, and score it on the others.

    Args:
        candidates: Kind -> values where the cells of f_B are predicted, in their order.
        tokens: (quiz, 405) Quizzes in the order A f_A B f_B, the 0 before them.

    Raises:
        ValueError: Fewer than two quizzes that choose, or score, have at least three changed cells and as many others.
    """
    changed = grids.quiz_diff_mask(tokens)[:, -CELLS:]
    enough = np.flatnonzero(np.minimum(changed.sum(1), (~changed).sum(1)) >= LEAST)
    choosing, scoring = enough[::2], enough[1::2]
    if len(scoring) < 2:
        raise ValueError(f"{len(enough)} quizzes have {LEAST} changed cells and as many others; at least 4 are needed")
    visible, names = seen(tokens)
    kinds = {**candidates, VISIBLE: visible}
    chosen, areas, said = [], [], []
    for kind, values in kinds.items():
        there = _areas(values[choosing], changed[choosing]).mean(0)
        best = int(np.abs(there - 0.5).argmax())
        here = _areas(values[scoring][:, :, [best]], changed[scoring])[:, 0]
        chosen.append(best)
        areas.append(here if there[best] >= 0.5 else 1 - here)
        said.append(names[best] if kind == VISIBLE else str(best))
    return TransformCells(tuple(kinds), np.array(chosen), tuple(said), np.stack(areas), changed[scoring].sum(1))


def seen(tokens: Int[np.ndarray, "quiz pos"]) -> tuple[Float[np.ndarray, "quiz 100 unit"], tuple[str, ...]]:
    """Signs that a text shows without a rule where the cells of f_B are predicted, and their names."""
    quarters = tokens[:, 1:].reshape(-1, len(grids.GRIDS), QUARTER)
    source, written = quarters[:, 2, 1:], quarters[:, 3]
    last = np.where(np.arange(CELLS) == 0, -1, written[:, :-1])  # no cell before the first
    moved = np.concatenate([np.zeros((len(tokens), 1), bool), (written[:, 1:] != source)[:, :-1]], 1)
    above = np.concatenate([np.zeros((len(tokens), SIDE), bool), (written[:, 1:] != source)[:, :-SIDE]], 1)
    found = [source == c for c in range(COLOURS)] + [last == c for c in range(COLOURS)] + [moved, above]
    names = (
        *(f"colour {c} in B" for c in range(COLOURS)),
        *(f"colour {c} just written" for c in range(COLOURS)),
        "the cell before is changed",
        "the cell above is changed",
    )
    return np.stack(found, -1).astype(float), names


def _areas(values: Float[np.ndarray, "quiz 100 unit"], changed: Bool[np.ndarray, "quiz 100"]) -> np.ndarray:
    """(quiz, unit) areas over the cells of each quiz."""
    return np.stack([auroc(ranked(one), label[None])[0] for one, label in zip(values, changed, strict=True)])
