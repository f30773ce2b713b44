"""One report code, four kinds of model: it must reach a different and correct conclusion on each."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from interp_kit.models.checkpoints import checkpoint_root
from interp_kit.studies.boolean.page import page, route_table, write_report
from interp_kit.studies.boolean.study import SEEDS, Study, examine, omitted_models, study
from interp_kit.studies.boolean.words import findings

KINDS = {
    "boolean-via-token": "via token",
    "boolean-direct": "direct",
    "boolean-latent": "latent",
    "untrained:boolean-direct": "none",
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=() if k == "boolean-latent" else pytest.mark.slow) for k in sorted(KINDS)],
)
def examined(request: pytest.FixtureRequest) -> tuple[str, Study]:
    """A study of three seeds of one kind of model, without yardsticks."""
    names = [f"{request.param}@{seed}" for seed in range(3)]
    made = study(
        names, yardsticks=(), sae=False, labels=("newA", "newB"), permutations=20, steps=1, jobs=2, progress=False
    )
    return request.param, made


def test_the_words_name_the_mechanism_that_was_planted(examined: tuple[str, Study]) -> None:
    kind, made = examined
    verdicts = set(route_table(made.models)["verdict"])
    assert verdicts == {KINDS[kind]}
    path = findings(made)[2]
    expected = {
        "via token": "newD is computed in 3 of 3 via the emitted newB token",
        "direct": "newD is computed in 3 of 3 directly from D's own part of the prompt",
        "latent": "newD is computed in 3 of 3 from an internal newB",
        "none": "none of the 3 models computes it",
    }
    for verdict, words in expected.items():
        assert (words in path) == (verdict == KINDS[kind]), path
    flips = {"via token": "16 of 16, 16 of 16, 16 of 16", "direct": "0 of 16, 0 of 16, 0 of 16"}
    if KINDS[kind] in flips:
        assert f"flips newD in {flips[KINDS[kind]]} inputs, seed by seed: those with A = 0" in path


def test_newb_is_never_called_computed_and_newa_only_where_it_is(examined: tuple[str, Study]) -> None:
    """newB is a copy of D on every input; newA is not a linear function of the tokens, and planted models compute
    it."""
    kind, made = examined
    verdict = dict(zip(made.readability.labels, made.readability.verdict, strict=True))
    assert verdict["newB"] == "visible"
    assert verdict["newA"] == ("not shown" if KINDS[kind] == "none" else "computed")
    assert "newB is nowhere readable beyond copying D" in findings(made)[1]


def test_solving_and_patching_are_only_claimed_where_they_hold(examined: tuple[str, Study]) -> None:
    kind, made = examined
    solves = KINDS[kind] != "none"
    assert findings(made)[0].startswith("All 3 models answer") == solves
    assert all((m.denoise is not None) == solves for m in made.models)


class Links(HTMLParser):
    """Every address that a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "src" or (name == "href" and value[:1] != "#")]


def test_the_page_is_self_contained_and_quotes_its_findings(examined: tuple[str, Study], tmp_path: Path) -> None:
    _, made = examined
    path = write_report(made, tmp_path / "page.html")
    links = Links()
    links.feed(path.read_text())
    assert links.found
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    markdown = path.with_suffix(".md").read_text()
    assert all(finding in markdown for finding in page(made).findings)
    assert len(list((tmp_path / "page_figures").glob("*.png"))) == path.read_text().count("<svg ")


@pytest.mark.slow
def test_figures_are_recomputed_from_the_weights(tmp_path: Path) -> None:
    """Perturb one weight matrix and the study's figures change."""
    source = checkpoint_root() / "boolean-gpt2"
    shutil.copytree(source, tmp_path / "changed")
    weights = load_file(source / "model.safetensors")
    weights["transformer.h.0.mlp.c_fc.weight"] *= 0.5
    save_file(weights, tmp_path / "changed" / "model.safetensors", metadata={"format": "pt"})
    before, after = examine("boolean-gpt2", full=False), examine(str(tmp_path / "changed"), full=False)
    assert before.mechanism.verdict == "direct"
    assert abs(before.mechanism.route - after.mechanism.route).max() > 0.01


def test_the_shipped_set_is_whole() -> None:
    assert len(SEEDS) == 5
    assert len(omitted_models()) == 10


def test_a_study_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="at least three"):
        study(["boolean-direct@0", "boolean-direct@1"])
