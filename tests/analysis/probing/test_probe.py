"""Probes against scikit-learn on the same splits, on directions that were put there, and on labels that are noise."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from torch import Tensor
from transformer_lens import HookedTransformer

from interp_kit.analysis.probing.held_out import ProbeOptions, Scorer, threshold
from interp_kit.analysis.probing.labels import MEASURED, TOO_FEW, UNDETERMINED, control_labels, distinct_prefixes
from interp_kit.analysis.probing.linear import fit_logistic, fit_ridge, rotate, standardise
from interp_kit.analysis.probing.probe import probe
from interp_kit.analysis.probing.probe_result import ProbeResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.identity import derive_seed
from interp_kit.models.convert import untrained
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.planted import planted_boolean
from interp_kit.tasks.boolean import BooleanTask

MakeModel = Callable[..., HookedTransformer]
QUICK: dict[str, Any] = {"repeats": 1, "folds": 4, "control_repeats": 0}


class Readout:
    """A model that is nothing but the activations it was given for these texts: hook -> (batch, pos, d)."""

    def __init__(self, texts: Tensor, activations: dict[str, Tensor]) -> None:
        self.texts, self.activations = texts, activations
        self.cfg = SimpleNamespace(n_layers=len(activations) - 1, n_ctx=64, d_vocab=64, device="cpu")

    def run_with_cache(self, tokens: Tensor, **kwargs: Any) -> Any:
        same = (self.texts[None, :, : tokens.shape[1]] == tokens[:, None]).all(-1)
        rows = same.int().argmax(1)
        return None, {hook: value[rows, : tokens.shape[1]] for hook, value in self.activations.items()}

    def __call__(self, tokens: Tensor, **kwargs: Any) -> Tensor:
        raise AssertionError("nothing here is to call this")

    def run_with_hooks(self, tokens: Tensor, *, fwd_hooks: list, **kwargs: Any) -> Tensor:
        raise AssertionError("nothing here is to call this")

    def hooks(self, fwd_hooks: list) -> AbstractContextManager:
        raise AssertionError("nothing here is to call this")

    def named_parameters(self) -> Any:
        return iter(())


def readout(batch: TokenBatch, seed: int, layers: int = 2, d: int = 6) -> Readout:
    """Noise, the same wherever the visible text is the same, as a causal model has it."""
    rng = np.random.default_rng(seed)
    known: dict[tuple, np.ndarray] = {}
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{la}.hook_resid_post" for la in range(layers))]
    values = np.zeros((len(names), *batch.tokens.shape, d), dtype=np.float32)
    for row, text in enumerate(batch.tokens.tolist()):
        for pos in range(len(text)):
            noise = known.setdefault(tuple(text[: pos + 1]), rng.normal(size=(len(names), d)))
            values[:, row, pos] = noise
    return Readout(batch.tokens, {name: torch.from_numpy(v) for name, v in zip(names, values, strict=True)})


# -------------------------------------------------------------------------------------------- linear models, batched


def logistic_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    cases = []
    for n, d in ((20, 3), (28, 10), (12, 40), (60, 1), (9, 9)):
        x = rng.normal(size=(n, d)) * rng.uniform(0.2, 3)
        y = (x @ rng.normal(size=d) + rng.normal(size=n) > 0.5).astype(np.int64)
        y[:2] = [0, 1]
        cases.append((x, y))
    x = rng.normal(size=(30, 5))
    cases.append((x, (x[:, 0] > 0).astype(np.int64)))  # Separable.
    cases.append((10 * np.repeat(np.eye(2), 10, axis=0), np.repeat([0, 1], 10)))  # Separable, and far apart.
    cases.append((x, (np.arange(30) == 7).astype(np.int64)))  # One against 29.
    cases.append((np.zeros((10, 3)), np.array([0, 1, 1, 0, 1, 1, 1, 0, 1, 1])))  # Nothing to go by.
    return cases


@pytest.mark.parametrize("c", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("case", range(len(logistic_cases())))
def test_logistic_regression_is_sklearns(case: int, c: float) -> None:
    x, y = logistic_cases()[case]
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=100_000, solver="newton-cholesky").fit(x, y)
    weights, intercept = fit_logistic(x, y, c)
    np.testing.assert_allclose(weights, theirs.coef_[0], atol=1e-5)
    np.testing.assert_allclose(intercept, theirs.intercept_[0], atol=1e-5)


def test_logistic_regression_in_batches_is_one_at_a_time() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 4, 25, 6)) * rng.uniform(0.1, 5, size=(3, 4, 1, 1))
    y = (rng.random((3, 4, 25)) < 0.4).astype(np.int64)
    y[..., 0], y[..., 1] = 0, 1
    weights, intercept = fit_logistic(x, y, 3.0)
    assert weights.shape == (3, 4, 6)
    assert intercept.shape == (3, 4)
    for i, j in itertools.product(range(3), range(4)):
        theirs = LogisticRegression(C=3.0, tol=1e-10, max_iter=100_000).fit(x[i, j], y[i, j])
        np.testing.assert_allclose(weights[i, j], theirs.coef_[0], atol=1e-4)
        alone, bias = fit_logistic(x[i, j], y[i, j], 3.0)
        np.testing.assert_allclose(weights[i, j], alone, atol=1e-7)
        np.testing.assert_allclose(intercept[i, j], bias, atol=1e-7)


def test_ridge_regression_is_sklearns() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3, 20, 30)), rng.normal(size=(2, 3, 20)) + 5
    for alpha in (0.1, 1.0, 50.0):
        weights, intercept = fit_ridge(x, y, alpha)
        for i, j in itertools.product(range(2), range(3)):
            theirs = Ridge(alpha=alpha, solver="svd").fit(x[i, j], y[i, j])
            np.testing.assert_allclose(weights[i, j], theirs.coef_, atol=1e-8)
            np.testing.assert_allclose(intercept[i, j], theirs.intercept_, atol=1e-8)


@given(units=st.integers(2, 20), d=st.integers(1, 50), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_rotation_keeps_inner_products_and_predictions(units: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(units, d)).astype(np.float32)
    turned = rotate(x)
    assert turned.shape == (units, min(units, d))
    np.testing.assert_allclose(turned @ turned.T, x.astype(float) @ x.astype(float).T, atol=1e-9 * d)
    y = np.arange(units) % 2
    for features in ((x, turned),):
        scores = [f @ fit_logistic(f.astype(float), y)[0] + fit_logistic(f.astype(float), y)[1] for f in features]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
        values = [f @ fit_ridge(f.astype(float), y.astype(float))[0] for f in features]
        np.testing.assert_allclose(values[0], values[1], atol=1e-5)


def test_standardising_uses_the_training_rows_only() -> None:
    rng = np.random.default_rng(0)
    train, test = 40 * rng.normal(size=(2, 12, 5)) + 7, rng.normal(size=(2, 3, 5))
    x, z = standardise(train, test)
    np.testing.assert_allclose(x.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose((x**2).sum(-1).mean(-1), 5)
    np.testing.assert_allclose(standardise(train, train)[1], x)
    scale = np.sqrt(((train - train.mean(1, keepdims=True)) ** 2).mean((1, 2), keepdims=True))
    np.testing.assert_allclose(z, (test - train.mean(1, keepdims=True)) / scale)
    constant, other = standardise(np.ones((1, 4, 3)), np.full((1, 2, 3), 3.0))
    assert (constant == 0).all()
    assert (other == 2).all()


# ----------------------------------------------------------------------------------- whole probes against scikit-learn


def by_sklearn(
    features: np.ndarray,
    truth: np.ndarray,
    key: tuple[str, str],
    numeric: bool = False,
    folds: int = 8,
    repeats: int = 4,
    c: float = 1.0,
    alpha: float = 1.0,
    seed: int = 0,
) -> float:
    """The documented procedure, split by split: centre, one scale, fit, score what was left out."""
    smallest = len(truth) if numeric else np.unique(truth, return_counts=True)[1].min()
    count, width = min(folds, smallest), min(features.shape)
    scores = []
    for repeat in range(repeats):
        state = (derive_seed(seed, "split", *key) + repeat) % 2**32
        splitter = (KFold if numeric else StratifiedKFold)(count, shuffle=True, random_state=state)
        predicted = np.full(len(truth), np.nan)
        for train, test in splitter.split(features, truth):
            mean = features[train].mean(0)
            scale = np.sqrt(((features[train] - mean) ** 2).sum() / (len(train) * width))
            scale = scale if scale > 1e-12 else 1.0
            x, z = (features[train] - mean) / scale, (features[test] - mean) / scale
            if numeric:
                fit: Any = Ridge(alpha=alpha).fit(x, truth[train])
            else:
                fit = LogisticRegression(C=c, tol=1e-10, max_iter=100_000)
                fit = (OneVsRestClassifier(fit) if len(set(truth)) > 2 else fit).fit(x, truth[train])
            predicted[test] = fit.predict(z)
        scores.append(r2_score(truth, predicted) if numeric else balanced_accuracy_score(truth, predicted))
    return float(np.mean(scores))


def prefixes(batch: TokenBatch, position: str) -> list[int]:
    """The first row of every distinct visible prefix, prefixes in order."""
    at = batch.position(position).tolist()
    visible = [tuple(text[: i + 1]) for text, i in zip(batch.tokens.tolist(), at, strict=True)]
    return [visible.index(prefix) for prefix in sorted(set(visible))]


def one_hot(batch: TokenBatch, position: str, rows: Sequence[int]) -> np.ndarray:
    at = batch.position(position).tolist()
    found = [[(i, token) for i, token in enumerate(batch.tokens[row].tolist()[: at[row] + 1])] for row in rows]
    columns = sorted({pair for pairs in found for pair in pairs})
    return np.array([[pair in pairs for pair in columns] for pairs in found], dtype=float)


def test_scores_are_those_of_sklearn_on_the_same_splits(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable
) -> None:
    model = tiny_model(0)
    labels, positions = ["newA", "newB", "newD", "sum1"], ["D", "newB?", "newD?"]
    options: dict[str, Any] = {"folds": 5, "repeats": 2, "c": 0.7, "alpha": 2.0, "seed": 3}
    found = probe(
        model, batch, labels, sites=["resid_mid", "mlp_post"], positions=positions, **options, control_repeats=0
    )
    assert found.rows == ("embedding", "L0 resid_mid", "L1 resid_mid", "L0 mlp_post", "L1 mlp_post")
    sites: list[tuple[str, int]] = [
        ("resid_pre", 0),
        ("resid_mid", 0),
        ("resid_mid", 1),
        ("mlp_post", 0),
        ("mlp_post", 1),
    ]
    checked = 0
    for k, position in enumerate(positions):
        rows = prefixes(batch, position)
        at = int(batch.position(position)[0])
        assert found.units[k] == len(rows)
        for i, label in enumerate(labels):
            if found.status[i, k] != MEASURED:
                continue
            truth = batch.label(label).numpy()[rows]
            numeric = label == "sum1"
            given: dict[str, Any] = {"key": (label, position), "numeric": numeric, **options}
            for j, (site, layer) in enumerate(sites):
                features = activation(model, batch, site, layer)[rows, at].double().numpy()
                if not np.ptp(features, axis=0).any():  # sklearn then scores how ties fall
                    assert found.score[i, j, k] == pytest.approx(0 if numeric else 1 / len(set(truth.tolist())))
                else:
                    assert found.score[i, j, k] == pytest.approx(by_sklearn(features, truth, **given), abs=1e-5)
                checked += 1
    assert checked == 5 * 11
    for k, position in enumerate(positions):
        rows = prefixes(batch, position)
        raw = one_hot(batch, position, rows)
        for label in ("newB", "sum1"):
            i = labels.index(label)
            if found.status[i, k] == MEASURED:
                truth = batch.label(label).numpy()[rows]
                expected = by_sklearn(raw, truth, (label, position), label == "sum1", **options)
                assert found.raw[i, k] == pytest.approx(expected, abs=1e-6)
    assert np.ptp(found.score[0][:, 1:]) > 0.1  # There is something to get wrong.


def test_more_than_two_classes_are_one_against_the_rest(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable
) -> None:
    model = tiny_model(1)
    digits = batch.label("A") + 2 * batch.label("B") + batch.label("E")  # 0 to 4, the middle ones more often.
    fake = replace(batch, labels={**batch.labels, "digits": digits})
    found = probe(model, fake, ["digits"], positions=["newA?", "newB"], folds=4, repeats=2, control_repeats=0)
    assert found.chance.tolist() == [1 / 5]
    assert found.numeric == ()
    for k, position in enumerate(found.positions):
        rows = prefixes(batch, position)
        for j, (site, layer) in enumerate([("resid_pre", 0), ("resid_post", 0), ("resid_post", 1)]):
            features = activation(model, batch, site, layer)[rows, int(batch.position(position)[0])].double().numpy()
            expected = by_sklearn(features, digits.numpy()[rows], ("digits", position), folds=4, repeats=2)
            assert found.score[0, j, k] == pytest.approx(expected, abs=1e-6)
    assert np.ptp(found.score) > 0.05


# -------------------------------------------------------------------------------------------------------------- units


def test_repeated_rows_are_no_new_evidence(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(2)
    options: dict[str, Any] = {"positions": ["D", "newD?", "sum2?"], "folds": 4, "repeats": 1, "permutations": 3}
    once = probe(model, batch, ["newA", "newC", "sum1"], **options)
    order = np.random.default_rng(0).permutation(np.tile(np.arange(32), 3))
    often = probe(model, batch.take(order.tolist()), ["newA", "newC", "sum1"], **options)
    assert often.units.tolist() == once.units.tolist() == [16, 32, 32]
    for name in ("score", "untrained", "raw", "control", "control_high", "null_high", "chance"):
        np.testing.assert_allclose(getattr(often, name), getattr(once, name), atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(often.status, once.status)


@pytest.mark.parametrize(
    ("truth", "numeric", "chance"),
    [
        (np.arange(9) % 2, False, 0.5),
        (np.arange(11) % 2, False, 0.5),
        (np.repeat([0, 1], [3, 29]), False, 0.5),
        (np.arange(30) % 3, False, 1 / 3),
        (np.arange(20) % 5, True, 0.0),
    ],
)
def test_features_that_are_equal_for_all_units_are_at_chance(truth: np.ndarray, numeric: bool, chance: float) -> None:
    """Folds leave out unequal classes, so that ties fell to one of them; other cells keep their scores."""
    options = ProbeOptions(folds=8, repeats=4, c=1.0, alpha=1.0, seed=0)
    told = truth[:, None] * np.ones((1, 3)) + np.random.default_rng(0).normal(0, 0.01, (len(truth), 3))
    score = Scorer(truth, numeric, options, ("label", "position"))([np.full((len(truth), 3), 0.7), told])
    assert score[0] == chance
    assert score[1] > 0.9


def test_one_label_is_a_list_of_one(tiny_model: MakeModel, batch: TokenBatch) -> None:
    options: dict[str, Any] = {"positions": ["newD?"], "folds": 4, "repeats": 1, "permutations": 3}
    one, listed = (probe(tiny_model(2), batch, labels, **options) for labels in ("newA", ["newA"]))
    assert one.labels == ("newA",)
    np.testing.assert_array_equal(one.score, listed.score)


def test_padding_changes_nothing(tiny_model: MakeModel, batch: TokenBatch) -> None:
    """A longer row elsewhere in the batch pads the others: neither their probes nor their baselines may notice."""
    rng = np.random.default_rng(0)
    texts = rng.permutation(list(itertools.product(range(5), range(5))))
    labels = {"first": torch.from_numpy(texts[:, 0] > 2).long(), "sum": torch.from_numpy(texts.sum(1))}
    at = {"a": torch.zeros(25, dtype=torch.long), "b": torch.ones(25, dtype=torch.long)}

    def padded(width: int) -> TokenBatch:
        tokens = torch.full((25, width), 14)
        tokens[:, :2] = torch.from_numpy(texts)
        fake = batch.take([0] * 25)
        mask = torch.arange(width).expand(25, width) < 2
        return replace(fake, tokens=tokens, mask=mask, positions=at, labels=labels, inputs=(), numeric=("sum",))

    found = [
        probe(tiny_model(3), padded(width), ["first", "sum"], positions=["b"], folds=5, repeats=1) for width in (2, 9)
    ]
    for name in ("score", "untrained", "raw"):
        assert np.isfinite(getattr(found[0], name)).all()
        np.testing.assert_allclose(getattr(found[0], name), getattr(found[1], name), atol=1e-5, err_msg=name)


def test_ragged_batches_are_probed_by_name(tiny_model: MakeModel, parity: Any, activation: Callable) -> None:
    model = tiny_model(4, d_vocab=5, n_ctx=8)
    examples = parity.enumerate()
    batch = parity.batch(examples)
    batch = replace(batch, labels={**batch.labels, "bit1": batch.labels["y"]})  # A position that not every row has.
    found = probe(model, batch, ["x", "bits", "parity", "bit1"], folds=4, repeats=2, control_repeats=0)
    assert found.positions == ("bit0", "parity?", "parity", "eos")
    assert found.units.tolist() == [2, 14, 14, 14]
    assert found.status[:, 0].tolist() == [TOO_FEW, UNDETERMINED, UNDETERMINED, UNDETERMINED]
    assert (found.status[:, 1:] == MEASURED).all()
    assert found.written[2].tolist() == [False, False, True, True]
    assert not found.written[[0, 1, 3]].any()
    for k, position in enumerate(found.positions[1:], start=1):
        rows = prefixes(batch, position)
        for j, (site, layer) in enumerate([("resid_pre", 0), ("resid_post", 0), ("resid_post", 1)]):
            single = [activation(model, parity.batch([examples[row]]), site, layer)[0] for row in rows]
            features = torch.stack([single[i][examples[row].positions[position]] for i, row in enumerate(rows)])
            for i, label in enumerate(found.labels):
                truth = batch.label(label).numpy()[rows]
                expected = by_sklearn(features.double().numpy(), truth, (label, position), label == "bits", 4, 2)
                assert found.score[i, j, k] == pytest.approx(expected, abs=1e-4)


def test_labels_count_only_where_the_visible_text_determines_them(tiny_model: MakeModel, batch: TokenBatch) -> None:
    labels = ["A", "newA", "newB", "newC", "newD", "sum2"]
    found = probe(tiny_model(5), batch, labels, **QUICK)
    assert found.positions == tuple(batch.positions)
    assert (np.isfinite(found.score) == (found.status == MEASURED)[:, None]).all()
    assert (np.isfinite(found.raw) == (found.status == MEASURED)).all()
    assert (np.isfinite(found.untrained) == (found.status == MEASURED)[:, None]).all()
    for (i, label), (k, position) in itertools.product(enumerate(labels), enumerate(found.positions)):
        at = int(batch.position(position)[0])
        seen: dict[tuple, set[int]] = {}
        for text, value in zip(batch.tokens.tolist(), batch.label(label).tolist(), strict=True):
            seen.setdefault(tuple(text[: at + 1]), set()).add(value)
        assert found.units[k] == len(seen)
        if any(len(values) > 1 for values in seen.values()):
            expected = UNDETERMINED
        else:
            counts = np.bincount([min(values) for values in seen.values()])
            few = len(seen) < 8 or (label != "sum2" and counts[counts > 0].min() < 2)
            expected = TOO_FEW if few else MEASURED
        assert found.status[i, k] == expected
        assert found.written[i, k] == (label in batch.positions and at >= int(batch.position(label)[0]))
    assert {UNDETERMINED, TOO_FEW, MEASURED} == set(found.status.flatten().tolist())


# ---------------------------------------------------------------------------------------------------------- baselines


def test_copying_passes_for_newB_wherever_D_is_visible(batch: TokenBatch) -> None:
    found = probe(readout(batch, 0), batch, ["newB"], control_model=readout(batch, 1), folds=8, repeats=2)
    visible = [batch.position(p)[0] >= batch.position("D")[0] for p in found.positions]
    assert ((found.status[0] == MEASURED) == visible).all()
    assert sum(visible) == 17
    assert (found.raw[0, visible] == 1).all()
    assert np.nanmean(found.score) < 0.7


def test_untrained_column_is_the_probe_of_the_untrained_model(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(6)
    options: dict[str, Any] = {"positions": ["newD?"], "seed": 5, **QUICK}
    found = probe(model, batch, ["newA", "newD"], **options)
    fresh = untrained(model, derive_seed(5, "untrained"))
    np.testing.assert_allclose(found.untrained, probe(fresh, batch, ["newA", "newD"], **options).score, atol=1e-9)
    given = probe(model, batch, ["newA", "newD"], control_model=tiny_model(7), **options)
    other = probe(tiny_model(7), batch, ["newA", "newD"], **options)
    np.testing.assert_allclose(given.untrained, other.score, atol=1e-9)
    np.testing.assert_allclose(given.score, found.score, atol=1e-9)
    assert np.abs(given.untrained - found.untrained).max() > 0.01


def test_control_functions_are_of_the_same_kind_and_never_asked_for(batch: TokenBatch) -> None:
    bits = {name: batch.label(name).numpy() for name in "ABCDE"}
    asked = [batch.label(name).numpy() for name in ("newA", "newB", "newC", "newD", *"ABCDE")]
    asked += [1 - values for values in asked]

    def expected(kind: str, position: str) -> set[tuple]:
        visible = [n for n in "ABCDE" if batch.position(n)[0] <= batch.position(position)[0]]
        units, _ = distinct_prefixes(batch, position)
        found = set()
        for a, b in itertools.combinations(visible, 2):
            if kind == "xor":
                functions = [bits[a] ^ bits[b]]
            else:
                functions = [x & y for x in (bits[a], 1 - bits[a]) for y in (bits[b], 1 - bits[b])]
            for values in functions:
                if not any((values == other).all() for other in asked):
                    found.add(tuple(values[units].tolist()))
        return found

    for label, kind, position, count in (
        ("newA", "xor", "E", 9),
        ("newA", "xor", "C,", 2),
        ("newA", "xor", "newD?", 9),
        ("newC", "and", "newC?", 38),
        ("newD", "and", "newD", 38),
        ("newD", "and", "D,", 23),
        ("newB", "none", "newB?", 0),
        ("A", "none", "E", 0),
        ("sum1", "none", "E", 0),
    ):
        found = control_labels(batch, batch.label(label).numpy(), *distinct_prefixes(batch, position))
        assert len(found) == count
        if count:
            assert {tuple(values.tolist()) for values in found} == expected(kind, position)


def test_control_is_the_probe_of_the_control_functions(
    tiny_model: MakeModel, batch: TokenBatch, activation: Callable
) -> None:
    model = tiny_model(8)
    found = probe(model, batch, ["newA", "newB", "sum1"], positions=["newA?"], folds=4, repeats=2, control_repeats=1)
    rows = prefixes(batch, "newA?")
    features = activation(model, batch, "resid_post", 1)[rows, int(batch.position("newA?")[0])].double().numpy()
    scores = []
    for a, b in itertools.combinations("ABCDE", 2):
        if (a, b) != ("A", "C"):
            truth = (batch.label(a) ^ batch.label(b)).numpy()[rows]
            scores.append(by_sklearn(features, truth, ("newA", "newA?"), folds=4, repeats=1))
    assert found.control[0, 2, 0] == pytest.approx(np.mean(scores), abs=1e-6)
    assert found.control_high[0, 2, 0] == pytest.approx(np.percentile(scores, 95), abs=1e-6)
    assert np.isnan(found.control[1:]).all()
    none = probe(model, batch, ["newA"], positions=["newA?"], **QUICK)
    assert np.isnan(none.control).all()


def test_baseline_is_the_best_of_all_that_there_is(batch: TokenBatch) -> None:
    found = probe(readout(batch, 0), batch, ["newA", "newC"], control_model=readout(batch, 1), positions=["newA?"])
    table = np.stack(
        [
            np.broadcast_to(found.raw[:, None], found.score.shape),
            found.untrained,
            np.nan_to_num(found.control_high, nan=-np.inf),
            np.full(found.score.shape, 0.5),
        ]
    )
    np.testing.assert_array_equal(found.baseline(), table.max(0))
    assert set(table.argmax(0).flatten().tolist()) > {0}
    low = replace(found, raw=found.raw * 0, untrained=found.untrained * 0, control_high=found.control_high * 0)
    np.testing.assert_array_equal(low.baseline(), 0.5)


# --------------------------------------------------------------------------------------------- what is there, what not


def test_a_direction_that_was_put_there_is_found_there_and_nowhere_else(batch: TokenBatch) -> None:
    model = readout(batch, 3)
    direction = np.random.default_rng(0).normal(size=6)
    at = int(batch.position("newA?")[0])
    sign = 2.0 * batch.label("newA").numpy() - 1
    model.activations["blocks.1.hook_resid_post"][:, at] += torch.from_numpy(8 * sign[:, None] * direction).float()
    positions = ["C", "newA?", "newB?", "newC?", "sum1?"]
    options: dict[str, Any] = {"positions": positions, "permutations": 20, "repeats": 2}
    found = probe(model, batch, ["newA", "newC"], control_model=readout(batch, 4), **options)
    row, position = found.rows.index("L1 resid_post"), found.positions.index("newA?")
    assert found.score[0, row, position] == 1
    assert found.score[0, row, position] > found.null_high[0, row, position]
    assert found.score[0, row, position] > found.baseline()[0, row, position]
    others = np.delete(found.score[0].reshape(-1), row * len(found.positions) + position)
    assert np.nanmax(others) < 0.95
    assert np.nanmean(others) == pytest.approx(0.5, abs=0.1)
    assert found.score[1, row, position] < 0.85  # newC does not lie along it.


def test_noise_is_at_chance_and_seldom_stands_out(batch: TokenBatch) -> None:
    rng = np.random.default_rng(5)
    names = [f"noise{i}" for i in range(20)]
    labels = {name: torch.from_numpy(rng.permutation(np.arange(32) % 2)) for name in names}
    fake = replace(batch, labels={**batch.labels, **labels})
    options: dict[str, Any] = {"positions": ["sum1?"], "permutations": 39, "folds": 4, "repeats": 2}
    found = probe(readout(fake, 6), fake, names, control_model=readout(fake, 7), control_repeats=0, **options)
    assert np.mean(found.score) == pytest.approx(0.5, abs=0.05)
    assert np.mean(found.untrained) == pytest.approx(0.5, abs=0.05)
    assert (found.score > found.null_high).any((1, 2)).sum() <= 4  # 5 % of 20 is 1; 5 or more has p = 0.003.
    assert found.null_high.min() > 0.6


def test_the_threshold_is_that_of_the_studentised_maximum() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([[0.01, 0.1, 0.3], [0.05, 0.2, 0.02]])
    null = 0.5 + spread * rng.normal(size=(400, 2, 3))
    high = threshold(null)
    # only one permutation in twenty is anywhere above, and every cell takes part in that
    anywhere = (null > high).any((1, 2))
    assert anywhere.mean() == pytest.approx(0.05, abs=0.01)
    assert ((null > high).mean(0) > 0.001).all()
    in_spreads = (high - null.mean(0)) / null.std(0, ddof=1)
    np.testing.assert_allclose(in_spreads, in_spreads[0, 0])
    assert np.isnan(threshold(null[:1])).all()
    null[:, 0, 0] = np.nan  # A cell that is not measured.
    assert np.isnan(threshold(null)[0, 0])
    assert np.isfinite(threshold(null).ravel()[1:]).all()


def test_null_is_given_for_cells_not_yet_written_and_only_on_request(batch: TokenBatch) -> None:
    options: dict[str, Any] = {"positions": ["newC?", "newC", "newD?"], "control_model": readout(batch, 1), **QUICK}
    found = probe(readout(batch, 0), batch, ["newC", "newD"], permutations=4, **options)
    assert np.isfinite(found.null_high[0, :, 0]).all()
    assert np.isnan(found.null_high[0, :, 1:]).all()
    assert np.isfinite(found.null_high[1]).all()
    assert np.isnan(probe(readout(batch, 0), batch, ["newC"], **options).null_high).all()


def test_planted_variables_are_readable_where_they_were_planted(task: BooleanTask, batch: TokenBatch) -> None:
    model = planted_boolean(task, "latent")
    found = probe(model, batch, ["newC", "sum1"], positions=["newC?", "sum1?"], repeats=2, control_repeats=0)
    at = {name: k for k, name in enumerate(found.positions)}
    assert found.score[0, found.rows.index("L0 resid_post"), at["newC?"]] == 1
    assert found.score[1, found.rows.index("L0 resid_post"), at["sum1?"]] > 0.98
    assert found.score[0, found.rows.index("embedding"), at["newC?"]] < 0.7  # A newline in every text.


# ------------------------------------------------------------------------------------------------- errors and figures


def test_what_cannot_be_probed_is_refused(tiny_model: MakeModel, batch: TokenBatch) -> None:
    model = tiny_model(0)
    with pytest.raises(ValueError, match="no label 'newE'; there are A, B, C, D, E, newA"):
        probe(model, batch, ["newE"])
    with pytest.raises(ValueError, match="no position 'newE'; there are A, 'A,'"):
        probe(model, batch, ["newA"], positions=["newE"])
    with pytest.raises(ValueError, match="no site 'resid'"):
        probe(model, batch, ["newA"], sites="resid")
    with pytest.raises(ValueError, match=r"L0 z: probes read \(batch, pos, d\) activations"):
        probe(model, batch, ["newA"], sites="z")
    with pytest.raises(
        ValueError, match="probed at A, B: newA does not follow from the text at any of them; sum1 does"
    ):
        probe(model, batch, ["newA", "sum1"], positions=["A", "B"])
    with pytest.raises(ValueError, match=r"newB has 5 distinct prefixes at newB\?, of 2 values"):
        probe(model, batch.take([0, 1, 2, 3, 4]), ["newB"], positions=["newB?"])
    without = tiny_model(0, attn_only=True, d_mlp=None, act_fn=None)
    with pytest.raises(ValueError, match=r"the model has no blocks\.0\.hook_resid_mid"):
        probe(without, batch, ["newA"], sites="resid_mid")
    model.W_E[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"embedding of .* has nan or infinite activations"):
        probe(model, batch, ["newA"])


def test_tables_figures_and_files(tiny_model: MakeModel, batch: TokenBatch, tmp_path: Path) -> None:
    model = tiny_model(9)
    found = probe(model, batch, ["newC", "sum1"], positions=["E", "newC?", "newC"], permutations=3, **QUICK)
    frame = found.to_frame()
    assert len(frame) == 2 * 3 * 3
    row = frame[(frame["label"] == "newC") & (frame["cell"] == "L1 resid_post") & (frame["position"] == "newC?")]
    assert row["score"].item() == found.score[0, 2, 1]
    assert row["raw_tokens"].item() == found.raw[0, 1]
    assert row["untrained"].item() == found.untrained[0, 2, 1]
    assert row["null_high"].item() == found.null_high[0, 2, 1]
    assert row["n"].item() == 32
    assert frame["written"].tolist() == [False, False, True] * 3 + [False] * 9
    assert frame["status"].eq("measured").all()
    for label in ("newC", "sum1"):
        axes = found.plot(label=label)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["E", "newC?", "newC"]
        assert [text.get_text() for text in axes.get_yticklabels()] == ["embedding", "L0 resid_post", "L1 resid_post"]
        assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0.0, 1.0)
        np.testing.assert_array_equal(axes.images[0].get_array(), found.score[found.labels.index(label)])
        assert len(axes.collections) == 1  # The dots of what is written already.
    excess = found.plot(excess=True).images[0]
    assert excess.norm.vmin == -excess.norm.vmax != 0
    np.testing.assert_allclose(excess.get_array(), (found.score - found.baseline())[0])
    with pytest.raises(ValueError, match="no label 'newA'; there are newC, sum1"):
        found.plot(label="newA")
    for part in (
        "n = 32 distinct visible prefixes",
        "4-fold",
        "1 repeat)",
        "untrained network",
        "visible tokens",
    ):
        assert part in found.caption()
    score = found.score.copy()
    score[0, :, 0] = np.nan  # newC is hatched at the first position, sum1 is not
    hatched = replace(found, units=np.array([16, 20, 32]), score=score)
    for label, n in (("newC", "20 to 32"), ("sum1", "16 to 32")):
        assert f"(n = {n} prefixes)" in " ".join(hatched.plot(label=label).get_title().split())
        assert f"{label}: held-out " in hatched.caption(label)
        assert f"(n = {n} distinct" in hatched.caption(label)
    assert [(options, "above the best" in caption) for options, caption in hatched.figures()] == [
        ({"label": "newC"}, False),
        ({"label": "sum1"}, False),
    ]
    assert "balanced accuracy above the best baseline" in found.caption("newC", excess=True)
    assert found.caption("sum1").startswith("sum1: held-out R² of")
    flat = replace(found, score=np.ones_like(score), written=np.zeros_like(found.written), units=np.array([8, 32, 16]))
    flat = replace(
        flat, **dict.fromkeys(("untrained", "control_high"), np.zeros_like(score)), raw=np.zeros_like(found.raw)
    )
    assert "at newC?, n = 32 prefixes; best of the 9 cells" in flat.findings()[0]
    nothing = replace(found, score=np.full_like(score, np.nan))
    assert "(n = 0 prefixes)" in " ".join(nothing.plot().get_title().split())
    loaded = ProbeResult.load(found.save(tmp_path / "probe"))
    for name, value in vars(found).items():
        other = vars(loaded)[name]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(other, value)
            assert other.dtype == value.dtype
        else:
            assert other == value
    assert isinstance(readout(batch, 0), HookedModel)


def test_a_caption_names_the_controls_that_there_are(tiny_model: Callable[..., Any]) -> None:
    rows = torch.arange(24).reshape(8, 3) % 11
    batch = TokenBatch.from_tokens(rows, labels={"odd": rows[:, 0] % 2})
    few: dict[str, Any] = {"positions": [1], "repeats": 1, "progress": False}
    bare = probe(tiny_model(), batch, "odd", **few)
    assert np.isnan(bare.control_high).all()
    assert bare.positions == ("1",)  # the index stands for the name
    assert "permutations=200 compares with shuffled ones" in bare.caption()
    tested = probe(tiny_model(), batch, "odd", permutations=3, **few)
    assert "shuffled labels are the control" in tested.caption()
    assert not any("the task does not ask for" in found.caption() for found in (bare, tested))


def test_a_label_of_one_class_is_named(tiny_model: Callable[..., Any]) -> None:
    rows = torch.arange(24).reshape(8, 3) % 11
    batch = TokenBatch.from_tokens(rows, labels={"z": [3] * 8, "odd": rows[:, 0] % 2})
    with pytest.raises(ValueError, match=r"^z has one class, 3: there is nothing to tell apart$"):
        probe(tiny_model(), batch, "z", progress=False)
    found = probe(tiny_model(), batch, ["z", "odd"], positions=["2"], repeats=1, progress=False)
    assert found.findings()[0].startswith("odd can")
    assert found.findings()[1].startswith("z cannot be probed: too few distinct texts have each of its values")


def test_the_reported_cell_is_scored_again_under_less_regularisation(task: BooleanTask) -> None:
    """As `probe` itself scores that cell, with its baselines, at c = 100; a small direction is then read."""
    batch = task.batch(task.enumerate())
    models = [readout(batch, seed) for seed in (0, 1)]
    for values in models[0].activations.values():
        values[..., 0] = 0.25 * (batch.labels["newB"][:, None].float() - 0.5)
    options: dict[str, Any] = {"positions": ["newB?"], "control_model": models[1], "repeats": 1, "folds": 4}
    found = probe(models[0], batch, ["newB"], c=0.02, **options)  # pyright: ignore[reportArgumentType]
    again = probe(models[0], batch, ["newB"], c=2.0, **options)  # pyright: ignore[reportArgumentType]
    best = found._best(0)
    assert best is not None
    wanted = [again.score[0][best], again.baseline()[0][best]]
    assert found.config["less_regularised"]["newB"] == pytest.approx(wanted)
    assert wanted[0] != found.score[0][best]
