"""Score matrices as tables whose cells are coloured: a heat map with real numbers in it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from holdfast.continual.reports.svg import element
from holdfast.continual.results.formatting import number
from holdfast.continual.results.heat_map import cividis

LEVELS = 33
"""How many colours the map has, as classes ``h0``, ...: a strict page allows no inline styles."""


def heat_table(
    values: NDArray[np.float64],
    *,
    title: Element,
    rows: Sequence[str],
    columns: Sequence[str],
    ranges: Sequence[tuple[float, float]],
    trained: Sequence[int | None],
    unseen: NDArray[np.bool_],
    foot: Sequence[tuple[str, Sequence[str]]] = (),
) -> Element:
    """Return a score matrix as a coloured table.

    Args:
        values: Shape (rows, columns); NaN is marked as n/a.
        title: What stands above it.
        rows: What each row was measured after.
        columns: Names of the tasks.
        ranges: Lowest and highest colour of each column.
        trained: The column that was just trained, of each row.
        unseen: Shape (rows, columns), which were measured without a head of their own.
        foot: Rows below, of text: what they are, and one cell for each column.
    """
    turned = " turned" if len(columns) > 3 else ""
    head = element("tr", element("td"))
    head.extend(element("th", element("span", name), scope="col") for name in columns)
    table = element("table", title, element("thead", head), class_=f"heat{turned}")
    body = element("tbody")
    for row, name in enumerate(rows):
        line = element("tr", element("th", name, scope="row"))
        for column, value in enumerate(values[row]):
            text = f"({number(value)})" if unseen[row, column] else number(value)
            made = element("td", text, class_=_level(value, ranges[column]))
            if column == trained[row]:
                made.set("class", f"{made.get('class')} own")
                made.set("title", "just trained")
            line.append(made)
        body.append(line)
    table.append(body)
    below = element("tfoot")
    for name, texts in foot:
        cells = [element("td", text.replace("± ", "±\N{NO-BREAK SPACE}")) for text in texts]
        below.append(element("tr", element("th", name, scope="row"), *cells))
    table.append(below)
    return table


def scale() -> Element:
    """Return the colours from the lowest to the highest."""
    parts = [element("rect", x=4 * k, width=4.2, height=12, class_=f"h{k}") for k in range(LEVELS)]
    box = {"viewBox": f"0 0 {4 * LEVELS} 12"}
    return element("svg", *parts, class_="scale", aria_hidden="true", **box)


def colours() -> str:
    """Return the style sheet of the colours: text is black or white, whichever is read better."""
    rules = []
    for level in range(LEVELS):
        red, green, blue = cividis(level / (LEVELS - 1))
        ink = "#fff" if _luminance(red, green, blue) < 0.179 else "#000"
        ground = f"#{red:02x}{green:02x}{blue:02x}"
        rules.append(f".h{level}{{background:{ground};fill:{ground};color:{ink}}}")
    return "\n".join(rules)


def _level(value: float, span: tuple[float, float]) -> str:
    if np.isnan(value):
        return "na"
    low, high = span
    share = (value - low) / ((high - low) or 1)
    return f"h{round(min(max(share, 0), 1) * (LEVELS - 1))}"


def _luminance(*colour: int) -> float:
    """Return the relative luminance of WCAG 2; black text is read better from 0.179 on."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in colour)
    ]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))
