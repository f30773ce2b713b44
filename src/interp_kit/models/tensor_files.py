"""Files of tensors, read without running anything: safetensors, and what `torch.save` writes.

A torch file holds a pickle, which `torch_pickle` follows. Sizes are held against the file before memory is taken, and
every byte against the zip's checksums. Files from before torch 1.6 are not zips and have no
checksums: their sizes are checked, but a changed number in them cannot be noticed, which is logged.
"""

import io
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from interp_kit.core.files import check_regular
from interp_kit.models.torch_pickle import Foreign, Pickle

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".json")  # of files of weights
LIMIT = 2 * 2**20  # bytes of a pickle, and of a zip's list of members: enough for 10,000 tensors
MEMBER = re.compile(r"data\.pkl|data/\d+|\.data/serialization_id|\.?[a-z_]+")
MAGIC = 0x1950A86A20F9469CFC6C  # of the format before torch 1.6


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, hostile or contradicts itself; the message names file and reason."""


def check_finite(weights: Mapping[str, Tensor], where: object) -> None:
    """Raise CheckpointError, naming where they stand and the first of them, for weights that are nan or infinite."""
    for name, value in weights.items():
        if value.is_floating_point() and (count := int((~torch.isfinite(value.float())).sum())):
            raise CheckpointError(f"{where}: {name} has {count} nan or infinite value{'' if count == 1 else 's'}")


def read_torch(path: str | Path, what: str = "") -> Any:
    """Read what `torch.save` wrote to a file: tensors (on the CPU), numbers and texts in lists, tuples and dicts.

    Args:
        path: A zip as torch writes it, or a file of the format before torch 1.6.
        what: The content, for the message of the error.

    Raises:
        CheckpointError: Naming the file: it is missing, not a regular file, cut short, compressed, of a wrong checksum,
            says sizes that it does not have, or holds more than plain tensors.
    """
    path = Path(path)
    try:
        with check_regular(path).open("rb") as file:
            size = path.stat().st_size
            if file.read(4) == b"PK\3\4":
                return _read_zip(file, size)
            file.seek(0)
            value = _read_old(file, size)
        logger.warning("{}: written before torch 1.6, without checksums; a changed number cannot be noticed", path)
        return value
    except Exception as error:  # Damage shows in a dozen ways.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, Foreign):
            reason += "; nothing in it was executed"
        raise CheckpointError(f"{path} cannot be read{what and f' as {what}'}: {reason}") from error


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError naming it: it is missing, not a regular file, damaged
    or of another format."""
    from safetensors.torch import load_file

    path, first = Path(path), b""
    try:
        with check_regular(path).open("rb") as file:
            first = file.read(1)
        return load_file(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if first in (b"\x80", b"P"):
            reason = "it is a pickle or a zip file, not safetensors; nothing in it was executed"
        raise CheckpointError(f"{path} cannot be read: {reason}") from error


def _read_zip(file: io.BufferedReader, size: int) -> Any:
    _check_end(file, size)
    with zipfile.ZipFile(file) as archive:
        folder, members = _members(archive, size)
        if "data.pkl" not in members:
            raise ValueError("it is a zip without data.pkl")

        def small(name: str) -> bytes:
            info = members.pop(name)
            if info.file_size > LIMIT:
                raise ValueError(f"{info.filename} has {info.file_size:,} bytes, more than {LIMIT:,}")
            try:
                return archive.read(info)  # checks its CRC
            except zipfile.BadZipFile as error:
                raise ValueError(f"{info.filename} is damaged: {error}") from error

        pickle = Pickle(size)
        value = pickle.read(io.BytesIO(small("data.pkl")))
        for key, storage in pickle.storages.items():
            info = members.pop(f"data/{key}", None)
            if info is None or info.file_size != storage.data.nbytes:
                found = f"{info.file_size:,} bytes" if info else "missing"
                raise ValueError(f"{folder}/data/{key[:20]} is {found}, expected {storage.data.nbytes:,} bytes")
            with archive.open(info) as member:
                storage.fill(member, info.filename)
        if unused := [name for name in members if name.startswith("data/")]:
            raise ValueError(f"{folder}/{unused[0]} belongs to no tensor")
        for name in list(members):
            if small(name) != b"little" and name == "byteorder":
                raise ValueError("its numbers are not little-endian")
    return value


def _check_end(file: io.BufferedReader, size: int) -> None:
    """The list of members ends the file, as torch writes it, and is not too long to read."""
    end, locator, record = 22, 20, 56
    file.seek(max(0, size - end - locator - record))
    tail = file.read(end + locator + record)
    if len(tail) < end or tail[-end:][:4] != b"PK\5\6":
        raise ValueError("it is cut short, or more stands after its end")
    lengths = [*struct.unpack("<L", tail[-end:][12:16])]
    if len(tail) == end + locator + record and tail[record:][:4] == b"PK\6\7":
        lengths += struct.unpack("<Q", tail[40:48])
    if max(lengths) > LIMIT:
        raise ValueError(f"its list of members is said to have {max(lengths):,} bytes")


def _members(archive: zipfile.ZipFile, size: int) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The one folder of a torch zip, and what lies in it by name."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    folder = infos[0].filename.partition("/")[0] if infos else ""
    for info in infos:
        shown = info.filename[:100]
        first, _, name = info.filename.partition("/")
        if first != folder or not MEMBER.fullmatch(name):
            raise ValueError(f"its member {shown!r} is not part of a file of tensors")
        if name in members:
            raise ValueError(f"its member {shown!r} is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ValueError(f"its member {shown!r} is compressed or encrypted; torch stores numbers as they are")
        members[name] = info
    if sum(info.file_size for info in infos) > size:
        raise ValueError("its members are said to be larger than the file")
    return folder, members


def _read_old(file: io.BufferedReader, size: int) -> Any:
    """Five pickles (a number, a version, the machine, the value, the keys), then the numbers of each storage."""
    head, pickle = io.BytesIO(file.read(LIMIT)), Pickle(size)
    try:
        magic = pickle.read(head)
    except Foreign:
        raise
    except Exception as error:
        raise ValueError("it is not a file of torch's, or cut short") from error
    if magic != MAGIC or type(magic) is not int:
        raise Foreign("it is a pickle, or another file, but not as torch writes it")
    _version, machine, value, keys = (pickle.read(head) for _ in range(4))
    if not isinstance(machine, Mapping) or machine.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    if not isinstance(keys, list) or len(keys) != len(pickle.storages) or set(keys) != set(pickle.storages):
        raise ValueError("its storages are not those of its tensors")
    file.seek(head.tell())
    for key in keys:
        storage = pickle.storages[key]
        if file.read(8) != struct.pack("<q", len(storage.data)):
            raise ValueError(f"storage {key[:20]} is cut short, or not of {len(storage.data)} values")
        storage.fill(file, f"storage {key[:20]}")
    if file.read(1):
        raise ValueError("more stands after its end")
    return value
