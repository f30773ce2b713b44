"""Display of objects, and of the progress of long work.

Objects are one line as `repr`, and a short table in a notebook. Work shows a tqdm bar: see PROGRESS.
"""

import html
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeAlias

if TYPE_CHECKING:
    import pandas as pd
    from tqdm.std import tqdm

LONGEST = 200  # characters of a line
# The default of every option `progress`. In a notebook or a terminal people expect to see that long work goes on, and
# nothing to flash by for short work: so there is a bar unless `progress=False`, and only after SECONDS. Work inside of
# other work (the sweeps of `mechanism`, one model of a study) has no bar of its own: the bar around it counts it too.
PROGRESS = True
SECONDS = 1.0
UNWATCHED = 30.0  # between two drawings of a bar that goes to a file, where each stays
ROWS = 20  # of a table in a notebook
WIDEST = 80  # characters of a text in a cell
OURS = ("interp_kit", "jaxtyping", "contextlib", "torch.utils._contextlib")  # modules between a user's line and ours


def caution(message: str) -> None:
    """Warn with a UserWarning that names the line by which the user's own code came here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and any(
        (name := str(frame.f_globals.get("__name__"))) == ours or name.startswith(f"{ours}.") for ours in OURS
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


_INSIDE: ContextVar[bool] = ContextVar("inside of work that shows, or hides, how far it is", default=False)
_AROUND: ContextVar["tqdm[NoReturn] | None"] = ContextVar("the bar that is shown, if one is", default=None)


class Inner:
    """Work inside of other work: it has no bar of its own, and is counted at the end of the line of the bar around
    it ("experiments: 3/9, edits 14 of 45")."""

    def __init__(self, around: "tqdm[NoReturn] | None", total: int, what: str) -> None:
        self.around, self.total, self.what, self.n = around, total, what, 0
        self.before = "" if around is None else getattr(around, "postfix", None) or ""
        self._tell()

    def update(self, n: int = 1) -> None:
        """n more steps are done."""
        self.n += n
        self._tell()

    def _tell(self) -> None:
        if self.around is not None and self.total:
            self.around.set_postfix_str(f"{self.what} {self.n:,} of {self.total:,}", refresh=False)

    def set_description_str(self, what: str) -> None:
        """Another name for what is counted."""
        self.what = what
        self._tell()

    def close(self) -> None:
        """The line is as before."""
        if self.around is not None:
            self.around.set_postfix_str(self.before, refresh=False)


Bar: TypeAlias = "tqdm[NoReturn] | Inner"


@contextmanager
def bar(total: int, what: str, progress: bool, *, unit: str = "it") -> Iterator[Bar]:
    """A tqdm bar for the work inside the `with` block, which calls its `update`. It appears after SECONDS, whether a
    step is done by then or not. Bars inside of it are not shown, and counted in its line (`Inner`).

    Args:
        total: How many steps there are.
        what: What is counted.
        progress: Whether to show the bar.
        unit: What tqdm calls a step.
    """
    from tqdm.auto import tqdm

    if _INSIDE.get():
        inner = Inner(_AROUND.get(), total if progress else 0, what)
        hide = None if progress else _AROUND.set(None)
        try:
            yield inner
        finally:
            inner.close()
            if hide is not None:
                _AROUND.reset(hide)
        return
    hidden = not progress or not total
    inside = _INSIDE.set(True)
    try:
        with tqdm(total=total, desc=what, disable=hidden, delay=SECONDS, unit=unit) as shown:
            around = _AROUND.set(None if hidden else shown)
            try:
                with nullcontext() if hidden else _drawn(shown):
                    yield shown
            finally:
                _AROUND.reset(around)
    finally:
        _INSIDE.reset(inside)


@contextmanager
def _drawn(shown: "tqdm[NoReturn]") -> Iterator[None]:
    """The bar is drawn after SECONDS, and once per second from then on: by itself tqdm draws at a step alone. In a file
    every UNWATCHED seconds."""
    done, pause = Event(), 1.0
    if not (hasattr(shown, "container") or shown.fp.isatty()):  # neither a notebook nor a terminal
        shown.mininterval = pause = UNWATCHED

    def draw() -> None:
        if done.wait(SECONDS):
            return
        shown.delay = 0  # it is drawn, so its end is drawn too
        while not done.is_set():
            shown.refresh()
            done.wait(pause)

    thread = Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def show_no_bars() -> None:
    """For a worker process: its parent shows how far the work is."""
    _INSIDE.set(True)


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


def numbered(n: SupportsIndex | str, units: str) -> str:
    """`1 omission set`, `5 omission sets`: a number, or a span of numbers, before what is counted, given as a plural.
    The noun ends at a comma, "of" or "that"; a verb after "that" agrees with it."""
    if str(n) != "1":
        return f"{n} {units}"
    noun, rest = re.fullmatch(r"([^,]*?)((?:,| of | that ).*)?", units).groups("")  # pyright: ignore[reportOptionalMemberAccess]
    noun = re.sub(r"(?:(?<=quiz)z|(?<=x))es$|s$", "", noun)
    rest = re.sub(r"^ that (differ|flip|share)\b", r" that \1s", rest).replace(", all there are", ", all there is")
    return f"{n} {noun}{rest}"


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def shortened(text: str) -> str:
    """A text of at most WIDEST characters, its end replaced by "…"."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def cell(value: object) -> str:
    """A value as tables show it: two decimals, "–" for what is missing (nan, None, pandas' NA)."""
    if value is None or type(value).__name__ == "NAType":
        return "–"
    if isinstance(value, float):
        if value != value:
            return "–"
        return f"{value:.2f}" if abs(value) >= 0.005 else f"{round(value, 4) + 0.0:g}"
    return str(value)


def _kind(*values: object) -> str:
    return "number" if all(isinstance(value, int | float) for value in values) else "text"


def html_table(frame: "pd.DataFrame") -> str:
    """A frame as an HTML table, every text escaped."""
    head = []
    for at, column in enumerate(frame.columns):
        kind = _kind(*frame.iloc[:, at]) if len(frame) else "text"
        head.append(f'<th class="{kind}">{html.escape(str(column).replace("_", " "))}</th>')
    body = []
    for row in frame.itertuples(index=False):
        cells = "".join(f'<td class="{_kind(value)}">{html.escape(cell(value))}</td>' for value in row)
        body.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody></table>"


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
