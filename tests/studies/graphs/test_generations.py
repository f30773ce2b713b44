"""Files of generations become tables; malformed ones give one clear error."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from interp_kit.cli import main
from interp_kit.core.showing import html_table
from interp_kit.reports.report import Figure, Table
from interp_kit.studies.graphs.generation_files import read_generations, read_questions
from interp_kit.studies.graphs.generation_tables import latex, markdown, page
from interp_kit.studies.graphs.generations import Generations, analyse_generations
from interp_kit.tasks.graphs.data.config import GraphsConfig
from interp_kit.tasks.graphs.data.files import generate


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    generate(GraphsConfig(graphs=(0, 0, 12), questions=(1, 1, 5)), folder, jobs=1, progress=False)
    return folder / "test.parquet"


def _generations(questions: Path) -> list[dict[str, str]]:
    """`right` answers all, `same` all but one, `wrong` none, without a word of how."""
    rows, found = pq.read_table(questions).to_pylist(), []
    for i, row in enumerate(rows):
        wrong = "ANSWER [" + ", ".join(["0.00"] * len(row["hundredths"])) + "]"
        right = f"P({row['target']}=0) = {row['hundredths'][0] / 100:.2f}\nANSWER {row['answer']}"
        found += [
            {"id": row["id"], "system": "right", "text": right},
            {"id": row["id"], "system": "wrong", "text": wrong},
        ]
        found.append({"id": row["id"], "system": "same|_", "text": wrong if i == 3 else f"ANSWER {row['answer']}"})
    return found


def test_the_best_and_those_not_different_are_bold(questions: Path) -> None:
    found = analyse_generations(_generations(questions), read_questions(questions), progress=False)
    n = len(read_questions(questions))
    assert found.bold() == {"right", "same|_"}
    assert [found.accuracy(s).value for s in found.systems] == [1, pytest.approx(1 - 1 / n), 0]  # pyright: ignore[reportOptionalMemberAccess]
    assert found.p_values()["wrong"] < 0.01
    assert found.p_values()["same|_"] == 1
    assert "**1.00 [" in markdown(found)
    assert r"same\|_" in markdown(found)
    assert r"same|\_ & " in latex(found)
    assert r"\textbf{" in latex(found).split("same")[1].split("wrong")[0]
    over_all = latex(found).split("wrong")[1].splitlines()[0].rpartition("&")[2]
    assert over_all.strip().startswith("0.00 [")  # over all, it is not bold
    assert set(found.rows[found.rows.system == "wrong"]["name"]) == {"no numeric computation"}
    assert [len(c) for c in found.curves.values()] == [100] * 3
    assert found.difficulty().drop(columns="bucket").to_numpy().sum() == n
    assert found.examples(2).equals(found.examples(2))
    assert len(found.examples(2)) == 6


def test_the_page_names_columns_and_says_what_is_bold(questions: Path) -> None:
    made = page(analyse_generations(_generations(questions), read_questions(questions), progress=False))
    parts = {section.title: section.parts for section in made.sections}
    figure, table = parts["Accuracy by difficulty"]
    assert "Bold" not in figure.caption  # nothing is bold in the figure
    assert "best of a bucket" in table.caption
    (axes,) = (part.axes for part in parts["Accuracy by threshold"] if isinstance(part, Figure))
    assert "total variation distance" in figure.caption
    assert axes.get_ylabel().startswith("share of right answers")
    (examples,) = (part for part in parts["Examples"] if isinstance(part, Table))
    assert list(examples.rows)[:5] == ["system", "id", "question", "right answer", "first error"]
    assert "NA" not in html_table(examples.rows)


def test_the_interval_is_over_graphs() -> None:
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(10), 50)
    rows = pd.DataFrame({
        "id": [str(i) for i in range(500)], "system": "a", "bucket": "d1", "graph": groups,
        "correct": rng.random(10)[groups] > 0.5,
    })  # fmt: skip
    one = Generations(rows, {}).accuracy("a")
    assert one is not None
    assert one.n == 10
    assert one.high - one.low > 0.4


def test_the_command_prints_and_writes(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page, table = (tmp_path / name for name in ("g.jsonl", "p.html", "t.json"))
    file.write_text("\n".join(map(json.dumps, _generations(questions))) + "\n")
    asked = ["traces", str(file), "--questions", str(questions), "--out", str(page), "--json", str(table)]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "**1.00 [" in out
    assert "Example of right" in out
    assert "<table" in page.read_text()
    assert len(json.loads(table.read_text())["generations"]) == 3 * len(read_questions(questions))


@pytest.mark.parametrize(("text", "said"), [
    ("", "holds no generations"),
    ("not json\n", "line 1 is not valid JSON"),
    ("[1]\n", "line 1 holds"),
    ('{"id": "x", "system": "s"}\n', "text = None"),
    ('{"id": 3, "system": "s", "text": ""}\n', "id = 3"),
    ('{"id": "x", "system": "s", "text": ""}\n' * 2, "again"),
    ('{"id": "x", "system": "s", "text": ""}\n', "unknown questions, as 'x'"),
])  # fmt: skip
def test_malformed_files_are_refused(
    text: str, said: str, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "g.jsonl"
    file.write_text(text)
    assert main(["traces", str(file), "--questions", str(questions)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_parquet_files_are_read_and_checked(questions: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.parquet"
    frame = pd.DataFrame({"id": ["a"], "system": ["s"], "text": [""]})
    frame.to_parquet(path)
    assert read_generations(path) == frame.to_dict("records")
    frame.drop(columns="text").to_parquet(path)
    with pytest.raises(ValueError, match="no column 'text'"):
        read_generations(path)
    with pytest.raises(ValueError, match="no column 'split'"):
        read_questions(path)
    path.write_text("no")
    with pytest.raises(ValueError, match="not a parquet file"):
        read_generations(path)
