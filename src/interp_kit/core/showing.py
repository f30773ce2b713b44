"""How objects show themselves: one line as `repr`, a short table in a notebook."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 200  # characters of a line
ROWS = 20  # of a table in a notebook
WIDEST = 80  # characters of a text in a cell


def line(name: str, *parts: object) -> str:
    """`name(part, part, …)` on one line of at most LONGEST characters.

    Args:
        name: Name of the class.
        parts: What to tell apart objects by, most important first. None and "" are left out.
    """
    inside = ", ".join(" ".join(str(part).split()) for part in parts if part not in (None, ""))
    text = f"{name}({inside})"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}…)"


def counted(n: int, what: str) -> str:
    """`1 row`, `1,024 rows`."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def shortened(text: str) -> str:
    """A text of at most WIDEST characters, its end replaced by "…"."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def cell(value: object) -> str:
    """A value as tables show it: two decimals, "–" for nan."""
    if isinstance(value, float):
        if value != value:
            return "–"
        return f"{value:.2f}" if abs(value) >= 0.005 else f"{round(value, 4) + 0.0:g}"
    return str(value)


def html_table(frame: "pd.DataFrame") -> str:
    """A frame as an HTML table, every text escaped."""
    head = "".join(f"<th>{html.escape(str(column).replace('_', ' '))}</th>" for column in frame.columns)
    body = []
    for row in frame.itertuples(index=False):
        cells = "".join(
            f'<td class="{"number" if isinstance(value, int | float) else "text"}">{html.escape(cell(value))}</td>'
            for value in row
        )
        body.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def preview(caption: str, rows: "pd.DataFrame | Mapping[str, Sequence[Any]]", total: int | None = None) -> str:
    """Caption and table as HTML, as notebooks show an object.

    Args:
        caption: Text above the table.
        rows: A frame, or column -> values. Only the first ROWS are shown.
        total: How many rows there are, if `rows` are only the first of them.
    """
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(dict(rows))
    more = (len(frame) if total is None else total) - min(len(frame), ROWS)
    rest = f"<p>… {counted(more, 'more row')}</p>" if more else ""
    return f"<p>{html.escape(caption)}</p>{html_table(frame.head(ROWS))}{rest}"
