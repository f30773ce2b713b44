"""A figure in a page: text is text, a cell is a pixel, the page recolours it, and it is as it was afterwards."""

import base64
import io
import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from interp_kit.reports import svg as drawing
from interp_kit.reports.plotting import OVER_DARK, OVER_LIGHT, figure_of, heatmap, intervals, new_axes
from interp_kit.reports.svg import TONES, svg, variables

VALUES = np.array([[0.0, -1.0, 2.0], [0.5, np.nan, -2.0]])


def signed() -> Axes:
    return heatmap(VALUES, ("a", "b"), ("X", "Y?", "Z"), signed=True, title="T <i>", label="effect", mark=VALUES == 2)


def images(text: str) -> list[tuple[str, np.ndarray]]:
    """(class, pixels from the bottom row up) of each image inside."""
    found = []
    for tag in re.findall(r"<image[^>]*>", text):
        kind = re.search(r'class="by-(\w+)"', tag)
        data = base64.b64decode(re.search(r"base64,([^\"]*)", tag)[1])  # pyright: ignore[reportOptionalSubscript]
        found.append((kind[1] if kind else "", np.array(Image.open(io.BytesIO(data)).convert("RGBA"))))
    return found


def test_a_signed_map_has_a_dark_copy_of_the_same_signs_whose_zero_is_dark() -> None:
    drawn = svg(signed(), "A map.")
    assert drawn is not None
    cells = {kind: pixels for kind, pixels in images(drawn) if pixels.shape[:2] == VALUES.shape}
    assert set(cells) == {"light", "dark"}
    light, dark = (cells[kind][..., :3].astype(int) for kind in ("light", "dark"))
    zero, orange, purple = (np.argwhere(value == VALUES)[0] for value in (0.0, -2.0, 2.0))
    if not light[tuple(zero)].min() > 230:  # stored from the top row down
        light, dark = light[::-1], dark[::-1]
    assert light[tuple(zero)].min() > 230
    assert dark[tuple(zero)].max() < 50
    for colours in (light, dark):
        assert colours[tuple(orange)][0] > colours[tuple(orange)][2]  # more red than blue
        assert colours[tuple(purple)][2] > colours[tuple(purple)][0]
    assert dark[tuple(orange)].max() > 200
    assert dark[tuple(purple)].max() > 200


def test_text_is_text_and_ink_is_the_pages() -> None:
    drawn = svg(signed(), 'A "map".')
    assert drawn is not None
    assert {"T &lt;i&gt;", "X", "Y?", "effect"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", drawn))
    assert 'aria-label="A &quot;map&quot;."' in drawn
    assert not [tone for tone in TONES if f" {tone}" in drawn]
    assert "var(--ink)" in drawn
    assert OVER_LIGHT in drawn  # The edge of a dot stays as it is: it lies on a cell, not on paper.
    assert not re.search(r"<!--|<metadata|DOCTYPE|xmlns|font-family: (?!inherit)| id=\"(?:figure|axes|text)_", drawn)


def test_every_variable_is_there_in_the_light_and_in_the_dark() -> None:
    used = set(re.findall(r"var\(--(\w+)\)", svg(signed(), "") or ""))
    for dark in (False, True):
        assert used <= set(re.findall(r"--(\w+):", variables(dark)))


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return float(
            np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        )

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_can_be_seen_on_their_paper(dark: bool) -> None:
    shades = {name: values[dark] for name, *values in TONES.values()}
    assert contrast(shades["ink"], shades["paper"]) > 7
    assert contrast(shades["soft"], shades["paper"]) > 4.5
    assert contrast(shades["faint"], shades["paper"]) > 3
    assert contrast(shades["blue"], shades["paper"]) > 3
    assert OVER_DARK not in TONES
    assert OVER_LIGHT not in TONES


def test_a_figure_is_as_it_was() -> None:
    ax = signed()
    before, engine = ax.images[0].get_cmap().name, figure_of(ax).get_layout_engine()
    assert svg(ax, "x")
    assert ax.images[0].get_cmap().name == before
    assert figure_of(ax).get_layout_engine() is engine


def test_a_line_is_drawn_once_and_a_figure_too_large_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    one = (np.ones(1), np.zeros(1), np.full(1, 2.0))
    drawn = svg(intervals(["a"], {"s": one}), "x")
    assert drawn is not None
    assert "by-dark" not in drawn
    monkeypatch.setattr(drawing, "LARGEST", 100)
    assert svg(new_axes(), "x") is None
