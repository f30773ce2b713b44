"""The page itself: written once, whole, refused where it does not fit; and in a browser, without a network."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import torch

import interp_kit as ik
from interp_kit.cli import main
from interp_kit.playground.bundle import bundle
from interp_kit.playground.export import LIMIT, shown_examples
from interp_kit.playground.page import STATIC, page

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def boolean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a shipped boolean model, as the command writes it."""
    path = tmp_path_factory.mktemp("page") / "boolean.html"
    assert main(["playground", "boolean-gpt2", "--out", str(path)]) == 0
    return path


def test_the_page_is_one_file_that_names_no_address(boolean: Path) -> None:
    text = boolean.read_text(encoding="utf-8")
    assert boolean.stat().st_size < 4e6
    assert (
        re.findall(r"https?://|\bfetch\(|XMLHttpRequest|@import|\bimport\(|<(?:script|img|link)[^>]*src=", text) == []
    )
    assert "default-src 'none'" in text


def test_only_an_unchanged_page_is_replaced(boolean: Path, tmp_path: Path, tiny_model: Any) -> None:
    model, path = tiny_model(), tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(OSError, match=r"page\.html: it is not a playground page, or was changed since"):
        ik.write_playground(model, path)
    assert path.read_text() == "mine"
    path.write_bytes(boolean.read_bytes())
    assert ik.write_playground(model, path).read_text() != boolean.read_text()
    path.write_text(path.read_text().replace("tokens", "words", 1))
    with pytest.raises(OSError, match="changed since"):
        ik.write_playground(model, path)
    with pytest.raises(ValueError, match=r"to a \.html file"):
        ik.write_playground(model, tmp_path / "page.txt")


