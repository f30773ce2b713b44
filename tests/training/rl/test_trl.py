"""Training through trl: right positions in policy and reference, every loss, resuming, several processes.

All tests of trl stand here, because importing it costs ten seconds.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp_kit.core.files import write_json
from interp_kit.models.gpt2 import read_gpt2
from interp_kit.studies.cards.rl_trl import Options, main, prompts_of
from interp_kit.tasks.cards import CardsTask
from interp_kit.tasks.cards.verifier import Reward
from interp_kit.training.rl import trl_run
from interp_kit.training.rl.policy import Policy
from interp_kit.training.rl.trl_config import TRLConfig, VerifiedPrompts
from interp_kit.training.rl.trl_run import build_trainer, train_trl

TASK = CardsTask("train")
SMALL = {"batch_size": 8, "samples": 4, "log_every": 1, "save_every": 1, "warm_up": 0}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weak model of the card game in which positions matter: at GPT-2's own initialisation they hardly do."""
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 40, "vocab_size": len(TASK.vocabulary)}
    model = GPT2LMHeadModel(GPT2Config(**size, initializer_range=0.7, bos_token_id=TASK.pad, eos_token_id=TASK.pad))
    tokens, lengths = (torch.as_tensor(part) for part in TASK.encode(TASK.deals(64, 1)))
    labels = tokens.masked_fill(torch.arange(tokens.shape[1]) < lengths[:, None], -100)
    labels = labels.masked_fill(torch.arange(tokens.shape[1]) > lengths[:, None] + 1, -100)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(100):  # until most completions are a number and end-of-text
        optimiser.zero_grad()
        model(tokens, labels=labels).loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("start") / "s0"
    model.save_pretrained(folder)
    write_json(folder / "training.json", {"description": TASK.describe()})
    return folder


def prompts(n: int) -> VerifiedPrompts:
    return prompts_of(TASK, TASK.deals(n, 5))


def answers(completion: str, answer: int) -> float:
    """A reward that an untrained model earns often enough to learn: whatever begins with an even number."""
    number = re.match(r" -?\d+", completion)
    return float(number is not None and int(number[0]) % 2 == 0)


