"""Inference against brute force: every world listed, or every pair of worlds for counterfactuals."""

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from interp_kit.tasks.graphs import DiscreteModel, default_dag, discrete_model, erdos_renyi_dag, query, random_model
from interp_kit.tasks.graphs.counterfactual import twin_factor
from interp_kit.tasks.graphs.elimination import Factor, eliminate
from interp_kit.tasks.graphs.treewidth import interaction, min_fill, treewidth

Values = Mapping[str, int]


def worlds(model: DiscreteModel) -> np.ndarray:
    """(worlds, n) every assignment."""
    return np.array(list(itertools.product(*(range(c) for c in model.cardinalities))))


def chances(model: DiscreteModel, every: np.ndarray, do: Values) -> np.ndarray:
    """(worlds,) probability of each under `do`."""
    found = np.ones(len(every))
    for v, name in enumerate(model.names):
        row = tuple(every[:, p] for p in model.parents[v])
        found *= every[:, v] == do[name] if name in do else model.tables[v][(*row, every[:, v])]
    return found


def matching(model: DiscreteModel, every: np.ndarray, given: Values) -> np.ndarray:
    return np.all([every[:, model.number(k)] == value for k, value in given.items()] or [np.ones(len(every), bool)], 0)


def listed(model: DiscreteModel, target: str, do: Values, given: Values) -> np.ndarray:
    every = worlds(model)
    weight = chances(model, every, do) * matching(model, every, given)
    v = model.number(target)
    return np.bincount(every[:, v], weight, minlength=model.cardinalities[v]) / weight.sum()


def functions(table: np.ndarray, mechanism: str) -> list[tuple[np.ndarray, float]]:
    """Every response function (one value per row of the table) with its probability, from the noise's definition."""
    rows = table.reshape(-1, table.shape[-1])
    if mechanism == "selectors":
        choices = itertools.product(range(rows.shape[1]), repeat=len(rows))
        return [(np.array(c), float(np.prod([row[k] for row, k in zip(rows, c, strict=True)]))) for c in choices]
    cuts = np.unique(np.concatenate([[0, 1], rows.cumsum(1)[:, :-1].ravel()]))
    found = []
    for low, high in itertools.pairwise(cuts):
        inside = (low + high) / 2
        found.append(((rows.cumsum(1)[:, :-1] < inside).sum(1), high - low))
    return found


def twinned(model: DiscreteModel, target: str, given: Values, do: Values, mechanism: str) -> np.ndarray:
    """The counterfactual by listing pairs of worlds, each variable's pair weighed by its response functions."""
    every = worlds(model)
    weight = np.outer(matching(model, every, given), np.ones(len(every)))
    for v, name in enumerate(model.names):
        cards = [model.cardinalities[p] for p in model.parents[v]]
        row = np.ravel_multi_index([every[:, p] for p in model.parents[v]], cards) if cards else 0 * every[:, v]
        if name in do:
            table = model.tables[v].reshape(-1, model.cardinalities[v])
            weight *= table[row, every[:, v]][:, None] * (every[:, v] == do[name])[None]
        else:
            pair = np.zeros((len(every), len(every)))
            for function, mass in functions(model.tables[v], mechanism):
                fits = function[row] == every[:, v]
                pair += mass * np.outer(fits, fits)
            weight *= pair
    v = model.number(target)
    return np.bincount(every[:, v], weight.sum(0), minlength=model.cardinalities[v]) / weight.sum()


