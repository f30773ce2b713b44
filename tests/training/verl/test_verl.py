"""verl's files by their schema, without verl: parquets, reward files on their own, and what the scripts would run."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from interp_kit.tasks.graphs.data.config import GraphsConfig
from interp_kit.tasks.graphs.data.files import generate
from interp_kit.tasks.graphs.questions.verifier import score
from interp_kit.training.verl import PRESETS, write_verl
from interp_kit.training.verl.launch import SCRIPTS, defaults, launch_script

SPEC = [
    "ngpus", "model_path", "batch_size", "per_gpu_batch_size", "lr", "n_rollout", "max_prompt_length",
    "max_response_length", "total_steps", "epochs", "vllm_gpu_util", "tensor_parallel", "max_checkpoints", "graph_spec",
    "save_freq", "eval_freq",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate(GraphsConfig(graphs=(2, 1, 0), questions=(8, 4, 1)), folder, jobs=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verl") / "out"
    write_verl(data, out)
    return out


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reward", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parquets_have_the_columns_that_verl_reads(folder: Path, data: Path) -> None:
    rows = pq.read_table(data / "train.parquet").to_pylist()
    rl, sft = (pq.read_table(folder / f"{form}_train.parquet").to_pylist() for form in ("rl", "sft"))
    assert len(rows) == len(rl) == len(sft) > 8
    for row, a, b in zip(rows, rl, sft, strict=True):
        assert a["prompt"] == [{"role": "user", "content": row["prompt_generic"]}]
        assert a["reward_model"] == {"style": "rule", "ground_truth": row["answer"]}
        assert a["data_source"] == "interp_kit/graphs"
        assert a["extra_info"]["id"] == b["extra_info"]["id"] == row["id"]
        assert [message["role"] for message in b["messages"]] == ["user", "assistant"]
        assert score(b["messages"][1]["content"], row["answer"]).score == 1
    assert not (folder / "rl_test.parquet").exists()


def test_reward_files_need_nothing_and_are_the_verifier(folder: Path) -> None:
    texts = ["", "ANSWER [0.30, 0.70]", "ANSWER [0.25, 0.75]", "ANSWER [0.25]", "ANSWER [a]"]
    for mode in ("soft", "strict"):
        compute = loaded(folder / f"reward_{mode}.py").compute_score
        found = [compute("x", text, "[0.25, 0.75]", extra_info={}, data=1) for text in texts]
        assert [one["score"] for one in found] == [score(text, "[0.25, 0.75]", mode).score for text in texts]
        assert len({tuple(one) for one in found}) == 1
        code = f"import runpy; print(runpy.run_path({str(folder / f'reward_{mode}.py')!r})['THRESHOLDS'][0])"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "1/100"


def run(folder: Path, script: str, *arguments: str) -> tuple[int, list[str], str]:
    """Status, the arguments that the program would get, and what was said. python and torchrun are replaced."""
    tools = folder.parent / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("python", "torchrun"):
        (tools / name).write_text(f'#!/bin/sh\nprintf "%s\\0" {name} "$@"\n')
        (tools / name).chmod(0o755)
    done = subprocess.run(
        [folder / f"{script}.sh", *arguments],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.split("\0")[:-1], done.stderr


def test_scripts_pass_every_option_on(folder: Path) -> None:
    assert list(defaults(PRESETS["classic"])) == SPEC
    for script in SCRIPTS:
        base = run(folder, script, "--model_path", "m")[1]
        assert base[0] == ("torchrun" if script == "sft" else "python")
        for name in SPEC:
            value = "12345" if name not in ("model_path", "graph_spec") else "some where"
            status, found, _ = run(folder, script, "--model_path", "m", f"--{name}", value)
            assert status == 0
            changed = [setting for setting in found if setting not in base]
            unused = script == "sft" and name in ("n_rollout", "vllm_gpu_util", "tensor_parallel")
            assert bool(changed) != unused, (script, name)
            lengths = script == "sft" and name.endswith("_length")
            assert lengths or all(value in setting for setting in changed)
        assert run(folder, script, "--model_path", "m", "--", "+a.b=1")[1][-1] == "+a.b=1"
    for arguments, message in (
        ((), "--model_path is missing"),
        (("--model",), "no option --model; there are --ngpus"),
        (("--ngpus",), "--ngpus needs a value"),
    ):
        status, _, error = run(folder, "grpo", *arguments)
        assert status == 2
        assert message in error


def test_presets_and_algorithms_are_those_of_the_spec(folder: Path) -> None:
    grpo, dapo = (run(folder, script, "--model_path", "m")[1] for script in ("grpo", "dapo"))
    assert {"actor_rollout_ref.actor.use_kl_loss=True", "actor_rollout_ref.actor.kl_loss_coef=0.001"} <= set(grpo)
    assert "actor_rollout_ref.rollout.n=8" in grpo
    assert 'trainer.logger=["console"]' in grpo
    assert f"reward.custom_reward_function.path={folder}/reward_soft.py" in grpo
    assert {
        "actor_rollout_ref.actor.clip_ratio_low=0.2", "actor_rollout_ref.actor.clip_ratio_high=0.28",
        "actor_rollout_ref.actor.clip_ratio_c=10.0", "actor_rollout_ref.actor.loss_agg_mode=token-mean",
        "algorithm.filter_groups.enable=True",
    } <= set(dapo)  # fmt: skip
    long = launch_script("grpo", PRESETS["long"])
    assert "use_kl_loss=False" in long
    assert all(text in long for text in ('n_rollout="32"', 'length="4096"', 'total_steps="7500"', "reward_strict.py"))
    for script in SCRIPTS:
        assert not re.search(
            r"(_token|api_?key|secret|password)\s*=\s*['\"]?\w{8}", launch_script(script, PRESETS["long"]), re.I
        )
    with pytest.raises(ValueError, match="no script 'ppo'"):
        launch_script("ppo", PRESETS["long"])


def test_what_cannot_be_written_is_said_before_anything_is(folder: Path, data: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OSError, match="it is there already"):
        write_verl(data, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match="preset is 'short'"):
        write_verl(data, tmp_path / "a", preset="short")
    with pytest.raises(ValueError, match=r"has no train\.parquet"):
        write_verl(tmp_path, tmp_path / "a")
    generate(
        GraphsConfig(graphs=(1, 0, 0), questions=(2, 1, 1), prompts=("generic",)),
        tmp_path / "g",
        jobs=1,
        progress=False,
    )
    with pytest.raises(ValueError, match="has no prompt_answer_only"):
        write_verl(tmp_path / "g", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert json.loads((data / "manifest.json").read_text())["splits"]["train"]["rows"] > 0
