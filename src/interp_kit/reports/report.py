"""One self-contained HTML page, and the same in Markdown: every figure with its caption, n, interval and control."""

import base64
import html
import json
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_kit.core.config import expect
from interp_kit.core.files import cannot_write, check_writable, is_signed, signed, write_text
from interp_kit.core.folders import check_folder, replacing_directory
from interp_kit.core.result import AbstractResult
from interp_kit.core.showing import cell, html_table, shortened, some
from interp_kit.reports.links import Link, links, model_of
from interp_kit.reports.plotting import figure_of, png
from interp_kit.reports.svg import SCALE, svg, variables
from interp_kit.reports.terms import used

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

KIND = "set of figures"
SIGNATURE = "[interp_kit]: # ({})"  # a Markdown link that nothing uses
TEMPLATES = Path(__file__).parent / "templates"
TRY = "Try it in the playground:"
# Of results with the same heading, each of these that differs is added to it; the PLAIN ones without their name.
PLAIN = ("model", "models", "kind", "site", "hook")
TOLD_APART = (
    *PLAIN, "task", "labels", "fields", "variable", "target", "receiver", "metric", "method", "direction", "completion",
    "within", "permutations", "folds", "seed",
)  # fmt: skip
PACKAGES = ("interp-kit", "torch", "transformer-lens", "transformers", "sae-lens", "scikit-learn", "numpy")


