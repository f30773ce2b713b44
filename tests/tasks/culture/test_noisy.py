"""The oracle on noisy prompts, against the weights of all 29.9 million triples of rectangles, and its calibration."""

import numpy as np
import pytest

from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.grids import GRIDS, STRUCTURES
from interp_kit.tasks.culture.rectangles import STEPS
from interp_kit.tasks.culture.solver import bound, solve
from interp_kit.tasks.culture.world import RULES, TASKS, draw_worlds


def noisy(quizzes: np.ndarray, structure: int, p: float, seed: int) -> np.ndarray:
    """The quizzes in canonical order, with noise in the grid that is third in the structure."""
    third = GRIDS.index(STRUCTURES[structure].order[2])
    hit = grids.cells_of(np.arange(4) == third)
    return grids.add_noise(quizzes, hit, np.random.default_rng(seed), p)


def wrong_cells(geometry, task: str, direction: int, colours: list[int], shown: np.ndarray, after: bool):
    """For each last rectangle (r2; of contact r0): itself, two others (n,) and (n, n) wrong cells of the grid that the
    three paint, inf where they cannot be drawn. Rules whose rectangles are plain, translate, and contact."""
    bounds = np.array(geometry.bounds)
    masks = np.array([[bits >> cell & 1 for cell in range(100)] for bits in geometry.bits], np.int32)
    inner = np.zeros_like(masks).reshape(-1, 10, 10)
    for n, (i1, j1, i2, j2) in enumerate(bounds):
        inner[n, i1 + 1 : i2 - 1, j1 + 1 : j2 - 1] = 1
    inner = inner.reshape(-1, 100)
    change = [(shown == 0).astype(np.int32) - (shown == colour) for colour in colours[:3]]  # against white
    white = int((shown != 0).sum())
    plain = [masks @ c for c in change]
    framed = [inner @ change[k] + (masks - inner) @ change[0] for k in (1, 2)]
    for last in range(1182):
        if after and task == "contact":
            others, apart = geometry.neighbours(last)
            touch = geometry.touch[last, others]
            first, second = (np.where(touch, framed[k - 1][others], plain[k][others]) for k in (1, 2))
            total = white + plain[0][last] + first[:, None] + second[None]
            yield last, others, np.where(apart & (touch[:, None] | touch[None]), total, np.inf)
            continue
        covered, mine = np.zeros(100, np.int32), plain[2][last]
        if task == "translate":
            i1, j1, i2, j2 = bounds[last] + np.tile(STEPS[direction], 2)
            if i1 < 0 or j1 < 0 or i2 >= 10 or j2 >= 10:
                continue
            if after:
                covered = masks[geometry.bounds.index((i1, j1, i2, j2))]
                mine = covered @ change[2]
        others, apart = geometry.neighbours(last)
        first, second = ((masks[others] * (1 - covered)) @ change[k] for k in (0, 1))
        yield last, others, np.where(apart, white + mine + first[:, None] + second[None], np.inf)


def by_enumeration(geometry, reference, task: str, direction: int, colours: list[int], shown, after: bool, p: float):
    """Answer -> its probability, of all worlds with at most two wrong cells more than the best."""
    near: list[tuple[float, list[int]]] = []
    fewest = np.inf
    for last, others, wrong in wrong_cells(geometry, task, direction, colours, shown, after):
        fewest = min(fewest, wrong.min(initial=np.inf))
        for a, b in np.argwhere(wrong <= fewest + 2):
            triple = [last, others[a], others[b]] if after and task == "contact" else [others[a], others[b], last]
            near.append((wrong[a, b], triple))
    weight: dict[tuple, float] = {}
    odds = (p / 11) / (1 - p + p / 11)
    words = RULES[TASKS.index(task)].directions_mean[direction]
    for wrong, triple in near:
        if wrong <= fewest + 2:
            pair = reference(task, direction, colours, [geometry.bounds[n] for n in triple], words)
            answer = tuple(colour for line in pair[0 if after else 1] for colour in line)
            weight[answer] = weight.get(answer, 0.0) + odds ** (wrong - fewest)
    total = sum(weight.values())
    return {answer: w / total for answer, w in weight.items()}


