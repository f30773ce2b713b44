"""The oracle against quizzes whose worlds are known, and against brute force over all triples of rectangles."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_kit.tasks.culture import grids, solver
from interp_kit.tasks.culture.explain import explain
from interp_kit.tasks.culture.grids import GRIDS, STRUCTURES
from interp_kit.tasks.culture.rectangles import STEPS
from interp_kit.tasks.culture.solver import bound, solve, triples_taken
from interp_kit.tasks.culture.world import RULES, TASKS, Worlds, draw_worlds, sample_worlds

FIXTURES = Path(__file__).parents[2] / "fixtures" / "culture"
FORWARD, INVERSE = (0, 2), (1, 3, 4)


def asked(structure: int) -> int:
    """Which of A, f_A, B, f_B a structure asks for."""
    return GRIDS.index(STRUCTURES[structure].order[3])


def blanked(quizzes: np.ndarray, structure: int, rng: np.random.Generator) -> np.ndarray:
    """The quizzes with colours at random where the answer stands."""
    hidden = quizzes.copy()
    start = 101 * asked(structure) + 1
    hidden[:, start : start + 100] = rng.integers(11, size=(len(quizzes), 100))
    return hidden


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    """2,400 quizzes, 300 of each task."""
    return draw_worlds(np.repeat(np.arange(8), 300), np.random.default_rng(21))


@pytest.fixture(scope="module")
def quizzes(worlds: Worlds) -> np.ndarray:
    """Their tokens."""
    return worlds.quizzes()


# Forward -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", FORWARD)
def test_every_forward_quiz_is_determined_and_solved(worlds: Worlds, quizzes: np.ndarray, structure: int) -> None:
    solution = solve(blanked(quizzes, structure, np.random.default_rng(0)), structure)
    np.testing.assert_array_equal(solution.answers, worlds.grids()[:, asked(structure)])
    assert solution.certain.all()
    assert (solution.posterior == 1).all()
    np.testing.assert_array_equal(solution.task, worlds.task)


@pytest.mark.slow
@pytest.mark.parametrize("structure", FORWARD)
def test_twenty_thousand_forward_quizzes(structure: int) -> None:
    worlds = sample_worlds(20_000, np.random.default_rng(structure))
    solution = solve(blanked(worlds.quizzes(), structure, np.random.default_rng(1)), structure)
    np.testing.assert_array_equal(solution.answers, worlds.grids()[:, asked(structure)])
    assert solution.certain.all()


# Inverse -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", INVERSE)
def test_inverse_quizzes(worlds: Worlds, quizzes: np.ndarray, structure: int) -> None:
    """Only translate hides something. What is certain is right; the answer taken is among the possible."""
    solution = solve(blanked(quizzes, structure, np.random.default_rng(0)), structure)
    right = (solution.answers == worlds.grids()[:, asked(structure)]).all(1)
    assert right[solution.certain].all()
    translate = worlds.task == TASKS.index("translate")
    assert solution.certain[~translate].all()
    assert 0.05 < (~solution.certain[translate]).mean() < 0.2
    np.testing.assert_array_equal(solution.task, worlds.task)
    np.testing.assert_allclose(solution.posterior, 1 / solution.possible)


def test_posteriors_are_calibrated() -> None:
    """Of the ambiguous translate quizzes, as many are solved as the posterior says."""
    worlds = draw_worlds(np.full(6000, TASKS.index("translate")), np.random.default_rng(4))
    solution = solve(worlds.quizzes(), 1)
    right = (solution.answers == worlds.grids()[:, 2]).all(1)
    p = solution.posterior[~solution.certain]
    assert len(p) > 400
    assert abs(right[~solution.certain].sum() - p.sum()) < 3 * np.sqrt((p * (1 - p)).sum())


def translated(geometry, direction: int, colours: list[int], f: np.ndarray) -> set[tuple]:
    """Every X of which translate makes f: all triples of rectangles, by which bits of each are left visible."""
    di, dj = STEPS[direction]
    shown = [sum(1 << int(cell) for cell in np.flatnonzero(f == colour)) for colour in colours[:3]]
    if sum(s.bit_count() for s in shown) != (f > 0).sum():
        return set()
    found = set()
    for r2, (i1, j1, i2, j2) in enumerate(geometry.bounds):
        if i1 + di < 0 or j1 + dj < 0 or i2 + di >= 10 or j2 + dj >= 10:
            continue
        moved = geometry.bits[geometry.bounds.index((i1 + di, j1 + dj, i2 + di, j2 + dj))]
        if moved != shown[2]:
            continue
        first, second = (
            [r for r, bits in enumerate(geometry.bits) if bits & ~moved == shown[k] and geometry.apart[r, r2]]
            for k in (0, 1)
        )
        for r0 in first:
            for r1 in second:
                if geometry.apart[r0, r1]:
                    found.add(painted(geometry, [r0, r1, r2], colours))
    return found


def framed(geometry, colours: list[int], f: np.ndarray) -> set[tuple]:
    """Every X of which contact makes f: every pair of r0 with r1 and with r2, then both together."""
    shown = [sum(1 << int(cell) for cell in np.flatnonzero(f == colour)) for colour in colours[:3]]
    if sum(s.bit_count() for s in shown) != (f > 0).sum():
        return set()
    index = {bounds: n for n, bounds in enumerate(geometry.bounds)}
    inner = [
        sum(1 << (10 * i + j) for i in range(i1 + 1, i2 - 1) for j in range(j1 + 1, j2 - 1)) for i1, j1, i2, j2 in index
    ]
    found = set()
    for r0 in range(1182):
        if geometry.bits[r0] & ~shown[0]:
            continue
        fitting = [
            [
                r for r in range(1182)
                if geometry.apart[r0, r] and (inner[r] if geometry.touch[r0, r] else geometry.bits[r]) == shown[k]
            ]
            for k in (1, 2)
        ]  # fmt: skip
        for r1 in fitting[0]:
            for r2 in fitting[1]:
                touched = [r for r in (r1, r2) if geometry.touch[r0, r]]
                frames = sum(geometry.bits[r] ^ inner[r] for r in touched)
                if geometry.apart[r1, r2] and touched and geometry.bits[r0] | frames == shown[0]:
                    found.add(painted(geometry, [r0, r1, r2], colours))
    return found


def painted(geometry, triple: list[int], colours: list[int]) -> tuple:
    """Three full rectangles as a grid."""
    return tuple(next((colours[k] for k in range(3) if geometry.bits[triple[k]] >> cell & 1), 0) for cell in range(100))


@pytest.mark.parametrize("task", ["translate", "contact"])
def test_possible_answers_by_brute_force(task: str, geometry) -> None:
    """The two rules that hide cells: every X behind an f(X), over all triples of the known colours and roles."""
    worlds = draw_worlds(np.full(300, TASKS.index(task)), np.random.default_rng(17))
    solution = solve(worlds.quizzes(), 1)
    unsure, sure = np.flatnonzero(~solution.certain), np.flatnonzero(solution.certain)
    assert (len(unsure) > 0) == (task == "translate")
    for row in [*unsure[:20], *sure[:15]]:
        f, colours = worlds.grids()[row, 3], worlds.colours[row].tolist()
        if task == "translate":
            answers = translated(geometry, int(worlds.direction[row]), colours, f)
        else:
            answers = framed(geometry, colours, f)
        assert len(answers) == solution.possible[row]
        assert tuple(solution.answers[row].tolist()) in answers


def test_an_ambiguous_quiz_by_hand() -> None:
    """r2 moves down onto the whole upper edge of what is left of r0: whether r0 began there, nobody can see."""
    x, f, y, g = (np.zeros((10, 10), np.uint8) for _ in range(4))
    for grid in (x, f, y, g):
        grid[7:10, 6:10] = 2
    x[0:3, 0:3] = f[1:4, 0:3] = y[0:3, 0:3] = g[1:4, 0:3] = 3
    x[5:8, 0:3] = f[5:8, 0:3] = 1
    y[3:8, 0:3], g[4:8, 0:3] = 1, 1  # r2 covers the row of r0 that touched it.
    quiz = grids.compose(np.stack([x, f, y, g]).reshape(1, 4, 100))
    assert solve(quiz, 0).certain.all()
    solution = solve(quiz, 1)
    assert (solution.possible[0], solution.posterior[0]) == (2, 0.5)
    other = y.copy()
    other[3, 0:3] = 0  # The other world: nothing was covered.
    assert solution.answers[0].tolist() in (y.ravel().tolist(), other.ravel().tolist())


# Hypotheses ----------------------------------------------------------------------------------------------------------


def test_explanations_by_brute_force(geometry, reference) -> None:
    """Every rule, direction and order of colours, painted by the loops of the reference, against `explain`."""
    worlds = draw_worlds(np.repeat(np.arange(8), 6), np.random.default_rng(3))
    four = worlds.grids()
    found = explain(four[:, 0], four[:, 1])
    for row, (x, f, _, _) in enumerate(four.tolist()):
        rows, expected = found.take(found.row == row), set()
        for t, rule in enumerate(RULES):
            for direction in range(rule.directions):
                for colours, triple in placements(geometry, rule.name, direction, x, f):
                    bounds = [geometry.bounds[n] for n in triple]
                    pair = reference(rule.name, direction, colours, bounds, rule.directions_mean[direction])
                    if pair is not None and [sum(grid, []) for grid in pair] == [x, f]:  # noqa: RUF017
                        expected.add((t, direction, *colours, *triple))
        got = {
            (t, d, *(c for c in colours if c > 0), *triple)
            for t, d, colours, triple in zip(
                rows.task.tolist(), rows.direction.tolist(), rows.colours.tolist(), rows.triple.tolist(), strict=True
            )
        }
        assert got == expected
        assert {t for t, *_ in got} == {worlds.task[row]}


def placements(geometry, task: str, direction: int, x: list[int], f: list[int]):
    """Every choice of roles for the colours of x, with the rectangle around each role's cells."""
    shown = sorted(set(x) - {0})
    boxes = {}
    for colour in shown:
        at = [divmod(cell, 10) for cell in range(100) if x[cell] == colour]
        (i1, j1), (i2, j2) = (
            (min(i for i, _ in at), min(j for _, j in at)),
            (max(i for i, _ in at), max(j for _, j in at)),
        )
        boxes[colour] = (i1, j1, i2 + 1, j2 + 1)
    index = {bounds: n for n, bounds in enumerate(geometry.bounds)}
    for roles in permutations(shown, 3):
        bounds = [boxes[colour] for colour in roles]
        if task == "grow" and direction == 0:
            i1, j1, i2, j2 = bounds[2]
            bounds[2] = (i1 - 1, j1 - 1, i2 + 1, j2 + 1)
        if not all(b in index for b in bounds):
            continue
        triple = [index[b] for b in bounds]
        if task == "half_fill":
            for lines in permutations(set(shown) - set(roles), 3):
                yield [c for pair in zip(roles, lines, strict=True) for c in pair], triple
        elif task in ("replace_color", "detect"):
            for added in set(f) - {0, *shown}:
                yield [*roles, added], triple
        else:
            yield list(roles), triple


