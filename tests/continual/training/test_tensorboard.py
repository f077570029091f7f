import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.continual.results.heat_map import heat_map
from holdfast.continual.training.tensorboard import TensorBoard

PNG = b"\x89PNG\r\n\x1a\n"


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_scalars_are_read_back_and_nan_is_left_out(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "tb")
    board.scalars({"task/0_left/return": 1.5, "continual/forward_transfer": float("nan")}, 10)
    board.scalars({"task/0_left/return": 2.5, "continual/forward_transfer": 0.25}, 20)
    board.scalars({"continual/forward_transfer": float("nan")}, 30)
    board.close()
    assert points(tmp_path / "tb", "task/0_left/return") == [(10, 1.5), (20, 2.5)]
    assert points(tmp_path / "tb", "continual/forward_transfer") == [(20, 0.25)]


def test_text_is_read_back(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.text("scenario", "```yaml\nname: Übung\n```")
    board.close()
    (event,) = read(tmp_path).Tensors("scenario")
    assert event.tensor_proto.string_val[0].decode() == "```yaml\nname: Übung\n```"
    metadata = read(tmp_path).SummaryMetadata("scenario")
    assert metadata.plugin_data.plugin_name == "text"


def test_matrix_is_an_image_with_nan_left_blank(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    values = np.array([[0.0, np.nan], [1.0, 0.5]])
    image = heat_map(values, rows=["at the start", "left"], columns=["left", "right"])
    board.image("scores", *image, step=7)
    board.close()
    (event,) = read(tmp_path).Images("scores")
    assert event.step == 7
    assert event.encoded_image_string.startswith(PNG)
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        assert image.size == (event.width, event.height)
        assert event.width > 100


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_resumed_run_has_every_point_once(tmp_path: Path, restarts: int) -> None:
    board = TensorBoard(tmp_path)
    for step in range(0, 60, 10):
        board.scalars({"a": float(step)}, step)
    board.flush()  # and the process is killed
    killed = [board]
    for _ in range(restarts):
        board = TensorBoard(tmp_path, purge_step=31)  # its last checkpoint was at step 30
        for step in range(35, 100, 10):
            board.scalars({"a": -float(step)}, step)
        board.flush()
        killed.append(board)
    steps = [step for step, _ in points(tmp_path, "a")]
    assert steps == [0, 10, 20, 30, 35, 45, 55, 65, 75, 85, 95]
    assert points(tmp_path, "a")[4] == (35, -35.0)
    for board in killed:
        board.close()


def test_a_run_started_anew_drops_everything(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, purge_step=0)
    first.scalars({"a": 1.0, "only/first": 1.0}, 0)
    first.close()
    second = TensorBoard(tmp_path, purge_step=0)
    second.scalars({"a": 2.0}, 0)
    second.close()
    assert points(tmp_path, "a") == [(0, 2.0)]
    assert points(tmp_path, "only/first") == []


def test_a_record_cut_by_a_crash_hides_nothing(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.scalars({"a": 1.0}, 10)
    board.scalars({"a": 2.0}, 20)
    board.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    board = TensorBoard(tmp_path, purge_step=11)
    board.scalars({"a": 3.0}, 20)
    board.close()
    assert points(tmp_path, "a") == [(10, 1.0), (20, 3.0)]


def test_event_files_sort_in_the_order_of_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for now in (2_000_000_000.0, 2_000_000_000.5, 1_000_000_000.0):  # within a second; set back
        monkeypatch.setattr(time, "time", lambda now=now: now)
        TensorBoard(tmp_path).close()
        (new,) = {path.name for path in tmp_path.iterdir()} - set(names)
        names.append(new)
    assert names == sorted(names)
