"""Areas and information against scikit-learn, and their intervals against simulated truth."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import mutual_info_score, roc_auc_score

from interp_kit.core.stats.detection import auroc, auroc_interval, best_threshold, entropy, mutual_information, ranked

RNG = np.random.default_rng(0)


def test_areas_are_scikit_learns_ties_included() -> None:
    values, labels = RNG.integers(0, 5, (40, 6)).astype(float), RNG.random((3, 40)) < 0.3
    expected = [[roc_auc_score(label, values[:, j]) for j in range(6)] for label in labels]
    np.testing.assert_allclose(auroc(ranked(values), labels), expected)
    assert np.isnan(auroc(ranked(values), np.ones((1, 40), dtype=bool))).all()


@pytest.mark.parametrize(("truth", "positive", "negative"), [(0.5, 8, 8), (0.8, 8, 24), (0.95, 30, 10), (0.99, 8, 8)])
def test_the_interval_of_an_area_covers_the_truth(truth: float, positive: int, negative: int) -> None:
    shift, rng = norm.ppf(truth) * np.sqrt(2), np.random.default_rng(1)
    x = rng.normal(size=(1000, positive)) + shift
    y = rng.normal(size=(1000, negative))
    area = (x[:, :, None] > y[:, None]).mean((1, 2))
    low, high = auroc_interval(area, positive, negative)
    assert (low <= area + 1e-9).all()
    assert (area <= high + 1e-9).all()
    assert ((low <= truth) & (truth <= high)).mean() > 0.93


def test_perfect_separation_of_few_units_is_no_proof() -> None:
    low, high = auroc_interval(np.array([1.0, 0.0]), 8, 8)
    assert 0.7 < low[0] < 0.9
    assert high[0] == pytest.approx(1)
    np.testing.assert_allclose(high[1], 1 - low[0], atol=1e-9)


def test_information_is_scikit_learns_and_its_interval_covers() -> None:
    rng = np.random.default_rng(2)
    label = np.arange(48) % 3 == 0
    for hit, false in ((0.9, 0.1), (0.4, 0.4), (1.0, 0.0)):
        covered = []
        for _ in range(80):
            said = rng.random(48) < np.where(label, hit, false)
            found = mutual_information(said, label)
            assert found.value == pytest.approx(mutual_info_score(label, said) / np.log(2), abs=1e-9)
            truth = entropy(hit / 3 + false * 2 / 3) - entropy(hit) / 3 - entropy(false) * 2 / 3
            covered.append(found.low - 1e-9 <= truth <= found.high + 1e-9)
            assert found.low <= found.value <= found.high
        assert np.mean(covered) >= 0.95
    with pytest.raises(ValueError, match="0 units of the class and 3 others"):
        mutual_information(np.ones(3, dtype=bool), np.zeros(3, dtype=bool))


def test_a_threshold_divides_what_can_be_divided() -> None:
    assert best_threshold(np.array([0.0, 0, 0, 2, 3]), np.array([False, False, False, True, True])) == 1.0
    assert best_threshold(np.array([3.0, 1, 2]), np.array([True, False, True])) == 1.5
    assert best_threshold(np.zeros(4), np.array([True, False, True, False])) == 0.0
