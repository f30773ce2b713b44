"""The seeds that choose a cell never report on it, and each verdict on arrays made for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_kit.analysis.probing import readability as module
from interp_kit.analysis.probing.labels import MEASURED, TOO_FEW, UNDETERMINED
from interp_kit.analysis.probing.probe import probe
from interp_kit.analysis.probing.probe_result import ProbeResult
from interp_kit.analysis.probing.readability import MARGIN, ReadabilityResult
from interp_kit.core.batch import TokenBatch
from interp_kit.core.stats.intervals import mean_interval
from interp_kit.models.planted import planted_boolean
from interp_kit.tasks.boolean import BooleanTask

ROWS = ("embedding", "L0 resid_post", "L1 resid_post")
POSITIONS = ("D", "E", "newA?")


def seed(
    scores: dict[tuple[int, int], float] | None = None,
    name: str = "m",
    raw: float = 0.6,
    high: float = 0.7,
    **fields: Any,
) -> ProbeResult:
    """One seed's probe of "newA": 0.55 in every cell but those given as (row, position)."""
    score = np.full((1, 3, 3), 0.55)
    for (row, position), value in (scores or {}).items():
        score[0, row, position] = value
    everywhere = np.full((1, 3, 3), 0.5)
    made: dict[str, Any] = {
        "labels": ("newA",),
        "rows": ROWS,
        "positions": POSITIONS,
        "numeric": (),
        "score": score,
        "untrained": everywhere,
        "raw": np.full((1, 3), raw),
        "control": everywhere,
        "control_high": everywhere,
        "null_high": np.full((1, 3, 3), high),
        "chance": np.array([0.5]),
        "status": np.full((1, 3), MEASURED),
        "written": np.zeros((1, 3), dtype=bool),
        "units": np.array([32, 32, 32]),
        "config": {"model": name},
    }
    return ProbeResult(**{**made, **fields})


def readability(results: list[ProbeResult], labels: list[str] | None = None) -> ReadabilityResult:
    """That of these results, each under a name of its own."""
    names = [result.config["model"] for result in results]
    named = [replace(r, config={**r.config, "model": f"{r.config['model']}-{i}"}) for i, r in enumerate(results)]
    return module.readability(results if len(set(names)) == len(names) else named, labels)


# ----------------------------------------------------------------------------------------- choosing is not reporting


def test_a_cell_that_shines_only_on_the_choosing_seeds_is_reported_as_it_is() -> None:
    choosing = [seed({(1, 2): 1.0}, f"c{i}") for i in range(2)]
    reporting = [seed({(2, 1): 1.0}, f"r{i}") for i in range(3)]
    found = readability([*choosing, *reporting])
    assert (found.cell, found.position) == (("L0 resid_post",), ("newA?",))
    assert found.score[0].value == pytest.approx(0.55)
    assert found.score[0].n == 3
    assert found.margin[0].value == pytest.approx(0.55 - 0.6)
    assert found.verdict == ("not shown",)
    assert found.config["chosen_on"] == ("c0", "c1")
    assert found.config["reported_on"] == ("r0", "r1", "r2")


@given(st.integers(0, 10_000), st.integers(3, 7))
@settings(max_examples=30)
def test_the_choice_depends_on_the_first_half_and_the_report_on_the_second(number: int, n: int) -> None:
    rng = np.random.default_rng(number)

    def anything(name: str) -> ProbeResult:
        return seed(None, name, score=rng.random((1, 3, 3)), null_high=rng.random((1, 3, 3)), raw=rng.random() / 2)

    results = [anything(f"m{i}") for i in range(n)]
    others = [anything("other") for _ in range(n)]
    half = n // 2
    found = readability(results)
    swapped = readability([*results[:half], *others[half:]])
    assert (swapped.cell, swapped.position) == (found.cell, found.position)
    j, k = ROWS.index(found.cell[0]), POSITIONS.index(found.position[0])
    reported = [r.score[0, j, k] for r in results[half:]]
    assert found.score[0].value == pytest.approx(np.mean(reported))
    assert found.baseline[0] == pytest.approx(np.mean([r.baseline()[0, j, k] for r in results[half:]]))
    rechosen = readability([*others[:half], *results[half:]])
    if (rechosen.cell, rechosen.position) == (found.cell, found.position):
        assert repr(rechosen.score) == repr(found.score)  # nan is not equal to itself
        assert repr(rechosen.margin) == repr(found.margin)
        assert rechosen.verdict == found.verdict


