"""The console script: its files follow the documented random stream and the rules written out in conftest, its errors
are one line and leave nothing behind, and its verdicts agree with a greedy decode by transformers itself."""

import importlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from loguru import logger

from interp_kit.models.checkpoints import Entry, deciding_files, weights_hash, write_manifest
from interp_kit.studies.boolean.causal_experiment import GREEN, PLAIN, RED, main
from interp_kit.tasks.boolean import BooleanTask
from interp_kit.tasks.boolean.dataset import SPLITS, draw, write_splits
from interp_kit.training.sft import SFTConfig, train_sft

Run = Callable[..., tuple[int, str, str]]
FIELDS = ("newA", "newB", "newC", "newD", "sum1", "sum2")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("--test", …) in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERP_KIT_CHECKPOINTS", str(tmp_path / "shipped"))
    monkeypatch.delenv("NO_COLOR", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, task: BooleanTask) -> Path:
    """A model that has learnt the layout and little more: right on some fields, wrong on others."""
    config = SFTConfig(d_model=32, n_layers=1, n_heads=2, n_ctx=23, dropout=0.0, epochs=50.0, learning_rate=5e-3)
    output = tmp_path_factory.mktemp("trained") / "final"
    return train_sft(task, task.enumerate()[::2], output, config, device="cpu", progress=False)


@pytest.fixture
def small_data(tmp_path: Path, task: BooleanTask) -> Path:
    """Data files of 160, 16 and 16 examples without 0,0,0,0,0 and 1,1,1,1,1."""
    rng, omit = random.Random(0), frozenset({(0,) * 5, (1,) * 5})
    sizes = {"train": 160, "valid": 16, "test": 16}
    inputs = {name: list(draw(5, count, rng, omit)) for name, count in sizes.items()}
    assert len(set(inputs["train"])) == 30
    write_splits(task, tmp_path / "dataset", inputs)
    return tmp_path / "dataset"


def records(folder: Path) -> dict[str, list[dict[str, str]]]:
    files = {name: folder / f"{name}.jsonl" for name in SPLITS}
    return {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in files.items()}


