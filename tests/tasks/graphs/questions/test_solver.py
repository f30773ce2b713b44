"""Solved questions against `query` on the printed model, against exact fractions, and columns against networkx."""

import math
from fractions import Fraction
from typing import Any

import networkx
import numpy as np
import pytest

from interp_kit.tasks.graphs import default_dag, discrete_model, erdos_renyi_dag, query, random_model
from interp_kit.tasks.graphs.questions.difficulty import Graph, bucket
from interp_kit.tasks.graphs.questions.draw import INCLUDABLE, Drawn, Rules, combinations, draw_questions, sampled
from interp_kit.tasks.graphs.questions.formal import KINDS, Question
from interp_kit.tasks.graphs.questions.printed import PrintedModel, printed, shares
from interp_kit.tasks.graphs.questions.solver import Solver

DEFAULT = Rules()


def asked(seed: int, n: int = 5, rules: Rules = DEFAULT, count: int = 40) -> tuple[PrintedModel, list[Drawn]]:
    rng = np.random.default_rng(seed)
    dag = default_dag(n, rng) if seed % 2 else erdos_renyi_dag(n, 0.5, rng, most=3)
    model = printed(random_model(dag, rng), rng)
    return model, draw_questions(model, count, rules, rng)


def options(model: PrintedModel, drawn: Drawn) -> dict[str, Any]:
    """The question as arguments of `query`."""
    given, changed = ({model.names[v]: x for v, x in of.items()} for of in (drawn.given, drawn.set))
    if drawn.kind[0] == "counterfactual":
        return {"given": given, "counterfactual": changed, "mechanism": drawn.kind[1]}
    return {"given": given, "do": changed}


def test_answers_and_costs_are_those_of_query_on_the_printed_model() -> None:
    kinds = set()
    for seed in range(8):
        model, drawn = asked(seed, count=24)
        for one in drawn:
            answer = query(model.model, model.names[one.target], **options(model, one))
            solved, run = one.solved, answer.elimination
            np.testing.assert_allclose(solved.distribution, answer.distribution, atol=1e-12)
            assert solved.ancestor_treewidth == answer.treewidth
            assert (solved.min_fill_products, solved.min_fill_sums) == (run.products, run.sums)
            assert solved.ve_operations == run.products + run.sums
            assert max(abs(100 * p - a) for p, a in zip(solved.distribution, solved.answer, strict=True)) < 1
            assert sum(solved.answer) == 100
            kinds.add(one.kind)
    assert kinds == set(KINDS)


def test_answers_are_the_shares_of_exact_integers() -> None:
    """Every answer of small models by elimination in Python's integers alone, ties included."""
    ties = 0
    for seed in range(12):
        model, drawn = asked(seed, 4, count=24)
        for one in drawn:
            exact = query(model.integers, model.names[one.target], **options(model, one)).factors[-1][1].tolist()
            assert all(type(amount) is int for amount in exact)
            assert one.solved.answer == shares(exact)
            assert one.solved.mode == exact.index(max(exact))
            rest = [Fraction(100 * amount, sum(exact)) % 1 for amount in exact]
            ties += len(set(rest)) < len(rest) and rest[0] != 0
    assert ties >= 1


def test_shortcuts_leave_out_what_they_say() -> None:
    core = []
    for seed in range(6):
        model, drawn = asked(seed, rules=Rules(include=INCLUDABLE), count=24)
        for one in drawn:
            solved, target, full = one.solved, model.names[one.target], options(model, one)
            given, changed = full["given"], full.get("do") or full.get("counterfactual") or {}

            def tvd(other: dict[str, Any], model: Any = model.model, target: str = target, one: Drawn = one) -> float:
                return np.abs(query(model, target, **other).distribution - one.solved.distribution).sum() / 2

            expected = (tvd({"do": changed}) if given else None, tvd({"given": given}) if changed else None, tvd({}))
            found = (solved.tvd_no_obs, solved.tvd_no_do, solved.tvd_neither)
            for a, b in zip(found, expected, strict=True):
                assert (a is None) == (b is None)
                assert a is None or a == pytest.approx(b, abs=1e-12)
            assert solved.is_core == all(b is None or b > 0.01 for b in expected if b is None or abs(b - 0.01) > 1e-8)
            core.append(solved.is_core)
    assert 0.1 < np.mean(core) < 0.9


