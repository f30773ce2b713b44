"""A reasoner that reads the printed prompt alone, in a process without the latents, scores 1 on every question."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from interp_kit.tasks.graphs.data.config import GraphsConfig
from interp_kit.tasks.graphs.data.rows import graph_rows
from interp_kit.tasks.graphs.questions.draw import INCLUDABLE
from interp_kit.tasks.graphs.questions.verifier import score

READER = Path(__file__).parents[1] / "reader.py"


def replies(prompts: list[str], folder: Path) -> list[str]:
    """What the reader prints, in a process that finds no package."""
    path = folder / "prompts.json"
    path.write_text(json.dumps(prompts), encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(READER), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def rows_of(config: GraphsConfig, count: int) -> list[dict[str, Any]]:
    return [row for number in range(count) for row in graph_rows(config, "train", number)]


def check(rows: list[dict[str, Any]], prompt: str, folder: Path) -> Counter[tuple[str, str | None]]:
    found = replies([row[prompt] for row in rows], folder)
    for row, reply in zip(rows, found, strict=True):
        assert score(reply, row["answer"]).score == 1.0, (row["id"], row["formal"], reply, row["answer"])
        assert reply == f"ANSWER {row['answer']}", "ties are decided as they are printed"
    return Counter((row["level"], row["mechanism"]) for row in rows)


def test_the_reader_is_right_on_every_level_and_mechanism(tmp_path: Path) -> None:
    config = GraphsConfig(graphs=(9, 1, 1), questions=(24, 1, 1), include=INCLUDABLE, seed=5)
    counts = check(rows_of(config, 7), "prompt_generic", tmp_path)
    assert len(counts) == 4
    assert min(counts.values()) > 20
    two = GraphsConfig(
        sampler="erdos-renyi", edge=0.5, observed=2, variables=4, questions=(16, 1, 1), reference="argmax"
    )
    assert len(check(rows_of(two, 2), "prompt_answer_only", tmp_path)) == 4


def test_the_reader_can_be_wrong(tmp_path: Path) -> None:
    """A prompt with one digit changed, or the other mechanism, is answered otherwise."""
    config = GraphsConfig(questions=(40, 1, 1), levels=("counterfactual",), mechanisms=("uniform",))
    rows = rows_of(config, 2)
    other = GraphsConfig(questions=(40, 1, 1), levels=("counterfactual",), mechanisms=("selectors",))
    stated = next(p for p in rows_of(other, 1)[0]["prompt_generic"].split("\n\n") if p.startswith("Mechanism"))
    texts = []
    for row in rows:
        parts = row["prompt_generic"].split("\n\n")
        texts.append("\n\n".join(stated if part.startswith("Mechanism") else part for part in parts))
    wrong = [score(reply, row["answer"]).score < 1 for reply, row in zip(replies(texts, tmp_path), rows, strict=True)]
    assert 0 < sum(wrong) < len(wrong)


@pytest.mark.slow
def test_the_reader_is_right_on_ten_thousand_questions(tmp_path: Path) -> None:
    config = GraphsConfig(graphs=(300, 1, 1), questions=(48, 1, 1))
    rows: list[dict[str, Any]] = []
    for number in range(400):
        rows += graph_rows(config, "train", number)
        if len(rows) >= 10_000:
            break
    counts = check(rows[:10_000], "prompt_generic", tmp_path)
    assert sum(counts.values()) == 10_000
    assert len(counts) == 4
    assert min(counts.values()) > 1_000
