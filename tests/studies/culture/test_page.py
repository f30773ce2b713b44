"""The sentences on top of the culture page say of all models what the sections say of each."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np

from interp_kit.core.stats.intervals import Estimate, wilson
from interp_kit.studies.culture.page import _solved
from interp_kit.studies.culture.rule_page import _places_findings
from interp_kit.studies.culture.scores import CultureTests


def scores(*right: tuple[int, int]) -> Any:
    """right: per model, of 100 quizzes without noise and with it; of translate a tenth fewer."""

    def accuracy(model: str, noise: float, *, task: str = "all") -> Estimate:
        n = right[int(model[-1])][noise > 0]
        return wilson(n - 10 * (task == "translate"), 100, "quizzes")

    models = tuple(f"gpt_00{i}" for i in range(len(right)))
    given = {"models": models, "noise": np.array([0.0, 0.05]), "tasks": ("grow", "translate"), "accuracy": accuracy}
    return Mock(spec=CultureTests, **given)


def test_what_models_solve_is_one_sentence() -> None:
    low, other = wilson(96, 100).short(), wilson(90, 100).short()
    assert _solved(scores((99, 95), (96, 90))) == (
        f"2 models solve 0.96 to 0.99 (lowest {low}) of quizzes without noise and 0.90 to 0.95 (lowest {other}) with it"
        " (n = 100 each); best at grow (0.96 to 0.99), worst at translate (0.86 to 0.89)."
    )
    assert _solved(scores((99, 95))) == (
        f"gpt_000 solves {wilson(99, 100, 'quizzes')} without noise and {wilson(95, 100, 'quizzes')} with it;"
        " best at grow (0.99), worst at translate (0.89)."
    )


def model(name: str, layer: int, cells: int, constant: int, random: int) -> Any:
    """Counts of 40 quizzes that follow the other rule, with the cells of f_A exchanged before `layer`, and moved."""
    within = [constant - 1, constant, random]
    places = SimpleNamespace(
        share=lambda place: wilson(cells if place == "f_A cells" else 1, 40), at=lambda whole, place, at: place
    )
    moved = SimpleNamespace(
        what=("constant, once", "constant, 4 times", "random direction"), share=lambda i: wilson(within[i], 40)
    )
    return SimpleNamespace(name=name, rules=SimpleNamespace(layer=layer, places=places, within=moved))


def test_where_the_rule_stands_is_said_of_all_models_at_once() -> None:
    models = [model("a", 2, 40, 1, 0), model("b", 3, 31, 10, 5), model("c", 2, 39, 1, 0), model("d", 0, 0, 1, 0)]
    places, direction, none = _places_findings(models)
    assert places.startswith("The rule stands in the cells of f_A up to layer 2 in a, c and 3 in b. Exchanged there,")
    assert f"0.78 to 1.00 of the answers follow the other rule (lowest {wilson(31, 40).short()}, n = 40" in places
    assert f"at the three markers, 0.03 do (highest {wilson(1, 40).short()})" in places
    assert f"0.03 to 0.25 of the answers follow at best (highest {wilson(10, 40).short()})" in direction
    assert "by a random one as long 0.00 to 0.12" in direction
    assert none == "In d the cells of f_A carry the rule alone before no layer."
    assert _places_findings(models[3:]) == (none,)
