"""Data sets on disk: a parquet file per split, whole or by shards, and a manifest that says what is in them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interp_kit.core.files import check_new, replacing, write_json
from interp_kit.core.parallel import WHOLE, Shard, check_shard, in_processes, numbered
from interp_kit.tasks.graphs.data.classes import count_classes
from interp_kit.tasks.graphs.data.config import SPLITS, GraphsConfig, as_json
from interp_kit.tasks.graphs.data.rows import as_table, graph_rows, schema
from interp_kit.tasks.graphs.questions.formal import KINDS

CHUNK = 8  # Graphs that a worker makes at a time.


def generate(
    config: GraphsConfig,
    out: str | Path,
    *,
    shard: Shard = WHOLE,
    jobs: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Make a data set, or one shard of it, and write it.

    Args:
        config: What is in it.
        out: The folder that gets train.parquet, val.parquet, test.parquet and manifest.json, those of shard i of n with
            `-0000i-of-0000n` in their names. Splits without graphs get no file.
        shard: (i, n): graphs i, i + n, i + 2n, …; files of all shards together are made one by `merge`.
        jobs: Number of processes; it changes nothing in the files.
        progress: Whether to show a bar.

    Returns:
        The files.

    Raises:
        ValueError: for an impossible shard, and too few classes of graphs for the splits.
        OSError: if one of the files is there already, or cannot be written; before the work begins. What was begun
            with this config and killed is made anew, and a shard that is there whole is kept.
    """
    check_shard(shard)
    index, count = shard
    paths = _paths(config, Path(out), shard)
    if shard != WHOLE and paths["manifest"].exists() and _of(config, paths):
        return list(paths.values())
    _check_new(config, paths)
    work = [
        (config, split, tuple(numbers[at : at + CHUNK]))
        for split, total in zip(SPLITS, config.graphs, strict=True)
        for numbers in [range(total)[index::count]]
        for at in range(0, len(numbers), CHUNK)
    ]
    tables = in_processes(_tables, work, jobs, name="graphs", progress=progress)
    made = {split: [t for t, (_, of, _) in zip(tables, work, strict=True) if of == split] for split in SPLITS}
    return _write(config, paths, made)


def merge(config: GraphsConfig, out: str | Path, count: int) -> list[Path]:
    """Make one data set of its shards in the folder `out`: the files that `generate` would have written without shards,
    byte for byte.

    Raises:
        ValueError: if a shard is missing, or is of another config.
        OSError: if one of the files is there already, or cannot be written; a merge that was killed is made anew.
    """
    check_shard((0, count))
    paths = _paths(config, Path(out), WHOLE)
    _check_new(config, paths)
    made = {}
    for split in paths:
        if split != "manifest":
            files = [_paths(config, Path(out), (i, count))[split] for i in range(count)]
            made[split] = [_read(config, path) for path in files]
    return _write(config, paths, made)


def summary(config: GraphsConfig, tables: dict[str, pa.Table]) -> dict[str, Any]:
    """Content of a data set, per split: rows, graphs, isomorphism classes, and rows per kind of question, per depth and
    that are core."""
    splits = {}
    for split, table in tables.items():
        graphs, kinds = {}, Counter()
        for number, name, edges, level, mechanism in zip(
            *(table[column].to_pylist() for column in ("graph", "class", "edges", "level", "mechanism")), strict=True
        ):
            graphs[number] = (name, edges)
            kinds[level, mechanism] += 1
        drawn = [(name, _parents(config.variables, json.loads(edges))) for name, edges in graphs.values()]
        splits[split] = {
            "rows": table.num_rows,
            "graphs": len(graphs),
            "classes": count_classes(drawn),
            "kinds": {_kind(kind): kinds[kind] for kind in KINDS if kinds[kind]},
            "depths": dict(sorted(Counter(table["depth_bucket"].to_pylist()).items())),
            "core": sum(table["is_core"].to_pylist()),
        }
    return {"config": as_json(config), "splits": splits}


def _kind(kind: tuple[str, str | None]) -> str:
    return " ".join(part for part in kind if part)


def _parents(n: int, edges: Sequence[Sequence[str]]) -> list[list[int]]:
    """Parents by number; names are v0, v1, …"""
    parents: list[list[int]] = [[] for _ in range(n)]
    for parent, child in edges:
        parents[int(child[1:])].append(int(parent[1:]))
    return parents


def _tables(work: tuple[GraphsConfig, str, tuple[int, ...]]) -> pa.Table:
    config, split, numbers = work
    return as_table(config, [row for number in numbers for row in graph_rows(config, split, number)])


def _paths(config: GraphsConfig, out: Path, shard: Shard) -> dict[str, Path]:
    """The files of a shard that has any graphs."""
    index, count = shard
    part = "" if shard == WHOLE else numbered(index, count)
    present = [split for split, total in zip(SPLITS, config.graphs, strict=True) if total]
    return {split: out / f"{split}{part}.parquet" for split in present} | {"manifest": out / f"manifest{part}.json"}


def _check_new(config: GraphsConfig, paths: dict[str, Path]) -> None:
    """`check_new`, but for what a killed run left: the manifest is written last."""
    begun = [path for path in paths.values() if path.exists()]
    check_new([] if begun and paths["manifest"] not in begun and _of(config, paths) else paths.values())


def _of(config: GraphsConfig, paths: dict[str, Path]) -> bool:
    """True if the splits that are there are of this config."""
    try:
        for split, path in paths.items():
            if split != "manifest" and path.exists():
                _read(config, path)
    except ValueError:
        return False
    return True


def _read(config: GraphsConfig, path: Path) -> pa.Table:
    if not path.exists():
        raise ValueError(f"the shard {path} is missing: make it, or give the number of shards that there are")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file, or damaged: {error}") from error
    if table.schema.metadata != _schema(config).metadata or table.schema != _schema(config):
        raise ValueError(f"{path} is of another config: make all shards with the one that is given")
    return table


def _schema(config: GraphsConfig) -> pa.Schema:
    """With the config, by which shards know each other."""
    return schema(config).with_metadata({"interp_kit.graphs": json.dumps(as_json(config), sort_keys=True)})


def _write(config: GraphsConfig, paths: dict[str, Path], made: dict[str, list[pa.Table]]) -> list[Path]:
    """Each split sorted by its random column, in one file; the manifest last."""
    tables = {}
    for split, path in paths.items():
        if split == "manifest":
            continue
        table = pa.concat_tables([_schema(config).empty_table(), *(t.replace_schema_metadata() for t in made[split])])
        table = table.sort_by([("shuffle", "ascending"), ("id", "ascending")]).combine_chunks()
        tables[split] = table.replace_schema_metadata(_schema(config).metadata)
        with replacing(path) as aside:
            pq.write_table(tables[split], aside, compression="zstd", row_group_size=10_000)
    write_json(paths["manifest"], summary(config, tables))
    return list(paths.values())
