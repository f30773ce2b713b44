"""A report is one page that needs nothing else, says what was measured, and lets no data become markup."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes

import interp_kit as ik
from interp_kit.core.result import AbstractResult
from interp_kit.reports.plotting import intervals, new_axes
from interp_kit.reports.report import Figure, Report, Section, Table, report, versions

EVIL = "<script>alert('x')</script>"
PNG = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "img", "br", "hr", "link", "input"}


@dataclass(frozen=True, kw_only=True)
class Tally(AbstractResult):
    """The smallest result there is: names and numbers."""

    names: tuple[str, ...]
    values: np.ndarray
    config: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"name": self.names, "mean_value": self.values, "n": 7})

    def plot(self, ax: Axes | None = None) -> Axes:
        return intervals(self.names, {"value": (self.values, self.values, self.values)}, ax=ax, title=self.names[0])

    def caption(self) -> str:
        return f"Values of {self.names[0]} (n = 7; chance: 0.5)."


def tally(*names: str, values: tuple[float, ...] | None = None, **config: Any) -> Tally:
    numbers = np.arange(len(names), dtype=float) if values is None else np.array(values)
    return Tally(names=names, values=numbers, config={"analysis": "tally", **config})


class Page(HTMLParser):
    """Tags in order, every one closed, and what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))  # inside a figure

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads, and many times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results(task: Any, tiny_model: Any) -> list[AbstractResult]:
    """One of each result that is cheap to make."""
    model, batch = tiny_model(0), task.batch(task.enumerate())
    heads = [ik.ablate(model, batch, kind=kind, fields=["newA"]) for kind in ("mean", "zero")]
    return [
        ik.probe(model, batch, ["newC", "newA"], positions=["newC?"], folds=4, repeats=1, control_repeats=0),
        ik.patch(model, task.pairs("newB", "newD"), positions=["D", "newB"]),
        *heads,
        ik.jaccard(*heads, k=2, permutations=20),
    ]


def test_the_page_stands_alone(results: list[AbstractResult], tmp_path: Path) -> None:
    path = report(results, tmp_path / "deep" / "er" / "report.html", title="Boolean & more")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert not re.search(r"https?:|file:|url\((?!#)|@import|src=\"(?!data:)|xlink|xmlns", text)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert all(link.startswith(("#", "data:image/png;base64,iVBOR")) for link in page.attributes("href"))
    assert page.attributes("src") == []
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) == sum(len(result.figures()) for result in results) == 6
    names = set(page.attributes("id"))
    referred = set(re.findall(r"(?:url\(|<use[^>]*? href=\")#([^)\"]+)", text))
    assert referred
    assert referred <= names
    assert ("meta", {"charset": "utf-8"}) in page.tags
    assert "Boolean & more" in page.text


