"""What a figure shows is what it was given: every cell, every name, zero in the middle of a signed scale."""

import itertools

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from interp_kit.reports.plotting import (
    COLOURS,
    EMPTY,
    bend,
    figure_of,
    heatmap,
    intervals,
    new_axes,
    note_bend,
    say_start,
)

ROWS, COLUMNS = ("layer 0", "layer 1"), ("A", "newB?", "newD")
VALUES = np.array([[0.0, 1.0, 2.0], [3.0, np.nan, 0.5]])


def texts(labels: list) -> list[str]:
    return [label.get_text() for label in labels]


def cell_colours(ax: Axes) -> np.ndarray:
    """(rows, columns, rgb) as drawn."""
    image = ax.images[0]
    return image.to_rgba(image.get_array())[..., :3]


def test_ticks_bear_the_names_and_the_axes_their_labels() -> None:
    ax = heatmap(VALUES, ROWS, COLUMNS, title="T", x_label="position", y_label="layer", label="effect")
    assert texts(ax.get_xticklabels()) == list(COLUMNS)
    assert texts(ax.get_yticklabels()) == list(ROWS)
    assert (ax.get_title(), ax.get_xlabel(), ax.get_ylabel()) == ("T", "position", "layer")
    assert figure_of(ax).axes[1].get_ylabel() == "effect"  # The colour bar's.
    figure_of(ax).canvas.draw()  # It can be drawn.


def test_row_0_is_at_the_bottom_and_every_cell_has_its_value() -> None:
    ax = heatmap(VALUES, ROWS, COLUMNS)
    np.testing.assert_array_equal(np.ma.filled(ax.images[0].get_array(), np.nan), VALUES)
    assert ax.images[0].origin == "lower"
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    assert ax.images[0].get_clim() == (0.0, 3.0)


@pytest.mark.parametrize(
    ("limits", "ends"),
    [((0.0, 3.0), "neither"), ((0.5, 3.0), "min"), ((0.0, 2.5), "max"), ((0.5, 2.5), "both"), (None, "neither")],
)
def test_the_colour_bar_is_pointed_where_values_lie_beyond(limits: tuple[float, float] | None, ends: str) -> None:
    ax = heatmap(VALUES, ROWS, COLUMNS, limits=limits)
    bar = ax.images[0].colorbar
    assert bar is not None
    assert bar.extend == ends


@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (3, 3), (2,), (2, 3, 1), (0, 3)])
def test_names_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="with 2 row and 3 column names"):
        heatmap(np.zeros(shape), ROWS, COLUMNS)


@pytest.mark.parametrize(
    "values",
    [VALUES, -VALUES, np.zeros((2, 3)), np.full((2, 3), np.nan), np.full((2, 3), -2.0), VALUES - 1.2],
    ids=["positive", "negative", "all zero", "all nan", "all equal", "mixed"],
)
def test_signed_colours_are_symmetric_about_zero(values: np.ndarray) -> None:
    ax = heatmap(values, ROWS, COLUMNS, signed=True)
    low, high = ax.images[0].get_clim()
    assert high > 0
    assert low == -high
    assert high >= np.nanmax(np.abs(values), initial=0)
    middle = ax.images[0].cmap(0.5)[:3]
    np.testing.assert_allclose(cell_colours(ax)[values == 0], np.tile(middle, ((values == 0).sum(), 1)), atol=0.02)


@pytest.mark.parametrize("value", [0.0, -3.0, 7.5])
def test_equal_values_are_drawn_unsigned(value: float) -> None:
    low, high = heatmap(np.full((2, 3), value), ROWS, COLUMNS).images[0].get_clim()
    assert low == value < high


def test_limits_are_kept() -> None:
    assert heatmap(VALUES, ROWS, COLUMNS, limits=(-1.0, 8.0)).images[0].get_clim() == (-1, 8)
    assert heatmap(VALUES, ROWS, COLUMNS, signed=True, limits=(-5.0, 5.0)).images[0].get_clim() == (-5, 5)


def test_undefined_cells_are_hatched_and_no_others() -> None:
    values = VALUES.copy()
    values[0, 2] = np.inf
    ax = heatmap(values, ROWS, COLUMNS)
    hatched = {(p.get_y() + 0.5, p.get_x() + 0.5) for p in ax.patches if isinstance(p, Rectangle) and p.get_hatch()}
    assert hatched == {(1, 1), (0, 2)}
    assert np.ma.getmaskarray(ax.images[0].get_array()).nonzero()[0].tolist() == [0, 1]


