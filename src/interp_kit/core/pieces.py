"""Work in pieces on disk: made by any number of processes and machines, killed and started again, and read together.

Each piece is a file of its own, written whole or not at all, so that a shard (i, n) needs nothing but the folder: it
makes the pieces i, i + n, i + 2n, … that are not there. What is read in the end does not depend on n.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from interp_kit.core.files import check_regular, parse_json, read_json, replacing, write_json
from interp_kit.core.parallel import WHOLE, Shard, check_shard, in_processes, numbered
from interp_kit.core.result import pack, unpack
from interp_kit.core.showing import PROGRESS

Work = TypeVar("Work")
INDEX, MARKS = "pieces.json", "interp_kit"


@dataclass(frozen=True)
class Pieces:
    """A folder of pieces.

    what: the name of the work; names: of every piece, by which it is told apart. Both, and the version of the package,
    stand in the folder: results of other work, or of another version, are refused.
    """

    folder: Path
    what: str
    names: tuple[str, ...]

    def make(
        self,
        function: Callable[[Work], Any],
        work: Sequence[Work],
        *,
        shard: Shard = WHOLE,
        jobs: int | None = 1,
        progress: bool = PROGRESS,
    ) -> list[int]:
        """Make the pieces of a shard that are not there yet.

        Args:
            function: Of a module; gives numbers, texts, arrays, and tuples and dicts of them (lists become tuples).
            work: What it is applied to, one per name.
            shard: (i, n): pieces i, i + n, i + 2n, …
            jobs: Number of processes, see `core.parallel.processes`. On a cluster, all see the folder.
            progress: Whether to show a bar.

        Returns:
            The numbers of the pieces, of all shards, that are still missing.

        Raises:
            ValueError: There is no such shard, or the folder holds other work.
        """
        check_shard(shard)
        if len(work) != len(self.names):
            raise ValueError(f"{len(work)} pieces of work and {len(self.names)} names: give a name to each")
        self._begin()
        index, count = shard
        todo = [number for number in range(len(work))[index::count] if not self.path(number).exists()]
        keep = _Keep(function, self.folder, self.digest, len(work))
        in_processes(keep, [(number, work[number]) for number in todo], jobs, name=self.what, progress=progress)
        return self.missing()

    def path(self, number: int) -> Path:
        """Path of a piece."""
        return _path(self.folder, number, len(self.names))

    def missing(self) -> list[int]:
        """The pieces that are not there yet."""
        return [number for number in range(len(self.names)) if not self.path(number).exists()]

    def read(self) -> list[Any]:
        """Read the results, piece after piece. Raises ValueError if one is missing, damaged or of other work."""
        self._check(self.folder / INDEX)
        if missing := self.missing():
            raise ValueError(f"{self.folder}: {len(missing)} of {len(self.names)} pieces are missing; make them first")
        return [self._read(number) for number in range(len(self.names))]

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that the folder holds about itself."""
        return {"what": self.what, "version": version("interp-kit"), "pieces": list(self.names)}

    @property
    def digest(self) -> str:
        """sha256 of the facts, which every piece repeats."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    def _begin(self) -> None:
        """Write the index, or find the same one there: another shard may have begun."""
        if not (self.folder / INDEX).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            names = sorted(file.name for file in self.folder.iterdir() if not file.name.startswith("."))
            if names and not (self.folder / INDEX).exists():
                raise ValueError(f"{self.folder} holds other files: {', '.join(names[:5])}; name an empty folder")
            if not names:
                write_json(self.folder / INDEX, self.facts)
        self._check(self.folder / INDEX)

    def _check(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"{self.folder} holds no pieces: there is no {INDEX}")
        there, facts = read_json(path), self.facts
        other = [key for key in facts if not isinstance(there, dict) or there.get(key) != facts[key]]
        if other:
            raise ValueError(f"{self.folder} holds other work, of other {', '.join(other)}; name another folder")

    def _read(self, number: int) -> Any:
        from safetensors import SafetensorError, safe_open

        path = self.path(number)
        try:
            with safe_open(check_regular(path), framework="np") as file:
                marks = parse_json((file.metadata() or {}).get(MARKS, "null"), path)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if not isinstance(marks, dict) or (marks.get("number"), marks.get("of")) != (number, self.digest):
                raise ValueError("it is a piece of other work")
            if marks.get("sum") != _sum(marks["value"], arrays):
                raise ValueError("its checksum is another")
            return unpack(marks["value"], arrays)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged or missing ({error}): delete it, and make it again") from error


@dataclass(frozen=True)
class _Keep(Generic[Work]):
    """Writes in the worker what the function gives there: a kill then costs one piece."""

    function: Callable[[Work], Any]
    folder: Path
    digest: str
    count: int

    def __call__(self, work: tuple[int, Work]) -> None:
        from safetensors.numpy import save_file

        number, arrays = work[0], {}
        value = json.loads(json.dumps(pack(self.function(work[1]), "value", arrays), allow_nan=False))
        arrays = {name: array.copy(order="C") for name, array in arrays.items()}
        marks = {"number": number, "of": self.digest, "value": value, "sum": _sum(value, arrays)}
        with replacing(_path(self.folder, number, self.count)) as aside:
            save_file(arrays, aside, {MARKS: json.dumps(marks)})


def _path(folder: Path, number: int, count: int) -> Path:
    return folder / f"piece{numbered(number, count)}.safetensors"


def _sum(value: Any, arrays: dict[str, Any]) -> str:
    found = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return found.hexdigest()
