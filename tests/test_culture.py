"""The facade of the culture models and its command: what is loaded, printed and written, and what is refused how."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import interp_kit.culture as culture
from interp_kit.core.stats.intervals import wilson
from interp_kit.models.checkpoints import Entry, write_manifest
from interp_kit.models.gpt2 import CheckpointError
from interp_kit.models.mygpt import MyGPT, MyGPTConfig, save_mygpt
from interp_kit.studies.culture import checks as culture_checks
from interp_kit.studies.culture import models as culture_models
from interp_kit.studies.culture.training.quiz_making import save_quizzes
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS, sample_worlds

IDS = (0, 2, 11)
SIZES = {"d_vocab": 15, "d_model": 16, "d_key": 6, "d_value": 4, "d_mlp": 24, "n_heads": 2, "n_layers": 2}
CHECKS = ("positional encoding", "logit difference", "with a cache")
Run = Callable[..., tuple[int, str, list[str]]]


def save(folder: Path, id: int, **sizes: int) -> Path:
    return save_mygpt(MyGPT(MyGPTConfig(**{**SIZES, **sizes}), seed=id), 0.25 + id / 100, folder / f"gpt_{id:03d}.pth")


def quizzes(n: int, seed: int = 0) -> np.ndarray:
    return sample_worlds(n, np.random.default_rng(seed)).quizzes().astype(np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random models, and quizzes: six of seven to test with are not trained on, one of them stands twice."""
    made = tmp_path_factory.mktemp("checkpoints") / "culture"
    for id in IDS:
        save(made, id)
    test = quizzes(7, seed=1)
    save_quizzes(made / "c_quizzes.pth", [quizzes(5), test[:1]], [test, test[3:4]])
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """run(*arguments): exit status, standard output, lines of standard error."""

    def execute(*arguments: object) -> tuple[int, str, list[str]]:
        status = culture.main([*map(str, arguments), "--no_progress"])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return execute


# The facade -----------------------------------------------------------------------------------------------------------


