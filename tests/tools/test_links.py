"""A link to nowhere in a built site is found: a missing page, a missing anchor, and anything from another host."""

from pathlib import Path

from tools.links import broken_links

PAGE = '<a href="b.html#there">1</a><a href="{}">2</a><img src="c.png"><a href="https://elsewhere.org">3</a>'


def test_broken_links_are_named_with_their_page(tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "b.html").write_text('<h2 id="there">x</h2><a href="#there">up</a>')
    (tmp_path / "a.html").write_text(PAGE.format("b.html"))
    assert broken_links(tmp_path) == []
    for link in ("missing.html", "b.html#nowhere", "#gone", "../outside.html"):
        (tmp_path / "a.html").write_text(PAGE.format(link))
        assert broken_links(tmp_path) == [f"a.html: {link}"]
    (tmp_path / "a.html").write_text('<script src="https://elsewhere.org/x.js"></script>')
    assert broken_links(tmp_path) == ["a.html: https://elsewhere.org/x.js (loaded from another host)"]
