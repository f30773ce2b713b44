"""How the culture models came to what they solve: accuracy against quizzes seen, and what more of them may bring."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from interp_kit.core.plotting import COLOURS, new_axes
from interp_kit.training.culture.rotation import Point, read_curve

LEAST = 4  # evaluations that a line is fitted to


def plot_curve(points: Sequence[Point], ax: Axes | None = None) -> Axes:
    """Mean probability of a right sampled answer, and share of right greedy answers, against quizzes seen, by model.

    Raises ValueError for no evaluation.
    """
    if not points:
        raise ValueError("no evaluation to draw")
    ax = ax or new_axes(7.0, 4.0)
    for k, id in enumerate(sorted({point.id for point in points})):
        of_model = [point for point in points if point.id == id]
        seen = np.array([point.seen for point in of_model]) / 1000
        colour = COLOURS[k % len(COLOURS)]
        ax.plot(seen, [p.accuracy for p in of_model], "o-", ms=3, color=colour, label=f"gpt_{id:03d}, sampled")
        ax.plot(seen, [p.greedy for p in of_model], "--", color=colour, label=f"gpt_{id:03d}, greedy")
    ax.set(xlabel="thousand quizzes seen", ylabel="quizzes solved", ylim=(0, 1), title="learning curves")
    ax.grid(color="#dddddd")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def quizzes_to_reach(points: Sequence[Point], accuracy: float | int) -> float:
    """How many quizzes a model may need for an accuracy, if its error goes on falling as a power of what it has seen.

    Fitted to the later half of one model's evaluations; a rough guide, as the learning rate falls meanwhile and tasks
    are learnt one by one. Infinite where the error does not fall. Raises ValueError for fewer than four evaluations.
    """
    later = [p for p in points[len(points) // 2 :] if 0 < p.accuracy < 1]
    if len(later) < LEAST:
        raise ValueError(f"{len(later)} evaluations in the later half of the curve, a line needs {LEAST}")
    x = np.log([p.seen for p in later])
    y = np.log([1 - p.accuracy for p in later])
    slope, intercept = np.polyfit(x, y, 1)
    return float(np.exp((np.log(1 - accuracy) - intercept) / slope)) if slope < 0 else float("inf")


def curves_of(checkpoint_dir: str | Path) -> dict[int, list[Point]]:
    """Model -> its evaluations, from the `curve.jsonl` beside the checkpoints; empty where there is none."""
    found: dict[int, list[Point]] = {}
    for point in read_curve(checkpoint_dir):
        found.setdefault(point.id, []).append(point)
    return found
