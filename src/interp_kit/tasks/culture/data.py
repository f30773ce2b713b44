"""Data sets of quizzes as large as one likes: rows of 405 tokens and a label, in parquet files written row by row.

Every block of rows has a random stream of its own, a child of the seed, and every file is a run of blocks, so neither
the number of workers nor that of shards changes a byte. Labels are in equal shares and in random order: the rows need
no shuffling.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interp_kit.core.config import check_count, check_number, check_seed
from interp_kit.core.files import check_new, check_writable, read_json, replacing, write_json
from interp_kit.core.parallel import WHOLE, Shard, check_shard, in_processes, numbered
from interp_kit.tasks.culture import grids
from interp_kit.tasks.culture.world import TASKS, draw_worlds

if TYPE_CHECKING:
    from datasets import DatasetDict

MADE = "culture"  # the label of quizzes that models made
LABELS = (*TASKS, MADE)
BLOCK = 4096  # rows drawn at a time, and of a row group
Quizzes = NDArray[np.integer]


@dataclass(frozen=True)
class CultureDataConfig:
    """A data set of quizzes.

    n: rows, in equal shares of each label, up to one; noise: probability that a cell of a structure's noisy grid is
    drawn anew; seed: of all draws; file_rows: rows of a file, the last has what is left.

    Raises ValueError naming the field that is wrong.
    """

    n: int = 1_000_000
    noise: float = grids.NOISE
    seed: int = 42
    file_rows: int = 32 * BLOCK

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_number("noise", self.noise, least=0, most=1)
        check_seed(self.seed)
        check_count("file_rows", self.file_rows)
        if self.file_rows % BLOCK:
            raise ValueError(f"file_rows is {self.file_rows}; expected a multiple of {BLOCK}")

    @property
    def files(self) -> int:
        """Number of files."""
        return -(-self.n // self.file_rows)


def generate(
    config: CultureDataConfig,
    out: str | Path,
    *,
    made: Quizzes | None = None,
    shard: Shard = WHOLE,
    jobs: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Make a data set, or one shard of it, and write it.

    Columns are `input_ids`, a 0 (BOS) and the 404 tokens of a quiz in one of the four structures that end in the grid
    asked for, and `label`, a ClassLabel over the rules and "culture".

    Args:
        config: What is in it.
        out: The folder that gets culture-00000-of-0000n.parquet, … and manifest.json.
        made: (m, 404) quizzes that models made: a label of their own, drawn with replacement. None: that has no rows.
        shard: (i, n): files i, i + n, i + 2n, …; all shards together are the data set.
        jobs: Number of processes; it changes nothing in the files.
        progress: Whether to show a bar.

    Returns:
        The files, with the manifest.

    Raises:
        ValueError: for an impossible shard, anything but quizzes, or a folder with another data set.
        OSError: if all of the files are there already, or one cannot be written; before the work begins. A run that was
            killed goes on: files that are there are kept.
    """
    check_shard(shard)
    out = Path(out)
    if made is not None:
        made = grids.check(np.asarray(made), "the quizzes that models made").astype(np.uint8)
        made = made if len(made) else None
    numbers = range(config.files)[shard[0] :: shard[1]]
    paths = [out / f"culture{numbered(number, config.files)}.parquet" for number in numbers]
    manifest = _manifest(config, made)
    described = check_writable(out / "manifest.json")
    begun = described.exists()
    if begun and read_json(described) != manifest:
        raise ValueError(f"{described} is of another data set; name another folder, or remove that one")
    todo = [(config, number, path, made) for number, path in zip(numbers, paths, strict=True) if not path.exists()]
    check_new([path for _, _, path, _ in todo] if begun and (todo or shard != WHOLE) else paths)
    if not begun:
        write_json(described, manifest)
    in_processes(_write, todo, jobs, name="files", progress=progress)
    return [*paths, described]


def by_label(folder: str | Path) -> "DatasetDict":
    """A data set as a DatasetDict: label -> its rows, in order; labels without rows are left out. Rows stay on disk.

    Raises:
        ValueError: The folder has no such data set, or not all of its files.
    """
    from datasets import Dataset, DatasetDict

    folder = Path(folder)
    described = read_json(folder / "manifest.json")
    count = CultureDataConfig(**described["config"]).files
    paths = [folder / f"culture{numbered(number, count)}.parquet" for number in range(count)]
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"{missing[0]} is missing: make all shards first")
    rows: Any = Dataset.from_parquet([str(path) for path in paths])
    label = np.concatenate([pq.read_table(path, columns=["label"])["label"].to_numpy() for path in paths])
    found = {name: np.flatnonzero(label == number) for number, name in enumerate(LABELS)}
    return DatasetDict({name: rows.select(at) for name, at in found.items() if len(at)})


def _manifest(config: CultureDataConfig, made: Quizzes | None) -> dict[str, Any]:
    counts = np.bincount(_labels(config, made), minlength=len(LABELS)).tolist()
    known = None if made is None else hashlib.sha256(made.tobytes()).hexdigest()
    return {"config": asdict(config), "rows": dict(zip(LABELS, counts, strict=True)), "culture quizzes": known}


def _labels(config: CultureDataConfig, made: Quizzes | None) -> NDArray[np.int8]:
    """(n,) labels of all rows, in equal shares and random order."""
    labels = (np.arange(config.n) % (len(TASKS) + (made is not None))).astype(np.int8)
    np.random.default_rng([config.seed, 0]).shuffle(labels)
    return labels


def _write(work: tuple[CultureDataConfig, int, Path, Quizzes | None]) -> Path:
    """Write one file, block by block."""
    config, number, path, made = work
    schema = _schema()
    with replacing(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for tokens, label in _blocks(config, number, made):
            flat = pa.array(tokens.reshape(-1).astype(np.int32))
            columns = [pa.FixedSizeListArray.from_arrays(flat, tokens.shape[1]), pa.array(label, pa.int64())]
            writer.write_table(pa.table(columns, schema=schema))
    return path


def _blocks(
    config: CultureDataConfig, number: int, made: Quizzes | None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
    """(rows, 405) tokens and (rows,) labels of the blocks of a file."""
    start = number * config.file_rows
    labels = _labels(config, made)[start : start + config.file_rows]
    for at in range(0, len(labels), BLOCK):
        label = labels[at : at + BLOCK]
        rng = np.random.default_rng([config.seed, 1, (start + at) // BLOCK])
        yield _block(label, config.noise, made, rng), label


def _block(label: NDArray[np.int8], noise: float, made: Quizzes | None, rng: np.random.Generator) -> NDArray[np.uint8]:
    clean, world = np.empty((len(label), grids.LENGTH), np.uint8), label < len(TASKS)
    clean[world] = draw_worlds(label[world].astype(np.int64), rng).quizzes()
    if made is not None:
        clean[~world] = made[rng.integers(len(made), size=int((~world).sum()))]
    structure = np.array(grids.EVALUATED)[rng.integers(len(grids.EVALUATED), size=len(label))]
    noisy = grids.add_noise(grids.reconfigure(clean, structure), grids.noisy_cells(structure), rng, noise)
    return np.pad(noisy, ((0, 0), (1, 0)))


def _schema() -> pa.Schema:
    """With the features that `datasets` reads in it."""
    from datasets import ClassLabel, Features, Sequence, Value

    features = Features(
        {"input_ids": Sequence(Value("int32"), length=grids.LENGTH + 1), "label": ClassLabel(names=list(LABELS))}
    )
    return features.arrow_schema
