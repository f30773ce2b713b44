"""Learning curves: what is drawn, and an extrapolation that is exact on a power law."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from interp_kit.recipes.culture_curve import curves_of, plot_curve, quizzes_to_reach
from interp_kit.training.culture.rotation import Point


def point(id: int, seen: int, accuracy: float) -> Point:
    return Point(id, seen, 0.1, accuracy, accuracy, {}, {}, [], 1.0)


POWER = [point(0, seen, 1 - 3 * seen**-0.2) for seen in range(1000, 20_001, 1000)]


def test_a_power_law_is_carried_on() -> None:
    assert quizzes_to_reach(POWER, 0.9) == pytest.approx((3 / 0.1) ** 5, rel=1e-6)


def test_an_error_that_does_not_fall_never_arrives() -> None:
    assert quizzes_to_reach([point(0, 1000 * n, 0.5 - 0.01 * n) for n in range(1, 10)], 0.9) == np.inf


def test_too_few_evaluations() -> None:
    with pytest.raises(ValueError, match="1 evaluations"):
        quizzes_to_reach(POWER[:2], 0.9)
    with pytest.raises(ValueError, match="no evaluation"):
        plot_curve([])


def test_each_model_has_its_lines(tmp_path: Path) -> None:
    points = [*POWER, *(dataclasses.replace(p, id=1) for p in POWER[:5])]
    lines = plot_curve(points).get_lines()
    assert [line.get_label() for line in lines] == [
        "gpt_000, sampled", "gpt_000, greedy", "gpt_001, sampled", "gpt_001, greedy",
    ]  # fmt: skip
    assert lines[2].get_xdata() == pytest.approx([1, 2, 3, 4, 5])
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(dataclasses.asdict(p)) + "\n" for p in points))
    assert {id: len(of) for id, of in curves_of(tmp_path).items()} == {0: 20, 1: 5}
    assert curves_of(tmp_path / "none") == {}
