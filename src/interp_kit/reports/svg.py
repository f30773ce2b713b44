"""A figure as SVG inside of a page: text stays text, cells of a heat map are one pixel each, and the page's style sheet
recolours it in the dark.

Black, white and greys become variables of the page (`TONES`). A signed heat map is nearly white at 0, which would shine
on dark paper, so it is there twice: its dark copy has the same hues, and 0 is as dark as the page. Amounts (viridis)
are the same in both.
"""

import html
import io
import re
from typing import TYPE_CHECKING

from interp_kit.reports.plotting import DIVERGING, figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

LARGEST = 400_000  # characters of an SVG; a larger one is drawn as PNG
SCALE = 95 / 72  # CSS pixels per point, so that text of 10 points is 13 pixels high
LEAST = 0.85  # of that size: a narrower page scrolls
# Colour -> (variable of the page, its value in the light, in the dark)
TONES = {
    "#000000": ("ink", "#1b1f24", "#e6edf3"),
    "#ffffff": ("paper", "#ffffff", "#0f1419"),
    "#555555": ("soft", "#555b63", "#aab4be"),
    "#999999": ("faint", "#8b949e", "#7d8894"),
    "#bbbbbb": ("pale", "#bbbbbb", "#4a5561"),
    "#cccccc": ("edge", "#cccccc", "#3d4752"),
    "#dddddd": ("grid", "#dddddd", "#2b343d"),
    "#f4f4f4": ("box", "#f4f4f4", "#1d252d"),
    "#0072b2": ("blue", "#0072b2", "#3d9be0"),
}
_DROPPED = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL
)
_FONT = re.compile(r"(?:font: ([\d.]+)px [^;\"]*|font-family: [^;\"]*|font-size: ([\d.]+)px(?=[^\"]*font-family))")


def svg(ax: "Axes", label: str = "") -> str | None:
    """The figure of an Axes as an <svg> element for a page; None if it would have more than LARGEST characters.

    Args:
        ax: The axes.
        label: Read out in place of the picture.
    """
    figure = figure_of(ax)
    figure.draw_without_rendering()
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")  # a second pass would move everything by a hair
    try:
        drawn = _light_and_dark(figure)
    finally:
        figure.set_layout_engine(engine)
    return None if len(drawn) > LARGEST else _inline(drawn, label)


def variables(dark: bool) -> str:
    """The variables of a page's style sheet that figures refer to."""
    return " ".join(f"--{name}: {shades[dark]};" for name, *shades in TONES.values())


def _light_and_dark(figure: "Figure") -> str:
    drawn = _saved(figure)
    signed = [image for image in _mapped(figure) if image.get_cmap().name == DIVERGING]
    if signed:
        before = [image.get_cmap() for image in signed]
        for image in signed:
            image.set_cmap(_dark())
        drawn = _both(drawn, _saved(figure))
        for image, colours in zip(signed, before, strict=True):
            image.set_cmap(colours)
    return drawn


def _mapped(figure: "Figure") -> list:
    """The images of a figure (not the colours of a bar, which follow theirs)."""
    return [image for axes in figure.axes for image in axes.images]


def _saved(figure: "Figure") -> str:
    import matplotlib

    buffer = io.StringIO()
    nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "interp_kit"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", dpi=100, facecolor="none", metadata=nobody)
    return _DROPPED.sub("", buffer.getvalue())


def _dark() -> "Colormap":
    """The signed colours with a dark middle: orange below 0, purple above, as in the light."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ("#ffd9a0", "#f59b23", "#8a5410", "#161c22", "#5d4d8f", "#a596dc", "#ded6ff")
    return LinearSegmentedColormap.from_list("PuOr in the dark", stops)


def _both(light: str, dark: str) -> str:
    """One drawing with both of each element in which the two differ, by class."""
    tags = [re.split(r"(<[^>]*>)", text) for text in (light, dark)]
    if len(tags[0]) != len(tags[1]):
        raise ValueError("the two drawings differ by more than their colours")
    merged = []
    for one, other in zip(*tags, strict=True):
        if one == other or not one.endswith("/>"):
            merged.append(one)
        else:
            merged += [re.sub(r"^<(\w+)", rf'<\1 class="by-{name}"', tag) for name, tag in
                       (("light", one), ("dark", other))]  # fmt: skip
    return "".join(merged)


def _inline(drawn: str, label: str) -> str:
    """Part of a file that a page needs: no names of elements, which must be unique in the page; no fonts; its tones."""
    drawn = re.sub(r'(<(?:g|image)\b[^>]*?) id="[^"]*"', r"\1", drawn)
    drawn = drawn.replace("xlink:href", "href").replace("base64,\n", "base64,")
    drawn = re.sub(r"style=\"[^\"]*\"", lambda style: _FONT.sub(_size, style[0]), drawn)
    for colour, (name, *_) in TONES.items():
        drawn = re.sub(rf"(?<=: ){colour}\b", f"var(--{name})", drawn)
    drawn = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\s+", " ", re.sub(r"(\.\d{3})\d+", r"\1", tag[0])), drawn)
    drawn = re.sub(r">\s+<", "><", drawn).strip()
    width = float(re.search(r'width="([\d.]+)pt"', drawn)[1]) * SCALE  # pyright: ignore[reportOptionalSubscript]
    box = re.search(r'viewBox="([^"]*)"', drawn)[1]  # pyright: ignore[reportOptionalSubscript]
    size = f"width: {width:.0f}px; min-width: {LEAST * width:.0f}px"
    head = f'<svg class="plot" role="img" aria-label="{html.escape(label)}" viewBox="{box}" style="{size}">'
    return re.sub(r"^<svg[^>]*>", lambda _: head, drawn)


def _size(font: re.Match[str]) -> str:
    """The size of a text, without its family, which the page sets."""
    size = font[1] or font[2]
    return f"font-size: {size}px" if size else "font-family: inherit"