def twin(model: PrintedModel, one: Drawn) -> tuple[networkx.DiGraph, set[Any], set[Any]]:
    """The graph of a question with its targets, and the nodes that are set, built node by node."""
    graph, x = networkx.DiGraph(), set(one.set)
    edges = [(p, v) for v, of in enumerate(model.parents) for p in of]
    plain = networkx.DiGraph(edges)
    plain.add_nodes_from(range(len(model.names)))
    graph.add_nodes_from(plain)
    if one.kind[0] != "counterfactual":
        graph.add_edges_from((p, v) for p, v in edges if v not in x)
        return graph, {one.target, *one.given}, x
    graph.add_edges_from(edges)
    copied = {v for v in plain if v in x or networkx.ancestors(plain, v) & x}
    for v in copied:
        graph.add_node((v, "*"))
        for p in () if v in x else model.parents[v]:
            graph.add_edge((p, "*") if p in copied else p, (v, "*"))
    target = (one.target, "*") if one.target in copied else one.target
    return graph, {target, *one.given}, {(v, "*") for v in x}


def test_columns_of_structure_are_those_of_the_graph_of_each_level() -> None:
    depths = set()
    for seed in range(8):
        for observed in (1, 2):
            model, drawn = asked(seed, 6, Rules(include=INCLUDABLE, observed=observed), 24)
            for one in drawn:
                graph, targets, changed = twin(model, one)
                relevant = set.union(*({t, *networkx.ancestors(graph, t)} for t in targets))
                down = graph.subgraph(relevant)
                near = {
                    v: min(
                        networkx.shortest_path_length(down, v, t) for t in targets if networkx.has_path(down, v, t)
                    ) - (v in changed and v not in targets)
                    for v in relevant
                }  # fmt: skip
                longest = max(
                    len(path) - 1
                    for v in relevant
                    for t in targets
                    for path in (networkx.all_simple_paths(down, v, t) if v != t else [[v]])
                )
                assert (one.ancestor_depth, one.ancestor_size) == (max(near.values()), len(relevant))
                assert one.longest_path_depth == longest
                sources = list(one.set or one.given)
                plain = networkx.DiGraph([(p, v) for v, of in enumerate(model.parents) for p in of])
                plain.add_nodes_from(range(6))
                assert one.on_path == any(networkx.has_path(plain, v, one.target) for v in sources)
                depths.add((one.kind, one.ancestor_depth))
    assert {(kind, depth) for kind in KINDS for depth in (1, 2)} <= depths
    assert [bucket(depth) for depth in (0, 5, 6, 60)] == ["d0", "d5", "d6+", "d6+"]


def test_what_is_excluded_is_not_asked_unless_included() -> None:
    seen: dict[str, int] = dict.fromkeys(INCLUDABLE, 0)
    for include in ((), INCLUDABLE):
        for seed in range(6):
            model, drawn = asked(seed, 5, Rules(include=include), 24)
            keys = [(one.kind, one.target, *one.given.items(), None, *one.set.items()) for one in drawn]
            assert len(set(keys)) == len(keys)
            graph = Graph(model.parents)
            for one in drawn:
                x, z, y = (np.array([list(of) or [0]]) for of in (one.set, one.given, [one.target]))
                evident = one.kind[0] != "interventional"
                faults = {
                    "lookups": one.solved.is_lookup,
                    "target_intervened": one.target in one.set,
                    "evidence_intervened": bool(one.set.keys() & one.given.keys()),
                    "disconnected": not graph.connected(one.kind[0], x[0], z if evident else z[:, :0], y[0])[0],
                }
                assert one.target not in one.given or one.kind[0] == "counterfactual"
                assert include or not any(faults.values())
                for name, there in faults.items():
                    seen[name] += there
    assert all(seen.values()), seen


