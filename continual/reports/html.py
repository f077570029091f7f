"""A document as a page that is one file: no address is asked, no script but its own is run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from holdfast.continual.reports.axes import marker, style
from holdfast.continual.results.document import (
    Block,
    Bullets,
    Callout,
    Cell,
    Document,
    Figure,
    Figures,
    Legend,
    Matrices,
    Matrix,
    Paragraph,
    Run,
    Section,
    Table,
    Text,
)
from holdfast.continual.results.formatting import number
from holdfast.continual.results.heat_map import cividis, colour
from holdfast.continual.results.svg import element, markup, printable

LEVELS = 33
"""How many colours heat maps have, as classes ``h0``, ...: a strict page has no inline styles."""

HEAT_LEGEND = (
    "Mean over seeds at the task boundaries. A frame marks the task that was just trained; in "
    "parentheses: the task had no head or column of its own yet; hatched: not measured."
)


def html(document: Document) -> str:
    """Return a document as a whole page.

    Below the first paragraphs it links to the sections, or to the scenarios where there are
    several.
    """
    here = Path(__file__).parent
    sheets = [here.joinpath(name).read_text("utf-8") for name in ("page.css", "chart.css")]
    sheet = "\n".join([*sheets, colours()])
    script = here.joinpath("page.js").read_text("utf-8")
    main = element("main", *_Page().sections(document.sections))
    _contents(main)
    policy = (
        f"default-src 'none'; style-src '{_hash(sheet)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(printable(document.title))}: report</title>",
            f"<style>{sheet}</style></head><body>",
            markup(main),
            f"<script>{script}</script></body></html>",
            "",
        ]
    )


class _Page:
    """The elements of a page, whose headings have names for links."""

    def __init__(self) -> None:
        """Start without a heading."""
        self._names: Counter[str] = Counter()

    def sections(self, sections: Iterable[Section], level: int = 1) -> Iterator[Element]:
        """Return sections with their parts."""
        for section in sections:
            yield self._heading(section.title, level)
            for block in section.blocks:
                yield from _block(block)
            yield from self.sections(section.sections, level + 1)

    def _heading(self, title: str, level: int) -> Element:
        name = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")
        self._names[name] += 1
        count = self._names[name]
        return element(f"h{level}", title, id=name if count == 1 else f"{name}-{count}")


def _contents(main: Element) -> None:
    """Add links to the headings, below what stands above the second of them."""
    headings = main.findall("h1") if len(main.findall("h1")) > 1 else main.findall("h2")
    links = [
        element("li", element("a", heading.text, href=f"#{heading.get('id')}"))
        for heading in headings
    ]
    if links:
        below = next(n for n, part in enumerate(main) if n and part.tag in ("h1", "h2"))
        main.insert(below, element("nav", element("ul", *links), aria_label="Contents"))


def _block(block: Block) -> Iterator[Element]:
    match block:
        case Paragraph(text, on):
            if on != "markdown":
                yield element("p", *_inline(text))
        case Callout(word, said):
            yield element("p", element("strong", word), f" {said}", class_="callout")
        case Bullets(items):
            yield element("ul", *(element("li", *_inline(item)) for item in items))
        case Table():
            # A wide table scrolls in its own place, also by keyboard.
            yield element("div", _table(block), class_="scroll", tabindex=0)
            if block.caption:
                yield element("p", block.caption)
        case Legend(methods):
            buttons = [_button(index, name) for index, name in methods]
            named = {"role": "group", "aria_label": "Methods to highlight"}
            yield element("div", *buttons, class_="legend", **named)
        case Figures(figures, large):
            drawn = (_figure(figure) for figure in figures)
            yield element("div", *drawn, class_="grid few" if large else "grid")
        case Matrices(_, matrices, ranges, ends):
            yield element("p", HEAT_LEGEND)
            yield element("p", f"{ends[0]} ", _scale(), f" {ends[1]}", class_="soft")
            tables = (element("figure", _heat(matrix, ranges)) for matrix in matrices)
            yield element("div", *tables, class_="heats")


def _inline(text: Text) -> Iterator[Element | str]:
    for part in text:
        if isinstance(part, str) or part.style == "given":
            yield " ".join(part.text.split()) if isinstance(part, Run) else part
        else:
            yield element(part.style, part.text)


def _table(table: Table) -> Element:
    head = [
        element("th", cell.text, class_=_classes(n, cell), scope="col")
        for n, cell in enumerate(table.head)
    ]
    rows = (
        element("tr", *(_cell(column, cell) for column, cell in enumerate(row)))
        for row in table.rows
    )
    parts = element("thead", element("tr", *head)), element("tbody", *rows)
    return element("table", *parts, class_="report sorted")


def _cell(column: int, cell: Cell) -> Element:
    text = element("em", cell.text) if cell.style == "emphasis" else cell.text
    value = None if cell.value is None else f"{cell.value:.10g}"
    return element("td", text, class_=_classes(column, cell), data_value=value)


def _classes(column: int, cell: Cell) -> str | None:
    classes = ["right"] if column else []
    classes += ["na"] if cell.is_na else []
    classes += ["missing"] if cell.style == "partial" else []
    return " ".join(classes) or None


def _figure(figure: Figure) -> Element:
    mark = None if figure.index is None else _swatch(figure.index)
    noted = element("span", figure.note, class_="soft") if figure.note else None
    caption = element("figcaption", mark, figure.title, noted)
    return element("figure", caption, figure.drawing.drawn(figure.spoken or figure.title))


def _button(index: int, name: str) -> Element:
    state = {"type": "button", "aria_pressed": "false", "data_of": index}
    return element("button", _swatch(index), name, **state)


def _swatch(index: int) -> Element:
    """Return the line and the mark of the ``index``-th method, as in a legend."""
    line, box = element("path", d="M1 6H27"), {"viewBox": "0 0 28 12"}
    mark = marker(14, 6, index, 3.6)
    return element("svg", line, mark, class_=f"swatch {style(index)}", aria_hidden="true", **box)


def _heat(matrix: Matrix, ranges: tuple[tuple[float, float], ...]) -> Element:
    """Return a score matrix as a table whose cells are coloured, with real numbers in it."""
    names = (element("th", element("span", name), scope="col") for name in matrix.columns)
    body = element("tbody")
    for row, (words, name) in enumerate(matrix.rows):
        line = element("tr", element("th", f"{words}{name}", scope="row"))
        for column, value in enumerate(matrix.values[row]):
            text = f"({number(value)})" if matrix.unseen[row, column] else number(value)
            made = element("td", text, class_=_level(value, ranges[column]))
            if column == matrix.trained[row]:
                made.set("class", f"{made.get('class')} own")
                made.set("title", "just trained")
            line.append(made)
        body.append(line)
    below = element("tfoot")
    for title, cells in matrix.foot:
        texts = (cell.text.replace("± ", "±\N{NO-BREAK SPACE}") for cell in cells)
        own = (element("td", text) for text in texts)
        below.append(element("tr", element("th", title, scope="row"), *own))
    caption = element("caption", _swatch(matrix.index), matrix.title)
    head = element("thead", element("tr", element("td"), *names))
    turned = "heat turned" if len(matrix.columns) > 3 else "heat"
    return element("table", caption, head, body, below, class_=turned)


def _scale() -> Element:
    """Return the colours from the lowest to the highest."""
    parts = [element("rect", x=4 * k, width=4.2, height=12, class_=f"h{k}") for k in range(LEVELS)]
    box = {"viewBox": f"0 0 {4 * LEVELS} 12"}
    return element("svg", *parts, class_="scale", aria_hidden="true", **box)


def colours() -> str:
    """Return the style sheet of heat maps: text is black or white, whichever is read better."""
    rules = []
    for level in range(LEVELS):
        share = level / (LEVELS - 1)
        ink = "#fff" if _luminance(*cividis(share)) < 0.179 else "#000"
        rules.append(f".h{level}{{background:{colour(share)};fill:{colour(share)};color:{ink}}}")
    return "\n".join(rules)


def _level(value: float, span: tuple[float, float]) -> str:
    if np.isnan(value):
        return "na"
    low, high = span
    share = (value - low) / ((high - low) or 1)
    return f"h{round(min(max(share, 0), 1) * (LEVELS - 1))}"


def _luminance(*channels: int) -> float:
    """Return the relative luminance of WCAG 2; black text is read better from 0.179 on."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in channels)
    ]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