def test_original_quizzes_are_solved() -> None:
    """Quizzes of the original program: the oracle names their tasks and finds every grid."""
    tokens = grids.reconfigure(torch.load(FIXTURES / "tokens.pt", weights_only=True).numpy(), 0)
    names = [row["task"] for row in json.loads((FIXTURES / "tokens_meta.json").read_text())]
    for structure in range(5):
        solution = solve(tokens, structure)
        assert [TASKS[t] for t in solution.task] == names
        right = (solution.answers == grids.split(tokens)[:, asked(structure)]).all(1)
        assert right[solution.certain].all()
        assert solution.certain.all() or structure in INVERSE


# Weights -------------------------------------------------------------------------------------------------------------


def test_triples_that_each_rule_takes(geometry) -> None:
    """By enumeration of all triples."""
    bounds = np.array(geometry.bounds)
    began = np.zeros(1182)
    in_contact = 0
    for n in range(1182):
        others, pairs = geometry.neighbours(n)
        began[n] = pairs.sum()
        touches = geometry.touch[n, others]
        in_contact += int((pairs & (touches[:, None] | touches[None])).sum())
    for t, rule in enumerate(RULES):
        for direction in range(rule.directions):
            taken = np.ones(1182, bool)
            if rule.name == "grow":
                taken = (bounds[:, 2:] - bounds[:, :2] >= 4).all(1)
            elif rule.name == "translate":
                taken = ((bounds[:, :2] + STEPS[direction] >= 0) & (bounds[:, 2:] + STEPS[direction] < 10)).all(1)
            expected = in_contact if rule.name == "contact" else began[taken].sum()
            assert triples_taken(t, direction) == expected