@pytest.mark.parametrize(
    ("task", "structure", "quizzes"),
    [
        ("translate", 1, 3),
        *(
            pytest.param(task, structure, 4, marks=pytest.mark.slow)
            for task, structure in (("replace_color", 0), ("detect", 0), ("translate", 0), ("contact", 1))
        ),
    ],
)
def test_posteriors_by_enumeration(task: str, structure: int, quizzes: int, geometry, reference) -> None:
    """The answer and its probability, given the rule and all that the prompt shows."""
    p, after = 0.15, bool(structure)
    worlds = draw_worlds(np.full(200, TASKS.index(task)), np.random.default_rng(31 + structure))
    prompts = noisy(worlds.quizzes(), structure, p, seed=2)
    solution = solve(prompts, structure, noise=p)
    known = grids.split(prompts)[:, 3 if after else 2]
    unsure = np.argsort(solution.posterior)[: quizzes - 1]
    assert solution.posterior[unsure[-1]] < 0.99
    for row in [*unsure, 0]:
        colours = worlds.colours[row].tolist()
        expected = by_enumeration(geometry, reference, task, int(worlds.direction[row]), colours, known[row], after, p)
        assert solution.possible[row] == len(expected)
        assert solution.posterior[row] == pytest.approx(max(expected.values()), abs=1e-9)
        assert expected[tuple(solution.answers[row].tolist())] == pytest.approx(max(expected.values()), abs=1e-9)


@pytest.mark.parametrize("structure", [0, 1])
def test_noisy_posteriors_are_calibrated(structure: int) -> None:
    """As many quizzes are solved as the posteriors say, task by task."""
    worlds = draw_worlds(np.repeat(np.arange(8), 40), np.random.default_rng(9))
    solution = solve(noisy(worlds.quizzes(), structure, 0.15, seed=1), structure, noise=0.15)
    asked = GRIDS.index(STRUCTURES[structure].order[3])
    right = (solution.answers == worlds.grids()[:, asked]).all(1)
    np.testing.assert_array_equal(solution.task, worlds.task)
    for t in range(8):
        p = solution.posterior[worlds.task == t]
        missed, expected = (~right[worlds.task == t]).sum(), (1 - p).sum()
        assert abs(missed - expected) < 3.5 * np.sqrt((p * (1 - p)).sum() + 0.3), TASKS[t]


def test_noise_where_there_can_be_none() -> None:
    """Structures without a noisy grid are solved as without noise; a clean grid in a noisy prompt is still solved."""
    worlds = draw_worlds(np.repeat(np.arange(8), 15), np.random.default_rng(2))
    quizzes = worlds.quizzes()
    for structure in (2, 3, 4):
        plain, given = solve(quizzes, structure), solve(quizzes, structure, noise=0.05)
        np.testing.assert_array_equal(plain.answers, given.answers)
        np.testing.assert_array_equal(plain.posterior, given.posterior)
    solution = solve(quizzes, 0, noise=0.05)
    np.testing.assert_array_equal(solution.answers, worlds.grids()[:, 3])
    assert (solution.posterior > 0.99).mean() > 0.9
    mixed = solve(quizzes, np.arange(120) % 4, noise=0.05)
    np.testing.assert_array_equal(mixed.answers[0::4], solution.answers[0::4])


def test_noise_in_a_complete_pair_is_not_explained() -> None:
    quizzes = draw_worlds(np.zeros(3, np.int64), np.random.default_rng(2)).quizzes()
    quizzes[0, 1] = 10 if quizzes[0, 1] != 10 else 9
    possible = solve(quizzes, 0, noise=0.05).possible
    assert possible[0] == 0
    assert (possible[1:] > 0).all()


def test_bound_with_noise() -> None:
    clean, with_noise = (bound(10, seed=1, structures=(0, 1), noise=noise) for noise in (0.0, 0.2))
    assert (with_noise.accuracy < 1).any(1).all()
    assert with_noise.accuracy.mean() < clean.accuracy.mean()
    assert (with_noise.to_frame()["noise"] == 0.2).all()


@pytest.mark.parametrize("noise", [-0.1, 0.31, float("nan")])
def test_impossible_noise(noise: float) -> None:
    with pytest.raises(ValueError, match=rf"noise {noise}: the oracle takes 0 to 0\.3"):
        solve(np.zeros((0, 404), np.int64), 0, noise=noise)
