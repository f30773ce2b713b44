"""Terms of docs/glossary.md, explained where a page of the site first uses one."""

import html
import re
from pathlib import Path

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"
LONGEST = 240  # characters of an explanation
# Words of every day that the glossary gives a narrower meaning; marking each would be noise.
EVERYDAY = {"position", "site", "unit", "control", "route", "target", "lookup", "untrained", "shipped", "z", "probe"}
_TERM = re.compile(r"^(\S[^\n]*)\n:   (.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
# Left as it is: code, links, HTML, headings, tables, indented blocks, and an explanation with what it explains
_KEPT = re.compile(
    r"(```.*?```|`[^`]*`|!?\[[^\]]*\]\([^)]*\)|<abbr.*?</abbr>|<[^>]*>|^(?:#|\||    |:::)[^\n]*$)",
    re.MULTILINE | re.DOTALL,
)


def terms(glossary: str) -> dict[str, str]:
    """Return term -> explanation, without markup. "EAP, EAP-IG" are two terms with one explanation."""
    found: dict[str, str] = {}
    for names, text in _TERM.findall(glossary):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
        plain = re.sub(r"[`*]", "", plain)
        plain = plain if len(plain) <= LONGEST else plain[: plain.rindex(" ", 0, LONGEST)] + " …"
        for name in re.sub(r" \([^)]*\)", "", names).split(", "):
            if name.lower() not in EVERYDAY:
                found.setdefault(name, plain)
    return found


def explained(page: str, known: dict[str, str]) -> str:
    """Return a page of Markdown in which the first use of each term carries its explanation."""
    for term in sorted(known, key=len, reverse=True):
        first = re.escape(term[0]) if term.isupper() else f"[{term[0].upper()}{term[0].lower()}]"
        use = re.compile(rf"(?<![\w-]){first}{re.escape(term[1:])}s?(?![\w-])")
        parts = _KEPT.split(page)
        for i in range(0, len(parts), 2):  # the others are kept
            if found := use.search(parts[i]):
                mark = f'<abbr title="{html.escape(known[term])}">{found[0]}</abbr>'
                parts[i] = parts[i][: found.start()] + mark + parts[i][found.end() :]
                break
        page = "".join(parts)
    return page
