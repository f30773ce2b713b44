"""The thin loop: it learns, goes on after a kill as if there had been none, and refuses what does not fit."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp_kit.core.files import aside_prefix
from interp_kit.models.gpt2 import read_gpt2
from interp_kit.studies.cards.rl import prompts_of
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.verifier import Reward
from interp_kit.training.rl.config import RLConfig
from interp_kit.training.rl.shared_prompt import Prompts, answer_logits, train_shared_prompt

VOCAB = 6
CONFIG = RLConfig(batch_size=16, learning_rate=0.02, matrix_learning_rate=0.02, warm_up=0, log_every=2, save_every=4)
TOKENIZER = SimpleNamespace(save_pretrained=lambda folder: None)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 that knows nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "model"
    config = GPT2Config(vocab_size=VOCAB, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


def copying(n: int, seed: int = 0) -> Prompts:
    """Prompts of one to four tokens; right is the last of them."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 5, n)
    tokens = rng.integers(0, VOCAB, (n, 5))
    last = tokens[np.arange(n), length - 1]
    reward = torch.eye(VOCAB)
    return Prompts(tokens, length, lambda rows: reward[torch.as_tensor(last[rows])], [f"ends in {t}" for t in last])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_gpt2(path).state_dict()


def test_it_learns_what_is_rewarded(start: Path, tmp_path: Path) -> None:
    out = train_shared_prompt(start, copying(16 * 60), tmp_path / "out", CONFIG, tokenizer=TOKENIZER, progress=False)
    told = json.loads((out / "training.json").read_text())
    history = told["history"]
    assert history[0]["reward"] < 0.4
    assert history[-1]["reward"] > 0.9
    assert min(history[-1]["success"].values()) > 0.6
    assert history[0]["kl"] < history[-1]["kl"]
    assert (told["prompts"], told["samples_a_prompt"]) == (960, 8)
    assert not (tmp_path / "out.work").exists()


def test_a_killed_run_goes_on_as_if_it_had_not_been(start: Path, tmp_path: Path) -> None:
    prompts, calls = copying(16 * 12), []

    def until_killed(rows: np.ndarray) -> torch.Tensor:
        calls.append(rows)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return prompts.reward(rows)

    options: dict[str, Any] = {"tokenizer": TOKENIZER, "progress": False}
    whole = train_shared_prompt(start, prompts, tmp_path / "whole", CONFIG, **options)
    with pytest.raises(KeyboardInterrupt):
        train_shared_prompt(start, replace(prompts, reward=until_killed), tmp_path / "cut", CONFIG, **options)
    assert not (tmp_path / "cut").exists()
    assert (tmp_path / "cut.work" / "state.pt").exists()
    cut = train_shared_prompt(start, prompts, tmp_path / "cut", CONFIG, **options)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(cut).values(), strict=True))
    histories = [json.loads((path / "training.json").read_text())["history"] for path in (whole, cut)]
    assert histories[0] == histories[1]


def test_a_run_killed_in_its_first_or_last_write_goes_on(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"tokenizer": TOKENIZER, "progress": False}
    work, ended = tmp_path / "a.work", 2**22 + 1  # no process has this number
    work.mkdir()
    aside = aside_prefix(work / "run.json").replace(f"-{os.getpid()}-", f"-{ended}-")
    (work / f"{aside}abcdefgh").write_text("{")
    train_shared_prompt(start, copying(16 * 5), tmp_path / "a", CONFIG, **options)
    assert not work.exists()

    removed: list[Path] = []
    unlink = Path.unlink

    def until_killed(path: Path, missing_ok: bool = False) -> None:
        if path.parent == work and path.name[0] != ".":
            if removed:
                raise KeyboardInterrupt
            removed.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", until_killed)
    with pytest.raises(KeyboardInterrupt):
        train_shared_prompt(start, copying(16 * 5), tmp_path / "a", CONFIG, **options)
    monkeypatch.undo()
    assert removed, "nothing was kept aside"
    train_shared_prompt(start, copying(16 * 5), tmp_path / "a", CONFIG, **options)
    assert not work.exists()


def test_work_of_another_run_is_kept_and_refused(start: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokenizer": TOKENIZER, "progress": False}
    (tmp_path / "a.work").mkdir()
    train_shared_prompt(start, copying(16), tmp_path / "a", CONFIG, **options)  # killed before it had begun
    (tmp_path / "a.work").mkdir()
    (tmp_path / "a.work" / "mine").write_text("")
    with pytest.raises(OSError, match="it holds other files"):
        train_shared_prompt(start, copying(16), tmp_path / "c", CONFIG, work=tmp_path / "a.work", **options)
    broken = replace(copying(16 * 6), reward=lambda rows: torch.full((len(rows), VOCAB), float("nan")))
    with pytest.raises(FloatingPointError, match="training diverged at step 0"):
        train_shared_prompt(start, broken, tmp_path / "b", CONFIG, **options)
    with pytest.raises(OSError, match="it holds another training run"):
        train_shared_prompt(start, copying(16 * 6, seed=1), tmp_path / "b", CONFIG, **options)
    with pytest.raises(OSError, match="it holds another training run"):
        train_shared_prompt(start, copying(16 * 6), tmp_path / "b", replace(CONFIG, seed=5), **options)


def test_prompts_that_do_not_fit_are_refused_before_any_work(start: Path, tmp_path: Path) -> None:
    known = copying(16)
    wrong = {
        "makes? no batch": copying(8),
        "a prompt has 9 tokens, and the model 8 positions": Prompts(
            np.zeros((16, 9), int), np.full(16, 9), known.reward, ["a"] * 16
        ),
        "vocabulary has 6": replace(known, tokens=known.tokens + 3),
        "another tokenizer": replace(known, reward=lambda rows: torch.zeros(len(rows), 9)),
    }
    for message, prompts in wrong.items():
        with pytest.raises(ValueError, match=message):
            train_shared_prompt(start, prompts, tmp_path / "out", CONFIG, tokenizer=TOKENIZER, progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="there is no prompt"):
        Prompts(np.zeros((0, 3), int), np.zeros(0, int), known.reward, [])


def test_padding_changes_no_logit(start: Path) -> None:
    model = read_gpt2(start).eval()
    tokens, length = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([3])
    with torch.no_grad():
        alone = model(tokens[:, :3]).logits[:, -1]
        padded = answer_logits(model, torch.cat([tokens, tokens]), torch.tensor([3, 5]))[:1]
    assert torch.allclose(alone, padded, atol=1e-6)
    assert torch.allclose(alone, answer_logits(model, tokens, length), atol=1e-6)


def test_cards_are_rewarded_by_their_verifier() -> None:
    task = CardsTask("train")
    deals = task.deals(40, 3)
    prompts = prompts_of(task, deals, format_bonus=0.25)
    table, answers = prompts.reward(np.arange(40)), task.labels(deals)["answer"]
    assert table.shape == (40, len(task.vocabulary))
    reward = Reward(0.25)
    for row in range(40):
        assert table[row].tolist() == [reward(piece, int(answers[row])) for piece in task.vocabulary]
        assert float(table[row].max()) == 1.25
        right = prompts.tokens[row, prompts.length[row]]
        assert int(table[row].argmax()) == right