def test_marked_cells_get_a_dot() -> None:
    mark = np.array([[True, False, False], [False, False, True]])
    ax = heatmap(VALUES, ROWS, COLUMNS, mark=mark)
    assert sorted(map(tuple, ax.collections[0].get_offsets())) == [(0, 0), (2, 1)]


def test_given_axes_are_drawn_on() -> None:
    ax = new_axes()
    assert heatmap(VALUES, ROWS, COLUMNS, ax=ax) is ax
    other = new_axes()
    assert intervals(["a"], {"s": (np.ones(1), np.ones(1), np.ones(1))}, ax=other) is other


def test_no_figure_is_kept_by_pyplot() -> None:
    heatmap(VALUES, ROWS, COLUMNS)
    intervals(["a"], {"s": (np.ones(1), np.ones(1), np.ones(1))})
    assert pyplot.get_fignums() == []


def bars(ax: Axes) -> list[np.ndarray]:
    """Ends of the horizontal bars of each series: (names, 2 ends, x y)."""
    return [np.array(container.lines[2][0].get_segments()) for container in ax.containers]


def test_intervals_reach_from_low_to_high() -> None:
    names = ["A", "newB", "newD"]
    value, low, high = np.array([0.5, 0.2, 0.9]), np.array([0.4, 0.2, 0.7]), np.array([0.6, 0.5, 1.0])
    ax = intervals(names, {"model": (value, low, high)}, limits=(0.0, 1.0), x_label="accuracy")
    assert texts(ax.get_yticklabels()) == names
    assert ax.get_ylim() == (2.5, -0.5)  # The first name on top.
    assert ax.get_xlim() == (0, 1)
    assert ax.get_xlabel() == "accuracy"
    np.testing.assert_allclose(bars(ax)[0][:, 0, 0], low)
    np.testing.assert_allclose(bars(ax)[0][:, 1, 0], high)
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata(), value)


def test_unknown_interval_is_a_point_without_bar() -> None:
    nan = np.array([np.nan])
    ax = intervals(["A"], {"model": (np.array([0.5]), nan, nan)})
    np.testing.assert_allclose(bars(ax)[0][0, :, 0], [0.5, 0.5])


def test_each_series_has_its_colour_and_its_height() -> None:
    one = (np.ones(2), np.zeros(2), np.full(2, 2.0))
    ax = intervals(["A", "B"], {"first": one, "second": one}, reference={"chance": 0.5})
    heights = [container.lines[0].get_ydata() for container in ax.containers]
    assert not np.allclose(*heights)
    assert [to_rgba(c.lines[0].get_color()) for c in ax.containers] == [to_rgba(colour) for colour in COLOURS[:2]]
    assert set(texts(ax.get_legend().get_texts())) == {"first", "second", "chance"}
    assert [line.get_xdata()[0] for line in ax.lines if line.get_label() == "chance"] == [0.5]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_lines_of_one_name_stand_closer_than_those_of_the_next(count: int) -> None:
    flat = np.array([0.5, 0.5])
    ax = intervals(["a", "b"], {str(i): (flat, flat, flat) for i in range(count)})
    heights = np.array([np.asarray(c.lines[0].get_ydata()) for c in ax.containers])  # (series, name)
    inside, between = heights[1, 0] - heights[0, 0], heights[0, 1] - heights[-1, 0]
    assert between > 2 * inside
    np.testing.assert_allclose(heights.mean(0), [0, 1], atol=1e-9)


def test_no_series_and_no_reference_is_left_out() -> None:
    one = (np.ones(1), np.ones(1), np.ones(1))
    series, reference = {f"s{i}": one for i in range(11)}, {f"r{i}": 0.1 * i for i in range(5)}
    ax = intervals(["A"], series, reference=reference)
    assert set(texts(ax.get_legend().get_texts())) == {*series, *reference}
    looks = [(c.lines[0].get_color(), c.lines[0].get_marker()) for c in ax.containers]
    assert len(set(looks)) == 11


def test_colours_differ_in_brightness_or_hue_for_a_reader_without_red_green_sight() -> None:
    # Deuteranopia by Viénot, Brettel and Mollon (1999), in linear RGB.
    matrix = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    seen = {colour: matrix @ np.array(to_rgba(colour)[:3]) ** 2.2 for colour in COLOURS}
    for a, b in itertools.combinations(COLOURS, 2):
        assert np.abs(seen[a] ** 1.0 - seen[b]).max() > 0.05, (a, b)


