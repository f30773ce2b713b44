"""Learning curves: what is drawn, and an extrapolation that is exact on a power law."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from interp_kit.studies.culture.curve import AIM, curves_of, plot_curve, quizzes_to_reach, schedule_ends
from interp_kit.studies.culture.training.turns import Point


def point(id: int, seen: int, accuracy: float) -> Point:
    return Point(id, seen, 0.1, accuracy, accuracy, {"Cell": accuracy}, {"whole": accuracy}, [[accuracy]], 1.0)


def law(seen: float) -> float:
    return 1 - 3 * seen**-0.2


# Three schedules, which end at 4,000, 9,000 and 16,000; between these the rate rises and accuracy is far below.
ENDS = (4000, 9000, 16_000)
CURVE = [point(0, seen, law(seen) * (1 if seen in ENDS else 0.6 + seen / 1e5)) for seen in range(1000, 16_001, 1000)]


def test_schedules_end_before_accuracy_falls() -> None:
    assert [p.seen for p in schedule_ends(CURVE)] == list(ENDS)
    assert schedule_ends(CURVE[:2]) == [CURVE[1]]
    slips = [
        point(0, 1, 0.5),
        point(0, 2, 0.48),
        point(0, 3, 0.6),
        point(0, 4, 0.3),
        point(0, 5, 0.4),
        point(0, 6, 0.3),
    ]
    assert [p.seen for p in schedule_ends(slips)] == [3]  # not a slip of 0.02, and not what was better before
    near = [point(0, n, a) for n, a in enumerate((0.5, 0.8, 0.795, 0.6, 0.7, 0.9), 1)]
    assert [p.seen for p in schedule_ends(near)] == [3, 6]  # a hair below the best is an end too
    assert [p.seen for p in schedule_ends(near[:5])] == [3]  # and what is under way is none
    unrecorded = [point(0, seen, 0.1 * seen) for seen in (1, 2, 3, 4, 8)]
    assert [p.seen for p in schedule_ends(unrecorded)] == [4, 8]


def test_a_power_law_through_the_ends_is_carried_on() -> None:
    assert quizzes_to_reach(CURVE, 0.9) == pytest.approx((3 / 0.1) ** 5, rel=1e-6)


def test_an_error_that_does_not_fall_never_arrives() -> None:
    falling = [point(0, n, a) for n, a in ((1, 0.9), (2, 0.1), (3, 0.9), (4, 0.1), (5, 0.9))]
    assert quizzes_to_reach(falling, 0.95) == np.inf


def test_what_is_reached_is_reached() -> None:
    done = [point(0, n, a) for n, a in enumerate((0.9, 0.5, 0.96, 0.5, 1.0), 1)]
    assert quizzes_to_reach(done, 0.95) == 3
    assert quizzes_to_reach(done, 0.999) == 5
    assert not [line for line in plot_curve(done).get_lines() if line.get_linestyle() == ":"]
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        quizzes_to_reach(done, 1)


def test_too_few_evaluations() -> None:
    with pytest.raises(ValueError, match="2 schedules came to their end, a line needs 3"):
        quizzes_to_reach(CURVE[:9], 0.9)
    with pytest.raises(ValueError, match="no evaluation"):
        plot_curve([])


def test_a_line_that_arrives_soon_ends_at_the_aim() -> None:
    steep = [point(0, n, a) for n, a in ((1, 0.5), (2, 0.1), (3, 0.8), (4, 0.1), (5, 0.94))]
    (dotted,) = (line for line in plot_curve(steep).get_lines() if line.get_linestyle() == ":")
    assert np.asarray(dotted.get_ydata(), float)[-1] == pytest.approx(AIM)


def test_each_model_has_its_lines(tmp_path: Path) -> None:
    points = [*CURVE, *(dataclasses.replace(p, id=1) for p in CURVE[:5])]
    *lines, aim = plot_curve(points).get_lines()
    assert set(np.asarray(aim.get_ydata(), float)) == {AIM}
    assert [line.get_label() for line in lines if not str(line.get_label()).startswith("_")] == [
        "gpt_000, sampled", "gpt_000, greedy", "gpt_001, sampled", "gpt_001, greedy",
    ]  # fmt: skip
    assert lines[3].get_xdata() == pytest.approx([1, 2, 3, 4, 5])
    (dotted,) = (line for line in lines if line.get_linestyle() == ":")  # gpt_001 has two ends
    x, y = np.asarray(dotted.get_xdata(), float), np.asarray(dotted.get_ydata(), float)
    assert y == pytest.approx([law(1000 * thousand) for thousand in x])
    assert (x[0], x[-1]) == pytest.approx((4, 1.6 * 16))
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(dataclasses.asdict(p)) + "\n" for p in points))
    assert {id: len(of) for id, of in curves_of(tmp_path).items()} == {0: 16, 1: 5}
    assert curves_of(tmp_path / "none") == {}
