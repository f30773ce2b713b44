"""Links from a report to a playground page, with edits ready in the address."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from interp_kit.core.files import check_regular
from interp_kit.core.result import AbstractResult

HEADER = re.compile(r'<script type="application/json" id="header">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class Link:
    """Words for what a click does, and the address."""

    text: str
    address: str


def model_of(page: str | Path) -> str:
    """The name of the model that a playground page runs.

    Raises:
        OSError: There is no such file.
        ValueError: It is not a playground page.
    """
    text = check_regular(Path(page)).read_text(encoding="utf-8", errors="replace")
    found = HEADER.search(text)
    try:
        name = json.loads(found[1])["model"]["name"] if found else None
    except (json.JSONDecodeError, KeyError, TypeError):
        name = None
    if not isinstance(name, str):
        raise ValueError(f"{page} is not a playground page; write one with `interp-kit playground MODEL --out {page}`")
    return name


def links(result: AbstractResult, page: str | Path, beside: str | Path, model: str | None = None) -> tuple[Link, ...]:
    """Links that open a playground page with the edits of a result; none if the page runs another model.

    Args:
        result: What was found.
        page: The playground page.
        beside: The report that links to it.
        model: The model of the page, if it was read before.

    Raises:
        OSError, ValueError: As `model_of` does.
    """
    if result.config.get("model") != (model_of(page) if model is None else model):
        return ()
    there = os.path.relpath(Path(page).resolve(), Path(beside).resolve().parent)
    return tuple(Link(text, address(there, edits)) for text, edits in result.to_try().items())


def address(page: str, edits: Sequence[Mapping[str, Any]]) -> str:
    """The relative address of a page that opens with these edits, as the page writes it itself."""
    state = json.dumps({"edits": list(edits)}, separators=(",", ":"), allow_nan=False)
    return f"{quote(page.replace(os.sep, '/'))}#{quote(state, safe='')}"
