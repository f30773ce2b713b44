"""Harvested activations on disk: an index, and one safetensors file for some rows of the batch, each whole or not at
all. A run that was killed goes on with the first shard that is missing; nothing is mixed with another harvest."""

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_kit.core.batch import TokenBatch
from interp_kit.core.config import check_count, check_fields, check_flag
from interp_kit.core.files import check_regular, parse_json, read_json, replacing, write_json
from interp_kit.core.parallel import WHOLE, Shard, check_shard
from interp_kit.core.showing import PROGRESS, bar, counted, line, preview, some
from interp_kit.engine.harvest import DTYPES, reading, refuse_infinite
from interp_kit.engine.inputs import has_hooks
from interp_kit.engine.sites import as_hook
from interp_kit.models.hold import on_model
from interp_kit.models.hooked_model import HookedModel
from interp_kit.models.meeting import check_meeting

INDEX, MOST = "index.json", 100_000  # shards: names have five digits
MARKS = "interp_kit"  # one key: the order of several would be another one in every file
AGAIN = "delete it, and harvest_to makes it again"


@dataclass(frozen=True)
class HarvestFiles:
    """A harvest on disk, read shard by shard.

    model, tokens: fingerprints of what it was made from; sites: hook -> axes after those of the vectors; positions:
    None where all real tokens are kept; dtype: as torch names it; lengths: (shard,) vectors, or rows of the batch where
    positions are named.
    """

    directory: Path
    model: str
    tokens: str
    sites: Mapping[str, tuple[int, ...]]
    positions: tuple[str, ...] | None
    dtype: str
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        size = counted(sum(self.lengths), "vector" if self.positions is None else "row")
        parts = (f"{size} in {counted(len(self), 'shard')}", some(list(self.sites)), self.dtype, self.directory)
        return line("HarvestFiles", *parts)

    def _repr_html_(self) -> str:
        return preview(repr(self), {"site": list(self.sites), "shape": list(map(str, self.sites.values()))})

    def path(self, number: int) -> Path:
        """Path of a shard."""
        return self.directory / f"shard_{number:05d}.safetensors"

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        there = set(os.listdir(self.directory))
        return [number for number in range(len(self)) if self.path(number).name not in there]

    def facts(self) -> dict[str, Any]:
        """All but the directory, as JSON has it."""
        facts = {key: value for key, value in asdict(self).items() if key != "directory"}
        return json.loads(json.dumps(facts))

    @cached_property
    def digest(self) -> str:
        """sha256 of the facts, which every shard repeats."""
        return digest_of(self.facts())

    def shard(self, number: int, sites: Sequence[str] | None = None) -> dict[str, Tensor]:
        """site -> (vector, …) or (row, position, …) in one shard, of all sites or of some. Raises ValueError if the
        file is missing, damaged or of another harvest."""
        from safetensors import SafetensorError, safe_open

        hooks = {site: as_hook(site) for site in (self.sites if sites is None else sites)}
        for site, hook in hooks.items():
            if hook not in self.sites:
                raise ValueError(f"{self.directory} has no {site!r}; there are {', '.join(self.sites)}")
        path = self.path(number)
        try:
            with safe_open(check_regular(path), framework="pt") as file:
                marks = parse_json((file.metadata() or {}).get(MARKS, "null"), path)
                if not isinstance(marks, dict) or (marks.get("number"), marks.get("harvest")) != (number, self.digest):
                    raise ValueError("it is a shard of another harvest")
                found = {site: file.get_tensor(hook) for site, hook in hooks.items()}
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged or missing ({error}): {AGAIN}") from error
        sums = marks.get("sites")
        for site, values in found.items():
            leading = (self.lengths[number],) if self.positions is None else (self.lengths[number], len(self.positions))
            expected = (getattr(torch, self.dtype), (*leading, *self.sites[hooks[site]]))
            right = (values.dtype, tuple(values.shape)) == expected
            if not right or not isinstance(sums, dict) or sums.get(hooks[site]) != _checksum(values):
                raise ValueError(f"{path} is damaged at {site}: {AGAIN}")
        return found

    def load(self, site: str) -> Tensor:
        """(vector, …) or (batch, position, …) one site, of all shards."""
        return torch.cat([self.shard(number, [site])[site] for number in range(len(self))])


def open_harvest(directory: str | Path) -> HarvestFiles:
    """Open what `harvest_to` wrote, to read it shard by shard. Raises ValueError if there is none, or a damaged or
    an unfinished one."""
    path = Path(directory) / INDEX
    if not path.exists():
        raise ValueError(f"{directory} holds no harvest: there is no {INDEX}")
    files = _from_index(path, read_json(path))
    if missing := files.missing():
        raise ValueError(
            f"{directory} is not finished: {len(missing)} of {len(files)} shards are missing; harvest_to with the same"
            " arguments goes on"
        )
    return files


