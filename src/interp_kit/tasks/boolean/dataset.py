"""The three data files of the boolean task, in the documented order of one random stream."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from interp_kit.core.files import check_regular, check_writable, parse_json, write_text
from interp_kit.tasks.boolean.task import BooleanTask
from interp_kit.tasks.boolean.text import parse_input

SPLITS = {"train": 20_000, "valid": 2_000, "test": 2_000}
Input = tuple[int, ...]


def parse_omissions(text: str, n: int) -> frozenset[Input]:
    """`"1,1,1,1,1;0,0,0,0,0"` -> the set of inputs to leave out. Raises ValueError naming the malformed one."""
    if not text.strip():
        return frozenset()
    return frozenset(parse_input(part, n) for part in text.split(";"))


def draw(n: int, count: int, rng: random.Random, omit: frozenset[Input]) -> Iterator[Input]:
    """`count` inputs, `n` calls of randint(0, 1) an attempt, attempts in `omit` thrown away."""
    made = 0
    while made < count:
        attempt = tuple(rng.randint(0, 1) for _ in range(n))
        if attempt not in omit:
            made += 1
            yield attempt


def splits(
    task: BooleanTask, *, omit: frozenset[Input] = frozenset(), seed: int = 42, sizes: dict[str, int] | None = None
) -> dict[str, list[Input]]:
    """{"train": inputs, "valid": …, "test": …} from one random.Random(seed) that runs through all three.

    Raises ValueError if the omissions leave no input.
    """
    n = len(task.inputs)
    for row in omit:
        if len(row) != n:
            raise ValueError(f"omission {row} has {len(row)} values, expected {n}")
    if len(omit) >= 2**n:
        raise ValueError(f"the omissions leave none of the {2**n} inputs")
    rng = random.Random(seed)
    return {name: list(draw(n, count, rng, omit)) for name, count in (sizes or SPLITS).items()}


def check_splits(task: BooleanTask, directory: str | Path, names: Iterable[str] = tuple(SPLITS)) -> None:
    """Raise OSError if DIRECTORY/<name>.jsonl cannot be written, or is a file that no `write_splits` wrote."""
    for name in names:
        path = check_writable(Path(directory) / f"{name}.jsonl")
        if not path.exists() or path.stat().st_size == 0:
            continue
        try:
            read_split(task, path)
        except ValueError as error:
            raise FileExistsError(f"cannot write {path}: it holds other data ({error}); name another folder") from error


def write_splits(task: BooleanTask, directory: str | Path, inputs: dict[str, list[Input]]) -> list[Path]:
    """Write DIRECTORY/<split>.jsonl for each split, each file whole or not at all. Former data of the task are
    replaced; any other file is an OSError before the first is written."""
    check_splits(task, directory, inputs)
    worlds = {
        tuple(e.labels[name] for name in task.inputs): e
        for e in task.examples(sorted({i for r in inputs.values() for i in r}))
    }
    paths = []
    for name, rows in inputs.items():
        lines = "".join(json.dumps(task.record(worlds[row])) + "\n" for row in rows)
        paths.append(write_text(Path(directory) / f"{name}.jsonl", lines))
    return paths


def read_split(task: BooleanTask, path: str | Path) -> list[Input]:
    """The inputs of a data file, each line checked against the rules.

    Raises ValueError naming file and line if it is not JSON, malformed, or has a completion that the rules refuse.
    """
    path = Path(path)
    rows: list[Input] = []
    known: dict[Input, dict[str, str]] = {}
    try:
        lines = check_regular(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from error
    for number, line in enumerate(lines, start=1):
        record = parse_json(line, f"{path}, line {number}")
        try:
            if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
                raise ValueError('expected {"prompt": "0,1,…", "completion": "…"}')
            row = parse_input(record["prompt"], len(task.inputs))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if row not in known:
            known[row] = task.record(task.examples([row])[0])
        if record != known[row]:
            raise ValueError(f"{path}, line {number}: {record} does not follow the rules: {known[row]}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no examples")
    return rows


def check_disjoint(rows: Sequence[Input], omit: frozenset[Input], where: str) -> None:
    """Raise ValueError if an omitted input occurs in `rows`."""
    leaked = set(rows) & omit
    if leaked:
        raise ValueError(f"{where} contains omitted inputs: {sorted(leaked)}")
