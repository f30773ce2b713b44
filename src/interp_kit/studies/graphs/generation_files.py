"""Files of generations (question id, system, text) and of the questions that they answer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from interp_kit.core.files import check_regular, parse_json

WANTED = ("id", "system", "text")
OF_QUESTIONS = (
    "id", "split", "graph", "level", "mechanism", "target", "given", "set", "formal", "reference", "answer", "tables",
    "depth_bucket",
)  # fmt: skip


def read_generations(path: str | Path) -> list[dict[str, str]]:
    """Read generations: JSON lines, or a parquet file (.parquet), with the columns id, system and text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, cannot be read, lacks a column, holds anything but text in one, or has two generations
            of one system for one question.
    """
    path = check_regular(path)
    rows, seen = [], {}
    for where, row in _parquet(path, WANTED) if path.suffix == ".parquet" else _lines(path):
        missing = [name for name in WANTED if not isinstance(row.get(name), str)]
        if missing:
            raise ValueError(
                f"{where} has {missing[0]} = {row.get(missing[0])!r}: expected a text for each of {', '.join(WANTED)}"
            )
        key = row["id"], row["system"]
        if key in seen:
            raise ValueError(f"{where}: {key[1]!r} answers question {key[0]!r} again, after {seen[key]}: keep one")
        seen[key] = where
        rows.append({name: row[name] for name in WANTED})
    if not rows:
        raise ValueError(f"{path} holds no generations: expected one line for each, with id, system and text")
    return rows


def read_questions(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read the questions of a parquet file of `interp-kit generate graphs`, by their ids.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, lacks a column, or has an id twice.
    """
    questions: dict[str, dict[str, Any]] = {}
    for where, row in _parquet(check_regular(path), OF_QUESTIONS):
        if row["id"] in questions:
            raise ValueError(f"{where}: the question {row['id']!r} is there twice")
        questions[row["id"]] = dict(row)
    return questions


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        names = pq.read_schema(path).names
        missing = [name for name in columns if name not in names]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}: expected {', '.join(columns)}")
        rows = pq.read_table(path, columns=list(columns)).to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file, or damaged: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                row = parse_json(line, where)
                if not isinstance(row, dict):
                    raise ValueError(f"{where} holds {str(row)[:40]!r}: expected an object with {', '.join(WANTED)}")
                yield where, row
