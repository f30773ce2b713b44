"""What comes with the library is what the manifest says, and does what the README says."""

import pytest
import torch

from interp_kit.analysis.behaviour.evaluation import evaluate
from interp_kit.models.checkpoints import checkpoint_root, load, read_manifest
from interp_kit.models.gpt2 import read_gpt2
from interp_kit.studies.boolean.checkpoints import omission_set, runs
from interp_kit.tasks.boolean import BooleanTask

NAMES = [run.name for run in runs()]


def test_every_run_is_shipped_and_small() -> None:
    entries = {name: entry for name, entry in read_manifest().items() if entry.task == "boolean"}
    assert sorted(entries) == sorted(NAMES)
    for entry in entries.values():
        assert (checkpoint_root() / entry.path / "model.safetensors").stat().st_size < 5e6


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_conversion_is_exact_and_training_inputs_are_answered(name: str) -> None:
    task, model = BooleanTask(), load(name)
    source = read_gpt2(checkpoint_root() / name)
    tokens = torch.randint(0, 15, (4, model.cfg.n_ctx), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert (model(tokens) - source(tokens).logits).abs().max() < 1e-4
    omitted = [task.example(row) for row in read_manifest()[name].omitted]
    result = evaluate(model, task, omitted=omitted)
    assert result.estimate("seen").value == 1.0
    assert result.estimate("seen").n == 32 - len(omitted)
    if omitted:
        stated = read_manifest()[name].metrics["exact match, held-out"]
        assert result.estimate("held-out").value == stated["value"]


def test_folded_checkpoints_keep_their_log_probabilities() -> None:
    plain, folded = load("boolean-gpt2"), load("boolean-gpt2", fold=True)
    tokens = torch.randint(0, 15, (4, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        difference = plain(tokens).log_softmax(-1) - folded(tokens).log_softmax(-1)
    assert difference.abs().max() < 1e-4


def test_omission_sets_are_the_committed_ones() -> None:
    """Drawn before training by committed seeds: five different sets of each size, and the same every time."""
    for size in (4, 8):
        sets = [omission_set(size, i) for i in range(5)]
        assert all(len(set(rows)) == size for rows in sets)
        assert len(set(sets)) == 5
        for i, rows in enumerate(sets):
            stated = read_manifest()[f"boolean-gpt2-omit{size}-set{i}"].omitted
            assert tuple(",".join(map(str, row)) for row in rows) == stated
