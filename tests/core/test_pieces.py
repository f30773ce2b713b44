"""Work in pieces: the same files for any number of shards, and nothing is read that is of other work, or damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp_kit.core.pieces import Pieces

WORK = tuple(range(11))


def piece(number: int) -> dict[str, Any]:
    values = np.random.default_rng(number).normal(size=(number, 2))
    return {"values": values.T, "whole": [number, float("nan")], "name": f"piece {number}", "mean": np.float64(number)}


def pieces(folder: Path, what: str = "numbers") -> Pieces:
    return Pieces(folder, what, tuple(map(str, WORK)))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_shards_make_the_same_files(tmp_path: Path, count: int) -> None:
    here, there = pieces(tmp_path / "a"), pieces(tmp_path / "b")
    assert here.make(piece, WORK) == []
    for index in reversed(range(count)):
        missing = there.make(piece, WORK, shard=(index, count), jobs=1 + (count == 2))
        assert len(missing) == len([n for n in WORK if n % count < index])
        if missing:
            with pytest.raises(ValueError, match=f"{len(missing)} of 11 pieces are missing"):
                there.read()
    assert content(tmp_path / "a") == content(tmp_path / "b")
    for number, found in enumerate(there.read()):
        np.testing.assert_array_equal(found["values"], piece(number)["values"])
        assert found["whole"][0] == found["mean"] == number
        assert np.isnan(found["whole"][1])


def fails(number: int) -> int:
    raise AssertionError("nothing is made twice")


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    made = pieces(tmp_path)
    made.make(piece, WORK, shard=(0, 2))
    made.make(fails, WORK, shard=(0, 2))
    made.path(4).unlink()
    with pytest.raises(AssertionError, match="twice"):
        made.make(fails, WORK, shard=(0, 2))


def test_other_work_and_damage_are_refused(tmp_path: Path) -> None:
    made = pieces(tmp_path / "a")
    made.make(piece, WORK)
    with pytest.raises(ValueError, match="other work, of other what"):
        pieces(tmp_path / "a", "letters").make(piece, WORK)
    with pytest.raises(ValueError, match="other work, of other pieces"):
        Pieces(tmp_path / "a", "numbers", ("0",)).read()
    with pytest.raises(ValueError, match="10 pieces of work and 11 names"):
        made.make(piece, WORK[:-1])
    with pytest.raises(ValueError, match=r"there is no pieces\.json"):
        pieces(tmp_path / "none").read()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"other files: mine\.txt"):
        pieces(tmp_path / "full").make(piece, WORK)
    right = made.path(3).read_bytes()
    for wrong in (right[:-1] + bytes([right[-1] ^ 1]), right[:40], made.path(4).read_bytes()):
        made.path(3).write_bytes(wrong)
        with pytest.raises(ValueError, match=r"piece-00003-of-00011\.safetensors is damaged or missing"):
            made.read()
    made.path(3).write_bytes(right)
    assert len(made.read()) == 11
