"""Parts of charts: scales, ticks, axes, curves, marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.continual.results.svg import element

COLOURS, DASHES = 7, 4
"""Number of colours and dashes in the style sheet: classes ``c0``, ... and ``d0``, ..."""

_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


Bounds = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """Place of a chart's data in its picture.

    Attributes:
        left: Pixels, as ``top``, ``right`` and ``bottom``.
        top: The top edge.
        right: The right edge.
        bottom: The bottom edge.
        x: Lowest and highest number on the horizontal axis.
        y: Lowest and highest number on the vertical axis.
    """

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: ArrayLike) -> NDArray[np.float64]:
        """Return the horizontal place of numbers, in pixels."""
        return self.left + _share(value, self.x) * (self.right - self.left)

    def up(self, value: ArrayLike) -> NDArray[np.float64]:
        """Return the vertical place of numbers, in pixels."""
        return self.bottom - _share(value, self.y) * (self.bottom - self.top)


def _share(value: ArrayLike, span: Bounds) -> NDArray[np.float64]:
    low, high = span
    return (np.asarray(value, dtype=np.float64) - low) / ((high - low) or 1)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two bounds, at most ``most``.

    >>> ticks(0, 1), ticks(-0.13, 0.52, 4), ticks(0, 86016)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.2, 0.4], [0.0, 20000.0, 40000.0, 60000.0, 80000.0])
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(place * step, 12) + 0.0 for place in range(first, last + 1)]


def short(value: float) -> str:
    """Return a number as a tick says it.

    >>> short(0.25), short(86016), short(2e6), short(-0.0)
    ('0.25', '86k', '2M', '0')
    """
    for unit, suffix in _SUFFIXES:
        if abs(value) >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value + 0.0:.3g}"


def label(x: float, y: float, content: str, class_: str = "", **attributes: object) -> Element:
    """Return text at a place; classes ``middle`` and ``end`` say how it lies there."""
    return element("text", content, x=x, y=y, class_=class_ or None, **attributes)


def fitted(name: str, width: float) -> str:
    """Return a name cut to what fits into a width at the size of labels.

    >>> fitted("swapped-sensors", 60), fitted("plain", 60)
    ('swapped-s…', 'plain')
    """
    most = max(2, int(width / 6))
    return name if len(name) <= most else name[: most - 1] + "…"


def horizontal_axis(frame: Frame, name: str, *, grid: bool = False, most: int = 6) -> Element:
    """Return ticks below the frame, their numbers, and the name of what they count."""
    axis = element("g", class_="axis")
    for tick in ticks(*frame.x, most):
        x = float(frame.across(tick))
        if grid:
            axis.append(element("path", d=f"M{x:.1f} {frame.top:.1f}V{frame.bottom:.1f}"))
        axis.append(label(x, frame.bottom + 14, short(tick), "middle"))
    axis.append(label((frame.left + frame.right) / 2, frame.bottom + 28, name, "middle unit"))
    return axis


def vertical_axis(frame: Frame, name: str, *, most: int = 5) -> Element:
    """Return lines across the frame, their numbers at its left, and what they count above them."""
    axis = element("g", class_="axis")
    for tick in ticks(*frame.y, most):
        y = float(frame.up(tick))
        axis.append(element("path", d=f"M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"))
        axis.append(label(frame.left - 6, y + 4, short(tick), "end"))
    middle = (frame.top + frame.bottom) / 2
    axis.append(
        label(0, 0, name, "middle unit", transform=f"translate(10 {middle:.1f}) rotate(-90)")
    )
    return axis


def both(frame: Frame, across: str, up: str, *, grid: bool = False) -> list[Element]:
    """Return both axes, with the names of what they count."""
    return [vertical_axis(frame, up), horizontal_axis(frame, across, grid=grid)]


def curve(frame: Frame, x: ArrayLike, y: ArrayLike) -> str:
    """Return the path through points, broken where one is NaN; a lone point is a dot."""
    places = _places(frame, x, y)
    return "".join(
        "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in part) + ("h0" if len(part) == 1 else "")
        for part in _known(places)
    )


def band(frame: Frame, x: ArrayLike, low: ArrayLike, high: ArrayLike) -> str:
    """Return the path around what lies between two curves, broken where one is NaN."""
    lower, upper = _places(frame, x, low), _places(frame, x, high)
    both = np.hstack([lower, upper])
    return "".join(
        "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in [*part[:, :2], *part[::-1, 2:]]) + "Z"
        for part in _known(both)
    )


def style(index: int) -> str:
    """Return the classes of the ``index``-th method: no two of 28 look alike."""
    return f"c{index % COLOURS} d{index // COLOURS % DASHES}"


def marker(x: float, y: float, index: int, size: float = 4.5) -> Element:
    """Return the mark of the ``index``-th method: told by shape, not by colour alone."""
    s, wide = size, 1.3 * size
    shapes = (
        f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
        f"M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z",
        f"M{x:.1f} {y - wide:.1f}l{wide} {wide}l{-wide} {wide}l{-wide} {-wide}z",
        f"M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s} {2.1 * s}h{-2.4 * s}z",
    )
    return element("path", d=shapes[index % len(shapes)], class_=f"mark {style(index)}")


def bounds(*values: ArrayLike, least: Sequence[float] = ()) -> tuple[float, float]:
    """Return the lowest and the highest finite number, and not less than ``least`` spans.

    >>> bounds([0.2, np.nan], [1.1], least=(0, 1)), bounds([])
    ((0.0, 1.1), (0.0, 1.0))
    """
    numbers = np.concatenate([np.ravel(np.asarray(v, dtype=np.float64)) for v in (*values, least)])
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return 0.0, 1.0
    low, high = float(numbers.min()), float(numbers.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _places(frame: Frame, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    return np.column_stack([frame.across(x), frame.up(y)])


def _known(places: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the runs of rows without NaN."""
    known = np.isfinite(places).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.view(np.int8), [0]])))
    return [places[start:end] for start, end in list(pairwise(edges))[::2]]
