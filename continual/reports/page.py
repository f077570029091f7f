"""A page that is one file: no address is asked, no script but its own is run.

Text comes as markdown, in the same words as elsewhere; pictures come as elements.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from holdfast.continual.reports.heat_table import colours
from holdfast.continual.reports.svg import element, marker, markup, printable, style

if TYPE_CHECKING:
    from markdown_it.token import Token

Part = str | Element
"""Markdown, or an element."""


def page(title: str, parts: Iterable[Part]) -> str:
    """Return a whole HTML page.

    Args:
        title: Of the window.
        parts: What it shows, from top to bottom. Below the first, the page links to the headings of
            level 2, or to those of level 1 where there are several.
    """
    here = Path(__file__)
    style = here.with_name("page.css").read_text("utf-8") + colours()
    script = here.with_name("page.js").read_text("utf-8")
    names: dict[str, int] = {}
    shown = [_rendered(p, names) if isinstance(p, str) else markup(p) for p in parts]
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(printable(title))}</title>",
            f"<style>{style}</style></head><body>",
            "<main>",
            *shown[:1],
            _contents("".join(shown)),
            *shown[1:],
            f"</main><script>{script}</script></body></html>",
            "",
        ]
    )


def cut(text: str) -> list[tuple[str, str]]:
    r"""Return markdown cut at its headings of level 2, as title and text; the first has no title.

    >>> cut("intro\n\n## One\n\ntext")
    [('', 'intro'), ('One', 'text')]
    """
    first, *others = re.split("^## ", text, flags=re.MULTILINE)
    found = [other.partition("\n") for other in others]
    return [("", first.strip()), *((title.strip(), body.strip()) for title, _, body in found)]


def figure(title: str, drawn: Element, *, note: str = "", index: int | None = None) -> Element:
    """Return a picture with its title above it.

    Args:
        title: What it shows.
        drawn: The picture.
        note: What is said beside the title.
        index: The place of the method that it shows, if it is of one.
    """
    mark = None if index is None else swatch(index)
    noted = element("span", note, class_="soft") if note else None
    return element("figure", element("figcaption", mark, title, noted), drawn)


def swatch(index: int) -> Element:
    """Return the line and the mark of the ``index``-th method, as in a legend."""
    line, box = element("path", d="M1 6H27"), {"viewBox": "0 0 28 12"}
    mark = marker(14, 6, index, 3.6)
    return element("svg", line, mark, class_=f"swatch {style(index)}", aria_hidden="true", **box)


def _rendered(text: str, names: dict[str, int]) -> str:
    """Return markdown as HTML; HTML in it is text, and pictures are not fetched.

    Args:
        text: The markdown.
        names: How often each name of a heading was given so far; a second one is numbered.
    """
    from markdown_it import MarkdownIt  # here: it comes with rich, and is not always needed

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = markdown.parse(printable(text))
    _prepare(tokens, names)
    html = str(markdown.renderer.render(tokens, markdown.options, {}))
    # A wide table scrolls in its own place, also by keyboard.
    html = html.replace("<table", '<div class="scroll" tabindex="0"><table')
    return html.replace("</table>", "</table></div>")


def _prepare(tokens: Sequence[Token], names: dict[str, int]) -> None:
    """Give headings their names for links, and tables classes in place of inline styles."""
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        inner = after.content if after is not None and after.type == "inline" else ""
        if token.type == "heading_open":
            name = re.sub("[^a-z0-9]+", "-", inner.lower()).strip("-")
            names[name] = names.get(name, 0) + 1
            token.attrSet("id", name if names[name] == 1 else f"{name}-{names[name]}")
        elif token.type == "table_open":
            token.attrSet("class", "report sorted")
        elif token.type in ("th_open", "td_open"):
            classes = ["right"] if token.attrs.pop("style", None) else []
            classes += ["na"] if inner == "n/a" else []
            classes += ["missing"] if re.fullmatch(r"\d+ of \d+", inner) else []
            if classes:
                token.attrSet("class", " ".join(classes))
            if token.type == "th_open":
                token.attrSet("scope", "col")


def _contents(html: str) -> str:
    level = 1 if html.count("<h1") > 1 else 2
    found = re.findall(rf'<h{level} id="([^"]*)">(.*?)</h{level}>', html)
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in found)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>' if links else ""


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
