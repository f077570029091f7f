"""Elements of pages and pictures: the one way in which a report, and TensorBoard's image, is drawn.

Elements are built, never pasted together from text, so that a name cannot break out of its place.
They carry classes; a style sheet gives them colours.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

_UNPRINTABLE = re.compile("[^\t\n\r -~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FONT = "DejaVu Sans"


def element(tag: str, *children: Element | str | None, **attributes: object) -> Element:
    """Return an element; ``class_`` means ``class`` and ``text_anchor`` means ``text-anchor``.

    Text and attributes are escaped when the element is written. ``None`` is left out.

    >>> markup(element("text", "a < b", class_="name", x=0.125, dy=None))
    '<text class="name" x="0.12">a &lt; b</text>'
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), _attribute(value))
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + printable(child)
        elif child is not None:
            made.text = (made.text or "") + printable(child)
    return made


def printable(text: str) -> str:
    """Return text without what no page may hold: control characters and lone surrogates.

    >>> printable("red " + chr(27) + "[31m")
    'red [31m'
    """
    return _UNPRINTABLE.sub("", text)


def markup(made: Element) -> str:
    """Return an element as HTML."""
    return tostring(made, encoding="unicode", method="html")


def picture(width: float, height: float, label: str, *children: Element | None) -> Element:
    """Return an ``svg`` that is as wide as its place; ``label`` is read to those who cannot see."""
    box = {"viewBox": f"0 0 {width:g} {height:g}"}  # case matters
    return element("svg", *children, role="img", aria_label=label, **box)


def svg_file(drawn: Element, style: str) -> str:
    """Return a picture as a file of its own, on white.

    Args:
        drawn: The picture.
        style: The style sheet of its classes, without variables.
    """
    width, height = drawn.attrib["viewBox"].split()[2:]
    own = {"xmlns": "http://www.w3.org/2000/svg", "width": width, "height": height}
    ground = element("rect", width=width, height=height, fill="#fff")
    sheet = element("style", f"svg {{ font-family: '{_FONT}', sans-serif; }}\n{style}")
    made = element("svg", sheet, ground, *drawn, **drawn.attrib, **own)
    return tostring(made, encoding="unicode")


def png(svg: str, *, zoom: float = 1.0) -> bytes:
    """Return an SVG file as a PNG."""
    from resvg_py import svg_to_bytes  # here: who draws no picture needs no renderer

    fonts = [str(_font())]
    return bytes(
        svg_to_bytes(svg, zoom=zoom, font_files=fonts, font_family=_FONT, skip_system_fonts=True)
    )


@cache
def _font() -> Path:
    """Return the font that comes with matplotlib, which is not imported: a server may have none."""
    found = find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return printable(str(value))
