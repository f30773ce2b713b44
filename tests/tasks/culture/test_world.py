"""The eight rules against a second implementation with plain loops, and their samplers against exact frequencies."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_kit.tasks.culture import rectangles as rect
from interp_kit.tasks.culture import world
from interp_kit.tasks.culture.world import RULES, TASKS, Worlds, draw_worlds, sample_worlds

SAMPLES = 100_000
DIRECTIONS = {"translate": 8, "grow": 2, "half_fill": 4, "corners": 2}
COLOURS = {"replace_color": 4, "half_fill": 6, "detect": 4}


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    """100,000 sampled quizzes."""
    return sample_worlds(SAMPLES, np.random.default_rng(11))


@pytest.fixture(scope="module")
def grids(worlds: Worlds) -> np.ndarray:
    """(n, 4, 100) their grids."""
    return worlds.grids()


@pytest.fixture(scope="module")
def began(geometry) -> np.ndarray:
    """(rectangle,) how many triples hold it in a given place."""
    return np.array([geometry.neighbours(n)[1].sum() for n in range(1182)], float)


def of(worlds: Worlds, task: str) -> np.ndarray:
    return np.flatnonzero(worlds.task == TASKS.index(task))


# Rules ---------------------------------------------------------------------------------------------------------------


def test_rules_are_the_documented_ones() -> None:
    assert TASKS == (
        "replace_color", "translate", "grow", "half_fill", "frame", "detect", "corners", "contact",
    )  # fmt: skip
    assert {rule.name: rule.directions for rule in RULES} == {task: DIRECTIONS.get(task, 1) for task in TASKS}
    assert {rule.name: rule.colours for rule in RULES} == {task: COLOURS.get(task, 3) for task in TASKS}
    assert len(set(RULES[1].directions_mean)) == 8


@pytest.mark.parametrize("task", TASKS)
def test_quizzes_are_what_the_rule_says(task: str, worlds: Worlds, grids: np.ndarray, geometry, reference) -> None:
    """1,500 quizzes a task, A and B, painted again by the loops of the reference."""
    for row in of(worlds, task)[:1500]:
        direction, colours = int(worlds.direction[row]), worlds.colours[row].tolist()
        assert worlds.task[row] == TASKS.index(task)
        for side in range(2):
            triple = [geometry.bounds[n] for n in worlds.rectangles[row, side]]
            words = RULES[worlds.task[row]].directions_mean[direction]
            x, f = reference(task, direction, colours, triple, words)
            assert grids[row, 2 * side].tolist() == [colour for line in x for colour in line]
            assert grids[row, 2 * side + 1].tolist() == [colour for line in f for colour in line]


@pytest.mark.parametrize("task", TASKS)
def test_what_a_rule_accepts(task: str, geometry, reference) -> None:
    """Any three rectangles, in any direction: `accepted` takes those that the reference can paint."""
    rng, t = np.random.default_rng(2), TASKS.index(task)
    triples = np.concatenate([rect.sample_triples(400, rng), rng.integers(1182, size=(200, 3))])
    direction = rng.integers(DIRECTIONS.get(task, 1), size=600)
    sound = rect.sample_triples(600, rng)
    while not (fits := RULES[t].accept(sound, direction)).all():
        sound[~fits] = rect.sample_triples(int((~fits).sum()), rng)
    colours = np.where(np.arange(6) < COLOURS.get(task, 3), np.arange(1, 7), -1)
    for side in range(2):
        pair = np.stack([triples, sound] if side == 0 else [sound, triples], axis=1)
        both = Worlds(np.full(600, t), np.tile(colours, (600, 1)), direction, pair)
        for row, taken in enumerate(both.accepted()):
            words = RULES[t].directions_mean[direction[row]]
            painted = [
                reference(task, int(direction[row]), [1, 2, 3, 4, 5, 6], [geometry.bounds[n] for n in three], words)
                for three in pair[row]
            ]
            assert taken == all(p is not None for p in painted)
            assert painted[1 - side] is not None


def test_what_no_sampler_draws_is_not_accepted(worlds: Worlds) -> None:
    some = worlds.take(of(worlds, "grow")[:50])
    assert some.accepted().all()
    for latents in (
        {"direction": some.direction + 2},
        {"direction": some.direction - 2},
        {"task": np.full(50, 8)},
        {"task": np.full(50, TASKS.index("detect"))},  # A colour too few.
        {"colours": np.where(some.colours < 0, 3, some.colours)},  # Colours too many.
        {"colours": some.colours[:, [0, 0, 2, 3, 4, 5]]},
        {"colours": np.where(some.colours == some.colours[:, :1], 0, some.colours)},
        {"colours": np.where(some.colours == some.colours[:, :1], 11, some.colours)},
        {"rectangles": some.rectangles[:, :, [0, 0, 2]]},
        {"rectangles": some.rectangles - 1182},
        {"rectangles": some.rectangles + 1182},
    ):
        assert not some.changed(**latents).accepted().any(), latents


def test_names_of_the_directions(worlds: Worlds, grids: np.ndarray) -> None:
    """What `directions_mean` says is what is seen, in row and column order from the top left."""
    assert [rule.directions_mean for rule in RULES if rule.directions > 1 and rule.name != "translate"] == [
        ("grows", "shrinks"),
        ("bottom", "top", "right", "left"),
        ("top left and bottom right", "top right and bottom left"),
    ]
    rows = of(worlds, "grow")
    gained = (grids[rows, 1] > 0).sum(1) - (grids[rows, 0] > 0).sum(1)
    np.testing.assert_array_equal(gained > 0, worlds.direction[rows] == 0)


def test_sampled_worlds_are_sound(worlds: Worlds, grids: np.ndarray) -> None:
    assert worlds.accepted().all()
    assert grids.max() == 10
    for t, rule in enumerate(RULES):
        rows = worlds.take(worlds.task == t)
        assert (rows.colours[:, : rule.colours] >= 1).all()
        assert (rows.colours[:, : rule.colours] <= 10).all()
        assert (rows.colours[:, rule.colours :] == -1).all()
        assert all(len(set(c)) == rule.colours for c in rows.colours[:500, : rule.colours].tolist())


# Frequencies ---------------------------------------------------------------------------------------------------------


def test_tasks_colours_and_directions_are_uniform(worlds: Worlds, goodness) -> None:
    assert goodness(np.bincount(worlds.task, minlength=8), np.ones(8)) > 1e-3
    for t, rule in enumerate(RULES):
        rows = worlds.take(worlds.task == t)
        assert goodness(np.bincount(rows.direction, minlength=rule.directions), np.ones(rule.directions)) > 1e-3
        for a, b in product(range(rule.colours), repeat=2):
            if a < b:
                pair = np.bincount(rows.colours[:, a] * 11 + rows.colours[:, b], minlength=121).reshape(11, 11)
                assert not pair.diagonal().any()
                apart = ~np.eye(10, dtype=bool)
                assert goodness(pair[1:, 1:][apart], np.ones(90)) > 1e-4  # 43 such tests.


def expected_rectangles(task: str, direction: int, geometry, began: np.ndarray) -> np.ndarray:
    """(rectangle,) how many accepted triples hold each rectangle as r2."""
    if task == "contact":
        free = (geometry.apart & ~geometry.touch).astype(float)
        apart = geometry.apart.astype(float)
        return began - (apart * (free @ free)).sum(1)
    size = np.array([(i2 - i1, j2 - j1) for i1, j1, i2, j2 in geometry.bounds])
    bounds = np.array(geometry.bounds)
    if task == "grow":
        return began * (size >= 4).all(1)
    if task == "translate":
        di, dj = rect.STEPS[direction]
        low, high = bounds[:, :2] + [di, dj], bounds[:, 2:] + [di, dj]
        return began * ((low >= 0) & (high < 10)).all(1)
    return began


@pytest.mark.parametrize("task", TASKS)
def test_r2_is_uniform_over_what_the_rule_accepts(
    task: str, worlds: Worlds, geometry, began: np.ndarray, goodness
) -> None:
    """Its size, and its place, in A and in B, given the direction, against all 29.9 million triples."""
    bounds = np.array(geometry.bounds)
    size = (bounds[:, 2] - bounds[:, 0]) * 11 + bounds[:, 3] - bounds[:, 1]
    place = bounds[:, 0] * 11 + bounds[:, 1]
    rows = worlds.take(of(worlds, task))
    for direction in range(DIRECTIONS.get(task, 1)):
        expected = expected_rectangles(task, direction, geometry, began)
        for side in range(2):
            drawn = rows.rectangles[rows.direction == direction, side, 2]
            for statistic in (size, place):
                assert goodness(np.bincount(statistic[drawn]), np.bincount(statistic, expected)) > 1e-3 / 4
    assert expected_rectangles("replace_color", 0, geometry, began).sum() == 29_917_020


def contact_frequencies(geometry) -> np.ndarray:
    """(changed cells,) how many of all triples make so many cells change, by enumerating them."""
    bounds = np.array(geometry.bounds)
    border = 2 * (bounds[:, 2] - bounds[:, 0] + bounds[:, 3] - bounds[:, 1]) - 4
    counts = np.zeros(200)
    for n in range(1182):
        others, pairs = geometry.neighbours(n)
        framed = border[others] * geometry.touch[n, others]
        counts += np.bincount((framed[:, None] + framed[None])[pairs], minlength=200)
    return counts


def changed_cells(task: str, geometry, began: np.ndarray) -> np.ndarray:
    """(changed cells,) exact frequencies of the number of cells that differ between X and f(X)."""
    bounds = np.array(geometry.bounds)
    height, width = bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]
    total = np.zeros(200)
    if task == "contact":
        total = contact_frequencies(geometry)
        assert total.sum() == 29_917_020
        total[0] = 0  # No contact: drawn again.
        return total
    if task == "corners":
        for n in range(1182):
            others, pairs = geometry.neighbours(n)
            rest = (height * width - 6)[others]
            total += np.bincount(((height * width - 6)[n] + rest[:, None] + rest[None])[pairs], minlength=200)
        return total
    for direction in range(DIRECTIONS.get(task, 1)):
        if task == "translate":
            di, dj = rect.STEPS[direction]
            changed = 2 * (height * width - (height - abs(di)) * (width - abs(dj)))
        elif task == "half_fill":  # The half without its line.
            changed = ((height - 1) // 2 * width, (width - 1) // 2 * height)[direction // 2]
        else:
            changed = {
                "replace_color": height * width,
                "grow": 2 * (height + width) - 4,
                "frame": (height - 2) * (width - 2),
                "detect": np.full(1182, 6),
            }[task]
        weights = expected_rectangles(task, direction, geometry, began)
        total += np.bincount(changed, weights / weights.sum(), minlength=200)
    return total


@pytest.mark.parametrize("task", TASKS)
def test_number_of_changed_cells(
    task: str, worlds: Worlds, grids: np.ndarray, geometry, began: np.ndarray, goodness
) -> None:
    expected = changed_cells(task, geometry, began)
    for side in range(2):
        rows = grids[of(worlds, task)]
        changed = (rows[:, 2 * side] != rows[:, 2 * side + 1]).sum(1)
        assert goodness(np.bincount(changed, minlength=200), expected) > 1e-3


def test_a_and_b_are_drawn_independently(worlds: Worlds) -> None:
    """Where r2 stands in A says nothing about B, in the tasks without a shared parameter that rejects."""
    plain = np.isin(worlds.task, [TASKS.index(t) for t in ("replace_color", "half_fill", "frame", "detect", "corners")])
    a, b = worlds.rectangles[plain, 0, 2], worlds.rectangles[plain, 1, 2]
    middle = rect.rectangles()[:, [0, 2]].sum(1) // 4
    table = np.bincount(middle[a] * 10 + middle[b], minlength=100).reshape(10, 10)
    table = table[table.any(1)][:, table.any(0)]
    expected = table.sum(1)[:, None] * table.sum(0)[None] / table.sum()
    statistic, freedom = ((table - expected) ** 2 / expected).sum(), (len(table) - 1) * (table.shape[1] - 1)
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


# Counterfactuals -----------------------------------------------------------------------------------------------------


def test_one_latent_changed_changes_what_it_should(worlds: Worlds) -> None:
    some = worlds.take(of(worlds, "translate")[:400])
    turned = some.changed(direction=(some.direction + 3) % 8)
    fits = turned.accepted()
    assert 50 < fits.sum() < 400
    before, after = some.take(fits).grids(), turned.take(fits).grids()
    np.testing.assert_array_equal(before[:, 0::2], after[:, 0::2])
    assert (before[:, 1::2] != after[:, 1::2]).any(2).all()


def test_colours_are_names_only(worlds: Worlds) -> None:
    """Permuting the palette permutes the grids."""
    some = worlds.take(np.arange(500))
    palette = np.concatenate([[0], np.random.default_rng(1).permutation(10) + 1])
    recoloured = some.changed(colours=np.where(some.colours > 0, palette[some.colours], -1))
    np.testing.assert_array_equal(palette[some.grids()], recoloured.grids())


@given(st.integers(0, 40), st.lists(st.sampled_from(TASKS), min_size=1, max_size=3), st.integers(0, 2**32))
def test_any_number_of_any_tasks(n: int, tasks: list[str], seed: int) -> None:
    drawn = sample_worlds(n, np.random.default_rng(seed), tasks)
    assert len(drawn) == n
    assert {TASKS[t] for t in drawn.task} <= set(tasks)
    assert drawn.quizzes().shape == (n, 404)
    again = sample_worlds(n, np.random.default_rng(seed), tasks)
    np.testing.assert_array_equal(drawn.quizzes(), again.quizzes())
    for name in Worlds.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(drawn, name), getattr(again, name))


def test_draw_worlds_keeps_the_order_of_tasks() -> None:
    task = np.array([3, 3, 0, 7, 1, 6, 2, 5, 4])
    np.testing.assert_array_equal(draw_worlds(task, np.random.default_rng(0)).task, task)


def test_unknown_and_no_tasks_and_fewer_than_none() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no world task 'rotate'; there are replace_color, translate"):
        sample_worlds(3, rng, ["grow", "rotate"])
    with pytest.raises(ValueError, match="no world task to sample from"):
        sample_worlds(3, rng, [])
    with pytest.raises(ValueError, match="-1 quizzes"):
        sample_worlds(-1, rng)
    with pytest.raises(ValueError, match="no world task 'flip'"):
        world.rule("flip")
