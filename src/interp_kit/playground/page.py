"""Write a model as a page that runs it in the browser: weights, forward pass, heat maps and edits in one HTML file."""

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING

from interp_kit.core.config import expect
from interp_kit.core.files import cannot_write, check_writable, is_signed, signed, write_text
from interp_kit.core.task import AbstractTask
from interp_kit.models.checkpoints import provenance
from interp_kit.models.meeting import check_model
from interp_kit.playground.bundle import bundle
from interp_kit.playground.export import payload
from interp_kit.registry.models import task_of

if TYPE_CHECKING:
    from interp_kit.models.hooked_model import HookedTransformer

STATIC = Path(__file__).parent / "static"
SIGNATURE = "<!-- interp_kit playground {} -->"
LARGEST = 2**28  # bytes of a page


def playground_path(path: str | Path) -> Path:
    """Return the path if a page can be written to it; to be asked before work begins.

    Raises:
        ValueError: The path does not end in .html.
        OSError: It cannot be written, or holds something else than an unchanged playground page.
    """
    path = check_writable(path)
    if path.suffix != ".html":
        raise ValueError(f"a playground is written to a .html file, not {path}")
    if path.exists() and path.stat().st_size and not is_signed(path, SIGNATURE, LARGEST):
        raise cannot_write(
            path, FileExistsError("it is not a playground page, or was changed since; move it, or name another")
        )
    return path


def write_playground(model: "HookedTransformer", path: str | Path, *, task: AbstractTask | None = None) -> Path:
    """Write one HTML file that runs the model in the browser, with edits of its weights and activations.

    The page needs no server and no network. It computes with the weights rounded to float16.

    Args:
        model: A HookedTransformer in the form of GPT-2 or MyGPT, of at most 30 million parameters.
        path: The .html file; an unchanged playground page there is replaced, anything else is not.
        task: The task whose examples are shown; by default the one that the model learned, or none if that is unknown.

    Returns:
        The path.

    Raises:
        ValueError: The model is too large or of another form, or does not fit the task.
        OSError: The file cannot be written, or is not a playground page.
    """
    check_model(model)
    expect("path", path, (str, Path), "where the page is written")
    if task is not None:
        expect("task", task, AbstractTask, 'as interp_kit.task("boolean") gives')
    path = playground_path(path)
    if task is not None and len(task.vocabulary) != model.cfg.d_vocab:
        raise ValueError(
            f"task {task.name!r} has {len(task.vocabulary)} tokens and the model {model.cfg.d_vocab}: ids do not mean"
            " the same; name the task that the model learned"
        )
    if task is None and provenance(model).task is not None:
        task = task_of(model)
    return write_text(path, signed(page(model, task), SIGNATURE))


def page(model: "HookedTransformer", task: AbstractTask | None) -> str:
    """The page as one string."""
    header, weights = payload(model, task)
    view = "tokens" if task is None else header["task"]["view"]
    entry = STATIC / "views" / f"{view}.js"
    if not entry.is_file():
        raise ValueError(f"task {header['task']['name']} asks for view {view!r}, and there is no {entry.name}")
    parts = {
        "title": html.escape(f"{header['model']['name']}: interp_kit playground"),
        "style": (STATIC / "style.css").read_text(encoding="utf-8"),
        "header": json.dumps(header, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        "weights": base64.b64encode(weights).decode(),
        "script": bundle(entry),
    }
    text = (STATIC / "page.html").read_text(encoding="utf-8")
    first, *rest = text.split("{{")
    return first + "".join(parts[name] + after for name, after in (part.split("}}", 1) for part in rest))
