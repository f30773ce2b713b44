"""How the culture models came to what they solve: accuracy against quizzes seen, and what more of them may bring."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from interp_kit.reports.plotting import COLOURS, new_axes
from interp_kit.studies.culture.training.turns import Point, read_curve

LEAST = 3  # ends of schedules that a line is fitted to
FALL = 0.05  # of accuracy, by which a rate that rises again shows
GAP = 3
AHEAD = 1.6
AIM = 0.95


def plot_curve(points: Sequence[Point], ax: Axes | None = None) -> Axes:
    """Mean probability of a right sampled answer, and share of right greedy answers, against quizzes seen, by model;
    dotted: the power law through the ends of a model's schedules, where there are enough, as far as AIM or AHEAD times
    what was seen.

    Raises ValueError for no evaluation.
    """
    if not points:
        raise ValueError("no evaluation to draw")
    ax, last = ax or new_axes(7.0, 4.0), max(point.seen for point in points)
    for k, id in enumerate(sorted({point.id for point in points})):
        of_model = [point for point in points if point.id == id]
        seen = np.array([point.seen for point in of_model]) / 1000
        colour = COLOURS[k % len(COLOURS)]
        ax.plot(seen, [p.accuracy for p in of_model], "o-", ms=3, color=colour, label=f"gpt_{id:03d}, sampled")
        ax.plot(seen, [p.greedy for p in of_model], "--", color=colour, label=f"gpt_{id:03d}, greedy")
        reached = quizzes_to_reach(of_model, AIM) if len(ends := schedule_ends(of_model)) >= LEAST else np.inf
        if np.isfinite(reached) and reached > ends[-1].seen:
            slope, intercept = _power_law(ends)
            x = np.geomspace(ends[0].seen, max(ends[-1].seen, min(reached, AHEAD * last)))
            ax.plot(x / 1000, 1 - np.exp(intercept) * x**slope, ":", color=colour)
    ax.axhline(AIM, color="#555555", linewidth=0.8)
    ax.set(
        xlabel="thousand quizzes seen",
        ylabel="quizzes solved",
        ylim=(0, 1),
        title=f"learning curves (line: {AIM}, the aim)",
    )
    ax.grid(color="#dddddd")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def schedule_ends(points: Sequence[Point]) -> list[Point]:
    """Of one model's evaluations those at which its learning rate seems to have fallen to the end: about the best so
    far, and behind it accuracy falls by more than FALL, as the rate rises again, or GAP times the usual step is not on
    record, or there is no other."""
    best, ends = 0.0, []
    step = float(np.median([after.seen - point.seen for point, after in pairwise(points)])) if len(points) > 1 else 0.0
    for point, after in pairwise(points):
        best = max(best, point.accuracy)
        again = after.accuracy < point.accuracy - FALL or after.seen - point.seen > GAP * step
        if again and point.accuracy >= best - FALL / 2:
            ends.append(point)
    return [*ends, *(point for point in points[-1:] if point.accuracy >= best - FALL / 2)]


def quizzes_to_reach(points: Sequence[Point], accuracy: float | int) -> float:
    """How many quizzes a model may need for an accuracy, if its error goes on falling as a power of what it has seen.

    Fitted to the ends of its schedules, as learning curves of a falling rate are no power law between them; a guess, as
    these are few, and any bound that its size sets is not seen. Infinite where the error does not fall; where an end
    has the accuracy already, what was seen then. Raises ValueError for fewer than three ends, and an accuracy that is
    not between 0 and 1.
    """
    if not 0 < accuracy < 1:
        raise ValueError(f"an accuracy of {accuracy}: it must lie between 0 and 1")
    ends = schedule_ends(points)
    if there := [point.seen for point in ends if point.accuracy >= accuracy]:
        return float(there[0])
    if len(ends) < LEAST:
        raise ValueError(f"{len(ends)} schedules came to their end, a line needs {LEAST}")
    slope, intercept = _power_law(ends)
    return float(np.exp((np.log(1 - accuracy) - intercept) / slope)) if slope < 0 else float("inf")


def curves_of(checkpoint_dir: str | Path) -> dict[int, list[Point]]:
    """Model -> its evaluations, from the `curve.jsonl` beside the checkpoints; empty where there is none."""
    found: dict[int, list[Point]] = {}
    for point in read_curve(checkpoint_dir):
        found.setdefault(point.id, []).append(point)
    return found


def _power_law(ends: Sequence[Point]) -> tuple[float, float]:
    """Slope and intercept of log error against log quizzes."""
    x, y = (np.log(values) for values in ([p.seen for p in ends], [1 - p.accuracy for p in ends]))
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)