def stream(omit: frozenset[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The documented stream: one random.Random(42), five randint(0, 1) an attempt, 24,000 attempts kept."""
    rng, kept = random.Random(42), []
    while len(kept) < 24_000:
        bits = tuple([rng.randint(0, 1) for _ in range(5)])
        if bits not in omit:
            kept.append(bits)
    return kept


def one_line(error: str) -> str:
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize("omit", ["", "1,1,1,1,1;0,0,0,0,0"])
def test_generate_follows_the_stream_and_the_rules(
    run: Run, truth: dict[tuple[int, ...], dict[str, int]], omit: str
) -> None:
    code, out, _ = run("--generate", *(["-o", omit] if omit else []))
    assert code == 0
    found = records(Path("dataset"))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 20_000, "valid": 2_000, "test": 2_000}
    everything = [row for name in ("train", "valid", "test") for row in found[name]]
    left_out = frozenset(tuple(int(bit) for bit in part.split(",")) for part in omit.split(";") if part)
    expected = stream(left_out)
    assert [row["prompt"] for row in everything] == [",".join(map(str, bits)) for bits in expected]
    for row, bits in zip(everything, expected, strict=True):
        v = truth[bits]
        assert row["completion"] == f"\n{v['newA']},{v['newB']},{v['newC']},{v['newD']}\n{v['sum1']} - {v['sum2']}\n"
    assert not {row["prompt"] for row in everything} & set(omit.split(";"))
    if not omit:
        assert [row["prompt"] for row in found["train"][:3]] == ["0,0,1,0,0", "0,0,0,1,0", "0,0,0,0,0"]
    assert ("in none of these files: 0,0,0,0,0; 1,1,1,1,1" in out) == bool(omit)
    assert "DEBUG" in Path("logs/causal-experiment.log").read_text()


ALL = ";".join(",".join(format(i, "05b")) for i in range(32))


@pytest.mark.parametrize(
    ("omit", "message"),
    [
        ("1,1,1", "input '1,1,1' has 3 values, expected 5"),
        ("1,1,1,1,1,1", "has 6 values"),
        ("0,0,0,0,0;1,1,1,1,2", "'1,1,1,1,2': '2' is neither 0 nor 1"),
        ("a,b,c,d,e", "'a' is neither 0 nor 1"),
        ("1,1,1,1,1;", "input '' has 1 values"),
        ("11111", "input '11111' has 1 values"),
        (ALL, "the omissions leave none of the 32 inputs"),
    ],
)
def test_a_bad_omission_is_named_before_anything_is_written(run: Run, tmp_path: Path, omit: str, message: str) -> None:
    code, out, error = run("--generate", "-o", omit, "--train", "--test", "1,0,1,0,1")
    assert (code, out) == (1, "")
    assert message in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_test_input_is_named_before_anything_is_done(run: Run, tmp_path: Path) -> None:
    code, out, error = run("--generate", "--train", "--test", "1,0,1,0")
    assert (code, out) == (1, "")
    assert "input '1,0,1,0' has 4 values" in one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_no_action_prints_help_and_a_lone_omission_is_refused(run: Run, tmp_path: Path) -> None:
    code, out, _ = run()
    assert code == 2
    assert out.startswith("usage: causal-experiment")
    for flag in ("--generate", "--omit", "--train", "--test"):
        assert flag in out
    with pytest.raises(SystemExit, match="2"):
        run("--train", "-o", "1,1,1,1,1")
    for bad in (["--epochs", "0"], ["--batch-size", "1.5"], ["--learning-rate", "-1"], ["--learning-rate", "nan"]):
        with pytest.raises(SystemExit, match="2"):
            run("--train", *bad)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--generate"], ["--generate", "-o", "1,1"]])
def test_nothing_heavy_is_imported_for_help_or_data(tmp_path: Path, arguments: list[str]) -> None:
    program = (
        "import sys\nfrom interp_kit.studies.boolean.causal_experiment import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n"
        "    print('exited')\nprint('heavy:', sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_truth_and_answer_of_a_model_that_knows_the_rules(run: Run) -> None:
    """The widely copied `3 - 3` is wrong: the rules give 3 - 2."""
    code, out, _ = run("--test", "1,0,1,0,1", "--model", "boolean-direct")
    assert code == 0
    lines = out.splitlines()
    assert lines[:4] == ["prompt: 1,0,1,0,1", "truth by the rules:", "0,1,0,1", "3 - 2"]
    assert lines[4:8] == ["model: boolean-direct", "it writes:", "0,1,0,1", "3 - 2"]
    values = dict(zip(FIELDS, "010132", strict=True))
    assert [line.split() for line in lines[8:14]] == [[name, value, "ok"] for name, value in values.items()]
    assert lines[14:] == ["exact match: yes", "in the training data: unknown"]


def greedy(directory: Path, prompt: str) -> str:
    """What the model writes, decoded by transformers and its own tokenizer."""
    from transformers import AutoTokenizer, GPT2LMHeadModel

    tokenizer, model = AutoTokenizer.from_pretrained(directory), GPT2LMHeadModel.from_pretrained(directory)
    row = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        while row.shape[1] < 23:
            row = torch.cat([row, model.eval()(row).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokenizer.decode(row[0, 9:])


def test_the_verdict_is_that_of_transformers_own_decoding(
    run: Run, trained: Path, truth: dict[tuple[int, ...], dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = set()
    for bits in ((0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (1, 1, 0, 1, 1), (0, 1, 1, 0, 1)):
        prompt = ",".join(map(str, bits))
        code, out, _ = run("--test", prompt, "--output", str(trained))
        assert code == 0
        written = greedy(trained, prompt)
        answers, sums = written.strip().removesuffix("<|endoftext|>").strip().split("\n")
        found = dict(zip(FIELDS, [*answers.split(","), *sums.split(" - ")], strict=True))
        lines = out.splitlines()
        assert lines[4:8] == [f"model: {trained}", "it writes:", answers, sums]
        expected = []
        for name, value in found.items():
            right = int(value) == truth[bits][name]
            expected.append([name, value, *(["ok"] if right else ["WRONG,", "it", "is", str(truth[bits][name])])])
            verdicts.add(right)
        assert [line.split() for line in lines[8:14]] == expected
        assert ("exact match: yes" in out) == all(line[2] == "ok" for line in expected)
        assert lines[-1] == "in the training data: unknown"
        assert "\033" not in out

        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
            _, out, _ = run("--test", prompt, "--output", str(trained))
            patch.setenv("NO_COLOR", "1")
            _, plain, _ = run("--test", prompt, "--output", str(trained))
        coloured = [line.strip() for line in out.splitlines()[8:14]]
        for line, (_, _, verdict, *_) in zip(coloured, expected, strict=True):
            assert line.startswith(GREEN if verdict == "ok" else RED)
            assert line.endswith(PLAIN)
        assert "\033" not in plain
    assert verdicts == {True, False}


def ship(root: Path, weights: Path, omitted: tuple[str, ...]) -> None:
    files = deciding_files(weights)
    entry = Entry(str(weights), weights_hash(weights), "boolean", "tests", 42, "test", "none", omitted, files=files)
    write_manifest({"boolean-gpt2": entry}, root)


def test_the_shipped_model_answers_where_none_was_trained(run: Run, tmp_path: Path, trained: Path) -> None:
    ship(tmp_path / "shipped", trained, ("1,1,1,1,1",))
    code, out, _ = run("--test", "1,1,1,1,1")
    assert code == 0
    assert "model: boolean-gpt2, which comes with interp_kit (out/tiny-gpt2-causal/final is not there)" in out
    assert out.splitlines()[-1] == "in the training data: no, it was held out"
    code, out, _ = run("--test", "0,1,1,1,1", "--model", "boolean-gpt2")
    assert code == 0
    assert "model: boolean-gpt2\n" in out
    assert out.splitlines()[-1] == "in the training data: yes"


def test_a_model_with_all_of_gpt2s_vocabulary_answers_as_its_closed_twin(
    run: Run, tmp_path: Path, trained: Path
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = {**{str(i): 15 + i for i in range(6)}, " 0": 657, " 1": 352, " 2": 362, " 3": 513, " 4": 604}
    ids |= {",": 11, " -": 532, "\n": 198, "<|endoftext|>": 50256}
    twin = GPT2LMHeadModel.from_pretrained(trained)
    config = GPT2Config.from_dict({**twin.config.to_dict(), "vocab_size": 50257})
    large, closed = GPT2LMHeadModel(config), BooleanTask().vocabulary
    state = {name: value for name, value in twin.state_dict().items() if "wte" not in name and "lm_head" not in name}
    assert not large.load_state_dict(state, strict=False).unexpected_keys
    with torch.no_grad():
        rows = twin.transformer.wte.weight
        large.transformer.wte.weight[:] = rows.mean(0)  # a mean of logits never wins over them
        for number, piece in enumerate(closed):
            large.transformer.wte.weight[ids[piece]] = rows[number]
    large.save_pretrained(tmp_path / "large")
    code, out, error = run("--test", "0,1,1,0,1", "--model", "large")
    assert code == 0, error
    assert out == run("--test", "0,1,1,0,1", "--model", str(trained))[1].replace(str(trained), "large")


def test_train_says_what_it_saw_and_evaluates_what_it_wrote(run: Run, small_data: Path, tmp_path: Path) -> None:
    code, out, error = run("--train", "--epochs", "0.5", "--device", "cpu", "--no-progress", "--test", "1,1,1,1,1")
    assert code == 0, error
    final = tmp_path / "out/tiny-gpt2-causal/final"
    assert {path.name for path in final.parent.iterdir()} == {"final"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= {p.name for p in final.iterdir()}
    training = json.loads((final / "training.json").read_text())
    assert (training["examples"], training["distinct_examples"]) == (160, 30)
    assert training["config"] == asdict(SFTConfig(epochs=0.5))
    lines = out.splitlines()
    assert lines[0] == "never seen in training: 2 inputs: 0,0,0,0,0; 1,1,1,1,1"
    table = [line.split() for line in lines[2:18]]
    assert [row[:2] for row in (table[0], table[8])] == [["seen", "inputs"], ["held-out", "inputs"]]
    assert [row[-1] for row in table[1:8] + table[9:16]] == ["30"] * 7 + ["2"] * 7
    assert [row[-2] for row in table[1:8]] == ["1.00"] * 7  # the lookup table knows what it has seen
    assert lines[-1] == "in the training data: no, it was held out"
    assert "train_loss" not in out
    assert "training on 160 examples" in error
    assert "wrote out/tiny-gpt2-causal/final" in Path("logs/causal-experiment.log").read_text()


@pytest.mark.slow
def test_all_three_actions_at_once(run: Run) -> None:
    common = ["--epochs", "0.01", "--device", "cpu", "--no-progress"]
    code, out, error = run("--generate", "--train", "--test", "1,0,1,0,1", *common)
    assert code == 0, error
    assert "all 32 inputs are in the training data" in out
    assert "held-out inputs" not in out
    assert "truth by the rules:\n0,1,0,1\n3 - 2\n" in out
    assert out.splitlines()[-1] == "in the training data: yes"


def test_training_that_fails_leaves_no_model(run: Run, small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def stop(error: BaseException) -> Callable[..., Any]:
        def train(*args: Any, **kwargs: Any) -> Any:
            raise error

        return train

    for error, code, message in (
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 1, "cannot write out/tiny-gpt2-causal/final: No space left on device"),
        (FloatingPointError("training diverged: loss nan"), 1, "training diverged: loss nan"),
    ):
        monkeypatch.setattr(transformers.Trainer, "train", stop(error))
        found, _, said = run("--train", "--device", "cpu", "--no-progress")
        assert found == code
        assert said.splitlines()[-1].startswith("causal-experiment: ")
        assert said.splitlines()[-1].endswith(message)
        assert list(Path("out/tiny-gpt2-causal").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train", None, "dataset/train.jsonl is missing; causal-experiment --generate writes it"),
        ("test", None, "dataset/test.jsonl is missing"),
        ("valid", b"", "dataset/valid.jsonl has no examples"),
        ("valid", b"\xff\xfe", "dataset/valid.jsonl is not text"),
        ("train", b'{"prompt": "1,0,1,0,1", "completion": "\\n0,1,0,1\\n3 - 3\\n"}\n', "dataset/train.jsonl, line 1:"),
        ("test", b"not json\n", "dataset/test.jsonl, line 1"),
        ("test", b'{"prompt": 5, "completion": ""}\n', "dataset/test.jsonl, line 1"),
    ],
)
def test_data_against_the_rules_are_refused(
    run: Run, small_data: Path, name: str, content: bytes | None, message: str
) -> None:
    path = small_data / f"{name}.jsonl"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    code, out, error = run("--train")
    assert (code, out) == (1, "")
    assert message in one_line(error)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("blocked", "arguments", "message"),
    [
        ("dataset", ["--generate"], "cannot write dataset/train.jsonl"),
        ("logs", ["--generate"], "cannot write logs into logs"),
        ("out", ["--train", "--device", "cpu", "--no-progress"], "cannot write out/tiny-gpt2-causal/final"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(
    run: Run, small_data: Path, tmp_path: Path, blocked: str, arguments: list[str], message: str
) -> None:
    """Tests may run as root, whom no permission stops: a file in the folder's place does."""
    if blocked == "dataset":
        small_data.rename(tmp_path / "elsewhere")
    Path(blocked).write_text("a file")
    code, _, error = run(*arguments)
    assert code == 1
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error
    assert Path(blocked).read_text() == "a file"


def test_a_model_that_cannot_be_asked_is_named(run: Run, tmp_path: Path, trained: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_bytes((trained / "config.json").read_bytes())
    (tmp_path / "damaged/model.safetensors").write_bytes(b"\x80\x04 a pickle")
    GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=24, n_embd=8, n_layer=1, n_head=1)).save_pretrained("wide")
    GPT2LMHeadModel(GPT2Config(vocab_size=15, n_positions=22, n_embd=8, n_layer=1, n_head=1)).save_pretrained("short")
    for arguments, message in (
        (["--model", "empty"], "empty"),
        (["--model", "damaged"], "damaged/model.safetensors cannot be read"),
        (["--model", "no-such-model"], "unknown checkpoint 'no-such-model'"),
        (["--model", "wide"], "16 tokens"),
        (["--model", "short"], "texts of 23 tokens do not fit"),
        ([], "unknown checkpoint 'boolean-gpt2'"),
        (["--device", "cuda" if torch.backends.mps.is_available() else "mps"], "cannot be used"),
    ):
        code, _, error = run("--test", "1,0,1,0,1", *arguments)
        assert code == 1
        assert message in error.splitlines()[-1]
        assert "Traceback" not in error


def test_the_log_is_set_up_by_main_alone(run: Run) -> None:
    """Neither the import nor a request that is refused touches the handlers that a program has."""
    heard: list[str] = []
    logger.remove()
    mine = logger.add(heard.append, format="{message}")
    importlib.reload(importlib.import_module("interp_kit.studies.boolean.causal_experiment"))
    run("--generate", "-o", "1")
    logger.info("still here")
    logger.remove(mine)
    assert heard == ["still here\n"]
    assert not Path("logs").exists()
