"""The audit on compiled programs: what is drawn, what is judged, what is kept, and what its tables say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp_kit.models.compiler import plan_of
from interp_kit.models.planted import ground_truth
from interp_kit.reports.plotting import png
from interp_kit.studies.audit.case import Case, Found, Method
from interp_kit.studies.audit.command import main
from interp_kit.studies.audit.methods import METHODS, _separation
from interp_kit.studies.audit.programs import run
from interp_kit.studies.audit.programs.draw import CELLS, draw
from interp_kit.studies.audit.programs.page import page, sentences
from interp_kit.studies.audit.programs.result import ProgramsResult, gather


def _truth(case: Case) -> Found:
    return Found({node: float(node in case.truth.nodes) for node in case.nodes}, 0)


def _rounding(case: Case) -> Found:
    return Found({node: 1 + 1e-6 * (node in case.truth.nodes) for node in case.nodes}, 0)


def _broken(case: Case) -> Found:
    raise ValueError("nothing to patch")


KNOWN = (Method("truth", "nodes", _truth), Method("rounding", "nodes", _rounding), Method("broken", "nodes", _broken))


def exact(level: str) -> Method:
    name = "path patching, noise" if level == "edges" else "patching, noise"
    return next(method for method in METHODS if (method.name, method.level) == (name, level))


def record(
    kind: str, number: int, auroc: float | None, cell: str, alone: float, follows: float = 1.0
) -> Mapping[str, Any]:
    scores = [
        {
            "method": "patching, noise",
            "level": level,
            "auroc": auroc,
            "seconds": 1.0,
            "least_true": 0.0,
            "most_false": 1.0,
        }
        for level in ("nodes", "edges", "positions")
    ]
    levels = dict.fromkeys(("nodes", "edges", "positions"), alone)
    return {"kind": kind, "number": number, "cell": cell, "alone": levels, "scores": scores, "follows": follows}


@pytest.fixture
def result() -> ProgramsResult:
    rows = [record("compiled", i, 1.0 - 0.5 * (i == 3), "latent, superposed", 1.0 - (i == 3)) for i in range(4)]
    rows += [record("compiled", 4, None, "majority, no LayerNorm", 0.0), record("untrained", 0, 0.5, "latent", 1.0)]
    rows.append(record("trained", 0, 0.75, "latent", 1.0, follows=0.96))
    rows.append(record("trained", 1, 0.25, "latent", 1.0, follows=0.94))  # it computes otherwise, and is not judged
    return gather(rows, {"analysis": "audit of programs"})


def test_programs_are_drawn_once_and_go_through_every_cell() -> None:
    assert draw(7) == draw(7) != draw(7, seed=1)
    assert [(p.mechanism, p.layer_norm, p.superposed) for p in (draw(0), draw(21))] == [CELLS[0], CELLS[1]]
    for number in (3, 10):
        program = draw(number)
        truth, plan = ground_truth(program.compiled()), plan_of(program.compiled())
        assert (truth.variable, truth.target) == program.task.question == plan.question
        assert truth.variable not in program.inputs


def test_methods_are_judged_and_their_failures_named() -> None:
    found = {row["method"]: row for row in run.audited(draw(1), methods=KNOWN)["scores"]}
    assert found["truth"]["auroc"] == 1
    assert (found["truth"]["least_true"], found["truth"]["most_false"]) == (1, 0)
    assert found["rounding"]["auroc"] == 0.5  # what rounding separates is a tie
    assert found["broken"]["auroc"] is None
    assert found["broken"]["failure"] == "nothing to patch"


def test_exact_patching_finds_a_latent_and_misses_what_acts_only_together() -> None:
    latent, majority = (next(n for n in range(40) if draw(n).mechanism == name) for name in ("latent", "majority"))
    methods = tuple(exact(level) for level in ("nodes", "positions"))
    found = run.audited(draw(latent), methods=methods)
    assert min(found["alone"].values()) > 0.05
    assert [row["auroc"] for row in found["scores"]] == [1, 1]
    found = run.audited(draw(majority), methods=methods)
    assert found["alone"]["nodes"] == 0
    assert found["scores"][0]["auroc"] < 0.9


def test_a_cut_off_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def audited(program: Any, kind: str) -> dict[str, Any]:
        asked.append((program.number, kind))
        return {"scores": []}

    monkeypatch.setattr(run, "audited", audited)
    monkeypatch.setattr(run, "draw", lambda number, seed: type("P", (), {"number": number}))
    work = run.works(tmp_path, 3, 1, 0)
    assert [(one.kind, one.number) for one in work] == [
        *(("compiled", i) for i in range(3)), *(("untrained", i) for i in range(3)), ("trained", 0)
    ]  # fmt: skip
    run.run(work[:2], progress=False)
    assert len(run.run(work, progress=False)) == 7
    assert len(asked) == len(set(asked)) == 7
    work[0].path.write_text('{"key": "of other methods"}', encoding="utf-8")
    run.run(work, progress=False)
    assert asked[7:] == [(0, "compiled")]


def test_tables_count_programs_and_name_causes(result: ProgramsResult, tmp_path: Path) -> None:
    row = result.to_frame().iloc[0]
    assert (row["n"], row["no score"], row["mean"]) == (4, 1, 0.875)
    assert (row["below 0.9"], row["untrained"], row["trained"]) == (0.25, 0.5, 0.75)
    assert row["below 0.9, low"] < 0.25 < row["below 0.9, high"]
    causes = result.causes().iloc[0]
    assert causes["parts that act only together"] == "1.00 (n = 1)"
    assert causes["every part acts alone"] == "0.00 (n = 3)"
    assert causes["majority"] == "none"
    failures = result.failures()
    assert set(zip(failures["program"], failures["cause"], strict=True)) == {
        (3, "true parts act only together"), (4, "no score")
    }  # fmt: skip
    assert "5 programs" in result.caption()
    assert "1 of 2 networks" in result.caption()
    assert (row["trained n"], row["trained, below 0.9"]) == (1, 1.0)
    assert png(result.plot())[:4] == b"\x89PNG"
    assert "1.00 of 1 scores below 0.9 there, 0.00 of 3 scores elsewhere" in " ".join(sentences(result))
    result.save(tmp_path / "programs")
    np.testing.assert_array_equal(ProgramsResult.load(tmp_path / "programs").auroc, result.auroc)
    assert (page(result).write(tmp_path / "page.html")).stat().st_size > 10_000


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained is 2, and programs 0"):
        main(tmp_path / "page.html", trained=2)
    with pytest.raises(ValueError, match="trained"):
        run.works(tmp_path, 3, 4, 0)
    with pytest.raises(ValueError, match="no compiled program was audited"):
        gather([], {})


@pytest.mark.slow
def test_a_network_is_trained_to_follow_its_program() -> None:
    found = run.audited(draw(0), "trained", methods=(exact("nodes"), exact("edges")))
    assert found["follows"] > 0.95
    assert found["scores"][0]["auroc"] > 0.9
    assert found["scores"][1]["auroc"] is None  # by which its edges are defined


def test_a_half_without_one_of_the_values_is_scored_in_the_shape_of_the_other() -> None:
    codes = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0], [3.0, 0.0]])
    assert _separation(codes, np.array([0, 0, 1, 1]), 2).tolist() == [[-1, 1], [1, -1]]
    assert _separation(codes, np.zeros(4, int), 2).tolist() == [[0, 0], [0, 0]]
