"""Learning curves of the culture models: accuracy against quizzes seen."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from interp_kit.reports.plotting import COLOURS, GRID, SOFT, new_axes
from interp_kit.studies.culture.training.turns import Point

AIM = 0.95


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
    ax.axhline(AIM, color=SOFT, linewidth=0.8)
    ax.set(
        xlabel="thousand quizzes seen",
        ylabel="share of quizzes solved",
        ylim=(0, 1),
        title=f"learning curves (line: {AIM}, the aim)",
    )
    ax.grid(color=GRID)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax
