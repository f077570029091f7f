"""Explanations in TensorBoard: pictures of what actions hang on, and of states that were forgotten.

They go into an event file of their own, which stands behind those of training.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from holdfast.continual.probes import frames
from holdfast.continual.probes.reasons import Cluster, Explained
from holdfast.continual.results.formatting import number, plural
from holdfast.continual.results.svg import element, picture, png, svg_file
from holdfast.continual.training.tensorboard import TensorBoard

_BARS = 12
"""Entries of an observation that are drawn: those of the largest shares."""

_ROW, _NAME, _NUMBER, _PANEL, _GAP = 20, 66, 44, 240, 10
"""Pixels: height of a row, width of its name and its number, sides of a panel, space around."""

_STYLE = """text { font-size: 12px; dominant-baseline: central; fill: #1a1d21; }
.name { text-anchor: end; } .bar { fill: #0072b2; } .zero { stroke: #57606a; }"""

_LARGE = 256
"""Pixels of the longer side of a heat map, at least."""


def show(board: TensorBoard, found: Explained, step: int) -> None:
    """Log what one stage hangs on in one task, and the states in which it departs.

    Args:
        board: Where to.
        found: What was found.
        step: Environment steps of the stream at the end of the stage.
    """
    _log(board, f"explain/{found.task}/reasons", _reasons(found), step)
    if found.clusters:
        _log(board, f"explain/{found.task}/forgotten", _forgotten(found.clusters), step)


def _log(board: TensorBoard, tag: str, encoded: bytes, step: int) -> None:
    with Image.open(io.BytesIO(encoded)) as drawn:
        board.image(tag, encoded, *drawn.size, step)


def _reasons(found: Explained) -> bytes:
    """Return a PNG: bars of the largest shares, or the map over the mean picture."""
    heat = found.heat()
    if heat is not None:
        return frames.png(heat, zoom=-(-_LARGE // max(heat.shape[:2])))
    shares = np.array(found.shares)
    order = np.argsort(shares)[::-1][:_BARS]
    rows = [(f"entry {entry}", float(shares[entry])) for entry in order]
    parts = _bars(rows, [f"{share:.0%}" for _, share in rows])
    return _drawn(_PANEL + 2 * _GAP, _ROW * len(rows) + 2 * _GAP, [_moved(parts, _GAP, _GAP)])


def _forgotten(clusters: Sequence[Cluster]) -> bytes:
    """Return a PNG with a panel for each kind of states: its frame, or where it is, and numbers."""
    panels = []
    for place, cluster in enumerate(clusters):
        told = (
            plural(cluster.states, "state"),
            f"step {cluster.step:.0f}, return to come {number(cluster.rest)}",
            f"divergence {number(cluster.divergence)}",
        )
        parts = [_frame(cluster.frame)] if cluster.frame is not None else _furthest(cluster)
        parts += [
            element("text", line, x=0, y=_PANEL + (row + 0.5) * _ROW)
            for row, line in enumerate(told)
        ]
        panels.append(_moved(parts, _GAP + place * (_PANEL + _GAP), _GAP))
    width = _GAP + len(clusters) * (_PANEL + _GAP)
    return _drawn(width, _PANEL + len(told) * _ROW + 2 * _GAP, panels)


def _frame(frame: str) -> Element:
    place = {"x": 0, "y": 0, "width": _PANEL, "height": _PANEL}
    # Pixels stay squares; resvg knows this value and no other that does so.
    look = {"image_rendering": "optimizeSpeed"}
    return element("image", href=f"data:image/png;base64,{frame}", **place, **look)


def _furthest(cluster: Cluster) -> list[Element]:
    """Return bars of the entries that are furthest from the task's mean."""
    centre = np.array(cluster.centre)
    order = np.argsort(np.abs(centre))[::-1][: _PANEL // _ROW]
    rows = [(f"entry {entry}", float(centre[entry])) for entry in order]
    return _bars(rows, [f"{value:+.1f}" for _, value in rows])


def _bars(rows: Sequence[tuple[str, float]], told: Sequence[str]) -> list[Element]:
    """Return a bar for each number, from zero to either side."""
    values = [value for _, value in rows]
    low, high = min(0.0, *values), max(0.0, *values)
    left, right = _NAME, _PANEL - _NUMBER

    def across(value: float) -> float:
        return left + (value - low) / ((high - low) or 1.0) * (right - left)

    parts = []
    for row, ((name, value), text) in enumerate(zip(rows, told, strict=True)):
        first, last = sorted((across(0.0), across(value)))
        y = row * _ROW
        bar = {"x": first, "y": y + 4, "width": last - first, "height": _ROW - 8}
        parts += [
            element("text", name, class_="name", x=left - 6, y=y + _ROW / 2),
            element("rect", class_="bar", **bar),
            element("text", text, x=right + 6, y=y + _ROW / 2),
        ]
    zero = f"M{across(0.0):g} 0V{len(rows) * _ROW}"
    return [*parts, element("path", d=zero, class_="zero")]


def _moved(parts: Sequence[Element], x: int, y: int) -> Element:
    return element("g", *parts, transform=f"translate({x} {y})")


def _drawn(width: int, height: int, parts: Sequence[Element]) -> bytes:
    return png(svg_file(picture(width, height, "", *parts), _STYLE))
