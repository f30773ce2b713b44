"""Training from a checkpoint, by arrays, with Muon; killed runs go on; the best weights are kept."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_kit.core.files import read_json
from interp_kit.models.gpt2 import read_gpt2
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.cards import CardsTask
from interp_kit.training.optimisers import MuonWithAdamW, rate
from interp_kit.training.rows import TextRows
from interp_kit.training.sft import SFTConfig, train_sft

TASK = CardsTask("train")
TINY = SFTConfig(
    d_model=8, n_layers=1, n_heads=2, n_ctx=48, dropout=0.0, initializer_range=0.05, epochs=1.0, batch_size=32,
    loss_on="completion", optimiser="muon", learning_rate=0.003, warm_up=2, flat=0.4, seed=3,
)  # fmt: skip
QUIET: dict[str, Any] = {"device": "cpu", "progress": False}


def rows(n: int, seed: int) -> TextRows:
    tokens, prompts = TASK.encode(TASK.deals(n, seed))
    return TextRows(tokens, prompts, prompts + 2)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_gpt2(path).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], atol: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=atol) for name in a)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained for two steps."""
    return train_sft(TASK, rows(64, 0), tmp_path_factory.mktemp("start") / "m", TINY, **QUIET)


def test_continuing_is_continuing_by_hand(start: Path, tmp_path: Path) -> None:
    data = rows(32, 1)  # one batch, so that order does not matter
    config = replace(TINY, epochs=3.0)
    path = train_sft(TASK, data, tmp_path / "on", config, start=start, **QUIET)
    model = read_gpt2(start).train()
    optimizer = MuonWithAdamW(model, config.matrix_learning_rate, config.learning_rate)
    first = [group["lr"] for group in optimizer.param_groups]
    tokens, row = torch.as_tensor(data.tokens), torch.arange(32)
    for step in range(3):
        logits = model(tokens).logits.log_softmax(-1)
        loss = torch.zeros(())
        for k in (0, 1):
            at = torch.as_tensor(data.prompt_length) + k
            loss = loss - logits[row, at - 1, tokens[row, at]].sum() / 64
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * rate(step, 3, config.warm_up, config.flat)
        optimizer.step()
    assert same(weights(path), model.state_dict(), atol=2e-5)
    assert not same(weights(path), weights(start), atol=1e-3)
    facts = read_json(path / "training.json")
    assert facts["start"]["name"] == str(start)
    assert (facts["examples"], facts["steps"]) == (32, 3)


def test_only_the_data_seed_changes_the_order_of_the_data(tmp_path: Path) -> None:
    data = rows(64, 1)
    a, b, c = (
        weights(train_sft(TASK, data, tmp_path / str(seed), replace(TINY, data_seed=seed), **QUIET))
        for seed in (None, 3, 4)
    )
    assert same(a, b)
    assert not same(a, c, atol=1e-5)


def test_a_run_killed_while_it_saves_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp_kit.training.trainer import SFTTrainer

    data, held_out = rows(32 * 12, 1), rows(40, 2)
    config = replace(TINY, check_every=3, keep="best")

    def train(name: str) -> Path:
        return train_sft(
            TASK, data, tmp_path / name, config, validation=held_out, work=tmp_path / f"{name}.work", **QUIET
        )

    whole = weights(train("whole"))
    assert not (tmp_path / "whole.work").exists()
    child = os.fork()
    if child == 0:
        signal.alarm(100)

        def killed(self: SFTTrainer, folder: str) -> None:
            if self.state.global_step == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            save(self, folder)

        save = SFTTrainer._save_rng_state
        monkeypatch.setattr(SFTTrainer, "_save_rng_state", killed)  # in this process alone, which ends here
        train("killed")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    work = tmp_path / "killed.work"
    assert not (tmp_path / "killed").exists()
    assert (work / "checkpoint-9" / "optimizer.pt").exists()
    assert not (work / "checkpoint-9" / "trainer_state.json").exists()
    with pytest.raises(OSError, match="another training run"):
        train_sft(TASK, data, tmp_path / "k", replace(config, seed=4), validation=held_out, work=work, **QUIET)
    resumed: list[Any] = []
    original = SFTTrainer.train

    def spied(self: SFTTrainer, resume_from_checkpoint: Any = None) -> Any:
        resumed.append(resume_from_checkpoint)
        return original(self, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(SFTTrainer, "train", spied)
    assert same(weights(train("killed")), whole)
    assert resumed == [str(work / "checkpoint-6")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    data, held_out = rows(32 * 8, 1), rows(60, 2)
    config = replace(TINY, check_every=2, keep="best", matrix_learning_rate=0.1, learning_rate=0.05)
    path = train_sft(TASK, data, tmp_path / "m", config, validation=held_out, **QUIET)
    facts = read_json(path / "training.json")
    measured = {row["step"]: row["eval_accuracy"] for row in facts["history"] if "eval_accuracy" in row}
    assert sorted(measured) == [2, 4, 6, 8]
    best = min(step for step in measured if measured[step] == max(measured.values()))
    assert (facts["kept_step"], facts["kept_accuracy"]) == (best, measured[best])
    tokens, at = torch.as_tensor(held_out.tokens), torch.as_tensor(held_out.prompt_length)
    row = torch.arange(60)
    with torch.inference_mode():
        written = read_gpt2(path)(tokens).logits.argmax(-1)
    right = (written[row, at - 1] == tokens[row, at]) & (written[row, at] == tokens[row, at + 1])
    assert float(right.float().mean()) == pytest.approx(measured[best])


def test_what_cannot_be_continued_is_refused_before_training(start: Path, tmp_path: Path) -> None:
    boolean = BooleanTask()
    data = rows(8, 1)
    for task, given, config, message in (
        (boolean, boolean.sample(8, 0), TINY, "tokenizer"),
        (TASK, data, replace(TINY, d_model=16), "d_model is 16, but .* has 8"),
        (TASK, data, replace(TINY, dropout=0.1), "dropout is 0.1"),
        (TASK, data, replace(TINY, keep="best"), "no validation"),
    ):
        with pytest.raises(ValueError, match=message):
            train_sft(task, given, tmp_path / "m", config, start=start, **QUIET)
    with pytest.raises(ValueError, match="no directory"):
        train_sft(TASK, data, tmp_path / "m", TINY, start=tmp_path / "none", **QUIET)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.txt").write_text("mine")
    with pytest.raises(OSError, match="other files"):
        train_sft(TASK, data, tmp_path / "m", TINY, work=tmp_path / "w", **QUIET)
    assert [path.name for path in tmp_path.rglob("*")] == ["w", "thesis.txt"]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"flat": 1.0}, "flat"), ({"warm_up": -1}, "warm_up"), ({"clip": 0.0}, "clip"),
     ({"matrix_learning_rate": 0.0}, "matrix_learning_rate"), ({"initializer_range": -1.0}, "initializer_range"),
     ({"check_every": -1}, "check_every"), ({"data_seed": -1}, "data_seed")],
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SFTConfig(**options)
