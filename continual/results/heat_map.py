"""The score matrix as a picture for TensorBoard: drawing it must be short beside a short task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import ArrayLike

from holdfast.continual.results.svg import element, picture, png, svg_file

# Seven points of cividis (Nuñez et al. 2018, doi:10.1371/journal.pone.0199239), dark to light.
_CIVIDIS = ("00224e", "31446b", "575d6d", "7c7b78", "a59c74", "d2c15e", "fee838")
_WIDTH, _HEIGHT = 64, 34
_GAP = 10
_LETTER = 7.4
_TURN = 30
"""Degrees by which the names of columns rise."""
_STYLE = """text { font-size: 12px; dominant-baseline: central; }
.row { text-anchor: end; } .middle { text-anchor: middle; }
rect { shape-rendering: crispEdges; }"""


MOST_DRAWN = 30
"""Most tasks of a score matrix that is shown as a picture, and most rows but that at the start."""


def shown_rows(stages: int) -> list[int]:
    """Return the rows of a score matrix that are shown: all, or so many evenly, and the last.

    >>> shown_rows(3), shown_rows(65)[:4], shown_rows(65)[-2:]
    ([0, 1, 2, 3], [0, 3, 6, 9], [63, 65])
    """
    every = -(-stages // MOST_DRAWN) or 1
    return sorted({*range(0, stages + 1, every), stages})


def heat_map(
    values: ArrayLike, *, rows: Sequence[str], columns: Sequence[str]
) -> tuple[bytes, int, int]:
    """Return a PNG of a score matrix with its numbers in the cells, and its width and height.

    Colours run from 0, or the lowest score below it, to 1, or the highest above it.

    Args:
        values: Shape (rows, columns); NaN is left blank.
        rows: What each row was measured after.
        columns: Names of the tasks.
    """
    scores = np.asarray(values, dtype=np.float64)
    known = scores[np.isfinite(scores)]
    low, high = min(0.0, known.min(initial=0.0)), max(1.0, known.max(initial=1.0))
    turn = math.radians(_TURN)
    left = round(_LETTER * max(map(len, rows), default=0)) + 2 * _GAP
    top = round(_LETTER * max(map(len, columns), default=0) * math.sin(turn)) + 3 * _GAP
    end, foot = left + _WIDTH * len(columns), top + _HEIGHT * len(rows)
    beyond = _LETTER * max(map(len, columns[-1:]), default=0) * math.cos(turn) - _WIDTH / 2
    width = end + max(round(beyond) + _GAP, 9 * _GAP)
    parts = [
        element("text", name, class_="row", x=left - _GAP, y=top + (row + 0.5) * _HEIGHT)
        for row, name in enumerate(rows)
    ]
    for column, name in enumerate(columns):
        place = f"translate({left + (column + 0.5) * _WIDTH:g} {top - _GAP}) rotate({-_TURN})"
        parts.append(element("text", name, transform=place))
    for (row, column), score in np.ndenumerate(scores):
        if np.isfinite(score):
            x, y, share = left + _WIDTH * column, top + _HEIGHT * row, (score - low) / (high - low)
            ground, ink = colours(share)
            parts.append(element("rect", x=x, y=y, width=_WIDTH, height=_HEIGHT, fill=ground))
            middle = {"x": x + _WIDTH // 2, "y": y + _HEIGHT // 2, "fill": ink}
            parts.append(element("text", _number(score), class_="middle", **middle))
    box = {"x": end + _GAP, "y": top, "width": _GAP, "height": foot - top}
    parts += [_gradient(), element("rect", fill="url(#cividis)", **box)]
    parts += [
        element("text", _number(score), x=end + 2.5 * _GAP, y=y)
        for score, y in ((high, top + 6), (low, foot - 6))
    ]
    height = foot + _GAP
    drawn = picture(width, height, "scores of each task", *parts)
    return png(svg_file(drawn, _STYLE)), width, height


def colours(share: float) -> tuple[str, str]:
    """Return the colour of a share between 0 and 1, and that of text on it: the one read better.

    >>> colours(0), colours(1)
    (('#00224e', '#fff'), ('#fee838', '#000'))
    """
    channels = np.array([list(bytes.fromhex(one)) for one in _CIVIDIS]).T
    places = np.linspace(0, 1, len(_CIVIDIS))
    found = bytes(round(np.interp(share, places, channel)) for channel in channels)
    return f"#{found.hex()}", "#fff" if share < 0.46 else "#000"


def _gradient() -> Element:
    """Return the colours from high, at the top, to low."""
    ends = np.linspace(0, 1, len(_CIVIDIS)).tolist()
    stops = [element("stop", offset=end, stop_color=colours(1 - end)[0]) for end in ends]
    return element("linearGradient", *stops, id="cividis", x2=0, y2=1)


def _number(score: float) -> str:
    return f"{score:.2f}" if abs(score) < 100 else f"{score:.0f}"
