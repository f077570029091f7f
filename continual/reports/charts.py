"""The charts of a report, each a small SVG that is read at 400 pixels and on a wide screen.

All are drawn 360 units wide, with text of 11: the page puts as many beside each other as there is
room for, and scales them little. Colours come from the style sheet, ``chart.css``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.continual.reports import axes
from holdfast.continual.reports.axes import Bounds, Frame
from holdfast.continual.reports.templates import FOLDER
from holdfast.continual.results.curves import Span
from holdfast.continual.results.svg import element, picture

WIDTH, WIDE = 360.0, 675.0
STEPS = "environment steps"
_ROW = 22.0


@dataclass(frozen=True)
class Line:
    """One method's curves.

    Attributes:
        name: The method's label.
        index: Its place among the methods, which gives its colour, dashes and mark.
        x: Shape (points,).
        y: Shape (points, tasks) or (points,); NaN is left out.
        low: Lower end of the band, shaped as ``y``; NaN where there is none.
        high: Its upper end.
    """

    name: str
    index: int
    x: ArrayLike
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def ends(self) -> tuple[NDArray[np.float64], ...]:
        """The curves, and both ends of their bands."""
        return self.y, self.low, self.high

    def of(self, task: int) -> Line:
        """Return the curve of one task, over the points at which it was measured."""
        at = ~np.isnan(self.y[:, task])
        x = np.asarray(self.x)[at]
        return Line(self.name, self.index, x, *(part[at, task] for part in self.ends))


@dataclass(frozen=True)
class Point:
    """A number of one method with its interval, ``(value, low, high)``; NaN where it is n/a.

    Attributes:
        name: The method's label.
        index: Its place among the methods.
        x: The number.
        y: The second number, where there are two.
        text: How it is written.
    """

    name: str
    index: int
    x: tuple[float, float, float]
    y: tuple[float, float, float] = (0.0, 0.0, 0.0)
    text: str = ""


@dataclass(frozen=True)
class Stream:
    """Every task's curve of one method, one strip above the other, over the whole stream.

    Attributes:
        line: Its curves.
        tasks: Name of each task.
        spans: When each is trained: that part of its strip is shaded.
        ranges: Lowest and highest number of each task's strip.
    """

    line: Line
    tasks: Sequence[str]
    spans: Sequence[Span]
    ranges: Sequence[Bounds]

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        line, tasks, spans = self.line, self.tasks, self.spans
        end = max([span.end for span in spans] + [int(np.max(line.x, initial=1))])
        widest = max((len(name) for name in tasks), default=0)
        height = min(70.0, max(32.0, 210 / max(len(tasks), 1)))  # of one strip
        left, right = min(110.0, 6.2 * widest + 10), WIDTH - 32
        bottom = 6 + len(tasks) * height
        whole = Frame(left, 6, right, bottom, (0, end), (0, 1))
        parts = [axes.horizontal_axis(whole, STEPS)]
        for task, name in enumerate(tasks):
            top = 6 + task * height
            frame = Frame(left, top + 2, right, top + height - 2, (0, end), self.ranges[task])
            own = [span for span in spans if span.task == task]
            parts.append(_strip(frame, name, own))
            parts.append(_drawn(frame, line.of(task), f"{line.name}: {name}"))
        parts.append(_switches(whole, [span.end for span in spans[:-1]]))
        return picture(WIDTH, bottom + 36, title, *parts)


def _strip(frame: Frame, name: str, spans: Sequence[Span]) -> Element:
    width, height = frame.right - frame.left, frame.bottom - frame.top
    group = element("g", class_="strip")
    box = {"x": frame.left, "y": frame.top, "width": width, "height": height}
    group.append(element("rect", class_="ground", **box))
    group.extend(_shade(frame, span) for span in spans)
    middle = (frame.top + frame.bottom) / 2 + 4
    place = {"class_": "end name", "x": f"{frame.left - 7:.1f}", "y": f"{middle:.1f}"}
    text = axes.fitted(name, frame.left - 8)
    group.append(element("text", text, element("title", name), **place))
    for tick in axes.ticks(*frame.y, 2):
        y = float(frame.up(tick))
        beside = min(max(y + 3.5, frame.top + 8), frame.bottom)  # not into the next strip's
        group.append(
            element("path", d=f"M{frame.left:.1f} {y:.1f}H{frame.right:.1f}", class_="level")
        )
        group.append(axes.label(frame.right + 4, beside, axes.short(tick), "small"))
    return group


def _shade(frame: Frame, span: Span, class_: str = "trained") -> Element:
    start, end = (float(frame.across(step)) for step in (span.start, span.end))
    box = {"x": start, "y": frame.top, "width": end - start, "height": frame.bottom - frame.top}
    return element("rect", class_=class_, **box)


def _drawn(frame: Frame, line: Line, hint: str, *, with_band: bool = True) -> Element:
    """Return one curve with its band."""
    group = element("g", class_=f"line {axes.style(line.index)}", data_method=line.index)
    if with_band and (around := axes.band(frame, line.x, line.low, line.high)):
        group.append(element("path", d=around, class_="band"))
    group.append(element("path", element("title", hint), d=axes.curve(frame, line.x, line.y)))
    return group


def _switches(frame: Frame, places: Sequence[float]) -> Element:
    ends = (f"M{float(frame.across(at)):.1f} {frame.top:g}V{frame.bottom:.1f}" for at in places)
    return element("path", d="".join(ends), class_="switch")


@dataclass(frozen=True)
class Curves:
    """The curves of several methods in one frame.

    Attributes:
        lines: One curve each.
        names: Of the horizontal and of the vertical axis.
        y: Lowest and highest number of the vertical axis.
        spans: What is shaded: when the task is trained.
        switches: Where vertical lines are drawn: where one task ends and the next begins.
        bottom: The lower edge of the frame.
        right: Its right edge.
        with_bands: Whether bands are drawn around the curves.
        is_tinted: Whether what is shaded has the colour of the task's curve.
    """

    lines: Sequence[Line]
    names: tuple[str, str]
    y: Bounds
    spans: Sequence[Span] = ()
    switches: Sequence[float] = ()
    bottom: float = 168
    right: float = WIDTH - 12
    with_bands: bool = True
    is_tinted: bool = False

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        x = axes.bounds(*(line.x for line in self.lines), [span.end for span in self.spans])
        frame = Frame(46, 8, self.right, self.bottom, x, self.y)
        parts = [
            _shade(frame, span, f"tint {axes.style(span.task)}" if self.is_tinted else "trained")
            for span in self.spans
        ]
        parts += axes.both(frame, *self.names)
        parts.append(_switches(frame, self.switches))
        parts += [_drawn(frame, line, line.name, with_band=self.with_bands) for line in self.lines]
        return picture(self.right + 12, self.bottom + 36, title, *parts)


@dataclass(frozen=True)
class Panels:
    """Charts one above the other, each below its title: a figure for papers.

    Attributes:
        panels: The charts with their titles.
        keys: Names of the curves, whose place gives their colour.
    """

    panels: Sequence[tuple[str, Curves]]
    keys: Sequence[str]

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        parts: list[Element] = []
        x, top = 46.0, 16.0
        for index, name in enumerate(self.keys):
            width = 7 * len(name) + 44
            if x + width > WIDE and x > 46:
                x, top = 46.0, top + 18
            line = element("path", d=f"M{x:g} {top - 4:g}h24")
            parts.append(element("g", line, class_=f"line {axes.style(index)}"))
            parts.append(axes.label(x + 30, top, name))
            x += width
        for name, chart in self.panels:
            drawn = chart.drawn(name)
            parts += [axes.label(46, top + 28, name, "title"), drawn]
            drawn.set("y", f"{top + 30:g}")
            drawn.set("height", drawn.attrib["viewBox"].split()[-1])
            top += 30 + float(drawn.attrib["height"])
        return picture(WIDE, top, title, *parts)


@dataclass(frozen=True)
class Intervals:
    """One row for each method: its number as a mark, its interval as a line.

    Attributes:
        points: The methods.
        axis: What the numbers are.
        least: What the axis spans at least.
        reference: Where a line is drawn that marks no difference.
    """

    points: Sequence[Point]
    axis: str
    least: Sequence[float]
    reference: float = 0.0

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        x = wider(axes.bounds(*(point.x for point in self.points), least=self.least), 0.03)
        frame = _rows(self.points, x)
        parts = [axes.horizontal_axis(frame, self.axis, grid=True, most=5)]
        if x[0] < self.reference < x[1]:
            at = float(frame.across(self.reference))
            parts.append(element("path", d=f"M{at:.1f} 4V{frame.bottom:.1f}", class_="zero"))
        for row, point in enumerate(self.points):
            y = 4 + (row + 0.5) * _ROW
            group = _row(frame, point, y)
            if np.isnan(point.x[0]):
                group.append(axes.label(frame.left + 4, y + 4, "n/a", "small halo"))
            else:
                if np.isfinite(point.x).all():
                    low, high = frame.across(point.x[1:])
                    group.append(element("path", d=f"M{low:.1f} {y}H{high:.1f}", class_="interval"))
                group.append(axes.marker(float(frame.across(point.x[0])), y, point.index))
            parts.append(group)
        return picture(WIDTH, frame.bottom + 36, title, *parts)


@dataclass(frozen=True)
class Bars:
    """One row for each method: its number as a bar from zero, and as text."""

    points: Sequence[Point]

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        x = axes.bounds(*(point.x[:1] for point in self.points), least=(0.0,))
        frame = _rows(self.points, x, 70)
        parts = []
        for row, point in enumerate(self.points):
            y = 4 + (row + 0.5) * _ROW
            group = _row(frame, point, y)
            end = float(frame.across(np.nan_to_num(point.x[0])))
            size = {"width": end - frame.left, "height": _ROW - 10, "y": y - (_ROW - 10) / 2}
            group.append(element("rect", x=frame.left, class_="bar", **size))
            group.append(axes.label(end + 5, y + 4, point.text, "value"))
            parts.append(group)
        return picture(WIDTH, frame.bottom + 4, title, *parts)


def _rows(points: Sequence[Point], x: Bounds, right: float = 14) -> Frame:
    widest = max((len(point.name) for point in points), default=0)
    left = min(130.0, 6.4 * widest + 12)
    return Frame(left, 4, WIDTH - right, 4 + _ROW * len(points), x, (0, 1))


def _row(frame: Frame, point: Point, y: float) -> Element:
    name = axes.label(frame.left - 8, y + 4, axes.fitted(point.name, frame.left - 8), "end name")
    values = ", ".join(axes.short(value) for value in point.x if np.isfinite(value))
    return _of_method(point, f"{point.name}: {point.text or values or 'n/a'}", name)


def _of_method(point: Point, hint: str, *parts: Element) -> Element:
    style = axes.style(point.index)
    return element("g", element("title", hint), *parts, class_=style, data_method=point.index)


@dataclass(frozen=True)
class Scatter:
    """The methods in a plane, with intervals along both axes and their names beside them.

    Attributes:
        points: The methods; those that are n/a are left out.
        names: Of the horizontal and of the vertical axis.
    """

    points: Sequence[Point]
    names: tuple[str, str]

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        shown = [point for point in self.points if np.isfinite([point.x[0], point.y[0]]).all()]
        x = wider(axes.bounds(*(point.x for point in shown)), 0.08)
        y = wider(axes.bounds(*(point.y for point in shown), least=(0.0,)), 0.08)
        frame = Frame(50, 8, WIDTH - 12, 268, x, y)
        parts = axes.both(frame, *self.names, grid=True)
        if y[0] < 0 < y[1]:
            zero = float(frame.up(0))
            parts.append(element("path", d=f"M50 {zero:.1f}H{frame.right:.1f}", class_="zero"))
        places = [(float(frame.across(one.x[0])), float(frame.up(one.y[0]))) for one in shown]
        names = _names([point.name for point in shown], places, frame)
        for point, (a, b), name in zip(shown, places, names, strict=True):
            hint = f"{point.name}: {axes.short(point.x[0])}, {axes.short(point.y[0])}"
            ends = ""
            if np.isfinite(point.x).all():
                ends += "M{:.1f} {y:.1f}H{:.1f}".format(*frame.across(point.x[1:]), y=b)
            if np.isfinite(point.y).all():
                ends += "M{x:.1f} {:.1f}V{:.1f}".format(*frame.up(point.y[1:]), x=a)
            drawn = element("path", d=ends, class_="interval"), axes.marker(a, b, point.index), name
            parts.append(_of_method(point, hint, *drawn))
        return picture(WIDTH, 304, title, *parts)


def wider(span: Bounds, share: float) -> Bounds:
    """Return bounds with a share of room at both ends."""
    room = share * (span[1] - span[0])
    return span[0] - room, span[1] + room


Box = tuple[float, float, float, float]
_RISES = (-6, 16, -18, 28, -30, 40, -42, 52, -54, 64, -66)


def _names(
    texts: Sequence[str], places: Sequence[tuple[float, float]], frame: Frame
) -> list[Element]:
    """Return each point's name where it is away from other marks and names, with a line to it."""
    marks: list[Box] = [(a - 11, b - 9, a + 11, b + 9) for a, b in places]
    taken: list[Box] = []
    names = []
    for (a, b), own, name in zip(places, marks, texts, strict=True):
        text = axes.fitted(name, 130)
        width = 6.4 * len(text)
        others = [mark for mark in marks if mark is not own]
        found = []
        for side, rise in product((10, -10 - width), _RISES):
            box = (a + side, b + rise - 10, a + side + width, b + rise + 2)
            beyond = max(frame.left - box[0], 0) + max(box[2] - frame.right, 0)
            beyond += max(frame.top - box[1], 0) + max(box[3] - frame.bottom, 0)
            hits = sum(_overlap(box, other) for other in (*taken, *others))
            found.append((hits + 50 * beyond + abs(rise) + (side < 0), box))
        box = min(found)[1]
        taken.append(box)
        end = (box[0] - 1 if box[0] > a else box[2] + 1, (box[1] + box[3]) / 2)
        line = f"M{a:.1f} {b:.1f}L{end[0]:.1f} {end[1]:.1f}"
        far = element("path", d=line, class_="leader") if abs(end[1] - b) > 14 else None
        names.append(element("g", far, axes.label(box[0], box[3] - 2, text, "name halo")))
    return names


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0


@cache
def style_sheet() -> str:
    """Return the style of charts in files: the page's variables have their light colours."""
    page, chart = (FOLDER.joinpath(name).read_text("utf-8") for name in ("page.css", "chart.css"))
    light = dict(reversed(re.findall(r"--([\w-]+): (#\w+)", page)))  # of two, the first is light
    return re.sub(r"var\(--([\w-]+)\)", lambda found: light[found[1]], chart)