def random_question(seed: int, most: int) -> tuple[DiscreteModel, np.random.Generator, list[str]]:
    """A model of 2 to `most` variables, on either sampler's DAG, and its names in random order."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, most + 1))
    dag = default_dag(n, rng) if seed % 2 else erdos_renyi_dag(n, 0.5, rng, most=3)
    model = random_model(dag, rng)
    return model, rng, rng.permutation(model.names).tolist()


def values_of(model: DiscreteModel, names: list[str], rng: np.random.Generator) -> dict[str, int]:
    return {name: int(rng.integers(model.cardinalities[model.number(name)])) for name in names}


def test_observations_and_interventions_equal_brute_force() -> None:
    for seed in range(300):
        model, rng, names = random_question(seed, 6)
        target = names[0]
        k = int(rng.integers(0, len(names)))
        j = int(rng.integers(0, k + 1))
        given, do = values_of(model, names[1 : 1 + j], rng), values_of(model, names[1 + j : 1 + k], rng)
        answer = query(model, target, do=do, given=given)
        np.testing.assert_allclose(answer.distribution, listed(model, target, do, given), atol=1e-12)
        every = worlds(model)
        fits = chances(model, every, do) * matching(model, every, given)
        assert answer.evidence == pytest.approx(fits.sum(), abs=1e-12)


@pytest.mark.parametrize("mechanism", ["selectors", "uniform"])
def test_counterfactuals_equal_brute_force_over_pairs_of_worlds(mechanism: str) -> None:
    for seed in range(150):
        model, rng, names = random_question(seed, 5)
        while any(np.prod(table.shape[:-1]) > 6 for table in model.tables):  # 3**6 response functions at most
            seed += 1000
            model, rng, names = random_question(seed, 5)
        target = names[int(rng.integers(len(names)))]
        given = values_of(model, rng.permutation(names)[: int(rng.integers(0, len(names) + 1))].tolist(), rng)
        do = values_of(model, names[: int(rng.integers(1, 3))], rng)
        answer = query(model, target, given=given, counterfactual=do, mechanism=mechanism)
        np.testing.assert_allclose(answer.distribution, twinned(model, target, given, do, mechanism), atol=1e-12)


def test_counterfactual_under_an_intervention_is_that_of_the_mutilated_model() -> None:
    for seed in range(60):
        model, rng, names = random_question(seed, 5)
        do, had = values_of(model, names[:1], rng), values_of(model, names[1:2], rng)
        given = values_of(model, names[2:3], rng)
        cut = model.mutilated(model.assignment(do))
        found = query(model, names[-1], do=do, given=given, counterfactual=had, mechanism="uniform").distribution
        same = query(cut, names[-1], given=given, counterfactual=had, mechanism="uniform").distribution
        np.testing.assert_allclose(found, same, atol=1e-12)


def test_both_mechanisms_agree_with_shared_noise_drawn_at_random() -> None:
    """x -> y with three values: Monte Carlo over the stated noise, and the two mechanisms differ."""
    model = discrete_model({"x": ([], [0.4, 0.6]), "y": (["x"], [[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])})
    rng, n = np.random.default_rng(0), 200_000
    given, had = {"x": 0, "y": 1}, {"x": 1}
    table = model.tables[1]
    u = rng.random(n)
    here, there = (np.searchsorted(table[x].cumsum(), u) for x in (0, 1))
    apart = [np.searchsorted(table[x].cumsum(), rng.random(n)) for x in (0, 1)]
    drawn = {"uniform": (here, there), "selectors": (apart[0], apart[1])}
    answers = []
    for mechanism, (factual, other) in drawn.items():
        kept = other[factual == 1]
        answers.append(query(model, "y", given=given, counterfactual=had, mechanism=mechanism).distribution)
        error = (answers[-1] * (1 - answers[-1]) / len(kept)) ** 0.5
        assert (np.abs(np.bincount(kept, minlength=3) / len(kept) - answers[-1]) <= 5 * error + 1e-12).all()
    assert np.abs(answers[0] - answers[1]).sum() / 2 > 0.2


def test_joint_targets_targets_given_and_targets_set() -> None:
    for seed in range(60):
        model, rng, names = random_question(seed, 5)
        a, b = names[:2]
        joint = query(model, (a, b)).distribution
        every = worlds(model)
        expected = np.zeros(joint.shape)
        np.add.at(expected, (every[:, model.number(a)], every[:, model.number(b)]), chances(model, every, {}))
        np.testing.assert_allclose(joint, expected, atol=1e-12)
        np.testing.assert_allclose(query(model, (b, a)).distribution, expected.T, atol=1e-12)
        value = values_of(model, [a], rng)
        sure = np.eye(model.cardinalities[model.number(a)])[value[a]]
        np.testing.assert_allclose(query(model, a, given=value).distribution, sure, atol=1e-12)
        np.testing.assert_allclose(query(model, a, do=value).distribution, sure, atol=1e-12)
        cf = query(model, a, given=values_of(model, [b], rng), counterfactual=value, mechanism="selectors")
        np.testing.assert_allclose(cf.distribution, sure, atol=1e-12)


def test_every_factor_stands_for_those_that_it_replaced() -> None:
    """After each sum, the factors that are left still multiply and sum to the probability of the evidence."""
    for seed in range(60):
        model, rng, names = random_question(seed, 6)
        given = values_of(model, names[1:2], rng)
        answer = query(model, names[0], given=given)
        run, seen = answer.elimination, model.assignment(given)
        assert len(run.factors) == len(run.order) + 1
        assert answer.factors[-1][0] == (names[0],)
        left = [Factor(scope, model.tables[scope[-1]]).at(seen) for scope in answer.families]
        for v, factor in zip(run.order, run.factors, strict=False):
            assert set(factor.scope) == {u for f in left if v in f.scope for u in f.scope} - {v}
            left = [f for f in left if v not in f.scope] + [factor]
            assert float(eliminate(left, []).result.values) == pytest.approx(answer.evidence, abs=1e-12)
        np.testing.assert_allclose(answer.factors[-1][1] / answer.evidence, answer.distribution)


def test_costs_of_a_chain_are_those_counted_by_hand() -> None:
    """a -> b -> c, two values each: sum a (4 products, 2 sums), sum b (4, 2), and nothing is left to multiply."""
    half = [[0.5, 0.5], [0.25, 0.75]]
    model = discrete_model({"c": (["b"], half), "a": ([], [0.5, 0.5]), "b": (["a"], half)})
    answer = query(model, "c")
    assert answer.order == ("a", "b")
    assert (answer.elimination.products, answer.elimination.sums, answer.elimination.width) == (8, 4, 1)
    assert answer.treewidth == 1
    np.testing.assert_allclose(answer.factors[0][1], [0.375, 0.625])


def brute_width(graph: dict[int, set[int]]) -> int:
    """Treewidth by dynamic programming over sets (Bodlaender et al. 2012)."""
    best = {frozenset(): -1}
    for size in range(1, len(graph) + 1):
        for chosen in map(frozenset, itertools.combinations(graph, size)):
            best[chosen] = min(max(best[chosen - {v}], _reached(graph, chosen - {v}, v)) for v in chosen)
    return best[frozenset(graph)]


def _reached(graph: dict[int, set[int]], through: frozenset[int], v: int) -> int:
    """Vertices outside `through` to which v has a path inside it."""
    found, edge, passed = set(), [v], {v}
    while edge:
        for u in graph[edge.pop()] - passed:
            passed.add(u)
            if u in through:
                edge.append(u)
            else:
                found.add(u)
    return len(found)


def test_treewidth_is_exact() -> None:
    rng = np.random.default_rng(0)
    for _ in range(120):
        n = int(rng.integers(2, 9))
        near = rng.random((n, n)) < rng.uniform(0.2, 0.8)
        graph = {v: {u for u in range(n) if u != v and (near[u, v] or near[v, u])} for v in range(n)}
        exact = brute_width(graph)
        assert treewidth(graph) == exact <= min_fill(graph)[1]
    cells = list(itertools.product(range(4), repeat=2))
    grid = interaction(
        [(a, b) for a, b in itertools.combinations(cells, 2) if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1]
    )
    assert treewidth(grid) == 4
    assert treewidth({v: set(range(8)) - {v} for v in range(8)}) == 7


def test_large_and_wide_graphs() -> None:
    """100 variables, beyond the 26 letters of einsum and the 32 axes of an array, at both samplers."""
    rng = np.random.default_rng(1)
    model = random_model(default_dag(100, rng), rng)
    start = time.perf_counter()
    names = model.names
    for name in names[:20]:
        total = query(model, name, given={names[50]: 0}).distribution.sum()
        assert total == pytest.approx(1, abs=1e-12)
    assert time.perf_counter() - start < 20


def test_bad_models_and_questions_say_what_is_wrong() -> None:
    half = [0.5, 0.5]
    for tables, message in (
        ({"a": (["z"], half)}, "'a' has the parent 'z': expected one of a"),
        ({"a": (["b"], [half, half]), "b": (["a"], [half, half])}, "cycle: a -> b -> a|cycle: b -> a -> b"),
        ({"a": ([], [0.5, 0.4])}, r"row \(\) of the table of 'a' sums to 0.9: expected 1"),
        ({"a": ([], half), "b": (["a"], [half, [0.5, 0.6]])}, r"row \(1,\) of the table of 'b' sums to 1.1"),
        ({"a": ([], [1.5, -0.5])}, "negative or not finite"),
        ({"a": ([], [float("nan"), 0.5])}, "negative or not finite"),
        ({"a": ([], np.full(2000, 1 / 2000))}, "'a' has 2000 values: expected 1 to 1000"),
        ({"a": ([], half), "b": (["a"], half)}, r"axes \(2,\): expected \(2, 2\)"),
        ({"a": ([], half), "b": (["a", "a"], [[half, half], [half, half]])}, "expected each one once"),
    ):
        with pytest.raises(ValueError, match=message):
            discrete_model(tables)
    model = discrete_model({"x": ([], [1.0, 0.0]), "y": (["x"], [half, half])})
    questions: list[tuple[str | tuple[str, ...], dict[str, Any], str]] = [
        ("z", {}, "no variable 'z': expected one of x, y"),
        ((), {}, "expected one variable, or several"),
        (("y", "y"), {}, "expected one variable, or several"),
        ("y", {"given": {"x": 2}}, "x cannot be 2: expected an integer from 0 to 1"),
        ("y", {"given": {"x": 1}}, "evidence x = 1 has probability 0"),
        ("y", {"given": {"x": 1}, "do": {"x": 0}}, "x is observed as 1 and set to 0"),
        ("y", {"counterfactual": {"x": 1}}, "mechanism is None: tables do not say it"),
        ("y", {"mechanism": "uniform"}, "only a counterfactual needs one"),
        ("y", {"counterfactual": {"x": 1}, "mechanism": "noise"}, "expected one of selectors, uniform"),
    ]
    for target, options, message in questions:
        with pytest.raises(ValueError, match=message):
            query(model, target, **options)
    with pytest.raises(ValueError, match="no mechanism 'none'"):
        twin_factor(model.tables[1], "none")
    with pytest.raises(ValueError, match="expected 2 or more"):
        default_dag(1, np.random.default_rng())
    wide = [Factor((v,), np.ones(20)) for v in range(7)]
    with pytest.raises(ValueError, match="a factor of 7 variables with 1280000000 entries: expected at most 67108864"):
        eliminate(wide, range(7))
    with pytest.raises(ValueError, match=r"the order \[3\] cannot be used: expected the variables \[5, 6\]"):
        eliminate(wide, range(5), order=[3])
