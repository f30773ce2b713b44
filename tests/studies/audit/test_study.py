"""The audit judges: methods that know the truth, that know nothing, and that lie; and what explains failures holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp_kit.models.planted import ground_truth
from interp_kit.registry.models import planted, task_of
from interp_kit.reports.plotting import png
from interp_kit.studies.audit.case import Case, Found, Method, auroc
from interp_kit.studies.audit.experiments import backup, beside, decoy, illusion, lens, mean, tokens, trained, zero
from interp_kit.studies.audit.methods import METHODS
from interp_kit.studies.audit.page import sentences
from interp_kit.studies.audit.result import AuditResult
from interp_kit.studies.audit.study import audit

pytestmark = pytest.mark.slow

CIRCUITS = ("boolean-latent", "boolean-decoy")


def named(name: str, level: str) -> Method:
    return next(method for method in METHODS if (method.name, method.level) == (name, level))


def _truth(case: Case) -> Found:
    return Found({node: float(node in case.truth.nodes) for node in case.nodes}, 0)


def _lie(case: Case) -> Found:
    return Found({node: -score for node, score in _truth(case).scores.items()}, 0)


def _nothing(case: Case) -> Found:
    return Found(dict.fromkeys(case.nodes, 1.0), 0)


@pytest.fixture(scope="module")
def result() -> AuditResult:
    judged = (
        Method("truth", "nodes", _truth),
        Method("lie", "nodes", _lie),
        Method("nothing", "nodes", _nothing),
        named("patching, denoise", "nodes"),
        named("interchange", "nodes"),
        named("probe", "nodes"),
        named("path patching, noise", "edges"),
        named("EAP-IG", "edges"),
        named("interchange", "positions"),
        named("patching, noise", "positions"),
    )
    return audit(CIRCUITS, judged, seeds=(0, 1), twins=("boolean-latent-seed1", "boolean-via-token"))


def test_truth_lie_and_silence_are_judged_as_such(result: AuditResult) -> None:
    assert (result.auroc[0] == 1).all()
    assert (result.auroc[1] == 0).all()
    assert (result.auroc[2] == 0.5).all()


def test_interventions_find_what_is_planted(result: AuditResult) -> None:
    for i in (3, 4, 6, 7, 8, 9):
        assert result.auroc[i].min() >= 0.99, (result.method[i], result.level[i])


def test_a_probe_falls_for_the_decoy(result: AuditResult) -> None:
    assert result.auroc[5, 1].max() < 0.95


def test_on_a_trained_twin_patching_finds_the_nodes(result: AuditResult) -> None:
    assert result.trained.shape == (len(result.method), 2)
    assert [(name, auroc.shape[1]) for name, auroc in result.twinned().items()] == [
        ("boolean-latent", 1),
        ("boolean-via-token", 1),
    ]
    assert result.trained[[0, 3, 4]].min() >= 0.99
    assert np.isnan(result.trained[6]).all()  # by which the edges of a twin are defined
    assert np.isfinite(np.delete(result.trained, 6, axis=0)).all()
    assert (result.trained[1] == 0).all()


def test_on_an_untrained_model_interventions_find_less(result: AuditResult) -> None:
    real = [3, 4, 6, 7]
    assert result.control[real].mean() < 0.9 < result.auroc[real].mean()


def test_an_untrained_control_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    audit(CIRCUITS[:1], [named("patching, denoise", "nodes")], seeds=(0,), twins=(), progress=False)
    assert [str(one.message) for one in recwarn if "solves" in str(one.message)] == []


def test_it_says_what_it_found_and_is_kept(result: AuditResult, tmp_path: Path) -> None:
    said = sentences(result)
    assert "truth" in said[0].split("Not by")[0]
    assert "lie (0.00" in said[0].split("Not by")[1]
    levels, means = np.array(result.level), result.control.mean(1)
    spans = [
        f"{level} {means[levels == level].min():.2f} to {means[levels == level].max():.2f}"
        for level in ("nodes", "edges", "positions")
    ]
    assert said[-1].startswith(f"On untrained models the same methods score, by method: {'; '.join(spans)}. ")
    assert png(result.plot())[:4] == b"\x89PNG"
    assert len(result.summary()) == len(result.method)
    result.save(tmp_path / "audit")
    again = AuditResult.load(tmp_path / "audit")
    np.testing.assert_array_equal(again.auroc, result.auroc)
    assert len(again.to_frame()) == len(result.method) * (len(CIRCUITS) + len(result.twinned())) - len(result.twinned())


@pytest.mark.parametrize(
    "experiment", [decoy, tokens, trained, illusion, beside, backup, zero, mean, lens], ids=lambda e: e.__name__
)
def test_what_explains_a_failure_holds(experiment) -> None:
    found = experiment()
    assert found.holds, found.figures


def test_das_is_judged_by_its_controls_in_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the planted site nothing is lost; a finding off the path scores 0."""
    real = Case(model := planted("boolean-latent"), task_of(model), ground_truth("boolean-latent"))
    there = {"site": ("resid_post", 0, "newC?"), "positions": frozenset({"newC?"})}
    used_up = replace(real.truth, variable="E", target="newC", **there)
    for case, expected in ((real, 1), (Case(model, real.task, used_up), 0)):
        place = case.truth.site[2]
        monkeypatch.setattr(Case, "positions", [place])  # of all, the one that is in question
        plain, judged = (
            named(name, "positions").run(case) for name in ("DAS, k = 1", "DAS, k = 1, judged by controls")
        )
        assert plain.scores == {place: 1.0}
        assert judged.scores == {place: pytest.approx(expected)}
        assert judged.forwards > plain.forwards


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no planted model 'boolean-magic'"):
        audit(["boolean-magic"], METHODS[:1], (0,))
    with pytest.raises(ValueError, match="no twin boolean-direct; there are boolean-latent"):
        audit(["boolean-latent"], METHODS[:1], (0,), twins=["boolean-direct"])
    with pytest.raises(ValueError, match="a circuit, a method and a seed"):
        audit([], METHODS[:1], (0,))
    model = planted("boolean-latent")
    case = Case(model, task_of(model), ground_truth("boolean-latent"))
    with pytest.raises(ValueError, match="gave no score to"):
        auroc(case, METHODS[0], {"L0H1": 1.0})
    with pytest.raises(ValueError, match="gave nan to one of the nodes"):
        auroc(case, METHODS[0], dict.fromkeys(case.nodes, float("nan")))


def test_every_method_has_one_name_a_level() -> None:
    assert len({(method.name, method.level) for method in METHODS}) == len(METHODS)