def _from_index(path: Path, data: Any) -> HarvestFiles:
    """The harvest of an index. Raises ValueError naming the file if it is damaged."""
    if not isinstance(data, dict) or data.pop("digest", None) != digest_of(data):
        raise ValueError(f"{path} is damaged, or was changed: its checksum is another")
    data = check_fields(HarvestFiles, {**data, "directory": path.parent}, path)
    sizes = [*data["lengths"], *(axis for shape in data["sites"].values() for axis in shape)]
    if len(data["lengths"]) > MOST or min(sizes, default=0) < 0:
        raise ValueError(f"{path} is damaged: {len(data['lengths']):,} shards of at most {MOST:,}, or a negative size")
    if data["dtype"] not in {str(dtype).removeprefix("torch.") for dtype in DTYPES}:
        raise ValueError(f"{path} is damaged: no dtype {data['dtype']!r}")
    sites = {hook: tuple(shape) for hook, shape in data.pop("sites").items()}
    names, lengths = data.pop("positions"), tuple(data.pop("lengths"))
    return HarvestFiles(sites=sites, positions=None if names is None else tuple(names), lengths=lengths, **data)


@on_model(causal=False)
def harvest_to(
    directory: str | Path,
    model: HookedModel,
    batch: TokenBatch,
    sites: str | Sequence[str],
    *,
    positions: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    rows: int = 1024,
    shard: Shard = WHOLE,
    progress: bool = PROGRESS,
) -> HarvestFiles:
    """`harvest` into a directory, `rows` rows of the batch a file. Files of the same harvest that are there already
    are checked and kept. shard: (i, n) writes the files i, i + n, i + 2n, … alone, for n processes or machines that
    share the directory; once all are there it is the same, byte for byte, for every n.

    Raises ValueError as `harvest` does, for hooks that are active (nothing would say what they do), and for a directory
    that holds another harvest, other files, or a damaged shard; OSError where the disk has no room, before it begins.
    """
    check_count("rows", rows)
    check_shard(shard)
    check_meeting(model, batch, TokenBatch)
    if len(batch) > rows * MOST:
        raise ValueError(f"{len(batch)} rows in shards of {rows}: at most {MOST:,} shards")
    check_flag("progress", progress)
    if isinstance(model, nn.Module) and has_hooks(model):
        raise ValueError("hooks are active on the model: a harvest on disk would not say what they do")
    reader = reading(model, batch, sites, positions, dtype)
    starts = range(0, len(batch), rows)
    config = {key: str(value) for key, value in sorted(vars(model.cfg).items()) if key != "device"}
    text = {"tokens": batch.tokens, "mask": batch.mask} | ({} if reader.at is None else {"at": reader.at})
    files = HarvestFiles(
        Path(directory),
        model=digest_of(config, model.named_parameters()),
        tokens=digest_of({}, text.items()),
        sites={hook: reader.shapes[hook] for hook in reader.hooks},
        positions=None if positions is None else tuple(positions),
        dtype=str(reader.dtype).removeprefix("torch."),
        lengths=tuple(reader.count(start, start + rows) for start in starts),
    )
    _begin(files)
    own = range(len(starts))[shard[0] :: shard[1]]
    with bar(len(own), "shards", progress) as shown:
        for number in own:
            start = starts[number]
            if files.path(number).exists():
                files.shard(number)
            else:
                _write(files, number, reader.read(start, start + rows))
            shown.update()
    return files


def _begin(files: HarvestFiles) -> None:
    """Write the index, or find the same one there, and room for what is missing."""
    path, facts = files.directory / INDEX, files.facts()
    files.directory.mkdir(parents=True, exist_ok=True)
    there = read_json(path) if path.exists() else None
    if path.exists():
        other = [key for key in facts if not isinstance(there, dict) or there.get(key) != facts[key]]
        if other:
            raise ValueError(f"{files.directory} holds another harvest, of other {', '.join(other)}")
    elif (names := _names(files.directory)) and INDEX not in names:  # which another shard may have written just now
        raise ValueError(f"{files.directory} holds other files: {', '.join(names[:5])}")
    width = sum(torch.Size(shape).numel() for shape in files.sites.values()) * getattr(torch, files.dtype).itemsize
    vectors = sum(files.lengths[number] for number in files.missing())
    needed = width * vectors * (1 if files.positions is None else len(files.positions))
    free = shutil.disk_usage(files.directory).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"cannot write {files.directory}: it takes {needed:,} bytes, {free:,} are free")
    if there != (whole := {**facts, "digest": files.digest}):
        write_json(path, whole)


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def _write(files: HarvestFiles, number: int, found: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    values = {hook: value.cpu() for hook, value in found.items()}
    for hook, value in values.items():
        refuse_infinite(hook, value, 1 if files.positions is None else 2)
    sites = {hook: _checksum(value) for hook, value in values.items()}
    marks = json.dumps({"number": number, "harvest": files.digest, "sites": sites})
    with replacing(files.path(number)) as aside:
        save_file(values, aside, {MARKS: marks})


def digest_of(facts: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]] = ()) -> str:
    """sha256 of JSON values, and of tensors with their names, dtypes and shapes."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in tensors:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _checksum(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} {zlib.crc32(_bytes(tensor)):08x}"


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