def trained(start: Path, out: Path, n: int = 24, reward=answers, **options) -> dict:
    config = TRLConfig(**{**SMALL, **options})
    folder = train_trl(TASK, prompts(n), start, out, config, reward=reward, device="cpu", progress=False)
    return json.loads((folder / "training.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_gpt2(folder).state_dict()


def test_prompts_are_the_texts_up_to_the_answer_and_their_tokens() -> None:
    examples, tokenizer = TASK.sample(8, 5), TASK.tokenizer()
    found = prompts(8)
    assert found == VerifiedPrompts.of_examples(TASK, examples, lambda e: TASK.rules[e.labels["rule"]].name)
    for text, answer, example in zip(found.text, found.answer, examples, strict=True):
        assert tuple(tokenizer(text)["input_ids"]) == example.tokens[: example.prompt_length]
        assert Reward()(example.text.removeprefix(text), answer) == 1.0


@pytest.mark.parametrize("loss", ["dapo", "rloo"])
def test_the_reference_is_the_policy_at_step_0_and_without_its_hook_is_not(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss
) -> None:
    found = trained(start, tmp_path / "hooked", 8, loss=loss)
    assert abs(found["history"][0]["kl"]) < 1e-5
    hooked, real = [], trl_run.hook_positions
    monkeypatch.setattr(trl_run, "hook_positions", lambda model: hooked.append(model) or len(hooked) > 1 or real(model))
    control = trained(start, tmp_path / "control", 8, loss=loss)
    assert len(hooked) == 2
    assert abs(control["history"][0]["kl"]) > 0.01


def test_trl_scores_as_the_policy_does_without_padding(start: Path, tmp_path: Path) -> None:
    model = read_gpt2(start)
    model.config._name_or_path = str(start)
    trainer = build_trainer(TASK, prompts(8), model, TRLConfig(**SMALL), tmp_path, answers, 1, device="cpu")
    short, long = (
        [*e.tokens[: e.prompt_length]] for e in sorted(TASK.sample(50, 1), key=lambda e: len(e.tokens))[::49]
    )
    written = [[60, TASK.pad], [61, 62]]
    pad = [TASK.pad] * (len(long) - len(short))
    tokens = torch.tensor([[*pad, *short, *written[0]], [*long, *written[1]]])
    mask = torch.tensor([[0] * len(pad) + [1] * (len(short) + 2), [1] * (len(long) + 2)])
    for scored in (trainer.model, trainer.ref_model):
        with torch.no_grad():
            found = trainer._get_per_token_logps_and_entropies(scored, tokens, mask, 2)[0]
        for row, prompt, completion in zip(found, (short, long), written, strict=True):
            alone, _ = Policy(read_gpt2(start), TASK.pad).log_probs([prompt], [completion])
            torch.testing.assert_close(row, alone[0], atol=1e-4, rtol=0)


def test_every_loss_trains_and_writes_a_folder(start: Path, tmp_path: Path) -> None:
    first = {}
    for loss in ("dapo", "grpo", "dr_grpo", "cispo", "rloo"):
        found = trained(start, tmp_path / loss, 8, loss=loss, beta=0.0)
        assert [line["step"] for line in found["history"]] == [1]
        first[loss] = found["history"][0]
        assert first[loss]["reward"] == pytest.approx(first["dapo"]["reward"])  # the same samples
        assert 0 < first[loss]["reward"] < 1
        moved = weights(tmp_path / loss)
        assert any(not torch.equal(moved[name], value) for name, value in weights(start).items())
    # on policy the ratio is 1, so clipping does nothing; trl's own default would give a fifth
    assert first["cispo"]["grad_norm"] == pytest.approx(first["dapo"]["grad_norm"], rel=1e-4)
    assert len({round(first[loss]["grad_norm"], 6) for loss in ("dapo", "dr_grpo", "rloo")}) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cispo", "dapo", "dr_grpo", "grpo", "rloo"]
    kept = json.loads((tmp_path / "dapo" / "config.json").read_text())
    assert kept == {**json.loads((start / "config.json").read_text()), "dtype": kept["dtype"]}
    assert str(start) not in json.dumps(kept)


def test_success_is_counted_by_group(start: Path, tmp_path: Path) -> None:
    whole = prompts(8)
    chosen = VerifiedPrompts(whole.text, (1, 1, 1, 1, 0, 0, 0, 0), ("a",) * 4 + ("b",) * 4)
    config = TRLConfig(**SMALL)
    out = train_trl(
        TASK, chosen, start, tmp_path / "out", config, reward=lambda _, a: 1.25 * a, device="cpu", progress=False
    )
    (line,) = json.loads((out / "training.json").read_text())["history"]
    assert line["success"] == {"a": 1.0, "b": 0.0}
    assert line["reward"] == pytest.approx(0.625)


def test_an_interrupted_run_leaves_no_folder_and_goes_on_to_the_same_weights(start: Path, tmp_path: Path) -> None:
    whole = trained(start, tmp_path / "whole", reward=answers)
    calls = []

    def fails(completion: str, answer: int) -> float:
        calls.append(1)
        if len(calls) > 2 * SMALL["batch_size"] * SMALL["samples"] + 5:
            raise KeyboardInterrupt
        return answers(completion, answer)

    fails.__qualname__ = answers.__qualname__
    with pytest.raises(KeyboardInterrupt):
        trained(start, tmp_path / "cut", reward=fails)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(OSError, match=r"another training run .other config"):
        trained(start, tmp_path / "cut", learning_rate=0.1)
    resumed = trained(start, tmp_path / "cut")
    assert resumed["history"] == whole["history"]
    cut = weights(tmp_path / "cut")
    assert all(torch.equal(value, cut[name]) for name, value in weights(tmp_path / "whole").items())
    assert not (tmp_path / "cut.work").exists()


def test_a_diverging_run_is_an_error_and_leaves_no_folder(start: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"diverged .*step 1.* .seed 3"):
        trained(start, tmp_path / "out", learning_rate=1e30, seed=3)
    with pytest.raises(ValueError, match=r"a reward of '.*' is nan; expected a finite number"):
        trained(start, tmp_path / "other", reward=lambda *_: float("nan"))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples is 1; expected a whole number of 2 or more"),
        ({"longest": 1}, "longest is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"flat": 1.0}, "flat is 1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_config_that_describes_no_training_is_one_error(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TRLConfig(**options)


def test_what_does_not_fit_is_an_error_before_training(start: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 prompts make no batch of 16"):
        trained(start, tmp_path / "out", 8, batch_size=16)
    with pytest.raises(ValueError, match="do not fit the model's context of 40"):
        trained(start, tmp_path / "out", 8, longest=30)
    with pytest.raises(ValueError, match="2, 1, 1 texts, answers and groups"):
        VerifiedPrompts(("a", "b"), (1,), ("c",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(OSError, match=r"notes\.txt"):
        trained(start, tmp_path / "mine")
    split = CardsTask("train", cards="split")
    with pytest.raises(ValueError, match="start from a"):
        train_trl(split, prompts(8), start, tmp_path / "out", TRLConfig(**SMALL), reward=answers, device="cpu")
    with pytest.raises(ValueError, match="format_bonus is 1"):
        Options(start="", out=tmp_path, format_bonus=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_command_trains_from_a_folder(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--batch-size", "8", "--samples", "2", "--prompts", "16", "--seed", "1", "--device", "cpu"]
    out = tmp_path / "out"
    assert main(["--start", str(start), "--out", str(out), *small, "--split", "id_test"]) == 0
    assert capsys.readouterr().out.strip().endswith(str(out))
    found = json.loads((out / "training.json").read_text())
    assert (found["prompts"], found["steps"], found["config"]["seed"]) == (16, 2, 1)
    assert (found["forwards_a_prompt"], found["backwards_a_prompt"]) == (6, 2)
    assert main(["--start", str(tmp_path / "none"), "--out", str(out), *small]) == 1


COMMAND = ["-m", "interp_kit.studies.cards.rl_trl"]


def arguments(start: Path, out: Path, prompts: int) -> list[str]:
    options = {"--prompts": prompts, "--batch-size": 8, "--samples": 4, "--save-every": 2, "--log-every": 1}
    flat = [str(part) for pair in options.items() for part in pair]
    return ["--start", str(start), "--out", str(out), *flat, "--format-bonus", "0.5", "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(start: Path, tmp_path: Path) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, *COMMAND, *arguments(start, killed, 320)], **quiet)
    while not list((tmp_path / "killed.work").glob("checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists()
    assert main(arguments(start, killed, 320)) == 0
    assert main(arguments(start, whole, 320)) == 0
    a, b = weights(killed), weights(whole)
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert any(not torch.equal(value, b[name]) for name, value in weights(start).items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


@pytest.mark.slow
def test_two_processes_train_one_model(start: Path, tmp_path: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    out = tmp_path / "out"
    subprocess.run([sys.executable, *launch, *COMMAND, *arguments(start, out, 48)], check=True, timeout=300)
    found = json.loads((out / "training.json").read_text())
    assert (found["processes"], found["steps"]) == (2, 6)
    assert abs(found["history"][0]["kl"]) < 1e-5
    assert all(0 < line["reward"] < 1.5 for line in found["history"])
    moved = weights(out)
    assert any(not torch.equal(moved[name], value) for name, value in weights(start).items())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_the_reward_rises(start: Path, tmp_path: Path) -> None:
    found = trained(start, tmp_path / "out", 640, batch_size=16, learning_rate=0.003, matrix_learning_rate=0.02)
    rewards = [line["reward"] for line in found["history"]]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
