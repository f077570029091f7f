"""Small pictures in the record of an explanation, and maps of attributions laid over them.

Records hold them as PNGs in base64. What is read back is decoded within bounds and looked at before
anything shows it.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from holdfast.continual.results.curves import Array

SIDE = 128
"""Pixels of the longer side of a picture in a record."""

MAP_SIDE = 32
"""Cells of the longer side of a map of attributions."""

MOST_LETTERS = 1 << 16
"""Of a picture in a record."""

_COLOURS = 64
"""Of a picture in a record: so it takes a few kilobytes."""

_HOT = np.array([255, 170, 0])
"""Colour of what an action hangs on."""

Picture = NDArray[np.uint8]
"""Shape (height, width, 3)."""


def frame_of(picture: Picture) -> str:
    """Return a picture as a record holds it, at most ``SIDE`` pixels high and wide."""
    from PIL import Image  # here: who reads records of vectors needs no pictures

    drawn = Image.fromarray(np.ascontiguousarray(picture))
    drawn.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    drawn.quantize(_COLOURS).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def picture_of(frame: str) -> Picture:
    """Return the picture that a record holds.

    Raises:
        ValueError: If it is no PNG, or a larger one than is ever written.
    """
    from PIL import Image

    try:
        encoded = base64.b64decode(frame, validate=True)
        with Image.open(io.BytesIO(encoded), formats=["PNG"]) as drawn:
            if max(drawn.size) > SIDE:
                raise ValueError(f"a picture of {drawn.size} pixels, of which {SIDE} are allowed")
            return np.asarray(drawn.convert("RGB"))
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("no picture") from error


def png(picture: Picture, *, zoom: int = 1) -> bytes:
    """Return a picture as a PNG, each pixel as a square of ``zoom`` pixels."""
    from PIL import Image

    out = io.BytesIO()
    drawn = Image.fromarray(picture.repeat(zoom, axis=0).repeat(zoom, axis=1))
    drawn.save(out, "PNG", optimize=True)
    return out.getvalue()


def _checked(frame: str) -> str:
    """Return a picture as we write it, whatever else the file of its maker held."""
    return frame_of(picture_of(frame))


Frame = Annotated[str, Field(max_length=MOST_LETTERS), AfterValidator(_checked)]
"""A picture in a record."""


def shown(observation: NDArray[np.uint8]) -> Picture:
    """Return what a picture that is observed looks like.

    Of channels in threes the last three are colours; of others the last one is shown in grey: the
    newest of a stack.

    Args:
        observation: Shape (channels, height, width).
    """
    newest = observation[-3:] if len(observation) % 3 == 0 else observation[-1:].repeat(3, axis=0)
    return np.moveaxis(newest, 0, -1)


def block_of(size: Sequence[int]) -> int:
    """Return how many pixels each way a cell of the map of a picture takes.

    >>> block_of((36, 36)), block_of((24, 32)), block_of((210, 160))
    (2, 1, 7)
    """
    return -(-max(size) // MAP_SIDE)


def grid_of(size: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of the map of a picture of this height and width."""
    block = block_of(size)
    height, width = size
    return -(-height // block), -(-width // block)


def shrunk(shares: Array) -> Array:
    """Return a map as a record holds it: each cell the sum of a square of pixels.

    Args:
        shares: Of each pixel, shape (height, width).

    >>> shrunk(np.ones((2, 33)))[0, -2:]
    array([4., 2.])
    """
    block, (rows, columns) = block_of(shares.shape), grid_of(shares.shape)
    whole = np.zeros((rows * block, columns * block))
    whole[: shares.shape[0], : shares.shape[1]] = shares
    summed: Array = whole.reshape(rows, block, columns, block).sum(axis=(1, 3))
    return summed


def heated(picture: Picture, shares: Array, size: Sequence[int]) -> Picture:
    """Return a picture in grey, the brighter in colour where more of an action hangs on it.

    Args:
        picture: What the map lies over.
        shares: The map, shape (rows, columns).
        size: Height and width of the pictures that it is of; ``picture`` may be smaller.
    """
    grey = picture.mean(axis=2, keepdims=True) * 0.6  # darker, so that colours are seen
    block = block_of(size)
    rows, columns = (
        ((np.arange(own) + 0.5) * true / own / block).astype(int)
        for own, true in zip(picture.shape[:2], size, strict=True)
    )
    heat = shares[np.ix_(rows, columns)][..., None]
    heat = np.sqrt(heat / max(heat.max(), np.finfo(float).tiny))  # few cells would hide the rest
    return np.asarray(np.rint(grey * (1 - heat) + _HOT * heat), dtype=np.uint8)
