"""Torch files are read as torch reads them, or refused by name before memory is taken; nothing in them runs."""

import io
import os
import pickle
import re
import resource
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from interp_kit.models.tensor_files import CheckpointError, read_safetensors, read_torch

FIXTURES = Path(__file__).parents[1] / "fixtures" / "culture"
SHARED = torch.arange(10.0)
CONTENT: dict[str, Any] = {
    "linear": torch.nn.Linear(3, 2).state_dict(),
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "transposed": torch.randn(2, 3).T,
    "slice": SHARED[2:5],
    "whole": SHARED,
    "same": SHARED,
    "nothing": torch.zeros(0, 3),
    "scalar": torch.tensor(3),
    "bool": torch.tensor([True, False]),
    **{str(t): torch.ones(2).to(t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8)},
    "size": torch.Size([1, 2]),
    "values": [1, 2.5, (True, None), 2**40, "text", -7],
}


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
        assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert_same(mine, theirs)
    else:
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_reads(tmp_path: Path, zipped: bool) -> None:
    torch.save(CONTENT, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_torch(tmp_path / "a.pth")
    assert_same(found, torch.load(tmp_path / "a.pth", weights_only=True))
    assert found["slice"].untyped_storage().data_ptr() == found["whole"].untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["gpt_000.pth", "tokens.pt", "logits_000.pt"])
def test_files_of_the_original(name: str) -> None:
    assert_same(read_torch(FIXTURES / name), torch.load(FIXTURES / name, weights_only=True))


# Damage -------------------------------------------------------------------------------------------------------------

Members = dict[str, bytes]


def rewritten(change: Callable[[Members], object] = lambda members: None, **options: Any) -> Callable[[Path], object]:
    """Write the zip anew: its members changed (name within the folder -> content), or stored in another way."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
        change(members)
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, content in members.items():
                archive.writestr(f"archive/{name}", content)

    return damage


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(archive.infolist()[0].filename, b"\x80\x02N.")


def flipped(path: Path) -> None:
    """One bit of a weight."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(info for info in archive.infolist() if info.filename.endswith("data/0")))
    whole = path.read_bytes()
    at = whole.index(data) + 5
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])


def in_pickle(before: bytes, after: bytes) -> Callable[[Path], object]:
    def change(members: Members) -> None:
        assert before in members["data.pkl"]
        members["data.pkl"] = members["data.pkl"].replace(before, after)

    return rewritten(change)


def pickled(body: bytes) -> Callable[[Path], object]:
    return rewritten(lambda members: members.update({"data.pkl": b"\x80\x02" + body}))


def deflated_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(2**20))


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def saved(content: Any, **options: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path, **options)


