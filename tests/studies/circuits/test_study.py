"""Circuits of models as a page: on a planted model, whose circuit is known, and on an untrained one, which has none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp_kit.models.planted import ground_truth
from interp_kit.studies.circuits.study import Examined, boolean, page, sentences, smallest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def latent() -> Examined:
    return boolean("boolean-latent")


def test_the_planted_circuit_is_what_is_left(latent: Examined) -> None:
    size = smallest(latent.curve)
    assert size == len(ground_truth("boolean-latent").edges)
    assert set(latent.circuit.top(size).edges) == ground_truth("boolean-latent").edges
    assert latent.curve.n == 8  # of 112 pairs of the 16 texts with A = 0, less those that chose the edges
    assert smallest(latent.mean_curve) is not None  # pyright: ignore[reportArgumentType]


def test_words_follow_the_figures(latent: Examined) -> None:
    assert "5 of 110 edges keep 1.00" in sentences("planted", latent)[0]
    flat = replace(latent.curve, low=np.zeros_like(latent.curve.low))
    assert "no circuit found" in sentences("planted", replace(latent, curve=flat))[0]


def test_an_untrained_model_needs_many_edges() -> None:
    size = smallest(boolean("untrained:boolean-latent").curve)
    assert size is None or size > 10


def test_the_page(latent: Examined, tmp_path: Path) -> None:
    path = page({"planted": latent, "culture-like": replace(latent, by_position=None, mean_curve=None)}).write(
        tmp_path / "circuits.html"
    )
    text = path.read_text()
    assert "5 of 110 edges" in text
    assert "What cannot be said" in text
