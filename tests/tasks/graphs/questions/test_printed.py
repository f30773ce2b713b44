"""Printed probabilities against largest remainders of exact fractions, and printed models against their sources."""

from fractions import Fraction

import numpy as np

from interp_kit.tasks.graphs import default_dag, discrete_model, query, random_model
from interp_kit.tasks.graphs.questions.printed import decimal, hundredths, most_probable, printed, rounded, shares


def largest_remainder(amounts: list[int]) -> tuple[int, ...]:
    """By the method's definition, one hundredth after the other."""
    exact = [Fraction(100 * amount, sum(amounts)) for amount in amounts]
    found = [int(part) for part in exact]
    while sum(found) < 100:
        rest = [part - low for part, low in zip(exact, found, strict=True)]
        found[rest.index(max(rest))] += 1
    return tuple(found)


def test_rounding_is_largest_remainder_also_where_floats_cannot_tell() -> None:
    rng = np.random.default_rng(0)
    asked = 0
    for _ in range(600):
        amounts = (rng.integers(0, 9, size=int(rng.integers(2, 5))) * 10 ** int(rng.integers(0, 12))).tolist()
        if not sum(amounts):
            continue
        calls: list[int] = []

        def exact(amounts: list[int] = amounts, calls: list[int] = calls) -> list[int]:
            calls.append(1)
            return amounts

        assert rounded([amount / 7 for amount in amounts], exact) == shares(amounts) == largest_remainder(amounts)
        assert most_probable([amount / 7 for amount in amounts], exact) == amounts.index(max(amounts))
        asked += len(calls)
    assert 30 < asked < 900  # floats decide most, not all
    assert shares([1, 7]) == (13, 87)  # 12.5 and 87.5: the first gains
    assert shares([1, 1, 1]) == (34, 33, 33)


def test_rounding_each_entry_would_not_sum_to_one() -> None:
    rows = np.random.default_rng(1).dirichlet(np.ones(3), size=4000)
    found = hundredths(rows)
    assert (found.sum(1) == 100).all()
    assert np.abs(found / 100 - rows).max() < 0.01
    assert np.mean(np.round(100 * rows).sum(1) != 100) > 0.05
    assert hundredths(np.array([0.29, 0.57, 0.14])).tolist() == [29, 57, 14]  # 100 * 0.29 is 28.999…


def test_parents_are_shuffled_and_the_model_stays_the_same() -> None:
    rng = np.random.default_rng(0)
    ascending = []
    for _ in range(40):
        parents = default_dag(6, rng)
        model = random_model(parents, rng)
        shown = printed(model, rng)
        plain = printed(model)
        for v, (a, b) in enumerate(zip(shown.parents, plain.parents, strict=True)):
            assert sorted(a) == sorted(b) == sorted(model.parents[v])
            ascending += [a == b] if len(a) == 2 else []
        target = model.names[0]
        np.testing.assert_allclose(query(shown.model, target).distribution, query(plain.model, target).distribution)
        assert np.abs(query(plain.model, target).distribution - query(model, target).distribution).max() < 0.05
    assert 0.25 < np.mean(ascending) < 0.75  # the sampler's own order would tell which parent came first


def test_tables_that_have_two_digits_stay_as_they_are() -> None:
    model = discrete_model({"a": ([], [0.07, 0.93]), "b": (["a"], [[0.1, 0.2, 0.7], [0.0, 0.0, 1.0]])})
    assert [table.tolist() for table in printed(model).counts] == [[7, 93], [[10, 20, 70], [0, 0, 100]]]
    assert [decimal(count) for count in (0, 7, 93, 100)] == ["0.00", "0.07", "0.93", "1.00"]