@pytest.mark.parametrize(("signed", "span"), [(True, (-0.05, 0.05)), (False, (0.0, 0.05))])
def test_what_is_tiny_is_not_drawn_as_structure(signed: bool, span: tuple[float, float]) -> None:
    ax = heatmap(VALUES * 2e-5, ROWS, COLUMNS, signed=signed, label="effect")
    assert ax.images[0].get_clim() == span
    assert "colours span" in figure_of(ax).axes[1].get_ylabel()
    assert "colours span" not in figure_of(heatmap(VALUES, ROWS, COLUMNS, label="effect")).axes[1].get_ylabel()
    assert heatmap(VALUES * 2e-5, ROWS, COLUMNS, floor=1e-5).images[0].get_clim()[1] == 3 * 2e-5


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e7])
def test_no_power_of_ten_stands_over_a_title(scale: float) -> None:
    one = 5 + np.array([0.1, 0.2])
    ax = intervals(["a", "b"], {"s": (one * scale, one * scale, one * scale)})
    other = heatmap(VALUES * scale, ROWS, COLUMNS, floor=0.0)
    for axes in (*figure_of(ax).axes, *figure_of(other).axes):
        axes.figure.canvas.draw()
        assert axes.xaxis.get_offset_text().get_text() == ""
        assert axes.yaxis.get_offset_text().get_text() == ""


def test_an_axis_that_leaves_out_its_floor_says_so() -> None:
    far, near = np.array([5.0, 5.2]), np.array([-0.1, 0.3])
    assert "axis starts at 4.9" in intervals(["a", "b"], {"s": (far, far, far)}, x_label="logits").get_xlabel()
    assert "axis ends at -4.9" in intervals(["a", "b"], {"s": (-far, -far, -far)}, x_label="logits").get_xlabel()
    assert intervals(["a", "b"], {"s": (near, near, near)}, x_label="logits").get_xlabel() == "logits"


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.0751, 1.04, "at 0.08"), (0.314, 1.02, "at 0.31"), (0.9962, 0.9991, "at 0.996"), (0.004, 1.0, "at 0.004")],
)  # fmt: skip
def test_the_start_of_an_axis_has_the_digits_that_it_tells_apart(low: float, high: float, told: str) -> None:
    ax = new_axes()
    ax.set_ylim(low, high)
    say_start(ax, "y")
    assert f"{told}, not 0" in ax.get_ylabel()


def test_a_curve_is_annotated_where_it_bends() -> None:
    x = np.arange(11.0)
    assert bend(x, np.minimum(x, 4)) == 4
    assert bend(x, np.maximum(x, 6)) == 6
    assert bend(x, 2 * x + 1) is None
    assert bend(x[:2], x[:2]) is None
    assert bend(x, np.ones(11)) is None
    ax = new_axes()
    ax.plot(x, np.minimum(x, 4))
    note_bend(ax, x, np.minimum(x, 4), "{y:.2f} after {x:g}")
    assert [text.get_text() for text in ax.texts] == ["4.00 after 4"]


@pytest.mark.parametrize("scale", ["linear", "symlog"])
def test_a_note_at_the_end_of_a_curve_stays_inside_of_the_frame(scale: str) -> None:
    x = np.array([0.0, 1, 10, 50, 100, 239, 479])
    ax = new_axes()
    ax.plot(x, x)
    ax.set_xscale(scale)
    note_bend(ax, x, x, "{y:.2f} with {x:g} edges", 5)
    figure = figure_of(ax)
    figure.canvas.draw()
    assert ax.texts[0].get_window_extent().x1 <= ax.get_window_extent().x1 + 1


def test_axes_without_a_value_say_so() -> None:
    nothing, one = np.full(2, np.nan), np.array([np.nan, 0.5])
    empty = intervals(["a", "b"], {"s": (nothing, nothing, nothing)})
    assert (texts(empty.texts), list(empty.get_xticks())) == ([EMPTY], [])
    assert not intervals(["a", "b"], {"s": (one, nothing, nothing)}).texts


def test_a_title_breaks_neither_n_nor_a_name() -> None:
    title = heatmap(VALUES, ROWS, COLUMNS, title="mean ablation, boolean-gpt2-seed1-held (n = 32)").get_title()
    assert len(title.split("\n")) > 1
    assert "(n = 32)" in title
    assert "boolean-gpt2-seed1-held" in title
    title = heatmap(VALUES, ROWS, COLUMNS, title="resid_pre: do(P(d)) → s2.f0 (n = 451 bases)").get_title()
    assert "(n = 451 bases)" in title.split("\n"), title
    title = heatmap(VALUES, ROWS, COLUMNS, title="attention, untrained:culture/gpt_000@594097031 (n = 32)").get_title()
    assert "untrained:culture/gpt_000@594097031" in title.split("\n"), title