def test_every_result_has_its_figure_its_caption_and_its_table(results: list[AbstractResult], tmp_path: Path) -> None:
    page = Page(report(results, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.attributes("aria-label") == [caption for result in results for _, caption in result.figures()]
    for result in results:
        assert result.caption() in page.text
        assert re.search(r"n = \d+", result.caption())
    headings = [list(result.to_frame().columns) for result in results]
    heads = [row for row in page.rows if row[0].replace(" ", "_") in {names[0] for names in headings}]
    assert [[cell.replace(" ", "_") for cell in row] for row in heads[: len(results)]] == headings
    assert len(page.rows) == sum(len(result.to_frame()) + 1 for result in results)
    for name, version in versions().items():
        assert any(f"{name} {version}" in part for part in page.text)
    config = json.loads(next(part for part in page.text if part.startswith("{")))
    assert list(config) == ["1. probe", "2. patch", "3. ablate", "4. ablate", "5. jaccard"]
    assert config["2. patch"]["variable"] == "newB"


def test_markdown_says_the_same_with_figures_that_exist(results: list[AbstractResult], tmp_path: Path) -> None:
    path = report(results, tmp_path / "boolean.html", title="Boolean")
    text = (tmp_path / "boolean.md").read_text(encoding="utf-8")
    assert text.startswith("# Boolean\n")
    figures = re.findall(r"^!\[.*\]\((.*)\)$", text, flags=re.M)
    assert figures == [f"boolean_figures/figure_{i:02d}.png" for i in range(1, 7)]
    for figure in figures:
        assert (path.parent / figure).read_bytes().startswith(PNG)
    assert sorted(p.name for p in (tmp_path / "boolean_figures").glob("*.png")) == [Path(f).name for f in figures]
    for result in results:
        assert f"*{result.caption()}*" in text
        first = result.to_frame().columns[0]
        assert f"| {first.replace('_', ' ')} |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == sum(len(result.to_frame()) + 2 for result in results)
    config = json.loads(text.split("```json\n")[1].split("```")[0])
    assert config["5. jaccard"]["k"] == 2
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # Nothing half-written is left.


def test_nothing_from_the_data_becomes_markup(tmp_path: Path) -> None:
    evil = tally(EVIL, 'quo"ted & <b>bold</b>', "a|b", "two\nlines", model=EVIL)
    path = report([evil], tmp_path / "evil.html", title=EVIL)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert "<script" not in text
    assert page.attributes("aria-label") == [evil.caption()]
    assert EVIL in page.text  # The title of the figure is text of the page, too.
    cells = [cell for row in page.rows for cell in row]
    assert EVIL in cells
    assert 'quo"ted & <b>bold</b>' in cells
    assert json.loads(next(part for part in page.text if part.startswith("{")))["1. tally"]["model"] == EVIL
    markdown = (tmp_path / "evil.md").read_text(encoding="utf-8")
    outside = re.sub(r"```json.*?```", "", markdown, flags=re.S)
    assert not re.search(r"<[a-zA-Z/!]", outside)
    assert html.unescape(outside).count(EVIL) == 5  # Title, heading, caption twice, table.
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 4  # Three columns, whatever stands in them.


def test_sections_findings_and_tables_stand_where_they_were_put(tmp_path: Path) -> None:
    frame = pd.DataFrame({"seed": [1, 2], "exact_match": [0.5, np.nan], "verdict": ["computed", "visible"]})
    axes = new_axes()
    axes.plot([0, 1], [1, 0])
    page = Report(
        "Title",
        ("First finding (n = 5).", "Second & last."),
        (
            Section("One", ("A paragraph.", "Another."), (Figure(axes, "A figure (n = 2)."), Table(frame, "Seeds."))),
            Section("Two", (), (Table(frame, "Folded.", folded=True),)),
        ),
        {"seeds": [1, 2]},
    )
    path = page.write(tmp_path / "page.html")
    parsed = Page(path.read_text(encoding="utf-8"))
    order = [
        "Title",
        "First finding (n = 5).",
        "Second & last.",
        "One",
        "A paragraph.",
        "Another.",
        "A figure (n = 2).",
    ]
    places = [max(i for i, part in enumerate(parsed.text) if part == wanted) for wanted in order]
    assert places == sorted(places)
    assert parsed.rows[:3] == [["seed", "exact match", "verdict"], ["1", "0.50", "computed"], ["2", "–", "visible"]]
    assert [tag for tag, _ in parsed.tags].count("details") == 2  # The folded table and the configuration.
    assert "Folded. (2 rows)" in parsed.text
    classes = [attrs.get("class") for tag, attrs in parsed.tags if tag == "td"]
    assert classes[:3] == ["number", "number", "text"]
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert text.index("- First finding") < text.index("## One") < text.index("| 1 | 0.50 | computed |")
    assert text.index("| seed | exact match | verdict |") < text.index("*Seeds.*") < text.index("## Two")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.50"), (1.0, "1.00"), (-0.256, "-0.26"), (float("nan"), "–"), (0.0, "0"), (12.345, "12.35")],
)
def test_numbers_are_short_and_readable(tmp_path: Path, value: float, shown: str) -> None:
    page = Page(report([tally("x", values=(value,))], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.rows[1] == ["x", shown, "7"]


def test_small_numbers_do_not_vanish(tmp_path: Path) -> None:
    page = Page(report([tally("p", values=(0.0004,))], tmp_path / "r.html").read_text(encoding="utf-8"))
    assert float(page.rows[1][1]) == 0.0004


def test_a_report_replaces_the_one_before_it(tmp_path: Path) -> None:
    report([tally("a"), tally("b")], tmp_path / "r.html")
    report([tally("c")], tmp_path / "r.html")
    assert [p.name for p in (tmp_path / "r_figures").glob("*.png")] == ["figure_01.png"]
    assert "Values of a" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Values of a" not in (tmp_path / "r.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["r_figures/holiday.png", "r_figures/figure_01.png", "r.md"])
@pytest.mark.parametrize("former", [True, False])
def test_files_beside_the_page_that_are_the_users_are_kept(tmp_path: Path, name: str, former: bool) -> None:
    if former:
        report([tally("a")], tmp_path / "r.html")
    (tmp_path / "r_figures").mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OSError, match=rf"cannot write \S*{name.split('/')[0]}: it (holds|is not a page)"):
        report([tally("b")], tmp_path / "r.html")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_headings_are_distinct_and_the_contents_lead_to_them(results: list[AbstractResult], tmp_path: Path) -> None:
    page = Page(report([*results, *results[:1]], tmp_path / "r.html").read_text(encoding="utf-8"))
    model = results[1].config["model"]
    headings = re.findall(r"^## (.*)$", (tmp_path / "r.md").read_text(encoding="utf-8"), flags=re.M)[:-2]
    assert headings[0] == f"probe ({model}), 1 of 2"
    assert headings[1] == f"patch: newB → newD ({model})"
    assert [heading for heading in headings if heading.startswith("ablate")] == [
        f"ablate ({model}), mean",
        f"ablate ({model}), zero",
    ]
    assert headings[-1] == f"probe ({model}), 2 of 2"
    assert len(set(headings)) == len(headings) == 6
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert [link.removeprefix("#") for link in links] == [
        attrs["id"] for tag, attrs in page.tags if tag == "section" and attrs
    ]
    assert all(page.text.count(heading) == 2 for heading in headings)


def test_results_of_one_analysis_are_told_apart_by_what_differs_between_them(
    task: Any, tiny_model: Any, tmp_path: Path
) -> None:
    batch = task.batch(task.enumerate())
    made = [
        ik.ablate(tiny_model(0), batch, kind="mean", fields=["newA"]),
        ik.ablate(tiny_model(0), batch, kind="mean", fields=["newB"], metric=ik.accuracy),
        ik.ablate(tiny_model(0), batch, kind="zero", fields=["newA"]),
        ik.ablate(tiny_model(0), batch, kind="zero", fields=["newA"]),
        *(ik.patch(tiny_model(0), task.pairs("newB", "newD"), sites=site, by="all") for site in ("z", "resid_pre")),
        *(tally("x", models=list("abcdef"[i:])) for i in (0, 1)),
    ]
    report(made, tmp_path / "r.html")
    headings = re.findall(r"^## (.*)$", (tmp_path / "r.md").read_text(encoding="utf-8"), flags=re.M)[:-2]
    model = made[0].config["model"]
    logit, right = made[0].config["metric"], made[1].config["metric"]
    assert headings == [
        f"ablate ({model}), mean, fields newA, metric {logit}",
        f"ablate ({model}), mean, fields newB, metric {right}",
        f"ablate ({model}), zero, fields newA, metric {logit}, 1 of 2",
        f"ablate ({model}), zero, fields newA, metric {logit}, 2 of 2",
        f"patch: newB → newD ({model}), z",
        f"patch: newB → newD ({model}), resid_pre",
        "tally, a, b, c, d and 2 more",
        "tally, b, c, d, e and 1 more",
    ]


def test_a_page_opens_with_its_introduction_and_what_was_found(results: list[AbstractResult], tmp_path: Path) -> None:
    patched = results[1]
    path = report(patched, tmp_path / "r.html", title="T", intro=f"Does it? {EVIL}")
    text, markdown = path.read_text(encoding="utf-8"), (tmp_path / "r.md").read_text(encoding="utf-8")
    (found,) = patched.findings()
    frame = patched.to_frame()
    best = frame.loc[frame["recovered"].idxmax()]
    assert f"{best['recovered']:.2f}" in found
    assert f"layer {best['layer']}" in found
    assert f"n = {patched.to_frame()['n'][0]}" in found
    assert EVIL not in text
    order = [html.unescape(text).index(part) for part in ("<h1>T", f"Does it? {EVIL}", found, "<h2>patch")]
    assert order == sorted(order)
    assert markdown.index("Does it?") < markdown.index(f"- {found}") < markdown.index("## patch")


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a report needs at least one result"):
        report([], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["report.txt", "report", "report.html.md", "report.htmlx", "report.xhtml"])
def test_a_page_is_an_html_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"a report is written to a .html file, not .*{re.escape(name)}"):
        report([tally("a")], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "r.html", tmp_path / "file" / "deeper" / "r.html"):
        with pytest.raises(OSError, match=re.escape(f"cannot write {path}")):
            report([tally("a")], path)
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(OSError, match=re.escape(f"cannot write {tmp_path / 'taken.html'}")):
        report([tally("a")], tmp_path / "taken.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.html"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_column_without_a_value_is_named_in_the_caption_and_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"seed": [1, 2], "low_end": [np.nan, np.nan], "high": [np.nan, 0.5]})
    section = Section("One", (), (Table(frame, "Seeds"), Table(frame, "All", folded=True)))
    path = Report("T", (), (section,)).write(tmp_path / "r.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.rows[0] == ["seed", "high"]
    assert page.rows[3] == ["seed", "low end", "high"]
    assert "Seeds; without value, so left out: low end" in page.text
    assert "| seed | high |" in path.with_suffix(".md").read_text(encoding="utf-8")
