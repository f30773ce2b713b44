"""Pictures of quizzes show the cells that are there, in colours that everybody can tell apart."""

import re
import sys
from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from interp_kit.reports.plotting import png
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.figures import PALETTE, panels, plot_quizzes, repr_grid
from interp_kit.tasks.culture.world import sample_worlds

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB
VISION = {
    "common": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
PLAIN = {".": 0, "a": 10, **{str(n): n for n in range(1, 10)}}


def linear(rgb: str) -> np.ndarray:
    value = np.array(to_rgb(rgb))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(colour: np.ndarray) -> np.ndarray:
    t = XYZ @ np.clip(colour, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(one: np.ndarray, two: np.ndarray) -> float:
    """Sharma, Wu & Dalal (2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25**7)))
    c1, c2 = np.hypot((1 + g) * a1, b1), np.hypot((1 + g) * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, (1 + g) * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    grey = c1 * c2 < 1e-12
    dh = 0 if grey else (h2 - h1 + 180) % 360 - 180
    h = h1 + h2 if grey else (h1 + dh / 2) % 360
    lm, cm = (l1 + l2) / 2, (c1 + c2) / 2
    cosines = [np.cos(np.radians(angle)) for angle in (h - 30, 2 * h, 3 * h + 6, 4 * h - 63)]
    t = 1 + np.dot([-0.17, 0.24, 0.32, -0.2], cosines)
    sl, sc, sh = 1 + 0.015 * (lm - 50) ** 2 / np.sqrt(20 + (lm - 50) ** 2), 1 + 0.045 * cm, 1 + 0.015 * cm * t
    rotation = -2 * np.sqrt(cm**7 / (cm**7 + 25**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    x, y, z = (l2 - l1) / sl, (c2 - c1) / sc, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2)) / sh
    return float(np.sqrt(x**2 + y**2 + z**2 + rotation * y * z))


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((2.0776, 0.0795, -1.135), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_colour_difference_is_that_of_the_published_table(one: tuple, two: tuple, expected: float) -> None:
    assert ciede2000(np.array(one), np.array(two)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_by_everybody(vision: str) -> None:
    seen = [lab(np.array(VISION[vision]) @ linear(colour.rgb)) for colour in PALETTE]
    assert len(seen) == grids.COLOURS
    assert min(ciede2000(a, b) for a, b in combinations(seen, 2)) > 15


def test_terminals_show_the_colours_of_figures() -> None:
    steps = [0, 95, 135, 175, 215, 255]
    for colour in PALETTE:
        n = colour.terminal - 16
        rgb = [steps[n // 36], steps[n // 6 % 6], steps[n % 6]] if n < 216 else [8 + 10 * (n - 216)] * 3
        assert colour.rgb == "#" + "".join(f"{value:02x}" for value in rgb)
    assert PALETTE[0].rgb == "#ffffff"


def test_what_is_written_on_a_colour_can_be_read() -> None:
    for colour in PALETTE:
        light, dark = sorted((XYZ[1] @ linear(colour.rgb), XYZ[1] @ linear(colour.ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5  # contrast that WCAG 2 asks of text


@pytest.fixture(scope="module")
def quizzes() -> np.ndarray:
    """Twelve quizzes, their grids in all five orders."""
    drawn = sample_worlds(12, np.random.default_rng(0)).quizzes()
    return grids.reconfigure(drawn, np.arange(12) % 5).astype(np.int64)


def cells_of(row: np.ndarray) -> np.ndarray:
    return row.reshape(4, grids.QUARTER)[:, 1:].reshape(4, 10, 10)


def parsed(text: str) -> np.ndarray:
    """(grid, 10, 10) the cells of one quiz as printed without colour, a heading above them."""
    lines = [line.ljust(4 * 22) for line in text.splitlines()[1:11]]
    return np.array([[[PLAIN[line[g * 22 + 2 * c]] for c in range(10)] for line in lines] for g in range(4)])


def painted(text: str) -> np.ndarray:
    """The same from the backgrounds of a coloured print."""
    number = {colour.terminal: n for n, colour in enumerate(PALETTE)}
    rows = []
    for line in text.splitlines()[1:11]:
        runs = re.findall(r"\033\[48;5;(\d+)m\033\[38;5;\d+m([^\033]*)\033\[0m", line)
        rows.append([number[int(code)] for code, shown in runs for _ in range(len(shown) // 2)])
    return np.array(rows).reshape(10, 4, 10).transpose(1, 0, 2)


def test_what_is_printed_is_the_quiz(quizzes: np.ndarray) -> None:
    for row in quizzes:
        plain, coloured = repr_grid(row, colour=False), repr_grid(row, colour=True)
        order = grids.STRUCTURES[int(grids.structure_of(row[None])[0])].order
        assert plain.splitlines()[0].split() == list(order) == coloured.splitlines()[0].split()
        np.testing.assert_array_equal(parsed(plain), cells_of(row))
        np.testing.assert_array_equal(painted(coloured), cells_of(row))
        np.testing.assert_array_equal(
            parsed(re.sub(r"\033\[[\d;]*m", "", repr_grid(row, colour=True, digits=True))), cells_of(row)
        )


def test_any_form_of_the_same_quiz_gives_the_same_text(quizzes: np.ndarray) -> None:
    import torch

    row = grids.reconfigure(quizzes[:1], 0)[0]
    expected = repr_grid(row, colour=False)
    forms = [torch.tensor(row), row.tolist(), row[None], np.pad(row, (1, 0)), cells_of(row), cells_of(row)[None]]
    for form in [*forms, cells_of(row).reshape(4, 100)]:
        assert repr_grid(form, colour=False) == expected
    several = repr_grid(quizzes[:3], colour=False).split("\n\n")
    assert several == [repr_grid(one, colour=False) for one in quizzes[:3]]


def test_a_text_may_be_cut_off_anywhere(quizzes: np.ndarray) -> None:
    row = quizzes[0]
    for length in (1, 2, 101, 102, 150, 303, 403):
        shown = panels(row[:length])[0]
        assert len(shown) == -(-length // grids.QUARTER)
        known = np.concatenate([panel.cells.ravel() for panel in shown])
        expected = cells_of(row).ravel()
        assert (known[known >= 0] == expected[: (known >= 0).sum()]).all()
        assert (known >= 0).sum() == length - len(shown)
        repr_grid(row[:length])


def test_marks_stand_on_their_cells_and_are_explained(quizzes: np.ndarray) -> None:
    marks = {kind: np.zeros(quizzes.shape, bool) for kind in ("wrong", "changed")}
    marks["changed"][0, 203 + 57] = marks["wrong"][0, 304 + 0] = marks["wrong"][0, 304 + 99] = True
    marks["changed"][0, 304 + 99] = True  # wrong goes first
    text = repr_grid(quizzes, marks, colour=False)
    block = text.split("\n\n")[0].splitlines()[1:]
    stars = [(line // 1, at) for line, shown in enumerate(block) for at, c in enumerate(shown) if c in "*!"]
    assert stars == [(0, 3 * 22 + 1), (5, 2 * 22 + 2 * 7 + 1), (9, 3 * 22 + 2 * 9 + 1)]
    assert text.endswith("! wrong, * changed")
    coloured = repr_grid(quizzes, marks, colour=True)
    assert coloured.count("><") == 3  # two cells and the legend
    assert coloured.count("[]") == 2
    assert "wrong" not in repr_grid(quizzes)


def test_a_marker_inside_a_grid_is_shown_as_one(quizzes: np.ndarray) -> None:
    row = quizzes[0].copy()
    row[1] = 12
    assert repr_grid(row, colour=False).splitlines()[1].startswith("F ")
    assert "fA" in repr_grid(row, colour=True).splitlines()[1]


def test_titles_names_and_width(quizzes: np.ndarray) -> None:
    text = repr_grid(quizzes[:2], titles=["one", "two"], names=["p", "q", "r", "s"], colour=False, width=50)
    lines = text.splitlines()
    assert lines[0] == "one"
    assert lines[1].split() == ["p", "q"]
    assert max(map(len, lines)) <= 50
    assert lines[13].split() == ["r", "s"]


def test_colour_only_where_a_terminal_wants_it(quizzes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033" not in repr_grid(quizzes[0])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\033" in repr_grid(quizzes[0])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in repr_grid(quizzes[0])


@pytest.mark.parametrize(
    ("quiz", "options", "message"),
    [
        ([15], {}, r"quizzes\[0\] is 15, outside 0..14"),
        ([[0, -2]], {}, r"quizzes\[0, 1\] is -2"),
        ([0.5], {}, "integers, not float64"),
        ([1, 2, 3], {}, "neither texts that begin with a marker nor grids"),
        ([11, 1], {"marks": {"odd": [0, 0]}}, "no mark 'odd'"),
        ([11, 1], {"marks": {"wrong": [0]}}, "of shape"),
        ([11, 1], {"titles": ["a", "b"]}, "2 titles for 1 quizzes"),
        ([11, 1], {"names": ["a", "b"]}, "2 names for a row of 1 grids"),
    ],
)
def test_what_cannot_be_drawn_is_refused(quiz: list, options: dict, message: str) -> None:
    for draw in (repr_grid, plot_quizzes):
        with pytest.raises(ValueError, match=message):
            draw(quiz, **options)


def test_a_figure_shows_the_cells_in_the_palette(quizzes: np.ndarray) -> None:
    ax = plot_quizzes(quizzes[:2], titles=["one", "two"])
    assert isinstance(ax, Axes)
    shown = [np.asarray(image.get_array()) for image in ax.images]
    expected = np.array([to_rgb(colour.rgb) for colour in PALETTE])[np.concatenate([cells_of(q) for q in quizzes[:2]])]
    np.testing.assert_allclose(shown, expected)
    texts = [text.get_text() for text in ax.texts]
    assert texts.count("one") == texts.count("two") == 1
    assert texts.count("f_A") == 2
    boxes = [image.get_extent() for image in ax.images]
    for (l1, r1, b1, t1), (l2, r2, b2, t2) in combinations(boxes, 2):
        assert r1 < l2 or r2 < l1 or b1 < t2 or b2 < t1


def test_a_figure_marks_cells_and_writes_digits(quizzes: np.ndarray) -> None:
    marks = {"wrong": np.zeros(404, bool)}
    marks["wrong"][304 + 23] = True
    ax = plot_quizzes(quizzes[0], marks, digits=True)
    left, _, _, top = ax.images[3].get_extent()
    strokes = np.concatenate([path for collection in ax.collections for path in collection.get_segments()])
    centres = np.floor(strokes - [left, top]).astype(int)
    assert [3, 2] in centres.tolist()
    texts = [text.get_text() for text in ax.texts]
    assert sum(text.isdigit() for text in texts) == 400
    assert "wrong" in texts
    assert png(ax).startswith(b"\x89PNG")