def test_the_facade_and_its_help_know_no_torch() -> None:
    code = (
        "import sys\nfrom interp_kit.culture import main, repr_grid\n"
        "assert 'A' in repr_grid([11] + [0] * 100)\n"
        "try: main(['--help'])\nexcept SystemExit as stop: assert stop.code in (0, None)\n"
        "print('heavy:', [m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("heavy: []")
    assert "--num_test_samples" in out


@pytest.mark.parametrize("name", culture.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    assert getattr(culture, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        culture.nonsense  # noqa: B018


def test_models_are_loaded_by_number(folder: Path) -> None:
    assert culture.culture_ids(folder) == list(IDS)
    one, several = culture.load_culture(2, folder), culture.load_culture([0, 11], folder)
    assert isinstance(one, MyGPT)
    for id, model in zip((2, 0, 11), [one, *several], strict=True):
        expected = MyGPT(MyGPTConfig(**SIZES), seed=id).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
        assert model.accuracy == pytest.approx(0.25 + id / 100)
        assert model.provenance.name == f"culture/gpt_{id:03d}"
        assert model.provenance.task == "culture"
    assert len({model.provenance.initialisation for model in [one, *several]}) == 3


@pytest.mark.parametrize("sae", [False, True])
def test_hooked_models_compute_what_their_source_does(folder: Path, sae: bool) -> None:
    source, model = culture.load_culture(11, folder), culture.load_hooked(11, sae, folder)
    assert ("SAE" in type(model).__name__) == sae
    assert model.provenance == source.provenance
    tokens = torch.as_tensor(quizzes(3))
    torch.testing.assert_close(model(F.pad(tokens, (1, -1))), source(tokens), atol=1e-4, rtol=0)
    assert [m.provenance.name for m in culture.load_hooked((0, 2), checkpoint_dir=folder)] == [
        "culture/gpt_000",
        "culture/gpt_002",
    ]


def test_checkpoints_are_found_where_the_library_keeps_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERP_KIT_CHECKPOINTS", str(folder.parent))
    assert culture.culture_ids() == list(IDS)
    assert culture.load_culture(0).provenance.path == str(folder / "gpt_000.pth")
    assert len(culture.load_quizzes().train) == 6


def test_a_file_that_is_not_the_shipped_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "culture", 0)
    entry = Entry("culture/gpt_000.pth", "0" * 64, "culture", "", 0, "first", "")
    write_manifest({"culture/gpt_000": entry}, tmp_path)
    monkeypatch.setenv("INTERP_KIT_CHECKPOINTS", str(tmp_path))
    with pytest.raises(CheckpointError, match="the manifest says 000000000000"):
        culture.load_culture(0)
    digest = culture.load_culture(0, path.parent).provenance.sha256
    write_manifest({"culture/gpt_000": replace(entry, sha256=digest)}, tmp_path)
    assert culture.load_culture(0).provenance.initialisation == "first"


def test_quizzes_kept_for_tests_are_told_from_those_trained_on(folder: Path) -> None:
    found = culture.load_quizzes(folder)
    assert (len(found.train), len(found.test), len(found.unseen)) == (6, 8, 6)
    train, test = found
    np.testing.assert_array_equal(train[:5], quizzes(5))
    assert not {row.tobytes() for row in found.unseen} & {row.tobytes() for row in train}
    np.testing.assert_array_equal(test[:7], quizzes(7, seed=1))


def test_a_hub_gives_only_the_files_that_are_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    fetched = []

    def download(repository: str, name: str) -> str:
        fetched.append((repository, name))
        if not (folder / name).exists():
            raise OSError(f"404 Client Error\nno {name}")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository: [p.name for p in folder.iterdir()])
    assert culture.load_culture(2, "someone/culture").provenance.name == "someone/culture/gpt_002"
    assert culture.culture_ids("someone/culture") == list(IDS)
    assert len(culture.load_quizzes("someone/culture").test) == 8
    assert fetched == [("someone/culture", "gpt_002.pth"), ("someone/culture", "c_quizzes.pth")]
    with pytest.raises(
        CheckpointError, match=r"someone/culture, and the hub does not give it gpt_005\.pth: 404"
    ) as error:
        culture.load_culture(5, "someone/culture")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("/no/such/place", "not a folder of checkpoints: it is missing"),
        (Path("some/where"), "not a folder of checkpoints: it is missing"),  # a path is never asked of a hub
        ("someone/culture", "the hub does not give it"),
        (__file__, "is not a folder of checkpoints"),
    ],
)
def test_no_such_folder_or_repository(where: str | Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        culture.load_culture(0, where)


def test_generate_writes_what_the_structure_asks_for(folder: Path) -> None:
    model = culture.load_hooked(2, checkpoint_dir=folder)
    clean = grids.reconfigure(quizzes(5), np.arange(5))
    right, written = culture.generate(model, clean)
    free = torch.as_tensor(grids.predicted_cells(np.arange(5)))
    assert (written[~free] == torch.as_tensor(clean)[~free]).all()
    assert (free.sum(1) == torch.tensor([100, 100, 100, 100, 300])).all()
    source = culture.load_culture(2, folder)
    torch.testing.assert_close(source(written).argmax(-1)[free], written[free], atol=0, rtol=0)  # greedy, cell by cell
    assert not right.any()
    again = culture.generate(source, written.numpy())
    assert again.right.all()
    assert torch.equal(again.quizzes, written)
    with_bos = culture.generate(model, F.pad(written, (1, 0)))
    assert torch.equal(with_bos.quizzes, written)
    assert culture.generate(model, clean[0]).quizzes.shape == (1, 404)
    hot = [culture.generate(model, clean[:1], temperature=2.0, seed=seed).quizzes for seed in (0, 0, 1)]
    assert torch.equal(hot[0], hot[1])
    assert not torch.equal(hot[0], hot[2])
    with pytest.raises(ValueError, match="markers"):
        culture.generate(model, np.zeros((1, 404), int))


def test_the_words_of_the_original(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    pushed: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        PreTrainedTokenizerFast, "push_to_hub", lambda self, repo: pushed.append((sorted(self.get_vocab()), repo))
    )
    tokenizer = culture.create_tokenizer("hexadecimal", push_to_hub="someone/quizzes")
    assert pushed == [(sorted([*"0123456789aXY", "f_X", "f_Y", "[UNK]", "[PAD]"]), "someone/quizzes")]
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert one("0 X 0 a f_X 9 Y f_Y A 10").input_ids == [0, 11, 0, 10, 12, 9, 13, 14, 15, 15]
        assert (one.unk_token_id, one.pad_token_id, one.model_max_length) == (15, 16, 405)
        assert one.decode([0, 11, 0, 10], skip_special_tokens=True) == "0 X 0 a"
    assert culture.create_tokenizer().get_vocab()["f_B"] == 14
    assert len(pushed) == 1
    with pytest.raises(ValueError, match="words is 'octal'; expected one of decimal, hexadecimal"):
        culture.create_tokenizer("octal")


def test_the_tokenizer_spells_quizzes_and_pads_with_no_colour() -> None:
    tokenizer = culture.create_tokenizer()
    row = quizzes(1)[0].tolist()
    assert tokenizer.encode(tokenizer.decode(row), add_special_tokens=False) == row
    assert tokenizer.pad_token_id >= 15


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_everything(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "interp_kit.culture", "0", "2", "--num_test_samples", "12"]
    options = ["--checkpoint_dir", str(folder), "--json", str(out), "--seed", "3"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    text = done.stdout
    assert "\033" not in text  # no terminal, no colours
    written = json.loads(out.read_text())
    names = ["culture/gpt_000", "culture/gpt_002"]
    assert [m["name"] for m in written["models"]] == names
    assert [m["stored_accuracy"] for m in written["models"]] == [0.25, 0.27]
    parameters = sum(p.numel() for p in MyGPT(MyGPTConfig(**SIZES)).parameters())
    assert {m["parameters"] for m in written["models"]} == {parameters}
    assert f"{parameters:,} parameters, stored accuracy 0.2500" in text
    assert len(written["checks"]) == 6
    assert all(check["passed"] for check in written["checks"])
    assert written["passed"] is True
    for words in CHECKS:
        assert text.count(words) == 2
    for words in ("perplexity", *(grids.STRUCTURES[s].name for s in grids.EVALUATED), *TASKS, "no noise", "noise 0.05"):
        assert words in text
    assert "12 quizzes, 6 of them from the 6 that models made and did not train on" in text
    tests = written["tests"]
    assert len(tests["rows"]) == 2 * 2 * 5 * 10
    whole = [row for row in tests["rows"] if (row["structure"], row["task"]) == ("all", "all")]
    reference = wilson(0, 12)
    assert [(r["value"], r["low"], r["high"], r["n"]) for r in whole] == [(0, 0, reference.high, 12)] * 4
    assert [(r["model"], r["noise"]) for r in written["overall"]] == [(n, p) for n in names for p in (0, 0.05)]
    assert any(row["n"] == 0 and row["value"] is None for row in tests["rows"])
    assert len(written["quiz"]["written"]) == 404


def test_all_models_there_are_are_tested_and_few_quizzes_suffice(folder: Path, run: Run) -> None:
    for n in (1, 3):
        status, out, err = run("--checkpoint_dir", folder, "--num_test_samples", n, "--greedy", "--noise", 0)
        assert (status, err) == (0, [])
        assert all(f"culture/gpt_{id:03d}: perplexity" in out for id in IDS)
        assert "answers greedy" in out
        assert "nan" not in out


def test_without_quizzes_of_models_the_world_is_enough(tmp_path: Path, run: Run) -> None:
    save(tmp_path, 1)
    status, out, err = run(1, 1, "--checkpoint_dir", tmp_path, "--num_test_samples", 2, "--decoded")
    assert (status, err) == (0, [])
    assert "2 world quizzes, there is no c_quizzes.pth" in out
    assert out.count("perplexity") == 1


def test_a_check_that_fails_is_named_and_is_the_exit_status(
    folder: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(culture_checks, "POSITION_TOLERANCE", 1e-9)
    arguments = (0, 2, "--checkpoint_dir", folder, "--num_test_samples", 1, "--json", tmp_path / "o.json")
    status, out, err = run(*arguments)
    assert status == 1
    assert out.count("FAILED") == 2
    assert len(err) == 2
    assert all("check failed: culture/gpt_00" in line and "positional encoding" in line for line in err)
    assert json.loads((tmp_path / "o.json").read_text())["passed"] is False


def test_a_model_that_cannot_be_converted_is_named_and_the_others_are_tested(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = culture_models.convert_mygpt

    def refuse(source: MyGPT, **options: Any) -> Any:
        if source.accuracy == 0.25:
            raise CheckpointError("the conversion is not exact")
        return convert(source, **options)

    monkeypatch.setattr(culture_models, "convert_mygpt", refuse)
    status, out, err = run(0, 2, "--checkpoint_dir", folder, "--num_test_samples", 1)
    assert status == 1
    reason = "conversion: FAILED, it cannot be converted: the conversion is not exact"
    assert err == [f"culture: check failed: culture/gpt_000, {reason}"]
    assert "culture/gpt_002 on" in out
    assert "culture/gpt_000: perplexity" in out
    status, out, err = run(0, "--checkpoint_dir", folder, "--num_test_samples", 1)
    assert (status, len(err)) == (1, 1)


def test_each_check_finds_what_it_looks_for(folder: Path) -> None:
    source, model = culture.load_culture(0, folder), culture.load_hooked(0, checkpoint_dir=folder)
    asked = quizzes(4)
    checks = [
        culture_checks.check_positions("m", model),
        culture_checks.check_logits("m", source, model, asked),
        culture_checks.check_decoding("m", source, model, asked),
    ]
    assert all(check.passed for check in checks)
    model.pos_embed.W_pos[300] += 0.01
    assert not culture_checks.check_positions("m", model).passed
    assert not culture_checks.check_logits("m", source, model, asked).passed
    model.unembed.b_U[:] = torch.linspace(3, -3, 15)
    assert not culture_checks.check_decoding("m", source, model, asked).passed
    model.unembed.b_U[0] = torch.nan
    assert not culture_checks.check_logits("m", source, model, asked).passed


class Bomb:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def truncated(folder: Path) -> None:
    path = save(folder, 0)
    path.write_bytes(path.read_bytes()[:2000])


def hostile(folder: Path) -> None:
    (folder / "gpt_000.pth").write_bytes(pickle.dumps(Bomb(folder / "harm")))


def other_vocabulary(folder: Path) -> None:
    save(folder, 0, d_vocab=16)


def with_quizzes(change: Callable[[torch.Tensor], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save(folder, 0)
        test = torch.as_tensor(quizzes(3))
        change(test)
        torch.save(([], [test]), folder / "c_quizzes.pth")

    return write


def misplaced(test: torch.Tensor) -> None:
    test[1, 101] = 3


def marker_in_a_grid(test: torch.Tensor) -> None:
    test[2, 50] = 13


def outside(test: torch.Tensor) -> None:
    test[1, 7] = 15


def negative(test: torch.Tensor) -> None:
    test[1, 7] = -1


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (truncated, "gpt_000.pth", "cannot be read"),
        (hostile, "gpt_000.pth", "nothing in it was executed"),
        (other_vocabulary, "gpt_000.pth", "vocabulary has 16 tokens, expected 15"),
        (lambda folder: save(folder, 1), "gpt_000.pth", "is missing; the folder has gpt_001.pth"),
        (with_quizzes(misplaced), "c_quizzes.pth", "row 1 has [11, 3, 13, 14] at positions 0, 101, 202, 303"),
        (with_quizzes(marker_in_a_grid), "c_quizzes.pth", "row 2, position 50: marker 13 stands inside a grid"),
        (with_quizzes(outside), "c_quizzes.pth", "row 1, position 7: 15 is outside 0..14"),
        (with_quizzes(negative), "c_quizzes.pth", "row 1, position 7: -1 is outside 0..14"),
    ],
)
def test_damage_is_one_clear_line(
    damage: Callable[[Path], None], file: str, message: str, tmp_path: Path, run: Run
) -> None:
    damage(tmp_path)
    status, _, err = run(0, "--checkpoint_dir", tmp_path, "--num_test_samples", 2)
    assert status == 1
    assert len(err) == 1
    assert err[0].startswith("culture: ")
    assert str(tmp_path / file) in err[0]
    assert message in err[0]
    assert not (tmp_path / "harm").exists()


def test_an_empty_folder_and_a_blocked_file_are_one_clear_line(folder: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run("--checkpoint_dir", tmp_path)
    assert (status, len(err)) == (1, 1)
    assert err[0].startswith(f"culture: {tmp_path} has no gpt_NNN.pth")
    status, _, err = run(0, "--checkpoint_dir", folder, "--json", tmp_path)
    assert status == 1
    assert err == [f"culture: cannot write {tmp_path}: it is a folder"]
    status, _, err = run(0, "--checkpoint_dir", folder, "--device", "nonsense")
    assert status == 1
    assert "device 'nonsense' cannot be used" in err[0]


@pytest.mark.parametrize(
    "arguments", [["--num_test_samples", "0"], ["--noise", "2"], ["--workers", "0"], ["-1"], ["x"], ["--nonsense"]]
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        culture.main(arguments)
    assert stop.value.code == 2