def test_intervals_are_over_reporting_seeds() -> None:
    values = [0.9, 0.95, 0.85, 1.0]
    results = [seed({(1, 1): 1.0})] * 3 + [seed({(1, 1): value}, raw=0.6 + i / 100) for i, value in enumerate(values)]
    found = readability(results)
    mean, low, high = (float(part) for part in mean_interval(np.array(values)))
    assert found.score[0].value == pytest.approx(mean) == pytest.approx(0.925)
    assert (found.score[0].low, found.score[0].high) == pytest.approx((low, min(1.0, high)))
    gains = np.array([value - 0.6 - i / 100 for i, value in enumerate(values)])
    assert found.margin[0].value == pytest.approx(np.mean(gains))
    assert found.margin[0].low == pytest.approx(mean_interval(gains)[1])
    assert found.raw[0] == pytest.approx(0.615)


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("reported", "raw", "high", "verdict"),
    [
        ((0.95, 0.96, 0.97), 0.6, 0.7, "computed"),
        ((1.0, 1.0, 1.0), 0.94, 0.7, "computed"),  # Above the margin, with no spread.
        ((1.0, 1.0, 1.0), 0.96, 0.7, "visible"),  # Above the baseline, but not by the margin.
        ((1.0, 1.0, 1.0), 1.0, 0.7, "visible"),
        ((0.9, 0.9, 0.9), 1.0, 0.7, "visible"),  # The tokens do better.
        ((0.65, 0.65, 0.65), 1.0, 0.7, "not shown"),  # The tokens do better, but the model shows nothing.
        ((0.95, 0.96, 0.69), 0.6, 0.7, "not shown"),  # One seed does not pass the max-statistic.
        ((0.95, 0.96, 0.97), 0.6, 0.96, "not shown"),
        ((1.0, 0.72, 0.95), 0.6, 0.7, "not shown"),  # The interval of the margin reaches below.
        ((0.95, 0.96, 0.97), 0.6, np.nan, "not shown"),  # No permutations, no max-statistic.
    ],
)
def test_verdicts(reported: tuple[float, ...], raw: float, high: float, verdict: str) -> None:
    results = [seed({(1, 1): 1.0}, raw=raw, high=high)] * 3
    results += [seed({(1, 1): value}, raw=raw, high=high) for value in reported]
    found = readability(results)
    assert (found.cell, found.position) == (("L0 resid_post",), ("E",))
    assert found.verdict == (verdict,)


@pytest.mark.parametrize("field", ["untrained", "control_high"])
def test_every_baseline_counts(field: str) -> None:
    good = seed({(1, 1): 0.95})
    assert readability([good] * 4).verdict == ("computed",)
    high = np.full((1, 3, 3), 0.5)
    high[0, 1, 1] = 0.93
    shaded = replace(good, **{field: high})
    choosing = [good] * 2
    found = readability([*choosing, shaded, shaded])
    assert found.baseline[0] == pytest.approx(0.93)
    assert found.verdict == ("not shown",)
    # nan where there is no such baseline
    assert readability([replace(good, **{field: high * np.nan})] * 4).verdict == ("computed",)


def test_the_margin_is_five_points() -> None:
    assert MARGIN == 0.05
    assert readability([seed({(1, 1): 0.651}, high=0.62)] * 4).verdict == ("computed",)
    assert readability([seed({(1, 1): 0.649}, high=0.62)] * 4).verdict == ("visible",)


# ---------------------------------------------------------------------------------------------------- which cells count


def test_cells_that_are_written_or_undetermined_are_never_chosen() -> None:
    best = {(1, 0): 1.0, (1, 1): 1.0, (2, 2): 0.8}
    for status in (UNDETERMINED, TOO_FEW):
        closed = {"status": np.array([[status, MEASURED, MEASURED]]), "written": np.array([[False, True, False]])}
        found = readability([seed(best, **closed)] * 4)
        assert (found.cell, found.position) == (("L1 resid_post",), ("newA?",))
    with pytest.raises(ValueError, match="newA is nowhere determined by what is visible before it is written"):
        readability([seed(best, written=np.ones((1, 3), dtype=bool))] * 4)


def test_scores_that_are_not_measured_do_not_disturb() -> None:
    made = seed({(1, 1): 0.9}, status=np.array([[UNDETERMINED, MEASURED, MEASURED]]))
    for name in ("score", "untrained", "control", "control_high", "null_high"):
        getattr(made, name)[0, :, 0] = np.nan
    made.raw[0, 0] = np.nan
    found = readability([made] * 3)
    assert (found.cell, found.position) == (("L0 resid_post",), ("E",))
    assert found.score[0].value == pytest.approx(0.9)