def old(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save({"w": torch.arange(6.0)}, buffer, _use_new_zipfile_serialization=False)
        path.write_bytes(change(buffer.getvalue()))

    return damage


def grown(raw: bytes) -> bytes:
    """The storage of 6 values is said to have 2**31 - 1."""
    at = raw.rindex(b"K\x06N")
    return raw[:at] + b"J\xff\xff\xff\x7fN" + raw[at + 3 :]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flipped, "a.pth cannot be read: .*CRC"),
    "compressed": (rewritten(compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted"),
    "a bomb": (deflated_bomb, "is compressed or encrypted"),
    "a member twice": (twice, "is there twice"),
    "a member nested": (rewritten(lambda m: m.update({"archive/data.pkl": b"."})), "is not part of a file of tensors"),
    "a member of code": (rewritten(lambda m: m.update({"code/a.py": b"1"})), "is not part of a file of tensors"),
    "a member outside": (rewritten(lambda m: m.update({"../../x": b"1"})), "is not part of a file of tensors"),
    "a storage of no tensor": (rewritten(lambda m: m.update({"data/7": b"1234"})), "data/7 belongs to no tensor"),
    "a storage missing": (rewritten(lambda m: m.pop("data/0")), "data/0 is missing, expected 24 bytes"),
    "a storage too short": (rewritten(lambda m: m.update({"data/0": bytes(23)})), "is 23 bytes, expected 24 bytes"),
    "a storage too long": (rewritten(lambda m: m.update({"data/0": bytes(28)})), "is 28 bytes, expected 24 bytes"),
    "no pickle": (rewritten(lambda m: m.pop("data.pkl")), "a zip without data.pkl"),
    "big-endian": (rewritten(lambda m: m.update({"byteorder": b"big"})), "not little-endian"),
    "more values than the file": (in_pickle(b"K\x06tq", b"J\xff\xff\xff\x7ftq"), "more values than the file has bytes"),
    "a shape beyond the storage": (in_pickle(b"K\x02K\x03\x86", b"K\x02K\x04\x86"), r"w has shape \(2, 4\), more than"),
    "an absurd shape": (
        in_pickle(b"K\x02K\x03\x86", b"\x8a\x0f" + b"\x7f" * 15 + b"K\x03\x86"),
        "more than the file stores",
    ),
    "a negative size": (in_pickle(b"K\x02K\x03\x86", b"J\xff\xff\xff\xffK\x03\x86"), "not a dense tensor of known"),
    "a size that is true": (in_pickle(b"K\x02K\x03\x86", b"\x88K\x03\x86"), "not a dense tensor of known size"),
    "a long pickle": (pickled(b"]" * 3 * 2**20 + b"."), "data.pkl has 3,145,731 bytes, more than"),
    "a memo of four billion": (pickled(b"Nr\xff\xff\xff\xff]."), "its pickle is damaged"),
    "ten gigabytes": (pickled(b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."), "it holds builtins.bytearray"),
    "a billion tuples": (pickled(b"N" + b"q\x00h\x00\x86" * 5000 + b"N."), "its pickle is damaged"),
    "expanded": (saved({"w": torch.ones(1).expand(7)}), r"w has shape \(7,\), more than the file stores"),
    "sparse": (saved({"w": torch.eye(3).to_sparse()}), "w holds torch._utils._rebuild_sparse_tensor, no dense tensor"),
    "meta": (saved({"w": torch.empty(3, device="meta")}), "w holds torch._utils._rebuild_meta_tensor_no_storage"),
    "complex": (saved({"w": torch.ones(3, dtype=torch.complex64)}), "w holds torch.ComplexFloatStorage"),
    "protocol 4": (saved({"w": torch.ones(3)}, pickle_protocol=4), "not as torch writes it: .*nothing in it was exec"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut short"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "stands after its end"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
    "a pipe": (piped, "is not a regular file"),
    "without end": (endless, "is not a regular file"),
    "missing": (lambda path: path.unlink(), "cannot be read: .*No such file"),
    "old, cut": (old(lambda raw: raw[:-1]), "storage .* is cut short"),
    "old, longer": (old(lambda raw: raw + b"\0"), "stands after its end"),
    "old, more values": (old(grown), "more values than the file has bytes"),
    "old, of another length": (old(lambda raw: raw[:-32] + b"\7" + raw[-31:]), "is cut short, or not of 6 values"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps({"w": 1})), "nothing in it was executed"),
    "a tar": (lambda path: path.write_bytes(b"ustar" * 300), "not a file of torch's"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(6.0).reshape(2, 3)}, path)
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_torch(path)
    assert str(caught.value).startswith(f"{path} cannot be read: ")
    assert "\n" not in str(caught.value)


def test_storages_larger_than_their_tensors(tmp_path: Path) -> None:
    """And many tensors that show the same numbers: what is read next of each would take a multiple of the file."""
    path, n = tmp_path / "a.pth", 25 * 2**20
    torch.save({"w": torch.zeros(n)[:3]}, path)
    before = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"data/0 has 104,857,600 bytes, its tensors 12$"):
        read_torch(path)
    many = torch.zeros(2**20)
    torch.save([many[:] for _ in range(100)], path)
    with pytest.raises(CheckpointError, match=r"data/0 has 4,194,304 bytes, its tensors 419,430,400$"):
        read_torch(path)
    assert time.perf_counter() - before < 10


def test_every_flipped_bit_of_a_number_is_found(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.pth", torch.Generator().manual_seed(0)
    numbers = torch.randn(200, generator=rng)
    torch.save({"w": numbers}, path)
    whole = path.read_bytes()
    start = whole.index(numbers.numpy().tobytes())
    for at in torch.randint(start, start + 800, (30,), generator=rng).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="CRC"):
            read_torch(path)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """Of 256 MB in a file of less than 2."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        with archive.open("archive/data/0", "w", force_zip64=True) as member:
            for _ in range(256):
                member.write(bytes(2**20))
    assert path.stat().st_size < 2e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


def test_no_other_place_reads_torch_files() -> None:
    source = Path(__file__).parents[2] / "src"
    assert not [path.name for path in source.rglob("*.py") if re.search(r"torch\.load\((?!weights)", path.read_text())]


SAFE: dict[str, tuple[Callable[[Path], object], str]] = {
    "without end": (endless, "is not a regular file"),
    "a pipe": (piped, "is not a regular file"),
    "missing": (lambda path: path.unlink(), "No such file"),
    "header too long": (lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:]), "[Hh]eader"),
    "header of more data": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"data_offsets":[0,24]', b'"data_offsets":[0,99]')),
        "cannot be read",
    ),
    "header of another shape": (
        lambda path: path.write_bytes(path.read_bytes().replace(b'"shape":[2,3]', b'"shape":[9,9]')),
        "cannot be read",
    ),
    "a zip": (lambda path: torch.save({}, path), "pickle or a zip file, not safetensors; nothing in it was executed"),
}


@pytest.mark.parametrize("name", SAFE)
def test_damaged_safetensors_are_named(tmp_path: Path, name: str) -> None:
    damage, message = SAFE[name]
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.arange(6.0).reshape(2, 3)}, path)
    sound = path.read_bytes()
    assert torch.equal(read_safetensors(path)["w"], torch.arange(6.0).reshape(2, 3))
    damage(path)
    assert not path.is_file() or path.read_bytes() != sound
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path} cannot be read: ")
