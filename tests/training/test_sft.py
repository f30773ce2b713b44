"""Supervised training: what is learnt, what carries loss, and that a folder appears whole or not at all."""

from pathlib import Path

import pytest
import torch

from interp_kit.core.files import read_json
from interp_kit.models.checkpoints import load
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.training.rows import ExampleDataset
from interp_kit.training.sft import SFTConfig, new_gpt2, train_sft

TINY = SFTConfig(d_model=32, n_layers=1, n_heads=2, n_ctx=32, dropout=0.0, epochs=1.0, learning_rate=5e-3)


def test_training_lowers_the_loss_and_writes_a_loadable_folder(task: BooleanTask, tmp_path: Path) -> None:
    examples = task.sample(640, seed=0)
    path = train_sft(task, examples, tmp_path / "m", TINY, validation=task.enumerate(), device="cpu", progress=False)
    facts = read_json(path / "training.json")
    assert facts["examples"] == 640
    assert facts["distinct_examples"] == 32
    tokens = torch.tensor([example.tokens for example in task.enumerate()])
    with torch.inference_mode():
        before = new_gpt2(task, TINY).eval()(tokens, labels=tokens).loss
        loss = load(path)(tokens, return_type="loss")
    assert loss < before - 1.0
    # Trainer divides by the labels of a text (23), of which the first has no prediction
    assert facts["history"][-1]["eval_loss"] == pytest.approx(float(loss) * 22 / 23, abs=1e-3)


def test_the_seed_decides_the_weights(task: BooleanTask) -> None:
    a, b, c = (new_gpt2(task, SFTConfig(seed=seed)).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_loss_on_completion_leaves_the_prompt_out(task: BooleanTask) -> None:
    examples = task.enumerate()[:3]
    everything = ExampleDataset(task, examples, "all")[0]["labels"]
    completion = ExampleDataset(task, examples, "completion")[0]["labels"]
    assert (everything >= 0).all()
    assert (completion[:9] == -100).all()
    assert torch.equal(completion[9:], everything[9:])


def test_texts_longer_than_the_context_are_refused(task: BooleanTask, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="23 tokens do not fit the model's context of 8"):
        train_sft(task, task.enumerate(), tmp_path / "m", SFTConfig(n_ctx=8), device="cpu", progress=False)
    assert not list(tmp_path.iterdir())


def test_no_examples_is_an_error(task: BooleanTask, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        train_sft(task, [], tmp_path / "m", TINY, device="cpu", progress=False)


def test_a_failed_training_leaves_nothing(task: BooleanTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Trainer

    def broken(self: Trainer, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", broken)
    with pytest.raises(KeyboardInterrupt):
        train_sft(task, task.enumerate(), tmp_path / "m", TINY, device="cpu", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_users_is_refused_before_training(
    task: BooleanTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp_kit.training import sft

    monkeypatch.setattr(sft, "new_gpt2", lambda *_: pytest.fail("work began"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "training.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "mine")
    for output, message in ((tmp_path / "mine", "current folder"), (tmp_path, "holds the current folder")):
        with pytest.raises(OSError, match=f"cannot write {output}: it .*{message}"):
            train_sft(task, task.enumerate(), output, TINY, device="cpu", progress=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"it holds training\.json, which was not written there as a trained model"):
        train_sft(task, task.enumerate(), tmp_path / "mine", TINY, device="cpu", progress=False)
    assert (tmp_path / "mine" / "training.json").read_text() == "{}"
