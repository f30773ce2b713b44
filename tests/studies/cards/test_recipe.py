"""The arms and their ledger; training and measuring by configs, which are the command line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from interp_kit.core.files import read_json, write_json
from interp_kit.models.checkpoints import load, read_manifest
from interp_kit.studies.cards import checkpoints, recipe, sft
from interp_kit.studies.cards.curves import curve, plot_curves
from interp_kit.studies.cards.evaluate import TESTED
from interp_kit.studies.cards.evaluate import main as evaluate
from interp_kit.studies.cards.recipe import Arm, arms, continuation_deals, ledger
from interp_kit.studies.cards.sft import CardsSFTConfig, Options, run_sft
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.catalogue import Part, Split
from interp_kit.tasks.cards.dataset import CardsConfig


def test_every_arm_may_cost_the_same_and_the_table_is_the_documented_one() -> None:
    rows = {row["arm"]: row for row in ledger()}
    assert rows["SFT"]["prompts"] == recipe.CONTINUED
    assert [row["prompts"] * row["cost per prompt"] for row in rows.values()] == [recipe.BUDGET] * 3
    text = recipe.__doc__ or ""
    for row in rows.values():
        assert f"| {row['cost per prompt']} | {row['prompts']:,} |" in text
    # SFT: one forward, one backward of twice its cost; trl: a sample, two scores and a lesson for each of K
    assert rows["SFT"]["cost per prompt"] == 3
    assert rows["RL, trl"]["cost per prompt"] == 8 * (1 + 1 + 3)


def test_arms_are_three_seeds_of_each_kind_and_continue_their_own_start() -> None:
    found = arms()
    assert len({arm.name for arm in found}) == len(found) == 24
    for kind in ("s0", "sft", "sft-reordered", "rl", "rl-trl", "small-100", "small-300", "small-1000"):
        assert [arm.seed for arm in found if arm.kind == kind] == [0, 1, 2]
    for arm in found:
        assert (arm.start is not None) == (arm.kind in ("sft", "sft-reordered", "rl", "rl-trl"))
        assert arm.method == (arm.kind if arm.kind.startswith("rl") else "sft")
        assert arm.start in (None, f"s0-seed{arm.seed}")
    orders = [arm.config(Path("m"), None).training.data_seed for arm in found if arm.kind == "sft-reordered"]
    assert orders == [1000, 1001, 1002]


def test_both_continuations_read_the_same_deals_and_small_arms_distinct_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "CONTINUED", 500)
    one, other = (Arm(name, 1, 500, start="s0-seed1") for name in ("sft-seed1", "sft-reordered-seed1"))
    assert np.array_equal(one.deals().value, other.deals().value)
    assert np.array_equal(one.deals().value, continuation_deals(1).value)
    assert not np.array_equal(one.deals().value, CardsTask("train").deals(500, 1).value)
    small = next(arm for arm in arms() if arm.name == "small-300-seed0").deals()
    assert len(np.unique(np.column_stack([small.rule, small.style, small.colour, small.value]), axis=0)) == 300


def tiny(out: Path) -> CardsSFTConfig:
    """Ten steps of a tiny network."""
    base = CardsSFTConfig(out, device="cpu", progress=False)
    return replace(
        base, training=replace(base.training, d_model=8, n_layers=1, n_heads=2, check_every=5, batch_size=32)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tiny model by `run_sft`, and its metrics."""
    return run_sft(CardsConfig(train=320, val=20, test=30), tiny(tmp_path_factory.mktemp("cards") / "m"))


def test_run_sft_gives_a_model_and_its_metrics(trained: tuple[Path, dict[str, Any]]) -> None:
    path, metrics = trained
    facts = read_json(path / "training.json")
    assert (facts["examples"], facts["steps"]) == (320, 10)
    assert facts["kept_step"] in (5, 10)
    assert set(metrics["splits"]) == {*TESTED, "train"}
    assert metrics["splits"]["train"]["n"] == 320
    assert load(path).provenance.task == "cards"
    assert [p.name for p in path.parent.iterdir()] == ["m"]  # no unfinished work is left


def test_the_evaluation_command_writes_the_json(trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys) -> None:
    out = tmp_path / "e.json"
    assert evaluate([str(trained[0]), "--out", str(out), "--test", "30"]) == 0
    assert "id_test" in capsys.readouterr().out
    written = read_json(out)
    assert written["splits"]["id_test"]["accuracy"] == trained[1]["splits"]["id_test"]["accuracy"]
    assert evaluate([str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_configs_are_the_command_line() -> None:
    args = [
        "--out",
        "m",
        "--data.train",
        "300",
        "--distinct",
        "--epochs",
        "60",
        "--keep",
        "last",
        "--start",
        "cards/s0-seed0",
    ]
    options = tyro.cli(Options, args=args)
    assert options.data == CardsConfig(train=300)
    assert options.run.distinct
    assert options.run.start == "cards/s0-seed0"
    assert options.run.training == replace(CardsSFTConfig(Path("m")).training, epochs=60.0, keep="last")


def test_packaging_writes_models_evaluations_and_manifest(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = Arm("s0-seed0", 0, 320)
    monkeypatch.setattr(checkpoints, "TESTS", CardsConfig(test=30))
    work, root = tmp_path / "work", tmp_path / "checkpoints"
    (work / arm.name).mkdir(parents=True)
    for file in trained[0].iterdir():
        (work / arm.name / file.name).write_bytes(file.read_bytes())
    entries = checkpoints.package([arm], work, root, "abc")
    assert read_manifest(root) == entries
    model = load("cards/s0-seed0", root=root)
    assert model.provenance.initialisation == "gpt2-64x2x4-cards-seed0"
    accuracy = read_json(root / "cards" / "evaluations.json")["cards/s0-seed0"]["splits"]["id_test"]["accuracy"]
    assert accuracy == trained[1]["splits"]["id_test"]["accuracy"]
    assert entries["cards/s0-seed0"].metrics["accuracy, id_test"]["value"] == round(accuracy, 4)
    assert checkpoints.main(["--only", "sgd", "--work", str(work)]) == 1


def test_curves_count_prompts_from_initialisation(tmp_path: Path) -> None:
    history = [{"loss": 1.0, "step": 5}, {"eval_accuracy": 0.5, "step": 10}, {"eval_accuracy": 0.75, "step": 20}]
    continued = next(arm for arm in arms() if arm.name == "sft-seed1")
    assert curve(continued, history, 128.0) == ([recipe.START + 1280, recipe.START + 2560], [0.5, 0.75])
    (tmp_path / "s0-seed0").mkdir()
    write_json(
        tmp_path / "s0-seed0" / "training.json",
        {"history": history, "examples": 250, "steps": 30, "config": {"epochs": 12.0}},
    )
    line = plot_curves(tmp_path).lines[0]
    assert line.get_xdata().tolist() == [1.0, 2.0]
    assert line.get_ydata().tolist() == [0.5, 0.75]
    with pytest.raises(ValueError, match="no model of the recipe"):
        plot_curves(tmp_path / "s0-seed0")


def test_what_describes_no_run_is_refused(tmp_path: Path) -> None:
    for data in ({"train": 0}, {"val": -1}, {"seed": -1}, {"cards": "halves"}):
        with pytest.raises(ValueError, match=next(iter(data))):
            CardsConfig(**data)
    with pytest.raises(ValueError, match=r"only \d+ distinct deals"):
        sft.deals_of(CardsTask(Split("few", (Part(("red_minus_blue",), (1, 1)),))), 50, 0, distinct=True)
