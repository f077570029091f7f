"""The score matrix as a picture, drawn by Pillow: matplotlib takes longer than a short task."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

# Seven points of cividis (Nuñez et al. 2018, doi:10.1371/journal.pone.0199239), dark to light.
_CIVIDIS = np.array(
    [
        (0, 34, 78),
        (49, 68, 107),
        (87, 93, 109),
        (124, 123, 120),
        (165, 156, 116),
        (210, 193, 94),
        (254, 232, 56),
    ]
)
_CELL = 110, 56
_GAP = 14
_TEXT = 20
_TURN = 30
"""Degrees by which the names of columns rise."""

_Colour = tuple[int, int, int]


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
    names = [_turned(name) for name in columns]
    width, height = _CELL
    left = max((_length(name) for name in rows), default=0) + 2 * _GAP
    top = max((name.height for name in names), default=0) + 2 * _GAP
    end = left + width * len(columns)
    beyond = max((name.width - width // 2 for name in names[-1:]), default=0)
    scale = [_number(high), _number(low)]
    right = max(beyond, 4 * _GAP + max(map(_length, scale)))
    size = end + right, top + height * len(rows) + _GAP
    picture = Image.new("RGBA", size, "white")
    draw = ImageDraw.Draw(picture)
    font = _font()
    for column, name in enumerate(names):
        place = left + width * column + width // 2 - _TEXT // 2, top - name.height - _GAP // 2
        picture.alpha_composite(name, place)
    for row, label in enumerate(rows):
        y = top + height * row + height // 2
        draw.text((left - _GAP, y), label, "black", font, anchor="rm")
    for (row, column), score in np.ndenumerate(scores):
        if np.isfinite(score):
            x, y = left + width * column, top + height * row
            share = (score - low) / (high - low)
            draw.rectangle((x, y, x + width - 1, y + height - 1), cividis(share))
            text = _number(score)
            middle = x + width // 2, y + height // 2
            draw.text(middle, text, "white" if share < 0.6 else "black", font, anchor="mm")
    foot = top + height * len(rows) - 1
    for y in range(top, foot + 1):
        share = 1 - (y - top) / max(foot - top, 1)
        draw.line((end + _GAP, y, end + 2 * _GAP, y), cividis(share))
    draw.text((end + 3 * _GAP, top), scale[0], "black", font, anchor="lt")
    draw.text((end + 3 * _GAP, foot), scale[1], "black", font, anchor="lb")
    file = BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue(), *picture.size


def _number(score: float) -> str:
    return f"{score:.2f}" if abs(score) < 100 else f"{score:.0f}"


def cividis(share: float) -> _Colour:
    """Return the colour of a share between 0 and 1: dark blue to light yellow."""
    places = np.linspace(0, 1, len(_CIVIDIS))
    red, green, blue = (round(np.interp(share, places, part)) for part in _CIVIDIS.T)
    return red, green, blue


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)


def _length(text: str) -> int:
    return int(_font().getlength(text)) + 1


def _turned(name: str) -> Image.Image:
    """Return a column's name as it is written above it."""
    flat = Image.new("RGBA", (_length(name), round(1.4 * _TEXT)))
    ImageDraw.Draw(flat).text((0, flat.height // 2), name, "black", _font(), anchor="lm")
    return flat.rotate(_TURN, Image.Resampling.BICUBIC, expand=True)