def test_bound() -> None:
    found = bound(200, seed=3)
    frame = found.to_frame()
    assert len(frame) == 5 * 8
    assert (frame["n"] == 200).all()
    inverse_translate = frame["structure"].isin([STRUCTURES[k].name for k in INVERSE]) & (frame["task"] == "translate")
    assert (frame["accuracy"][~inverse_translate] == 1).all()
    assert (frame["ambiguous"][~inverse_translate] == 0).all()
    assert frame["accuracy"][inverse_translate].between(0.85, 0.99).all()
    np.testing.assert_array_equal(bound(200, seed=3).accuracy, found.accuracy)
    with pytest.raises(ValueError, match="n = 0"):
        bound(0)


# What cannot be solved ------------------------------------------------------------------------------------------------


def test_a_quiz_that_no_world_explains(quizzes: np.ndarray) -> None:
    """Noise in the pair, noise in the third grid, a blank grid: no answer, and no rule, only there."""
    bad = quizzes[:5].copy()
    for row, at in enumerate((1, 102, 203)):
        cell = at + np.flatnonzero(bad[row, at : at + 100] == 0)[0]
        bad[row, cell] = 10 if 10 not in bad[row] else 9
    bad[3, 203:303] = 0
    solution = solve(bad, 0)
    assert solution.possible.tolist() == [0, 0, 0, 0, 1]
    assert solution.posterior.tolist() == [0, 0, 0, 0, 1]
    assert solution.task[:4].tolist() == [-1] * 4
    assert not solution.answers[:4].any()


def test_structures_row_by_row_and_no_rows(worlds: Worlds, quizzes: np.ndarray) -> None:
    rows = np.arange(0, 2400, 100)
    structure = np.arange(len(rows)) % 5
    mixed = solve(quizzes[rows], structure)
    for k in range(5):
        alone = solve(quizzes[rows[structure == k]], k)
        np.testing.assert_array_equal(mixed.answers[structure == k], alone.answers)
        np.testing.assert_array_equal(mixed.possible[structure == k], alone.possible)
    empty = solve(quizzes[:0], 0)
    assert len(empty) == 0
    assert empty.answers.shape == (0, 100)


def test_bad_input(quizzes: np.ndarray) -> None:
    with pytest.raises(ValueError, match="quiz 1 is not in canonical order"):
        solve(np.concatenate([quizzes[:1], grids.reconfigure(quizzes[1:2], 3)]), 0)
    with pytest.raises(ValueError, match=r"structure 5: expected indices 0\.\.4"):
        solve(quizzes[:2], 5)
    with pytest.raises(ValueError, match="outside"):
        solve(quizzes[:2].astype(np.int64) + 4, 0)
    with pytest.raises(ValueError, match="shape"):
        solver.solve(quizzes[0], 0)
