"""Tutorials are programs: their blocks run in order, and what they print stands below them.

`python -m tools.tutorials docs/tutorials/boolean.md` runs a page and writes what each block printed below it.
"""

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+")
TOLERANCE = 0.02  # of printed numbers, which other processors round otherwise


@dataclass(frozen=True)
class Ran:
    """One block: its code, what the page says that it prints, and what it printed."""

    code: str
    expected: str
    printed: str

    def agrees(self) -> bool:
        """Return whether words are equal, and numbers equal within TOLERANCE."""
        words = [NUMBER.sub("#", text).split() for text in (self.expected, self.printed)]
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (self.expected, self.printed)]
        return words[0] == words[1] and all(abs(a - b) <= TOLERANCE for a, b in zip(*numbers, strict=True))


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (code, printed) per Python block of a page, printed being empty if no output follows it."""
    return [(found["code"], found["printed"] or "") for found in BLOCK.finditer(page)]


def run(page: str) -> list[Ran]:
    """Run the Python blocks of a page in one namespace.

    Args:
        page: Markdown.

    Returns:
        One entry per block.

    Raises:
        Exception: Whatever a block raises.
    """
    namespace: dict[str, object] = {"__name__": "__tutorial__"}
    ran = []
    for code, expected in blocks(page):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(code, "tutorial", "exec"), namespace)
        ran.append(Ran(code, expected, "\n".join(line.rstrip() for line in said.getvalue().splitlines()) + "\n"))
    return ran


def written(page: str, ran: list[Ran]) -> str:
    """Return the page with what its blocks printed."""
    left = iter(ran)

    def with_output(found: re.Match[str]) -> str:
        printed = next(left).printed
        return f"```python\n{found['code']}```\n" + (f"\n```text\n{printed}```\n" if printed.strip() else "")

    return BLOCK.sub(with_output, page)


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        page = path.read_text(encoding="utf-8")
        path.write_text(written(page, run(page)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