def test_what_is_disconnected_does_not_matter() -> None:
    for seed in range(5):
        model, drawn = asked(seed, 5, Rules(include=INCLUDABLE), 40)
        graph = Graph(model.parents)
        for one in drawn:
            x, z, y = (np.array([list(of) or [0]]) for of in (one.set, one.given, [one.target]))
            z = z if one.given else z[:, :0]
            if not graph.connected(one.kind[0], x[0], z, y[0])[0]:
                tvd = [one.solved.tvd_no_obs, one.solved.tvd_no_do, one.solved.tvd_neither]
                assert min(found for found in tvd if found is not None) < 1e-12


def test_depths_are_asked_about_in_turn_and_core_only_leaves_core_questions() -> None:
    model = printed(random_model([(), (0,), (1,), (2, 0), (3,), (4,)], np.random.default_rng(0)))
    rng = np.random.default_rng(0)
    rules = Rules(kinds=(("observational", None),), include=INCLUDABLE)
    drawn = draw_questions(model, 12, rules, rng)
    counts = [sum(one.ancestor_depth == depth for one in drawn) for depth in {one.ancestor_depth for one in drawn}]
    assert len(counts) >= 3
    assert max(counts) - min(counts) <= 1
    for seed in range(3):
        assert all(one.solved.is_core for one in asked(seed, 6, Rules(core_only=True), 16)[1])


def test_evidence_is_drawn_from_the_printed_model() -> None:
    model = printed(discrete_model({"a": ([], [0.2, 0.8]), "b": (["a"], [[0.9, 0.1], [0.0, 1.0]])}))
    worlds = sampled(model, np.random.default_rng(0))
    rows = np.array([next(worlds) for _ in range(20000)])
    joint = np.bincount(rows[:, :2] @ [2, 1], minlength=4) / len(rows)
    expected = np.array([0.18, 0.02, 0, 0.8])
    assert joint[2] == 0
    assert (np.abs(joint - expected) <= 5 * np.sqrt(expected * (1 - expected) / len(rows))).all()


def test_large_models_draw_their_combinations() -> None:
    rows = combinations(40, "counterfactual", 2, (), np.random.default_rng(0))
    x, z, y = rows[:, 0], rows[:, 1:-1], rows[:, -1]
    assert 500 < len(rows) <= 1024
    assert (x != y).all()
    assert (z[:, 0] < z[:, 1]).all()
    assert (z != x[:, None]).all()
    assert len(combinations(6, "counterfactual", 2, (), np.random.default_rng(0))) == 6 * 5 * math.comb(5, 2)


def test_questions_and_solvers_refuse_what_is_not_a_question() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"level": "causal", "target": "y"}, "level is 'causal': expected one of observational"),
        ({"level": "observational", "target": "y"}, "given = {}: expected one or more"),
        ({"level": "interventional", "target": "y", "set": {"x": 1}, "given": {"x": 1}}, "expected no variables"),
        ({"level": "counterfactual", "target": "y", "set": {"x": 1}, "given": {"y": 1}}, "selectors or uniform"),
        ({"level": "interventional", "target": "y", "set": {"x": 1}, "mechanism": "uniform"}, "expected None"),
    ]  # fmt: skip
    for fields, message in bad:
        with pytest.raises(ValueError, match=message):
            Question(**fields)
    solver = Solver(printed(discrete_model({"x": ([], [1.0, 0.0]), "y": (["x"], [[0.5, 0.5], [0.1, 0.9]])})))
    for question, message in (
        (Question("observational", "z", {"x": 0}), "no variable 'z'"),
        (Question("observational", "y", {"x": 2}), "x cannot be 2"),
        (Question("observational", "y", {"x": 1}), "evidence x = 1 has probability 0"),
    ):
        with pytest.raises(ValueError, match=message):
            solver.solve(question)
    assert solver.solve(Question("interventional", "y", set={"x": 1})).answer == (10, 90)
    assert str(Question("counterfactual", "y", {"y": 1}, {"x": 0}, "uniform")) == "P(y[x = 0] | y = 1)"
    assert str(Question("interventional", "y", set={"x": 0})) == "P(y | do(x = 0))"
    assert str(Question("observational", "y", {"x": 0})) == "P(y | x = 0)"
