"""Large logistic probes against scikit-learn's own second-order solver: how far the objective is above its optimum."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier

from interp_kit.analysis.probing import linear, logistic
from interp_kit.analysis.probing.held_out import ProbeOptions, Scorer
from interp_kit.analysis.probing.linear import LARGE, fit_logistic
from interp_kit.analysis.probing.logistic import NATS, _descend, _Objective, fit_shared
from interp_kit.core.identity import derive_seed

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray | float, c: float) -> float:
    """As documented, one label, in float64."""
    margin = (2 * y - 1) * (x.astype(np.float64) @ w + b)
    return 0.5 * float(w @ w) + c * float(np.logaddexp(0, -margin).sum())


def by_sklearn(x: np.ndarray, y: np.ndarray, c: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of ill-conditioned Hessians: what it finds is only asked not to be better.
        return LogisticRegression(C=c, tol=1e-11, max_iter=1000, solver="newton-cholesky").fit(x.astype(np.float64), y)


def problem(seed: int, n: int, r: int, labels: int, signal: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of decaying spectrum and unequal mean, and (label, n) noisy linear labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, r)) / (1 + np.arange(r)) @ np.linalg.qr(rng.normal(size=(r, r)))[0] + rng.normal(size=r)
    score = (x - x.mean(0)) @ rng.normal(size=(r, labels))
    y = (signal * score / score.std(0) + rng.logistic(size=score.shape) > 0).astype(np.int64).T
    y[:, 0], y[:, 1] = 0, 1
    return x, y


@given(
    n=st.integers(4, 200),
    r=st.integers(1, 60),
    labels=st.integers(1, 4),
    log_c=st.floats(-4, 4),
    log_scale=st.floats(-2, 2),
    signal=st.sampled_from([0.1, 2.0, 30.0, 1e6]),
    kind=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100)
def test_the_objective_is_as_near_its_optimum_as_documented(
    n: int, r: int, labels: int, log_c: float, log_scale: float, signal: float, kind: type, seed: int
) -> None:
    x, y = problem(seed, n, r, labels, signal)  # Separable where n < r or the signal is strong.
    x, c = (10**log_scale * x).astype(kind), 10**log_c
    weights, intercepts = fit_shared(x, y, c)
    for label, w, b in zip(y, weights, intercepts, strict=True):
        theirs = by_sklearn(x, label, c)
        best = objective(x, label, theirs.coef_[0], theirs.intercept_[0], c)
        assert objective(x, label, w, b, c) - best < NATS * c * n + 1e-12 * best


@given(r=st.integers(1, 8), log_c=st.floats(-3, 3), spread=st.floats(0, 5), seed=st.integers(0, 10**6))
def test_the_distance_is_at_least_that_to_the_optimum(r: int, log_c: float, spread: float, seed: int) -> None:
    rng, c = np.random.default_rng(seed), 10**log_c
    x, y = problem(seed, 40, r, 1)
    design = np.append(x, np.ones((40, 1)), axis=1)
    reach = float(np.linalg.norm(design, axis=1).max() + np.sqrt(2 / c))
    w, b = spread * rng.normal(size=r), spread * rng.normal()
    gradient = _Objective(design, c, reach).gradient(np.append(w, b)[None], y - 0.5)
    bound = _Objective(design, c, reach).distance(gradient)[0]
    theirs = by_sklearn(x, y[0], c)
    assert bound >= np.linalg.norm(w - theirs.coef_[0]) - 1e-6
    best = objective(x, y[0], theirs.coef_[0], theirs.intercept_[0], c)
    there = brentq(lambda at: float((expit(x @ w + at) - y[0]).sum()), -1e4, 1e4, xtol=1e-12)
    assert objective(x, y[0], w, there, c) - best <= bound**2 / 2 + 1e-6


@given(spread=st.floats(1, 100), seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_from_far_away_a_few_hessians_lead_to_the_optimum(spread: float, seed: int) -> None:
    x, y = problem(seed, 60, 6, 1)
    weights = spread * np.random.default_rng(seed).normal(size=(1, 7))
    on = _Objective(np.append(x, np.ones((60, 1)), axis=1), 10.0, float(np.linalg.norm(x, axis=1).max()) + 1)
    done = np.zeros(1, dtype=bool)
    for _ in range(6):
        weights, done = _descend(on, weights, y - 0.5, on.inverse_hessian(weights[0]), np.full(1, 1e-4), 10)
    assert done.all()
    np.testing.assert_allclose(weights[0, :-1], by_sklearn(x, y[0], 10.0).coef_[0], atol=2e-4)


@pytest.mark.parametrize("n", [40, 2000])  # Newton's method, and not.
def test_labels_and_sites_broadcast(n: int) -> None:
    sites = [problem(seed, n, 16, 1)[0] for seed in range(3)]
    x, y = np.stack(sites)[:, None], problem(0, n, 16, 4)[1]
    assert (n * 16 >= LARGE) == (n == 2000)
    weights, intercepts = fit_logistic(x, y, 2)
    assert (weights.shape, intercepts.shape) == ((3, 4, 16), (3, 4))
    for i, k in itertools.product(range(3), range(4)):
        theirs = by_sklearn(sites[i], y[k], 2.0)
        np.testing.assert_allclose(weights[i, k], theirs.coef_[0], atol=2e-4)
        np.testing.assert_allclose(intercepts[i, k], theirs.intercept_[0], atol=2e-4)
    together, bias = fit_logistic(x[0, 0], y, 2)  # Labels on one matrix.
    np.testing.assert_allclose(together, weights[0], atol=2e-4)
    np.testing.assert_allclose(bias, intercepts[0], atol=2e-4)
    split, of_split = fit_logistic(x[:, 0], np.stack([y[:3], 1 - y[:3]]), 2)  # (2, site, n): a label for each site.
    np.testing.assert_allclose(split[0], weights[range(3), range(3)], atol=2e-4)
    np.testing.assert_allclose(split[1], -split[0], atol=2e-4)
    np.testing.assert_allclose(of_split[1], -of_split[0], atol=2e-4)
    alone, of_one = fit_logistic(x[2, 0], y[3], 2)
    assert (alone.shape, of_one.shape) == ((16,), ())
    np.testing.assert_allclose(alone, weights[2, 3], atol=2e-4)


def test_newtons_method_at_its_rounding_is_no_failure() -> None:
    x, y = problem(3, 900, 30, 1)
    x, c = 50 * x + 3000, 1e4
    with pytest.raises(FloatingPointError, match="did not converge"):
        linear._newton(x, y[0], c)
    w, b = fit_logistic(x, y[0], c)
    centred = x - x.mean(0)
    theirs = by_sklearn(centred, y[0], c)
    best = objective(centred, y[0], theirs.coef_[0], theirs.intercept_[0], c)
    assert objective(x, y[0], w, b, c) - best < NATS * c * len(x)


def test_what_cannot_be_fitted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(0, 300, 100, 2)
    for wrong in (np.nan, np.inf, 1e30, 1e200):
        with pytest.raises(FloatingPointError, match="not finite"):
            fit_logistic(np.where(np.arange(100) == 7, wrong, x), y)
    monkeypatch.setattr(logistic, "NATS", 0.0)
    with pytest.raises(FloatingPointError, match="did not converge"):
        fit_shared(x[:50, :5], y[:, :50], 1.0)


def test_many_classes_on_large_splits_are_scored_as_by_sklearn() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 80))
    truth = (x[:, :4] @ rng.normal(size=(4, 3)) + 0.5 * rng.normal(size=(600, 3))).argmax(1)
    assert LARGE <= 400 * 80
    found = Scorer(truth, False, ProbeOptions(3, 1, 0.5, 1.0, 1), ("label", "position"))([x])
    state = derive_seed(1, "split", "label", "position") % 2**32
    predicted = np.empty_like(truth)
    for train, test in StratifiedKFold(3, shuffle=True, random_state=state).split(x, truth):
        mean = x[train].mean(0)
        scale = np.sqrt(((x[train] - mean) ** 2).mean())
        one = LogisticRegression(C=0.5, tol=1e-10, solver="newton-cholesky")
        fit = OneVsRestClassifier(one).fit((x[train] - mean) / scale, truth[train])
        predicted[test] = fit.predict((x[test] - mean) / scale)
    assert found[0] == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-9)
    assert found[0] > 0.7
