"""`interp-kit traces`: analyses a file of generations, prints what it finds, and writes a page."""

import json
from pathlib import Path

from interp_kit.core.config import check_count, check_seed
from interp_kit.core.files import check_writable, write_json
from interp_kit.core.showing import PROGRESS
from interp_kit.reports.report import page_path
from interp_kit.studies.graphs.generation_files import read_generations, read_questions
from interp_kit.studies.graphs.generation_tables import curves, page, text
from interp_kit.studies.graphs.generations import analyse_generations


def main(
    path: str | Path,
    questions: str | Path,
    out: str | Path | None = None,
    json_path: str | Path | None = None,
    *,
    examples: int = 2,
    seed: int = 0,
    progress: bool = PROGRESS,
) -> str:
    """Analyse generations, and write the page and the figures if asked for. Returns the tables and examples."""
    check_count("examples", examples, 0)
    check_seed(seed)
    out = None if out is None else page_path(out)
    json_path = None if json_path is None else check_writable(json_path)
    found = analyse_generations(read_generations(path), read_questions(questions), progress=progress)
    if json_path is not None:
        tables = {"accuracy": found.accuracies(), "curves": curves(found), "errors": found.errors()}
        tables |= {"strategies": found.strategies(), "difficulty": found.difficulty()}
        tables["generations"] = found.rows.drop(columns="text")
        write_json(
            json_path, {name: json.loads(frame.to_json(orient="records") or "[]") for name, frame in tables.items()}
        )
    if out is not None:
        page(found, examples, seed).write(out)
    return text(found, examples, seed)