def page_path(path: str | Path) -> Path:
    """Return the path if a page can be written to it, and what goes beside it; to be asked before the work begins. A
    page at the path itself is replaced; files that it does not name only if they are of a former page, unchanged.

    Raises:
        ValueError: The path does not end in .html.
        OSError: It cannot be written, or what lies beside it would be lost.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"a report is written to a .html file, not {path}")
    check_writable(path)
    text = check_writable(path.with_suffix(".md"))
    if text.exists() and text.stat().st_size and not is_signed(text, SIGNATURE):
        raise cannot_write(
            text, FileExistsError("it is not a page written here, or was changed since; move it, or name another")
        )
    check_folder(_figures_beside(path), KIND)
    return path


def _figures_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_figures")


@dataclass(frozen=True)
class Figure:
    """A drawn Axes with the sentence that says what it shows, with n, interval and control."""

    axes: "Axes"
    caption: str


@dataclass(frozen=True)
class Table:
    """A tidy table with its caption. folded: behind a click on the page, and not on paper.

    Unless it is folded, columns without any value are left out of the page, and its caption names them.
    """

    frame: "pd.DataFrame"
    caption: str
    folded: bool = False

    @property
    def rows(self) -> "pd.DataFrame":
        """The frame without its empty columns."""
        return self.frame.drop(columns=self._empty)

    @property
    def told(self) -> str:
        """The caption, and which columns are left out."""
        names = ", ".join(str(name).replace("_", " ") for name in self._empty)
        return self.caption + (f"; without value, so left out: {names}" if names else "")

    @property
    def _empty(self) -> list[str]:
        return [] if self.folded or self.frame.empty else [name for name in self.frame if all(self.frame[name].isna())]


@dataclass(frozen=True)
class Section:
    """A heading, what it found in words, and what that rests on. links: to a playground page, with edits ready."""

    title: str
    text: tuple[str, ...] = ()
    parts: tuple[Figure | Table, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Report:
    """A page: title, an introduction, the findings as sentences, the sections that support them, and the configs that
    made them."""

    title: str
    findings: tuple[str, ...]
    sections: tuple[Section, ...]
    configs: Mapping[str, Any] = field(default_factory=dict)
    intro: str = ""
    _drawn: dict[int, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    def write(self, path: str | Path) -> Path:
        """Write PATH (.html), and beside it the same as PATH with .md and a folder of figures; each whole or not at
        all. Raises as `page_path` does."""
        path = page_path(path)
        write_text(path, self.to_html())
        folder = _figures_beside(path)
        with replacing_directory(folder, KIND) as aside:
            for name, figure in self._figures().items():
                (aside / name).write_bytes(self._png(figure))
        write_text(path.with_suffix(".md"), signed(self.to_markdown(folder.name), SIGNATURE))
        return path

    def _png(self, figure: Figure) -> bytes:
        """A figure as PNG, drawn once for both pages."""
        if id(figure) not in self._drawn:
            self._drawn[id(figure)] = png(figure.axes)
        return self._drawn[id(figure)]

    def _drawing(self, figure: Figure) -> str:
        """A figure as an element of the page, every text escaped: SVG, or PNG on white if that is too large."""
        if (drawn := svg(figure.axes, figure.caption)) is not None:
            return drawn
        address = f"data:image/png;base64,{base64.b64encode(self._png(figure)).decode()}"
        width = round(72 * SCALE * figure_of(figure.axes).get_figwidth())
        return f'<img style="width: {width}px" src="{address}" alt="{html.escape(figure.caption)}">'

    def _terms(self) -> dict[str, str]:
        """Explanations of the terms that the findings and captions use."""
        parts = [part.caption for section in self.sections for part in section.parts]
        return used([*self.findings, *parts, *(text for section in self.sections for text in section.text)])

    def to_html(self) -> str:
        """The page as one string with nothing outside it: style and figures are inside."""
        from jinja2 import Environment, FileSystemLoader

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {
            "drawing": self._drawing,
            "rows": html_table,
            "is_figure": lambda p: isinstance(p, Figure),
        }
        return environment.get_template("report.html").render(
            report=self,
            versions=versions(),
            to_try=TRY,
            light=variables(dark=False),
            dark=variables(dark=True),
            terms=self._terms(),
            configs=json.dumps(self.configs, indent=1, default=str),
        )

    def to_markdown(self, folder: str) -> str:
        """The page as Markdown; figures are files in `folder`."""
        names = {id(figure): name for name, figure in self._figures().items()}
        lines = [f"# {self.title}", "", *([self.intro, ""] if self.intro else [])]
        lines += [*(f"- {finding}" for finding in self.findings), ""]
        for section in self.sections:
            lines += [f"## {section.title}", ""]
            for paragraph in section.text:
                lines += [paragraph, ""]
            if section.links:
                lines += [TRY + " " + ", ".join(f"[{link.text}]({link.address})" for link in section.links), ""]
            for part in section.parts:
                if isinstance(part, Figure):
                    lines += [f"![{part.caption}]({folder}/{names[id(part)]})", ""]
                else:
                    lines += [_markdown_table(part.rows), ""]
                lines += [f"*{part.caption if isinstance(part, Figure) else part.told}*", ""]
        if terms := self._terms():
            lines += ["Terms:", "", *(f"- *{term}*: {text}" for term, text in terms.items()), ""]
        lines += ["## Versions", "", *(f"- {name} {version}" for name, version in versions().items()), ""]
        lines = [re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line) for line in lines]  # Markdown lets tags through
        lines += ["## Configuration", "", "```json", json.dumps(self.configs, indent=1, default=str), "```", ""]
        return "\n".join(lines)

    def _figures(self) -> dict[str, Figure]:
        parts = [part for section in self.sections for part in section.parts if isinstance(part, Figure)]
        return {f"figure_{number:02d}.png": part for number, part in enumerate(parts, start=1)}


def report(
    results: AbstractResult | Sequence[AbstractResult],
    path: str | Path,
    *,
    title: str = "Report",
    intro: str = "",
    playground: str | Path | None = None,
) -> Path:
    """Write any results, or one, as a page: findings, a table of contents, then each with figure, caption, table.

    Of several results the page opens with the first finding of each, and their sections have all of them.

    Args:
        results: One result, or several in the order of the page.
        path: Of the page, ending in .html; the same in Markdown and a folder of figures are written beside it.
        title: Heading of the page.
        intro: A paragraph below it, such as the question.
        playground: A page that `write_playground` wrote of the same model. Results that name edits (of ablations and
            lesions) get links that open it with those edits, relative to `path`.

    Returns:
        The path.

    Raises:
        ValueError: There are no results, `playground` is not a playground page, or none of the results has edits of
            the model that it runs.
        TypeError: What is passed in place of a result.
        OSError: A file cannot be written (see `page_path`) or read.
    """
    results = [results] if isinstance(results, AbstractResult) else results
    expect("results", results, (list, tuple), "a list of results, as of interp_kit.patch")
    for result in results:
        expect("one of the results", result, AbstractResult, "as interp_kit.patch(model, pairs) gives")
    expect("path", path, (str, Path), "where the page is written")
    expect("title", title, str)
    expect("intro", intro, str)
    if not results:
        raise ValueError("a report needs at least one result")
    page_path(path)
    runs, sections = None if playground is None else model_of(playground), []
    for result, heading in zip(results, _headings(results), strict=True):
        table = Table(result.to_frame(), f"{result.made_by()}: every figure", folded=True)
        tries = () if playground is None else links(result, playground, path, runs)
        said = result.findings() if len(results) > 1 else ()
        drawn = [Figure(result.plot(**options), caption) for options, caption in result.figures()]
        sections.append(Section(heading, said, (*drawn, table), tries))
    if playground is not None and not any(section.links for section in sections):
        raise ValueError(f"{playground} runs {runs}, and none of the results names edits of it; leave playground out")
    configs = {f"{i}. {result.made_by()}": dict(result.config) for i, result in enumerate(results, start=1)}
    found = [result.findings() for result in results]
    first = found[0] if len(found) == 1 else tuple(findings[0] for findings in found if findings)
    return Report(title, first, tuple(sections), configs, intro).write(path)


def _headings(results: Sequence[AbstractResult]) -> list[str]:
    """A heading per result. Equal ones get what tells the results apart (of TOLD_APART), and if that is the same too,
    their number."""
    headings = [result.heading() for result in results]
    alike: dict[str, list[int]] = {}
    for i, heading in enumerate(headings):
        alike.setdefault(heading, []).append(i)
    for group in alike.values():
        for name in TOLD_APART:
            said = [_said(results[i], name) for i in group]
            if len(set(said)) > 1:
                for i, words in zip(group, said, strict=True):
                    headings[i] += f", {words}" if words else ""
    many, seen = Counter(headings), Counter[str]()
    numbered = []
    for heading in headings:
        seen[heading] += 1
        numbered.append(f"{heading}, {seen[heading]} of {many[heading]}" if many[heading] > 1 else heading)
    return numbered


def _said(result: AbstractResult, name: str) -> str:
    """A value of the config, or else of the result itself, in words that tell it from another; "" if there is none."""
    value = result.config.get(name)
    value = getattr(result, name, None) if value in (None, "", (), []) else value
    if isinstance(value, (list, tuple)):
        value = some(list(dict.fromkeys(map(str, value))))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value == "":
        return ""
    return str(value) if name in PLAIN else f"{name.replace('_', ' ')} {shortened(str(value))}"


def versions() -> dict[str, str]:
    """Python and the packages that decide the figures."""
    return {"Python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def _markdown_table(frame: "pd.DataFrame") -> str:
    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(text.split()).replace('|', chr(92) + '|') for text in texts)} |"

    rows = [line([cell(value) for value in row]) for row in frame.itertuples(index=False)]
    names = [str(column).replace("_", " ") for column in frame.columns]
    return "\n".join([line(names), line(["---"] * len(names)), *rows])