def test_models_that_the_page_does_not_compute_are_refused(tiny_model: Any, tmp_path: Path) -> None:
    config = {"d_mlp": 16, "d_vocab": LIMIT // 16 + 1}
    refused = [
        (tiny_model(**config), r"parameters; a playground page takes at most 30,000,000: choose a smaller model"),
        (tiny_model(positional_embedding_type="rotary", rotary_dim=8), "form of GPT-2 and MyGPT.*positional_embedding"),
        (tiny_model(normalization_type="RMS"), "form of GPT-2 and MyGPT.*RMSNorm"),
        (tiny_model(gated_mlp=True), "form of GPT-2 and MyGPT"),
    ]
    large = tiny_model()
    with torch.no_grad():
        large.unembed.W_U[0, 0] = 1e6
    for model, said in [*refused, (large, r"unembed\.W_U has numbers that float16 does not hold \(largest 1e\+06\)")]:
        with pytest.raises(ValueError, match=said):
            ik.write_playground(model, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_every_task_has_a_page(tiny_model: Any) -> None:
    """One that a user wrote, of unequal lengths, has the view of tokens; a view that is missing is said."""
    for name in ("boolean", "cards", "culture", "induction", "graphs"):
        task = ik.task(name)
        n_ctx = max(len(example.tokens) for example in task.sample(20, 0))
        model = tiny_model(d_vocab=len(task.vocabulary), n_ctx=n_ctx)
        text = page(model, task)
        header = json.loads(text.partition('id="header">')[2].partition("</script>")[0])
        assert (STATIC / "views" / f"{header['task']['view']}.js").is_file()
        assert header["task"]["examples"]
        assert len(text) > 50_000
    task.playground = lambda: {"view": "dance"}
    with pytest.raises(ValueError, match=r"view 'dance', and there is no dance\.js"):
        page(model, task)


def test_shared_code_knows_no_task() -> None:
    """Names of one task, and what only it has, stand in its view alone."""
    shared = [*STATIC.glob("engine/*.js"), *STATIC.glob("panels/*.js"), STATIC / "page.html"]
    found = {path.name for path in shared if re.search("boolean|culture|newB|cards|bits|quiz", path.read_text())}
    assert found == set()


def test_files_are_small() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in STATIC.rglob("*.*")}
    assert {name: n for name, n in lines.items() if n > 350} == {}


def test_modules_become_one_script(tool: Callable[[str], str], tmp_path: Path) -> None:
    a = 'import { two, Three } from "./b.js";\nconst one = 1;\nconsole.log(one + two() + Three);\n'
    b = 'import { one } from "./c.js";\nexport function two() {\n  return one + 1;\n}\nexport const Three = 3;\n'
    (tmp_path / "a.js").write_text(a)
    (tmp_path / "b.js").write_text(b)
    (tmp_path / "c.js").write_text("export const one = 1;\n")
    done = subprocess.run([tool("node"), "-e", bundle(tmp_path / "a.js")], capture_output=True, text=True, check=True)
    assert done.stdout == "6\n"
    (tmp_path / "c.js").write_text('import { two } from "./b.js";\n')
    with pytest.raises(ValueError, match="imports itself"):
        bundle(tmp_path / "a.js")
    (tmp_path / "c.js").write_text("export default 1;\n")
    with pytest.raises(ValueError, match="export default"):
        bundle(tmp_path / "a.js")


READY = "Number(document.body?.dataset.ready ?? 0) >= {}"
RIGHT = "[...document.querySelectorAll('b')].find((b) => b.textContent.includes('worlds are right')).textContent"
EDITS = "[...document.querySelectorAll('.edits code')].map((c) => c.textContent)"


def step(do: str, ready: int) -> list[dict[str, str]]:
    return [{"do": f"void ({do})"}, {"wait": READY.format(ready)}]


@pytest.mark.slow
def test_the_page_works_from_a_file_without_a_network(boolean: Path, browse: Callable[..., SimpleNamespace]) -> None:
    """Toggle, zero a head, flip a weight with the keyboard, undo, and open the shared link."""
    undo = "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Undo')"
    head = "document.querySelector('[aria-label=\"layer 1 head 2 at all positions\"]')"
    canvas = "document.querySelector('canvas')"
    key = "new KeyboardEvent('keydown', {{key: '{}', bubbles: true}})"
    steps = [
        {"wait": READY.format(1)}, {"eval": RIGHT},
        *step("document.querySelector('[aria-label=\"Input: B\"]').click()", 2),
        *step(f"{head}.click()", 3), {"eval": RIGHT}, {"eval": EDITS},
        {"do": "void (document.querySelectorAll('details').forEach((d) => d.open = true))"},
        {"wait": f"{canvas}.onkeydown !== null"},
        {"do": f"void {canvas}.dispatchEvent({key.format('ArrowDown')})"},
        *step(f"{canvas}.dispatchEvent({key.format('Enter')})", 4), {"eval": EDITS},
        {"eval": "document.querySelector('.code').textContent"}, {"eval": "location.href"},
        *step(f"{undo}.click()", 5), {"eval": EDITS},
    ]  # fmt: skip
    seen = browse(boolean, steps)
    assert seen.problems == []
    right, edited, zeroed, flipped, program, link, undone = seen.answers
    assert right == "32 of 32 worlds are right"
    assert zeroed == ["z layer 1 head 2 zero"]
    assert flipped == [*zeroed, "W_Q layer 0 [0, 1, 0] flipped"]
    assert undone == zeroed
    assert "mask_1[0:1, 1:2, 0:1] = True" in program
    assert {url.partition("#")[0] for url in seen.requests} == {boolean.as_uri()}
    model = ik.load("boolean-gpt2")
    task = ik.task_of(model)
    batch = task.batch(task.enumerate())
    with ik.editing(model, batch, ik.Edit("z", 1, head=2)):
        written = ik.complete(model, batch)
    whole = (written[:, :-2] == batch.tokens[:, :-2]).all(1).sum()
    assert edited == f"{int(whole)} of 32 worlds are right"
    wrong = f"{boolean.as_uri()}#" + quote(
        json.dumps({"edits": [{"site": "z", "layer": 9, "source": {"kind": "Zero"}}]})
    )
    steps = [{"open": "about:blank"}, {"open": link}, {"wait": READY.format(1)}, {"eval": EDITS}]
    steps += [{"open": "about:blank"}, {"open": wrong}, {"wait": READY.format(1)}]
    again = browse(boolean, [*steps, {"eval": "document.querySelector('.status').textContent"}, {"eval": RIGHT}])
    assert again.problems == []
    assert again.answers == [flipped, "Not done. z layer 9 zero: the model has layers 0 to 3", right]


@pytest.mark.slow
def test_a_culture_page_writes_the_grid_that_the_model_writes(
    tmp_path: Path, browse: Callable[..., SimpleNamespace]
) -> None:
    model = ik.load("culture/gpt_000")
    task = ik.task_of(model)
    path = ik.write_playground(model, tmp_path / "culture.html")
    assert path.stat().st_size < 8e6
    cells = "[...document.querySelectorAll('.cells')].at(-1).innerText.split(/\\s+/).filter(Boolean).map(Number)"
    wait = {"wait": "Number(document.body?.dataset.written ?? 0) >= 1"}
    seen = browse(path, [wait, {"eval": cells}, {"eval": "document.documentElement.scrollWidth"}], width=400)
    batch = task.batch(shown_examples(task)[0][:1])
    free = torch.arange(405) >= batch.prompt_length[0]
    assert seen.problems == []
    assert seen.answers[0] == ik.decode(model, batch.tokens, free, progress=False).tokens[0, -100:].tolist()
    assert seen.answers[1] <= 400  # what is wider scrolls inside
