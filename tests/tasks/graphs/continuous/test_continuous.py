"""Sampled moments against closed forms: jointly Gaussian models at three levels, and a single LeakyReLU."""

import math
import re
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from interp_kit.tasks.graphs import default_dag
from interp_kit.tasks.graphs.continuous import ContinuousModel, continuous_model, estimate, random_continuous
from interp_kit.tasks.graphs.continuous.questions import ask_continuous, printed_continuous

SAMPLES = 20_000


def linear(model: ContinuousModel) -> ContinuousModel:
    return ContinuousModel(model.names, model.parents, model.weights, tuple(v + 0.2 for v in model.variances), 1.0)


def closed_form(model: ContinuousModel, target: str, options: dict[str, Any]) -> tuple[float, float]:
    """Mean and variance when the slope is 1: the noise is conditioned on what was observed, as one Gaussian."""
    n = len(model.names)
    number = model.names.index

    def solution(do: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """(from noise, constant) of x = A noise + b under do."""
        weights, keep, constant = np.zeros((n, n)), np.ones(n), np.zeros(n)
        for v in range(n):
            weights[v, list(model.parents[v])] = model.weights[v]
        for name, value in do.items():
            weights[number(name)], keep[number(name)], constant[number(name)] = 0, 0, value
        inverse = np.linalg.inv(np.eye(n) - weights)
        return inverse * keep, inverse @ constant

    before, constant = solution(options.get("do", {}))
    noise, mean = np.diag(model.variances), np.zeros(n)
    if given := options.get("given"):
        rows = [number(name) for name in given]
        seen = before[rows]
        gain = noise @ seen.T @ np.linalg.inv(seen @ noise @ seen.T)
        mean = gain @ (np.array(list(given.values())) - constant[rows])
        noise = noise - gain @ seen @ noise
    after, constant = solution(options.get("do", {}) | options.get("counterfactual", {}))
    row = after[number(target)]
    return float(row @ mean + constant[number(target)]), float(row @ noise @ row)


def test_linear_models_agree_with_the_joint_gaussian_and_errors_are_as_stated() -> None:
    rng, scores = np.random.default_rng(0), []
    for seed in range(60):
        model = linear(random_continuous(default_dag(5, rng), rng))
        x, z, y = rng.permutation(model.names)[:3].tolist()
        world = model.simulate(rng.standard_normal((5, 1)))[:, 0]
        seen = {z: float(world[model.names.index(z)])}
        for options in ({}, {"given": seen}, {"do": {x: 0.7}}, {"given": seen, "counterfactual": {x: -0.4}}):
            found = estimate(model, y, samples=SAMPLES, seed=seed, **options)
            mean, variance = closed_form(model, y, options)
            scores += [
                (found.mean - mean) / (found.mean_error + 1e-9),
                (found.variance - variance) / (found.variance_error + 1e-9),
            ]
    assert np.abs(scores).max() < 6
    assert 0.8 < np.std(scores) < 1.2


def test_the_leaky_relu_has_the_noise_inside() -> None:
    """E leaky(N(m, s^2)) in closed form, and the counterfactual of an observed leaf with all else set is sure."""
    model = continuous_model({"y": ({"x": 1.5}, 0.8), "x": ({}, 1.0)})
    for value in (-1.0, 0.3, 2.0):
        m, s = 1.5 * value, math.sqrt(0.8)
        up, density = norm.cdf(m / s), norm.pdf(m / s)
        expected = m * up + s * density + 0.2 * (m * (1 - up) - s * density)
        found = estimate(model, "y", do={"x": value}, samples=200_000)
        assert abs(found.mean - expected) < 5 * found.mean_error
        same = estimate(model, "y", given={"x": value}, samples=200_000)
        assert abs(same.mean - expected) < 5 * same.mean_error
    had = estimate(model, "y", given={"x": 1.0, "y": -0.2}, counterfactual={"x": 2.0})
    assert had.mean == pytest.approx(0.5)  # -0.2 is leaky(-1), so the noise was -2.5, and 3 - 2.5 is left
    assert had.variance == pytest.approx(0, abs=1e-12)


def test_random_models_have_the_stated_weights_and_variances() -> None:
    rng = np.random.default_rng(0)
    models = [random_continuous(default_dag(8, rng), rng) for _ in range(200)]
    weights = np.array([w for model in models for of in model.weights for w in of])
    variances = np.array([v for model in models for v in model.variances])
    assert np.abs(weights).max() <= 2
    assert abs(weights.mean()) < 0.15
    assert 1.1 < weights.std() < 1.2
    assert variances.min() >= 0
    assert 0.45 < variances.mean() < 0.55


def test_questions_print_the_model_that_they_are_answered_from() -> None:
    rng = np.random.default_rng(3)
    model = printed_continuous(random_continuous(default_dag(5, rng), rng))
    for level in ("observational", "interventional", "counterfactual"):
        asked = ask_continuous(model, level, rng, samples=5000)
        for v, name in enumerate(model.names):
            (line,) = re.findall(rf"^{name} = .*$", asked.text, re.MULTILINE)
            numbers = re.findall(r"\((-?\d+\.\d\d)\)", line)
            assert [float(number) for number in numbers] == [*model.weights[v], model.variances[v]]
            assert ("leaky" in line) == bool(model.parents[v])
        assert "ANSWER [mean, variance]" in asked.text
        assert asked.answer.mean_error < 0.2


def test_bad_continuous_models_and_questions_say_what_is_wrong() -> None:
    for variables, message in (
        ({"a": ({"b": 1.0}, 1.0)}, "'a' has the parent 'b'"),
        ({"a": ({"b": 1.0}, 1.0), "b": ({"a": 1.0}, 1.0)}, "the graph has a cycle"),
        ({"a": ({}, -1.0)}, "variance of 'a' is -1.0"),
        ({"a": ({}, 1.0), "b": ({"a": float("nan")}, 1.0)}, "weight of 'a' in 'b' is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            continuous_model(variables)
    with pytest.raises(ValueError, match=r"the slope is 0\.0"):
        continuous_model({"a": ({}, 1.0)}, slope=0.0)
    model = continuous_model({"a": ({}, 1.0), "b": ({"a": 1.0}, 0.0)})
    questions: list[tuple[dict[str, Any], str]] = [
        ({"given": {"c": 1.0}}, "no variable 'c': expected one of a, b"),
        ({"given": {"a": float("inf")}}, "a cannot be inf"),
        ({"given": {"b": 1.0}}, "b is observed but has no noise"),
        ({"given": {"a": 1.0}, "do": {"a": 1.0}}, "a is set and observed"),
        ({"samples": 1}, "samples is 1"),
    ]
    for options, message in questions:
        with pytest.raises(ValueError, match=message):
            estimate(model, "b", **options)
    chain = continuous_model({"a": ({}, 1.0), "b": ({"a": 1.0}, 0.0001)})
    with pytest.raises(ValueError, match="the observations are too unlikely"):
        estimate(chain, "a", given={"b": 3.9}, samples=1000)
    with pytest.raises(ValueError, match="expected 3 or more"):
        ask_continuous(model, "observational", np.random.default_rng())
    with pytest.raises(ValueError, match="the level is 'causal'"):
        ask_continuous(model, "causal", np.random.default_rng())
