"""Ten habits that a native reader stumbles over, found in docstrings, messages, comments and pages.

`python tools/english.py` prints `file:line: words (rule)` for each, and exits with 1 if there is one.
"""

import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("src", "examples", "benchmarks", "tools")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")

UNIT = "row|entry|line|file|call|fit|run|edge|shard|column|value|estimate|thread|process|job|test|number|example|probe"
MANY = "rows|quizzes|examples|tokens|steps|bytes|ms|pairs|deals|questions|models|edits"
OF = "second|quiz|step|row|model|thread|split|core|site|batch|seed|head|layer|edge|token|class"
BE = r"(?<!here )\b(?:is|are|was|were)"
KEPT = "more|longer|less|better|worse|doubt|one|need|such|new|node|nodes|sign|reason|way"

ORDER = r"\b(?:axes|text|tokens|positions?|stands?|comes?|stream|block) behind\b|\bbehind the (?:prompt|last|first)\b"
CALQUES = r"\bmade good by\b|\b[Mm]end(?:s|ed|ing)?\b|\bspared the\b|\blearns? of\b"
ERRORS = r"\b(?:Raises?|raises|raised|Warns) [A-Za-z]*(?:Error|Unsupported)? ?where\b"

# (rule, pattern)
RULES = (
    (
        "start a docstring with a verb or a noun",
        r'\A[rf]?"""\s*(?:What|Where|How|Whether|Which|By which|Why|When)\b',
    ),
    ('"per", not "a"', rf"\b[Oo]ne (?:{UNIT}) an? (?=[a-z])|\b(?:{MANY}) an? (?:{OF})\b"),
    ('"is not a", not "is no"', rf"{BE} no (?!(?:{KEPT})\b)[A-Za-z]+"),
    ('"if", not "where", after an error', ERRORS),
    ("learned", r"\b[Ll]earnt\b"),
    ('"about", not "some", before a number', r"\bsome (?=\d)"),
    ('"after", not "behind"', ORDER),
    ('"compensates", "fixes", "skips", "reaches"', CALQUES),
    ("say what is missing, not that something is none", rf"{BE} none(?=[,.;:)\n]|$)(?! of)"),
    ('"must be" or "will be", not "is to be"', r"\b(?:is|are|was|were) to be\b"),
)
PATTERNS = [(rule, re.compile(pattern)) for rule, pattern in RULES]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of every piece of English in a file: all of a page but its blocks of code; the pages of
    a notebook, its lines numbered as if they followed each other; strings with spaces and comments of a program."""
    if path.suffix in (".md", ".ipynb"):
        yield from _lines(page_of(path))
        return
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            kind = tokenize.tok_name[token.type]
            if kind in ("STRING", "COMMENT", "FSTRING_MIDDLE") and " " in token.string:
                yield token.start[0], token.string


def page_of(path: Path) -> str:
    """Return the text of a page, or of the Markdown cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def _lines(page: str) -> Iterator[tuple[int, str]]:
    code = False
    for number, line in enumerate(page.splitlines(), start=1):
        code ^= line.startswith("```")
        if not code:
            yield number, re.sub(r"`[^`]*`", "`…`", line)


def faults(path: Path) -> list[tuple[int, str, str]]:
    """Return (line, words, rule) per fault of a file, in order of lines."""
    found = []
    for first, text in texts(path):
        for rule, pattern in PATTERNS:
            for match in pattern.finditer(text):
                words = " ".join(match.group().strip('"').split())
                found.append((first + text.count("\n", 0, match.start()), words, rule))
    return sorted(found)


def files() -> list[Path]:
    """Return every program and page that is checked, this one aside: it names the faults."""
    programs = [path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))]
    pages = [path for name in PAGES for path in sorted((ROOT / name).rglob("*.md")) or [ROOT / name]]
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return [path for path in programs + pages + notebooks if path != Path(__file__).resolve()]


def main() -> int:
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {words!r} ({rule})" for path in files() for line, words, rule in faults(path)
    ]
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
