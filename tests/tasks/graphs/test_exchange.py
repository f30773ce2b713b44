"""Models from and to pgmpy and networkx, answers against pgmpy's, and clamped noise against the noise's definition."""

import itertools
import logging

import networkx
import numpy as np
import pytest

from interp_kit.tasks.graphs import (
    DiscreteModel,
    clamped,
    default_dag,
    discrete_model,
    erdos_renyi_dag,
    from_networkx,
    from_pgmpy,
    query,
    random_model,
    to_networkx,
    to_pgmpy,
)


def same(a: DiscreteModel, b: DiscreteModel) -> bool:
    """Equal but for the order of variables and of parents."""
    if set(a.names) != set(b.names):
        return False
    for name in a.names:
        v, u = a.number(name), b.number(name)
        of, other = ([m.names[p] for p in m.parents[i]] for m, i in ((a, v), (b, u)))
        if sorted(of) != sorted(other):
            return False
        if not np.allclose(a.tables[v], b.tables[u].transpose([*(other.index(p) for p in of), len(of)]), atol=1e-12):
            return False
    return True


def test_answers_are_those_of_pgmpy() -> None:
    from pgmpy.inference import VariableElimination

    logging.getLogger("pgmpy").setLevel(logging.ERROR)
    rng, worst = np.random.default_rng(0), 0.0
    for seed in range(120):
        n = int(rng.integers(2, 8))
        dag = default_dag(n, rng) if seed % 2 else erdos_renyi_dag(n, 0.4, rng, most=3)
        model = random_model(dag, rng)
        network = to_pgmpy(model)
        assert seed % 10 or same(from_pgmpy(network), model)
        x, y = rng.permutation(model.names)[:2].tolist()
        given = {x: int(rng.integers(model.cardinalities[model.number(x)]))}
        for options, other in (({"given": given}, network), ({"do": given}, network.do([x]))):
            theirs = VariableElimination(other).query([y], evidence=given, show_progress=False)
            worst = max(worst, np.abs(theirs.values - query(model, y, **options).distribution).max())
    assert worst < 1e-9


def test_networkx_round_trip_and_tables_that_are_drawn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        model = random_model(default_dag(6, rng), rng)
        graph = to_networkx(model)
        assert networkx.is_directed_acyclic_graph(graph)
        assert same(from_networkx(graph), model)
    plain = networkx.DiGraph([("rain", "wet"), ("sprinkler", "wet")])
    drawn = from_networkx(plain, rng)
    assert set(drawn.names) == {"rain", "sprinkler", "wet"}
    assert query(drawn, "wet").distribution.sum() == pytest.approx(1)
    plain.nodes["rain"]["table"] = [0.5, 0.5]
    with pytest.raises(ValueError, match="'wet' has no table"):
        from_networkx(plain, rng)
    cycle = networkx.DiGraph([("a", "b"), ("b", "a")])
    with pytest.raises(ValueError, match="the graph has a cycle"):
        from_networkx(cycle, rng)
    graph = to_networkx(discrete_model({"a": ([], [0.5, 0.5]), "b": (["a"], np.eye(2))}))
    graph.nodes["b"]["parents"] = []
    with pytest.raises(ValueError, match=r"'b' has parents \[\], but edges from \['a'\]"):
        from_networkx(graph)


def test_a_network_of_pgmpy_without_tables_says_so() -> None:
    from pgmpy.models import DiscreteBayesianNetwork

    with pytest.raises(ValueError, match="no table for 'a'"):
        from_pgmpy(DiscreteBayesianNetwork([("a", "b")]))


@pytest.mark.parametrize("mechanism", ["uniform", "selectors"])
def test_clamped_noise_averages_to_the_model(mechanism: str) -> None:
    """The mean over a variable's noise of what follows from each is the model's own answer, counterfactuals too."""
    rng = np.random.default_rng(1)
    model = discrete_model({
        "a": ([], [0.3, 0.7]), "b": (["a"], [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]),
        "c": (["b", "a"], rng.dirichlet(np.ones(2), size=(3, 2))),
    })  # fmt: skip
    if mechanism == "uniform":
        cuts = np.unique(np.r_[0, model.tables[1].cumsum(1)[:, :-1].ravel(), 1])
        held = [((low + high) / 2, high - low) for low, high in itertools.pairwise(cuts.tolist())]
    else:
        table = model.tables[1]
        held = [(np.array(d), table[0, d[0]] * table[1, d[1]]) for d in itertools.product(range(3), repeat=2)]
    total, plain = np.zeros(2), np.zeros(2)
    for noise, mass in held:
        fixed = clamped(model, {"b": noise}, mechanism)
        assert set(np.unique(fixed.tables[1])) <= {0, 1}
        had = query(fixed, "c", given={"a": 0}, counterfactual={"a": 1}, mechanism=mechanism)
        total += mass * had.distribution
        plain += mass * query(fixed, "c").distribution
    expected = query(model, "c", given={"a": 0}, counterfactual={"a": 1}, mechanism=mechanism).distribution
    np.testing.assert_allclose(total, expected, atol=1e-12)
    np.testing.assert_allclose(plain, query(model, "c").distribution, atol=1e-12)


def test_clamped_noise_that_cannot_be_says_so() -> None:
    model = discrete_model({"a": ([], [1.0, 0.0]), "b": (["a"], [[0.5, 0.5], [0.5, 0.5]])})
    for noise, mechanism, message in (
        ({"z": 0.5}, "uniform", "no variable 'z'"),
        ({"a": 1.0}, "uniform", "the noise of a is 1.0"),
        ({"a": 0.5}, "draws", "mechanism is 'draws'"),
        ({"b": np.array([0])}, "selectors", r"shape \(1,\) and type int64: expected integers of shape \(2,\)"),
        ({"b": np.array([0, 2])}, "selectors", "values other than 0 to 1"),
        ({"a": 1}, "selectors", "a value that has probability 0"),
    ):
        with pytest.raises(ValueError, match=message):
            clamped(model, noise, mechanism)
