"""The shipped card models are small, are of this task, and do what their entries say."""

import pytest

from interp_kit.core.files import read_json
from interp_kit.core.identity import fingerprint
from interp_kit.models.checkpoints import checkpoint_root, digest_of, load, read_description, read_manifest
from interp_kit.studies.cards.checkpoints import RECIPE, TESTS
from interp_kit.studies.cards.evaluate import evaluate_cards
from interp_kit.studies.cards.recipe import arms
from interp_kit.tasks.cards import CardsTask

ENTRIES = {name: entry for name, entry in read_manifest().items() if entry.recipe == RECIPE}


def test_models_are_of_the_recipe_small_and_of_this_task() -> None:
    known, mine = {f"cards/{arm.name}": arm for arm in arms()}, fingerprint(CardsTask("train").describe())
    assert {f"cards/s0-seed{seed}" for seed in (0, 1, 2)} <= set(ENTRIES) <= set(known)
    for name, entry in ENTRIES.items():
        folder = checkpoint_root() / entry.path
        assert (folder / "model.safetensors").stat().st_size < 1e6
        description = read_description(folder)
        assert description is not None
        assert fingerprint(description) == mine
        facts = read_json(folder / "training.json")
        assert facts["config"]["seed"] == entry.seed == known[name].seed
        start = facts["start"]
        if known[name].start is not None:
            start_name = f"cards/{known[name].start}"
            assert start == {"name": start_name, "sha256": digest_of(checkpoint_root() / ENTRIES[start_name].path)}


@pytest.mark.parametrize("name", ["cards/s0-seed0", "cards/sft-seed0"])
def test_accuracy_is_the_stated_one(name: str) -> None:
    score = evaluate_cards(load(name), TESTS, splits=("id_test",)).splits["id_test"]
    assert {"value": round(score.accuracy, 4), "n": score.n} == ENTRIES[name].metrics["accuracy, id_test"]


def test_starts_are_weak_and_continuations_are_not() -> None:
    """S0 has learned about half of the rules, SFT nearly all, RL less, and through trl hardly more than S0."""
    for name, entry in ENTRIES.items():
        accuracy = entry.metrics["accuracy, id_test"]["value"]
        if "/s0-" in name:
            assert 0.5 <= accuracy <= 0.7
        elif "/sft-" in name:
            assert accuracy >= 0.95
        elif "/rl-trl-" in name:  # a thirteenth of the prompts
            assert 0.55 < accuracy < 0.7
        elif "/rl-" in name:
            assert 0.7 < accuracy < 0.85
        else:
            assert accuracy < 0.3
            assert entry.metrics["accuracy, train"]["value"] >= 0.99
