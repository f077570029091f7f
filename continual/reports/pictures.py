"""Pictures of pixels in a report: inside the page, which asks no address for them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from holdfast.continual.reports import axes
from holdfast.continual.reports.charts import WIDTH
from holdfast.continual.results.document import Figure
from holdfast.continual.results.svg import element, picture

_SIDE, _LINE = 180.0, 18.0

MOST_BYTES = 200_000
"""Of the pictures of one section, as a page holds them."""


@dataclass(frozen=True)
class Pixels:
    """A picture, with what is told of it beside it.

    Attributes:
        png: The picture.
        told: Short lines.
    """

    png: bytes
    told: Sequence[str]

    @property
    def href(self) -> str:
        """The picture as an address that holds all of it."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        place = {"x": 0, "y": 0, "width": _SIDE, "height": _SIDE}
        parts = [element("image", href=self.href, class_="pixels", **place)]
        parts += [
            axes.label(_SIDE + 12, 14 + row * _LINE, line, "value")
            for row, line in enumerate(self.told)
        ]
        return picture(WIDTH, _SIDE, title, *parts)


def within(shown: Sequence[tuple[str, Pixels]]) -> tuple[tuple[Figure, ...], int]:
    """Return pictures as figures, and how many are left out to keep a page small.

    Args:
        shown: Each with its title; the first are kept.
    """
    figures, size = [], 0
    for title, one in shown:
        size += len(one.href)
        if size > MOST_BYTES:
            break
        figures.append(Figure(title, one))
    return tuple(figures), len(shown) - len(figures)
