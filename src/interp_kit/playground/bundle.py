"""JavaScript modules as one script, so that a page needs no server: browsers load no modules from file://.

Each module becomes a function that is called once and gives its exports. Of the syntax of modules it knows what is
written in `static/`: `import { a, b } from "./file.js";` and `export` before a function, a class or a constant.
"""

import re
from pathlib import Path

IMPORT = re.compile(r'^import \{([\w\s,]+)\} from "(\.[\w./-]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)


def bundle(entry: Path) -> str:
    """The module and all that it imports, as one script that runs it.

    Raises:
        ValueError: An import or export that is written otherwise, or modules that import each other.
    """
    done: dict[Path, str] = {}
    _add(entry.resolve(), done, ())
    return "".join(done.values())


def _add(path: Path, done: dict[Path, str], above: tuple[Path, ...]) -> None:
    if path in above:
        raise ValueError(f"{path.name} imports itself, through {', '.join(p.name for p in above)}")
    if path in done:
        return
    text = path.read_text(encoding="utf-8")
    for _, target in IMPORT.findall(text):
        _add((path.parent / target).resolve(), done, (*above, path))
    names = EXPORT.findall(text)
    body = IMPORT.sub(lambda m: f"const {{{_aliases(m[1])}}} = {_name((path.parent / m[2]).resolve())};\n", text)
    body = EXPORT.sub("", body)
    if left := re.search(r"^(import|export)\b.*", body, re.MULTILINE):
        raise ValueError(f"{path.name}: {left[0]!r} is not written as `bundle` reads it")
    done[path] = f"const {_name(path)} = (() => {{\n{body}return {{ {', '.join(names)} }};\n}})();\n"


def _aliases(names: str) -> str:
    return " ".join(names.split())


def _name(path: Path) -> str:
    return f"${path.parent.name}_{path.stem}".replace("-", "_")
