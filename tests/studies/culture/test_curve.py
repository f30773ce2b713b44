"""Learning curves: what is drawn."""

import numpy as np
import pytest

from interp_kit.studies.culture.curve import AIM, plot_curve
from interp_kit.studies.culture.training.turns import Point


def point(id: int, seen: int, accuracy: float) -> Point:
    return Point(id, seen, 0.1, accuracy, accuracy / 2, {"Cell": accuracy}, {"whole": accuracy}, None, 1.0)


def test_each_model_has_its_lines() -> None:
    points = [point(id, seen, seen / 1e4) for id in (0, 3) for seen in (1000, 2000, 4000)]
    *lines, aim = plot_curve(points).get_lines()
    assert set(np.asarray(aim.get_ydata(), float)) == {AIM}
    assert [line.get_label() for line in lines] == [
        "gpt_000, sampled", "gpt_000, greedy", "gpt_003, sampled", "gpt_003, greedy",
    ]  # fmt: skip
    assert lines[2].get_xdata() == pytest.approx([1, 2, 4])
    assert lines[2].get_ydata() == pytest.approx([0.1, 0.2, 0.4])
    assert lines[3].get_ydata() == pytest.approx([0.05, 0.1, 0.2])


def test_no_evaluation() -> None:
    with pytest.raises(ValueError, match="no evaluation"):
        plot_curve([])
