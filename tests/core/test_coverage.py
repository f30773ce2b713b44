"""The intervals contain the truth as often as they say: a seeded simulation. Its table is in docs/coverage.md."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("coverage_of_intervals", ROOT / "benchmarks" / "coverage.py")
assert _spec is not None
assert _spec.loader is not None
coverage = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(coverage)

LEAST, MOST = 0.93, 0.97
NOISE = 3  # standard deviations of the simulation


def within(row: "coverage.Row", samples: int, most: float = MOST) -> bool:
    """Whether a coverage lies in the promised band, the simulation's own error allowed for."""
    error = NOISE * (0.05 * 0.95 / (samples * row.given)) ** 0.5
    return LEAST - error <= row.covered <= most + error


@pytest.mark.parametrize("n", [4, 8, 64])
@pytest.mark.parametrize("data", ["normal", "exponential"])
def test_means_are_covered(data: str, n: int) -> None:
    row = coverage.mean_row(data, coverage.PROMISED[data], n, 8000)
    assert row.given == 1
    assert within(row, 8000), row


@pytest.mark.parametrize("n", [4, 8, 32])
@pytest.mark.parametrize("data", ["Bernoulli .5", "Bernoulli .9"])
def test_means_of_two_values_are_covered_at_least(data: str, n: int) -> None:
    """Given an interval: where all units agree there is none."""
    row = coverage.mean_row(data, coverage.PROMISED[data], n, 8000)
    truth = coverage.PROMISED[data].mean
    assert row.given == pytest.approx(1 - truth**n - (1 - truth) ** n, abs=0.02)
    assert within(row, 8000, most=1), row


@pytest.mark.parametrize("n", [5, 16])
@pytest.mark.parametrize("data", ["normal", "exponential"])
def test_ratios_are_covered(data: str, n: int) -> None:
    row = coverage.ratio_row(data, coverage.PROMISED[data], n, 250)
    assert within(row, 250), row


def test_a_ratio_over_four_units_has_no_interval() -> None:
    assert coverage.ratio_row("normal", coverage.NORMAL, 4, 10).given == 0


@pytest.mark.parametrize("data", list(coverage.SHARES))
def test_shares_always_have_an_interval_that_covers_at_least(data: str) -> None:
    row = coverage.share_row(data, coverage.SHARES[data], 5, 250)
    assert row.given == 1
    assert within(row, 250, most=1), row


def test_wilsons_interval_covers_a_proportion_of_six_or_more() -> None:
    """By enumeration. Of fewer it may fall short: 0.875 of four fair coins."""
    for truth in (0.5, 0.9):
        assert all(coverage.wilson_row(truth, n).covered > 0.92 for n in (6, 8, 12, 16, 32, 64))
    assert coverage.wilson_row(0.5, 4).covered == pytest.approx(0.875)


def test_the_percentile_bootstrap_did_not() -> None:
    for data, n, covered in (("normal", 4, 0.80), ("exponential", 8, 0.83), ("Bernoulli .9", 8, 0.55)):
        row = coverage.mean_row(data, coverage.PROMISED[data], n, 500)
        assert row.bootstrap == pytest.approx(covered, abs=0.06)


@pytest.mark.slow
def test_the_whole_table() -> None:
    """Every size from 4 to 64, means and ratios."""
    for name, data in coverage.PROMISED.items():
        most = 1 if name.startswith("Bernoulli") else MOST
        for n in coverage.SIZES:
            row = coverage.mean_row(name, data, n, 20000, seed=1)
            assert within(row, 20000, most), row
            if n >= 5:
                row = coverage.ratio_row(name, data, n, 4000, seed=1)
                assert within(row, 4000, most), row
                if name == "exponential":
                    row = coverage.ratio_row(name, data, n, 4000, seed=1, bottom=coverage.NORMAL)
                    assert within(row, 4000, most), row
