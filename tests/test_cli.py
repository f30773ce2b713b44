"""The command line: each command on a small planted model, JSON that can be read, and errors of one clear line."""

import json
import re
import subprocess
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import pytest
import tyro

from interp_kit.cli import Command, main
from interp_kit.studies.culture.training import turns as rotation
from interp_kit.studies.culture.training.config import CultureConfig

MODEL = "boolean-direct"


def rows(path: Path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


def test_load_prints_the_conversion_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "boolean-gpt2"]) == 0
    text = capsys.readouterr().out
    assert "logits differ by at most" in text
    assert "sha256" in text


def test_test_reports_exact_match(tmp_path: Path) -> None:
    assert main(["test", MODEL, "--json", str(tmp_path / "t.json")]) == 0
    exact = [row for row in rows(tmp_path / "t.json") if row["field"] == "exact match"]
    assert [(row["value"], row["n"]) for row in exact] == [(1.0, 32)]


def test_probe_patch_ablate_mechanism(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.json"
    quiet = ["--no-progress", "--json", str(out)]
    assert main(["probe", MODEL, "--labels", "newA", "--positions", "newA?", *quiet]) == 0
    assert {row["label"] for row in rows(out)} == {"newA"}
    assert main(["patch", MODEL, "--senders", *quiet, "--save", str(tmp_path / "saved")]) == 0
    recovered = {row["position"]: row["recovered"] for row in rows(out)}
    assert recovered["D"] == pytest.approx(1, abs=1e-3)
    assert recovered["newB"] == pytest.approx(0, abs=1e-3)
    assert (tmp_path / "saved" / "result.json").exists()
    assert main(["ablate", MODEL, "boolean-via-token", "--units", "head", *quiet]) == 0
    assert len(rows(out)) == 1
    assert main(["mechanism", MODEL, *quiet]) == 0
    assert "verdict: direct" in capsys.readouterr().out


@pytest.mark.slow
def test_interchange_and_edges_find_what_is_planted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "new" / "p.png"
    quiet = ["--no-progress", "--json", str(out)]
    named = ["--positions", "newB", "newB?", "--sites", "resid_post"]
    assert main(["interchange", "boolean-latent", *named, *quiet, "--plot", str(picture)]) == 0
    found = {(row["layer"], row["position"]): row["accuracy"] for row in rows(out)}
    assert found == {(0, "newB"): 0, (0, "newB?"): 1, (1, "newB"): 0, (1, "newB?"): 0}
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert f"drew {picture}" in capsys.readouterr().out
    assert main(["edges", "boolean-latent", "--top", "5", *quiet]) == 0
    assert {(row["sender"], row["receiver"]) for row in rows(out)} == {
        ("embed", "L0H0"), ("L0H0", "L0 MLP"), ("L0 MLP", "L1H1"), ("L1H1", "L1 MLP"), ("L1 MLP", "logits"),
    }  # fmt: skip
    assert main(["edges", "boolean-latent", "--top", "0", *quiet]) == 0
    assert len(rows(out)) == 110
    assert main(["edges", "boolean-latent", "--faithfulness", *quiet]) == 0
    kept = {row["edges"]: row["faithfulness"] for row in rows(out)}
    assert kept[2] == pytest.approx(0, abs=0.02)
    assert kept[5] == pytest.approx(1, abs=0.02)
    assert {row["n"] for row in rows(out)} == {4}  # of eight independent pairs: the others chose the edges


def test_json_to_standard_output_stands_alone_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["mechanism", MODEL, "--json", "-", "--save", str(tmp_path / "r"), "--plot", str(tmp_path / "p.png")]
    assert main([*command, "--no-progress"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"]
    assert "saved" in printed.err
    assert "drew" in printed.err


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "thesis.txt").write_text("years of work")
    for command in (["mechanism", MODEL, "--save"], ["sae", MODEL, "--out"]):
        assert main([*command, str(tmp_path / "keep")]) == 1
        assert "it holds thesis.txt, which was not written there as a" in capsys.readouterr().err
    assert (tmp_path / "keep" / "thesis.txt").read_text() == "years of work"
    for _ in range(2):  # a former result is replaced
        assert main(["mechanism", MODEL, "--save", str(tmp_path / "result"), "--no-progress"]) == 0


def test_every_option_of_every_command_is_explained() -> None:
    for annotated in get_args(Command):
        kind = get_args(annotated)[0]
        for action in tyro.extras.get_parser(kind)._actions:
            said = re.sub(r"\(((default|required|repeatable)[^()]*(\([^()]*\))?[^()]*)\)", "", str(action.help)).strip()
            assert said not in ("", "None"), (kind.__name__, action.option_strings or action.dest)


def test_bash_completes_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef interp-kit")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for words, wanted in (("interp-kit pro", {"probe"}), ("interp-kit patch boolean-gpt2 --dir", {"--direction"})):
        typed = f'COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; _tyro_interp_kit; echo "${{COMPREPLY[@]}}"'
        told = subprocess.run(["bash", "-c", f"{script}\n{typed}"], capture_output=True, text=True, timeout=60)
        assert set(told.stdout.split()) == wanted, told.stderr


def test_a_command_prints_its_verdict_and_the_few_rows_that_carry_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["patch", MODEL, "--no-progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Copying resid_pre at ")
    assert "8 of 46 rows; --json FILE writes all." in lines
    assert len(lines) < 20
    assert not any("NaN" in line or "nan" in line for line in lines)


def test_sae_writes_its_own_format(tmp_path: Path) -> None:
    arguments = ["--site", "blocks.1.hook_mlp_out", "--width", "8", "--k", "2", "--training-samples", "2048"]
    assert main(["sae", MODEL, *arguments, "--no-progress", "--out", str(tmp_path / "sae")]) == 0
    assert (tmp_path / "sae" / "cfg.json").exists()


@pytest.mark.slow
def test_generate_and_train(tmp_path: Path) -> None:
    assert main(["generate", "--out", str(tmp_path / "data")]) == 0
    arguments = [
        "--data",
        str(tmp_path / "data" / "train.jsonl"),
        "--epochs",
        "0.002",
        "--device",
        "cpu",
        "--no-progress",
    ]
    assert main(["train", "--out", str(tmp_path / "model"), *arguments]) == 0
    assert main(["load", str(tmp_path / "model")]) == 0


def test_every_option_of_a_culture_run_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[CultureConfig, Path]] = []
    monkeypatch.setattr(rotation, "train", lambda config, out: asked.append((config, out)))
    others = CultureConfig(
        ids=(4, 5), preset="fast", budget=1, seconds=1.5, turn=2, tested=3, noise=0.1, focus=0.2, hint=0.3,
        late_hint=0.4, finish=0.4, making=0.5, share=0.6, smudge=0.7, rest=0.8, threshold=0.9, quizzes=6,
        makers=(7, 8), max_fail=2, seed=9, device="cpu:0", precision="bfloat16", threads=10, workers=11,
        compiled=False, shards=12,
    )  # fmt: skip
    assert all(getattr(others, f.name) != getattr(CultureConfig(), f.name) for f in fields(CultureConfig))
    flags = []
    for name, value in asdict(others).items():
        option = name.replace("_", "-")
        if value is False:
            flags.append(f"--no-{option}")
        else:
            flags += [f"--{option}", *map(str, value if isinstance(value, tuple) else [value])]
    assert main(["train-culture", "--out", str(tmp_path), *flags]) == 0
    assert main(["train-culture", "--out", str(tmp_path)]) == 0
    assert asked == [(others, tmp_path), (CultureConfig(), tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["repot"], "there is no command 'repot'; did you mean 'report'? expected one of generate, "),
        (["load", "no-such-model"], "unknown checkpoint 'no-such-model'"),
        (["test", "boolean-direct", "--task", "nonsense"], "--task is 'nonsense'"),
        (["patch", "boolean-direct", "--variable", "newX"], "no variable 'newX'"),
        (["patch", "boolean-direct", "--hold", "newD"], "256 ordered pairs"),
        (["probe", "boolean-direct", "--labels", "newX"], "--labels holds 'newX'"),
        (["edges", "boolean-direct", "--top", "-1"], "--top is -1"),
        (["interchange", "boolean-direct", "--plot", "figure.jpeg"], "a picture is written to a .png file"),
        (["patch", "boolean-direct", "--senders", "--by", "all"], "--senders stands in place of --sites and --by"),
        (["patch", "boolean-direct", "--by", "all", "--positions", "D"], 'by="all" edits every position together'),
        (
            ["interchange", "boolean-direct", "--by", "all", "--positions", "D"],
            'by="all" edits every position together',
        ),
        (["patch", "boolean-direct", "--json", "one", "--save", "./one"], "would be written to one path"),
        (["patch", "boolean-direct", "--json", "one/r.json", "--save", "one"], "which is replaced as a whole"),
        (["sae", "boolean-direct", "--out", "one", "--save", "one"], "would be written to one path"),
        (["patch", "boolean-direct", "--save", "."], "it is the current folder"),
        (["ablate", "boolean-direct", "boolean-latent", "--k", "500"], "--k is 500; boolean-direct has 10 components"),
        (["generate", "--omit", "1,1,1"], "has 3 values, expected 5"),
        (["generate", "--omit", "1,1,1,1,2"], "neither 0 nor 1"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("interp-kit: ")


@pytest.mark.parametrize(
    ("command", "work"),
    [
        (["mechanism", MODEL, "--save", "{}/result"], "causal.mechanism.mechanism"),
        (["probe", MODEL, "--save", "{}"], "probing.probe.probe"),
        (["patch", MODEL, "--json", "{}/r.json"], "causal.patching.patch"),
        (["interchange", MODEL, "--plot", "{}/p.png"], "causal.interchange.interchange"),
        (["sae", MODEL, "--out", "{}"], "dictionaries.sae.train_sae"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_a_result_that_cannot_be_written_is_an_error_before_any_work(
    command: list[str],
    work: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setattr(f"interp_kit.analysis.{work}", lambda *_, **__: pytest.fail("the work has begun"))
    assert main([part.format(blocked) for part in command]) == 1
    assert f"cannot write {blocked}" in capsys.readouterr().err
    assert blocked.read_text() == "in the way"


def test_inputs_left_out_of_training_are_counted_apart(tmp_path: Path) -> None:
    assert main(["test", "boolean-gpt2-omit8-set0", "--json", str(tmp_path / "t.json")]) == 0
    exact = {row["split"]: row["n"] for row in rows(tmp_path / "t.json") if row["field"] == "exact match"}
    assert exact == {"seen": 24, "held-out": 8}


def test_a_study_prints_its_first_findings_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "circuits.html"
    found = ["- One.", f"- Two {'words ' * 100}.", "- Three.", "- Four."]
    page.with_suffix(".md").write_text("\n".join(["# Title", "", *found, "", "## Section"]))
    monkeypatch.setattr("interp_kit.studies.circuits.study.main", lambda out, **_: out)
    assert main(["circuits", "--out", str(page)]) == 0
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert (first, third, last) == ("- One.", "- Three.", str(page))
    assert second.startswith("- Two words")
    assert second.endswith("words …")
    assert len(second) <= 400
