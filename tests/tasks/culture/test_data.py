"""Data sets of quizzes: what is in them, the same bytes from any number of workers and shards, errors before work."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from interp_kit.cli import main
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.data import BLOCK, LABELS, CultureDataConfig, by_label, generate
from interp_kit.tasks.culture.solver import solve
from interp_kit.tasks.culture.world import TASKS, sample_worlds

CONFIG = CultureDataConfig(n=2 * BLOCK + 1000, noise=0.5, file_rows=BLOCK)


@pytest.fixture(scope="module")
def made() -> np.ndarray:
    return grids.compose(np.random.default_rng(0).integers(0, 11, size=(3, 4, 100)))


@pytest.fixture(scope="module")
def folder(made: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    generate(CONFIG, out, made=made, jobs=1, progress=False)
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_are_quizzes_with_their_rule(folder: Path, made: np.ndarray) -> None:
    rows: Dataset = Dataset.from_parquet([str(path) for path in sorted(folder.glob("*.parquet"))])
    assert rows.features["label"].names == [*TASKS, "culture"]
    assert (rows.features["input_ids"].feature.dtype, rows.features["input_ids"].length) == ("int32", 405)
    tokens, label = (np.array(rows.with_format("numpy")[name]) for name in ("input_ids", "label"))
    assert tokens.shape == (CONFIG.n, 405)
    assert not tokens[:, 0].any()
    counts = np.bincount(label)
    assert len(counts) == 9
    assert counts.max() - counts.min() <= 1
    assert np.bincount(label[:BLOCK]).min() > 380  # in random order, a file has all
    quizzes = grids.check(tokens[:, 1:])
    assert np.bincount(grids.structure_of(quizzes)).min() > CONFIG.n / 5
    assert len(np.bincount(grids.structure_of(quizzes))) == len(grids.EVALUATED)
    without_noise = np.isin(grids.structure_of(quizzes), (2, 3))
    learnt = grids.reconfigure(quizzes[without_noise & (label == 8)], 0)
    assert np.unique(learnt, axis=0).tolist() == np.unique(made, axis=0).tolist()
    clean = without_noise & (label == TASKS.index("frame"))
    assert clean.sum() > 100
    some = quizzes[clean][:40]
    solution = solve(grids.reconfigure(some, 0), grids.structure_of(some))
    assert (solution.possible > 0).all()
    noisy = quizzes[grids.structure_of(quizzes) == 0]
    assert len(np.unique(noisy[:, 203:303], axis=0)) == len(noisy)


def test_any_number_of_workers_and_shards_write_the_same(folder: Path, made: np.ndarray, tmp_path: Path) -> None:
    generate(CONFIG, tmp_path / "four", made=made, jobs=4, progress=False)
    assert bytes_of(tmp_path / "four") == bytes_of(folder)
    for index in (1, 0):
        generate(CONFIG, tmp_path / "shards", made=made, shard=(index, 2), jobs=1, progress=False)
        assert ((tmp_path / "shards" / "culture-00001-of-00003.parquet").exists(), index) != (False, 1)
    assert bytes_of(tmp_path / "shards") == bytes_of(folder)


def test_it_is_read_by_label(folder: Path) -> None:
    found = by_label(folder)
    assert tuple(found) == LABELS
    assert sum(found.num_rows.values()) == CONFIG.n
    for number, name in enumerate(LABELS):
        assert set(found[name].with_format("numpy")[:50]["label"]) == {number}
    path = folder / "culture-00002-of-00003.parquet"
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=r"culture-00002-of-00003\.parquet is missing: make all shards first"):
        by_label(folder)
    path.write_bytes(kept)


def test_other_seeds_give_other_rows(folder: Path, tmp_path: Path) -> None:
    small = CultureDataConfig(n=200)
    for name, config in (("one", small), ("two", CultureDataConfig(n=200, seed=43))):
        generate(config, tmp_path / name, jobs=1, progress=False)
    one, two = (pq.read_table(tmp_path / name / "culture-00000-of-00001.parquet") for name in ("one", "two"))
    assert one != two
    assert np.bincount(one["label"].to_numpy()).tolist() == [25] * 8


def test_the_command_and_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "culture", "--n", "16", "--out", str(tmp_path), "--jobs", "1", "--no-progress"]
    assert main(command) == 0
    before = bytes_of(tmp_path)
    assert sorted(before) == ["culture-00000-of-00001.parquet", "manifest.json"]
    for options, message in (
        ([], "culture-00000-of-00001.parquet: it is there already"),
        (["--shard", "1/1"], "the shard is 1"),
        (["--shard", "one"], "--shard is 'one'; expected i/n"),
        (["--merge", "2"], "--merge cannot be given with the task culture"),
        (["--noise", "2"], "noise is 2.0"),
        (["--n", "0"], "n is 0"),
        (["--quizzes", str(tmp_path / "none.pth")], "none.pth"),
    ):
        assert main([*command, *options]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "culture-00000-of-00001.parquet").unlink()
    assert main([*command, "--seed", "5"]) == 1
    assert "manifest.json is of another data set" in capsys.readouterr().err
    assert bytes_of(tmp_path) == {"manifest.json": before["manifest.json"]}


def test_cells_that_differ_from_the_grid_before() -> None:
    quizzes = grids.reconfigure(sample_worlds(10, np.random.default_rng(0)).quizzes(), np.arange(10) % 5)
    mask = grids.quiz_diff_mask(quizzes)
    for quiz, differs in zip(quizzes, mask, strict=True):
        for at in range(404):
            expected = at > 101 and at % 101 != 0 and quiz[at] != quiz[at - 101]
            assert differs[at] == expected, at
    padded = np.pad(quizzes, ((0, 0), (1, 0)))
    np.testing.assert_array_equal(grids.quiz_diff_mask(padded), np.pad(mask, ((0, 0), (1, 0))))
    np.testing.assert_array_equal(grids.quiz_diff_mask(quizzes[0]), mask[0])
    with pytest.raises(ValueError, match=r"expected \(n, 404\)"):
        grids.quiz_diff_mask(quizzes[:, :-1])
