"""The study of the culture models on small random ones: every part is measured, drawn and written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp_kit.analysis.causal.patching import patch
from interp_kit.analysis.comparison.component_overlap import jaccard
from interp_kit.core.pairs import PairBatch
from interp_kit.engine.metrics import first_difference
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, save_mygpt
from interp_kit.studies.culture import study as culture_report
from interp_kit.studies.culture.models import load_culture, load_hooked
from interp_kit.studies.culture.page import page, same_cell_heads
from interp_kit.studies.culture.quiz_tests import run_tests
from interp_kit.studies.culture.study import LAGS, Sizes, Study, examine, study, whole_grids
from interp_kit.tasks.culture.grids import GRIDS
from interp_kit.tasks.culture.task import CultureTask
from interp_kit.tasks.culture.world import TASKS

pytestmark = pytest.mark.slow

SMALL = Sizes(ablated=10, looked=3, generated=2, probed=48, pairs=16, exchanged=20, at_once=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("culture")
    for id in range(2):
        save_mygpt(MyGPT(MyGPTConfig(15, 16, 4, 8, 16, 2, 2), seed=id), 0.1, path / f"gpt_{id:03d}.pth")
    return path


@pytest.fixture(scope="module")
def small(folder: Path) -> Study:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(culture_report, "FEWEST", 1)  # random models tell few pairs apart
        one, two = (examine(id, folder, sizes=SMALL) for id in range(2))
        control = examine(0, folder, control=True, sizes=SMALL)
    rules = jaccard(one.rules.parts, two.rules.parts, k=2)
    return Study((one, two), control, jaccard(one.parts, two.parts, k=2), rules)


def test_every_measure_is_there_and_of_the_right_model(small: Study) -> None:
    one, two = small.models
    assert (one.name, two.name, small.control.name) == ("gpt_000", "gpt_001", "gpt_000 untrained")
    assert one.layers.component == ("L0 attention", "L1 attention", "L0 MLP", "L1 MLP")
    assert sum(map(len, one.task_of.values())) == 10
    assert one.lags.lags == tuple(LAGS.values())
    assert one.patches
    assert set(one.patches) <= set(culture_report.LATENTS)
    for result in one.patches.values():
        assert set(result.position) == set(GRIDS)
        assert np.isfinite(result.recovered).all()
        assert 0 <= result.dropped < SMALL.pairs
    assert not np.allclose(one.parts.effect, two.parts.effect)
    assert not np.allclose(one.parts.effect, small.control.parts.effect)
    assert (one.rules.places.n, one.rules.within.n, len(one.rules.at_once.kind)) == (20, 20, 3)
    assert one.rules.circuits.rules == tuple(one.rules.by_rule) == ("replace_color", "translate", "frame")
    assert not np.allclose(one.rules.parts.effect, two.rules.parts.effect)
    assert len(one.shown_tasks) == SMALL.generated
    assert set(one.shown_tasks) <= set(TASKS)


def test_the_direction_stands_where_the_quizzes_differ_before_the_first_layer(folder: Path) -> None:
    """In translate f_A alone differs; what is written of f_B is the same on both sides."""
    model = load_hooked(0, checkpoint_dir=folder)
    task = CultureTask(tasks=("translate",))
    pairs = task.pairs("direction", "f_B[4,4]", completion="clean", limit=4)
    result = patch(model, pairs, positions=whole_grids(), metric=first_difference)
    frame = result.to_frame().set_index(["layer", "position"])["recovered"]
    assert frame[(0, "f_A")] == pytest.approx(1, abs=1e-4)
    for grid in ("A", "B", "f_B"):
        assert frame[(0, grid)] == pytest.approx(0, abs=1e-4)


def test_nothing_is_copied_between_quizzes_that_a_model_does_not_tell_apart(folder: Path) -> None:
    few = replace(SMALL, pairs=culture_report.FEWEST - 1)
    assert culture_report._patch(load_hooked(0, checkpoint_dir=folder), "translate", few) is None


def test_pairs_that_a_model_does_not_tell_apart_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_hooked(0, checkpoint_dir=folder)
    seen: list[PairBatch] = []
    monkeypatch.setattr(culture_report, "FEWEST", 1)
    monkeypatch.setattr(
        culture_report, "patch", lambda model, pairs, **o: (seen.append(pairs), patch(model, pairs, **o))[1]
    )
    found = {name: culture_report._patch(model, name, SMALL) for name in culture_report.LATENTS}
    told = [result for result in found.values() if result is not None]
    assert len(told) == len(seen) > 0
    for result, pairs in zip(told, seen, strict=True):
        assert result.dropped == SMALL.pairs - len(pairs) > 0
        assert f"{result.dropped} unsolved pairs left out" in result.caption()


def test_the_page_holds_every_section_with_captions(small: Study, folder: Path, tmp_path: Path) -> None:
    models = dict(zip(("gpt_000", "gpt_001"), load_culture([0, 1], folder), strict=True))
    report = page(run_tests(models, 16, workers=1), small)
    assert len(report.sections) == 11
    written = report.write(tmp_path / "culture.html").read_text(encoding="utf-8")
    for section in report.sections:
        assert section.title in written
    for name in ("gpt_000", "gpt_001", "gpt_000 untrained"):
        assert name in written
    assert report.findings[0].startswith("2 models solve ")
    assert any(
        "In gpt_000, gpt_001 the cells of f_A carry the rule alone before no layer." in s for s in report.findings
    )
    assert sum("the rule" in sentence or "two rules" in sentence for sentence in report.findings) == 3
    same = small.similarity
    assert same is not None
    overlap = f"overlap by {same.index[0]:.2f} (Jaccard index, {same.matched} matching, 1 pairs of models)"
    assert any(overlap in s and f"by {same.stratified[0]:.2f}; p < 0.05 in" in s for s in report.findings)
    assert same_cell_heads(small.control) == []


def test_no_model(folder: Path) -> None:
    with pytest.raises(ValueError, match="no culture model"):
        study([], folder)