def test_a_cell_that_passes_is_preferred_to_a_larger_margin_that_does_not() -> None:
    null = np.full((1, 3, 3), 0.7)
    null[0, 2, 2] = 0.99
    first = seed({(1, 1): 0.8, (2, 2): 0.95}, null_high=null)
    assert readability([first] * 4).cell == ("L0 resid_post",)
    # on every choosing seed: one that fails is enough
    lucky = replace(first, null_high=np.full((1, 3, 3), 0.7))
    assert readability([lucky, lucky, lucky, lucky]).cell == ("L1 resid_post",)
    assert readability([lucky, first, lucky, lucky]).cell == ("L0 resid_post",)
    # where none passes, the margin alone decides
    nowhere = replace(first, null_high=np.full((1, 3, 3), 0.99))
    assert readability([nowhere] * 4).cell == ("L1 resid_post",)


def test_the_margin_decides_and_not_the_score() -> None:
    raw = np.array([[0.6, 0.6, 0.94]])
    made = replace(seed({(2, 2): 0.95, (0, 1): 0.8}), raw=raw)
    found = readability([made] * 4)
    assert (found.cell, found.position) == (("embedding",), ("E",))


def test_ties_go_to_more_prefixes_then_later_positions_then_earlier_layers() -> None:
    tied = {(0, 0): 0.9, (2, 1): 0.9, (1, 1): 0.9, (2, 2): 0.9}
    by_units = readability([seed(tied, units=np.array([32, 16, 16]))] * 4)
    assert (by_units.cell, by_units.position) == (("embedding",), ("D",))
    by_position = readability([seed({k: v for k, v in tied.items() if k[1] < 2})] * 4)
    assert (by_position.cell, by_position.position) == (("L0 resid_post",), ("E",))
    nearly = {**tied, (0, 0): 0.9 + 1e-12}  # A tie but for rounding.
    assert readability([seed(nearly)] * 4).position == ("newA?",)
    assert readability([seed({**tied, (0, 0): 0.91})] * 4).position == ("D",)


# ----------------------------------------------------------------------------------------------- end to end, and errors


def test_planted_models_compute_newA_and_copy_newB(task: BooleanTask, batch: TokenBatch) -> None:
    options: dict[str, Any] = {"positions": ["newA?", "newB?"], "repeats": 1, "permutations": 19, "folds": 4}
    probes = [probe(planted_boolean(task, "direct", i), batch, ["newA", "newB"], **options) for i in range(3)]
    found = readability(probes)
    frame = found.to_frame().set_index("label")
    assert frame.loc["newA", "verdict"] == "computed"
    assert frame.loc["newA", ["cell", "position", "score"]].tolist() == ["L0 resid_post", "newA?", 1.0]
    assert frame.loc["newB", "verdict"] == "visible"
    assert frame.loc["newB", "raw_tokens"] == 1.0
    assert readability(probes, labels=["newB"]).labels == ("newB",)


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(ValueError, match="at least three results are needed"):
        readability([seed(), seed()])
    same = seed({(1, 2): 1.0})
    with pytest.raises(ValueError, match="results 0 and 1 are the same result"):
        module.readability([same] * 8)
    with pytest.raises(ValueError, match="results 0 and 2 are the same result"):
        module.readability([same, seed(name="b"), replace(same, score=same.score.copy())])
    with pytest.raises(ValueError, match="of different labels or cells"):
        readability([seed(), seed(), seed(positions=("D", "E", "newB?"))])
    with pytest.raises(ValueError, match="no label 'newB'; there are newA"):
        readability([seed(name=name) for name in "abc"], labels=["newB"])


def test_tables_figures_and_files(tmp_path: Path) -> None:
    results = [seed({(1, 1): 0.9 + i / 100}, f"m{i}") for i in range(5)]
    found = readability(results)
    row = found.to_frame().iloc[0]
    assert row["score"] == found.score[0].value
    assert np.isfinite([row["score"], row["margin"]]).all()
    assert row[["low", "high", "margin_low", "margin_high"]].isna().all()  # three seeds are too few for an interval
    assert (row["n"], row["verdict"], row["best_baseline"], row["raw_tokens"]) == (3, "computed", 0.6, 0.6)
    axes = found.plot()
    assert [text.get_text() for text in axes.get_yticklabels()] == ["newA (L0 resid_post, E)"]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"probe", "visible tokens", "best baseline"}
    for part in ("chosen on 2 other seeds", "n = 3 seeds", "No interval: 3 seeds are too few", "best baseline"):
        assert part in found.caption()
    loaded = ReadabilityResult.load(found.save(tmp_path / "cells"))
    for name, value in vars(found).items():
        other = vars(loaded)[name]
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(other, value)
        else:
            assert repr(other) == repr(value)  # nan is not equal to itself
