"""Reports link to a playground page with their findings as edits, in the form that the page itself writes."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import interp_kit as ik
from interp_kit.engine.edits import as_data, output


class Links(HTMLParser):
    """Text -> address of every link."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._open: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = dict(attrs).get("href") if tag == "a" else None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[data] = self._open
            self._open = None


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, task: ik.BooleanTask) -> SimpleNamespace:
    """A playground page, a report in another folder that links to it, and what it reports."""
    folder = tmp_path_factory.mktemp("links with a space")
    model = ik.planted("boolean-direct")
    ablated = ik.ablate(model, task.batch(task.enumerate()), kind="zero")
    lesion = ik.lesion(
        model, task, [output("L1H1", ik.Mean()), ik.Edit("z", 0, ik.Scale(0.5), head=2)],
        steps=1, seeds=[0], batch_size=2, limit=4, progress=False,
    )  # fmt: skip
    page = ik.write_playground(model, folder / "play ground.html")
    (folder / "reports").mkdir()
    report = ik.report([ablated, lesion], folder / "reports" / "r.html", playground=page)
    parser = Links()
    parser.feed(report.read_text(encoding="utf-8"))
    return SimpleNamespace(model=model, page=page, report=report, ablated=ablated, lesion=lesion, links=parser.found)


def test_links_name_the_page_and_the_most_important_components(here: SimpleNamespace) -> None:
    ranked = [here.ablated.component[i] for i in np.argsort(-here.ablated.importance())[:3]]
    texts = [f"knock out {name}" for name in ranked]
    assert list(here.links)[:3] == texts
    for name, link in zip(ranked, here.links.values(), strict=False):
        there, _, state = link.partition("#")
        assert (here.report.parent / unquote(there)).resolve() == here.page.resolve()
        assert json.loads(unquote(state)) == {"edits": [as_data(output(name, ik.Zero()))]}
    (lesion,) = [json.loads(unquote(a.partition("#")[2])) for text, a in here.links.items() if "before" in text]
    assert lesion["edits"] == [
        {"site": "z", "layer": 1, "head": 1, "source": {"kind": "Mean"}},
        {"site": "z", "layer": 0, "head": 2, "source": {"kind": "Scale", "factor": 0.5}},
    ]
    markdown = here.report.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"[{text}]({link})" in markdown for text, link in here.links.items())


def test_the_page_reads_its_links_and_writes_them_alike(here: SimpleNamespace, page: Any, task: ik.BooleanTask) -> None:
    hashes = [f"#{link.partition('#')[2]}" for link in here.links.values()]
    text = page.text(task.enumerate()[0])
    states = page([(here.model, task)], [{"do": "hash", "hash": one} for one in hashes])
    again = page([(here.model, task)], [{"do": "toHash", "state": state} for state in states])
    assert again == hashes
    asked = [{"do": "logits", "text": text, "edits": state["edits"]} for state in states]
    assert not any(isinstance(answer, dict) for answer in page([(here.model, task)], asked))


def test_a_page_that_does_not_fit_is_refused_before_anything_is_written(
    here: SimpleNamespace, tmp_path: Path, tiny_model: Any, task: ik.BooleanTask
) -> None:
    other = ik.write_playground(tiny_model(), tmp_path / "other.html")
    (tmp_path / "text.html").write_text("no page")
    for given, error, said in (
        (other, ValueError, "other.html runs .*, and none of the results names edits of it"),
        (here.report, ValueError, "r.html is not a playground page; write one with `interp-kit playground"),
        (tmp_path / "text.html", ValueError, "is not a playground page"),
        (tmp_path / "none.html", FileNotFoundError, "none.html"),
    ):
        with pytest.raises(error, match=said):
            ik.report(here.ablated, tmp_path / "r.html", playground=given)
    assert not (tmp_path / "r.html").exists()


def test_edits_that_hold_tensors_have_no_link(task: ik.BooleanTask) -> None:
    assert as_data(ik.Edit("z", 0, ik.Set(1.0))) is None
    with pytest.raises(ValueError, match="'L0' is neither a head nor an MLP"):
        output("L0", ik.Zero())


@pytest.mark.slow
def test_a_click_opens_the_page_with_the_edits(here: SimpleNamespace, browse: Callable[..., SimpleNamespace]) -> None:
    ready = "Number(document.body?.dataset.ready ?? 0) >= 1"
    first = next(iter(here.links))
    click = "void [...document.querySelectorAll('a')].find((a) => a.textContent === '{}').click()"
    edits = "[...document.querySelectorAll('.edits code')].map((c) => c.textContent)"
    seen = browse(
        here.report,
        [{"wait": "document.links.length > 0"}, {"do": click.format(first)}, {"wait": ready}, {"eval": edits}],
    )
    assert seen.problems == []
    assert seen.answers == [["mlp_out layer 0 zero"]]
