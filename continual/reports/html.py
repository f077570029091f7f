"""A document as a page that is one file: no address is asked, no script but its own is run."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

from jinja2 import Template

from holdfast.continual.reports.axes import marker, style
from holdfast.continual.reports.templates import FOLDER, environment
from holdfast.continual.results.document import Document, Figure, Section
from holdfast.continual.results.heat_map import colours
from holdfast.continual.results.svg import element, markup, printable

LEVELS = 33
"""Number of colours of heat maps, classes ``h0``, ...: a strict page has no inline styles."""


def html(document: Document) -> str:
    """Return a document as a whole page.

    Below the first paragraphs it links to the sections, or to the scenarios where there are
    several.
    """
    sections = document.sections
    names = _anchors(sections, Counter())
    sheets = [FOLDER.joinpath(name).read_text("utf-8") for name in ("page.css", "chart.css")]
    script = FOLDER.joinpath("page.js").read_text("utf-8")
    return _template().render(
        document=document,
        links=sections if len(sections) > 1 else sections[0].sections,
        anchor=lambda section: names[id(section)],
        style="\n".join([*sheets, heat_style()]),
        script=script,
    )


@cache
def _template() -> Template:
    """Return the template, in which text is escaped wherever it stands."""
    made = environment(
        autoescape=True, finalize=lambda shown: printable(shown) if type(shown) is str else shown
    )
    made.filters |= {"digest": _digest, "drawn": _drawn, "level": _level, "swatch": _swatch}
    made.globals["scale"] = _scale()
    return made.get_template("page.html")


def _anchors(sections: Iterable[Section], taken: Counter[str]) -> dict[int, str]:
    """Return each section's name for links, by its identity; a second of one name is numbered."""
    found: dict[int, str] = {}
    for section in sections:
        name = re.sub("[^a-z0-9]+", "-", section.title.lower()).strip("-")
        taken[name] += 1
        found[id(section)] = name if taken[name] == 1 else f"{name}-{taken[name]}"
        found |= _anchors(section.sections, taken)
    return found


def _drawn(figure: Figure) -> str:
    return markup(figure.drawing.drawn(figure.spoken or figure.title))


def _swatch(index: int) -> str:
    """Return the line and the mark of the ``index``-th method, as in a legend."""
    parts = element("path", d="M1 6H27"), marker(14, 6, index, 3.6)
    kept = {"viewBox": "0 0 28 12", "aria_hidden": "true"}
    return markup(element("svg", *parts, class_=f"swatch {style(index)}", **kept))


def _scale() -> str:
    """Return the colours of heat maps from the lowest to the highest."""
    parts = [element("rect", x=4 * k, width=4.2, height=12, class_=f"h{k}") for k in range(LEVELS)]
    kept = {"viewBox": f"0 0 {4 * LEVELS} 12", "aria_hidden": "true"}
    return markup(element("svg", *parts, class_="scale", **kept))


def heat_style() -> str:
    """Return the style sheet of heat maps."""
    rules = []
    for level in range(LEVELS):
        ground, ink = colours(level / (LEVELS - 1))
        rules.append(f".h{level}{{background:{ground};fill:{ground};color:{ink}}}")
    return "\n".join(rules)


def _level(heat: float) -> str:
    return "na" if math.isnan(heat) else f"h{round(heat * (LEVELS - 1))}"


def _digest(content: str) -> str:
    """Return what the page's policy knows a style sheet or a script by."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
