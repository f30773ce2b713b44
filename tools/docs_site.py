"""Hooks of mkdocs: pages that stand at the root of the repository become pages of the site, terms of the
glossary are explained at their first use, and every link of the built site is checked.
"""

from pathlib import Path
from typing import Any

from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files

from tools.glossary import GLOSSARY, explained, terms
from tools.links import broken_links

ROOT = Path(__file__).parents[1]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
MOVED = {f"]({name}": f"]({page}" for name, page in PAGES.items()} | {"](docs/": "]("}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root; their links to docs/ are from docs/ there."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for old, new in MOVED.items():
            text = text.replace(old, new)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to the files at the root to their pages, and explain terms of the glossary where a page first uses
    them; the glossary and the log of decisions do not need it."""
    path = page.file.src_uri
    for name, there in PAGES.items():
        markdown = markdown.replace(f"](../../{name}", f"](../{there}")
    if path in ("glossary.md", "changelog.md") or path.startswith("decisions/"):
        return markdown
    return explained(markdown, terms(GLOSSARY.read_text(encoding="utf-8")))


def on_post_build(config: Any) -> None:
    """Stop the build for a link to nowhere."""
    found = broken_links(Path(config.site_dir))
    if found:
        raise Abort("broken links:\n" + "\n".join(found))
