"""Pictures in records, and maps over them."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import TypeAdapter

from holdfast.continual.probes import frames


def gradient(height: int, width: int) -> np.ndarray:
    made = np.zeros((height, width, 3), np.uint8)
    made[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    made[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return made


def png_of(width: int, height: int) -> str:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_a_frame_is_small_and_comes_back() -> None:
    picture = gradient(480, 400)
    frame = frames.frame_of(picture)
    assert len(frame) < 16_000
    back = frames.picture_of(frame)
    assert back.shape == (128, 107, 3)
    small = picture[::480, ::400]
    assert np.abs(back[0, 0].astype(int) - small[0, 0]).max() < 32  # of 64 colours
    few = np.kron(np.eye(3, dtype=np.uint8)[..., None] * 200, np.ones((12, 12, 3), np.uint8))
    assert np.array_equal(frames.picture_of(frames.frame_of(few)), few)


def test_of_a_frame_that_is_read_pixels_alone_are_kept() -> None:
    picture = gradient(60, 50)
    note = PngInfo()
    note.add_text("Comment", "<script>")
    out = io.BytesIO()
    Image.fromarray(picture).quantize(16).save(out, "PNG", pnginfo=note)
    found = TypeAdapter(frames.Frame).validate_python(base64.b64encode(out.getvalue()).decode())
    encoded = base64.b64decode(found)
    assert b"<script>" in out.getvalue()
    assert b"<script>" not in encoded
    given = np.asarray(Image.open(out).convert("RGB"))
    assert np.array_equal(frames.picture_of(found), given)
    assert TypeAdapter(frames.Frame).validate_python(found) == found


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "no base64!",
        base64.b64encode(b"no picture").decode(),
        base64.b64encode(b"GIF89a" + bytes(20)).decode(),
        png_of(129, 4),
        png_of(4, 60_000),
        png_of(64, 64)[:60],
    ],
)
def test_what_is_no_frame_is_refused(frame: str) -> None:
    with pytest.raises(ValueError, match="picture"):
        frames.picture_of(frame)


def test_a_map_keeps_its_sum_and_its_places() -> None:
    shares = np.zeros((210, 160))
    shares[209, 159], shares[0, 6], shares[0, 7] = 0.5, 0.25, 0.25
    found = frames.shrunk(shares)
    assert found.shape == frames.grid_of((210, 160)) == (30, 23)  # squares of 7 pixels
    assert found[29, 22] == 0.5
    assert found[0, :2].tolist() == [0.25, 0.25]
    own = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(frames.shrunk(own), own)


def test_the_heat_lies_where_the_map_says() -> None:
    shares = np.zeros((18, 18))
    shares[2, 5] = 1.0
    hot = frames.heated(np.full((36, 36, 3), 100, np.uint8), shares, (36, 36))
    is_hot = (hot == [255, 170, 0]).all(axis=2)
    assert np.argwhere(is_hot).tolist() == [[4, 10], [4, 11], [5, 10], [5, 11]]
    assert (hot[~is_hot] == 60).all()
    # A picture that was made smaller: 128 of 210 rows, cells of 7 true pixels.
    shares = np.zeros((30, 23))
    shares[29, 0] = 1.0
    hot = frames.heated(np.zeros((128, 98, 3), np.uint8), shares, (210, 160))
    rows, columns = np.nonzero((hot == [255, 170, 0]).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (124, 127, 0, 3)
    nothing = frames.heated(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), (4, 4))
    assert not nothing.any()


def test_the_newest_of_a_stack_is_shown() -> None:
    stack = np.arange(6, dtype=np.uint8)[:, None, None].repeat(2, axis=1).repeat(2, axis=2)
    assert frames.shown(stack)[0, 0].tolist() == [3, 4, 5]
    assert frames.shown(stack[:4])[0, 0].tolist() == [3, 3, 3]
    assert frames.shown(stack[:1])[0, 0].tolist() == [0, 0, 0]
