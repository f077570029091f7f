"""Films: what is in them is what was measured."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import run_all
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools import video
from holdfast.continual.tools.video import film, gif, scenes
from holdfast.errors import EnvironmentFailed, HoldfastError, UsageError
from holdfast.scenarios.schema.scenario import Scenario

pytestmark = pytest.mark.video


def _frames(path: Path) -> int:
    with Image.open(path) as picture:
        return int(getattr(picture, "n_frames", 1))


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


@pytest.mark.thorough
def test_a_film_is_the_first_evaluation_episode(run: Any, no_ffmpeg: None) -> None:
    """One frame at the start and one after each of its steps; thumbnails in TensorBoard."""
    folder: RunFolder = run("ppo", "progressive", tasks=2, steps=64)
    written = list(film(folder.path, longest=60))
    names = [path.name for path in written]
    assert {"t0-final.gif", "t1-final.gif"} <= set(names)
    last = max(score["stage"] for score in folder.scores())
    for index, task in enumerate(("t0", "t1")):
        length = next(
            score["length"]
            for score in folder.scores()
            if (score["stage"], score["task"], score["episode"]) == (last, task, 0)
        )
        with Image.open(folder.path / "videos" / f"t{index}-final.gif") as picture:
            assert picture.size == (600, 400)
            shown = sum(_duration(picture, frame) for frame in range(picture.n_frames))  # type: ignore[attr-defined]
        # Frames that look alike are one frame that lasts longer.
        assert shown == 20 * (min(length, 60) + 1)
    found = EventAccumulator(str(folder.path / "tb"), size_guidance={"images": 0}).Reload()
    tags = {f"video/{name.removesuffix('.gif')}" for name in names}
    assert tags <= set(found.Tags()["images"])
    event = found.Images("video/t0-final")[0]
    assert event.step == 128
    with Image.open(io.BytesIO(event.encoded_image_string)) as thumbnail:
        assert max(thumbnail.size) == 160


def _duration(picture: Any, frame: int) -> int:
    picture.seek(frame)
    return int(picture.info["duration"])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("task", "agent"),
    [
        (
            {"env": "mpe2.simple_spread_v3", "kwargs": {"N": 2, "max_cycles": 6}},
            {"policies": "shared"},
        ),
        (
            {"env": "classic/tictactoe_v3", "opponents": {"against": ["random"]}},
            {"algorithm": "maskable_ppo"},
        ),
    ],
)
def test_a_team_and_a_game_are_filmed_as_they_were_measured(
    tmp_path: Path, no_ffmpeg: None, task: Any, agent: Any
) -> None:
    pytest.importorskip("pygame")
    given = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 1, **agent}
    scenario = Scenario.model_validate(
        {
            "name": "seen",
            "tasks": [{"name": "only", "steps": 64, **task}],
            "agent": given,
            "evaluation": {"episodes": 2},
        }
    )
    (folder,) = run_all(scenario, tmp_path)
    (path,) = film(folder.path, episodes=2)
    lengths = [row["length"] for row in folder.scores() if row["stage"] == 1]
    with Image.open(path) as picture:
        shown = sum(_duration(picture, frame) for frame in range(picture.n_frames))  # type: ignore[attr-defined]
        each = min(_duration(picture, frame) for frame in range(picture.n_frames))  # type: ignore[attr-defined]
    assert shown == each * (sum(lengths) + 2)


def test_an_mp4_has_every_frame(tmp_path: Path) -> None:
    """Sides that are odd lose their last pixel; each frame keeps its grey."""
    from imageio_ffmpeg import count_frames_and_secs, get_ffmpeg_exe

    frames = [np.full((65, 97, 3), 10 * number, np.uint8) for number in range(20)]
    path = video.write(tmp_path / "film", frames, fps=10)
    assert path.name == "film.mp4"
    assert count_frames_and_secs(str(path)) == (20, 2.0)
    # Not read_frames: it leaves its pipes to the garbage collector.
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), *raw]
    read = subprocess.run(command, capture_output=True, check=True).stdout
    shown = np.frombuffer(read, np.uint8).reshape(20, 64, 96, 3)
    assert np.abs(shown.mean(axis=(1, 2, 3)) - 10 * np.arange(20)).max() < 4


@pytest.mark.thorough
def test_the_best_policy_of_a_task_is_that_of_its_best_boundary(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run("ppo", "naive", tasks=3, steps=64)
    rows = [[0, 0, 0], [0.9, 0, 0], [0.5, 0.8, 0], [0.7, 0.8, float("nan")]]
    monkeypatch.setattr(video, "matrix", lambda curves: np.array(rows))
    assert [scene.name for scene in scenes(folder)] == [
        "t0-final",
        "t0-best-after-stage-1",
        "t1-final",  # as good as before: the latest of equals
        "t2-final",
        "t2-best-after-stage-2",
    ]
    assert [scene.task for scene in scenes(folder, ["t1"])] == [1]
    with pytest.raises(UsageError, match="no task 't9'"):
        scenes(folder, ["t9"])
    checkpoint.remove(folder.path / "checkpoints" / "task-0")
    with pytest.raises(UsageError, match=r"t0 was best at the end of stage 0: .* no checkpoint"):
        scenes(folder)


def test_a_gif_has_the_frames_in_order() -> None:
    frames = [np.full((4, 6, 3), 40 * number, np.uint8) for number in range(4)]
    with Image.open(io.BytesIO(gif(frames, 10))) as picture:
        assert (picture.n_frames, picture.info["duration"]) == (4, 100)  # type: ignore[attr-defined]
        for number in range(4):
            picture.seek(number)
            assert np.abs(np.asarray(picture.convert("RGB"), int) - 40 * number).max() <= 2


BLIND = """
import gymnasium as gym
import numpy as np

class Blind(gym.Env):
    metadata = {"render_modes": ["rgb_array"]}
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}
    def render(self):
        DRAWN

class Deaf(Blind):
    def __init__(self):
        super().__init__()
"""


@pytest.mark.parametrize(
    ("name", "drawn", "message"),
    [
        ("Blind", "raise RuntimeError('no display')", "RuntimeError: no display"),
        ("Blind", "return None", "must give \\(height, width, 3\\)"),
        ("Deaf", "return None", "render_mode"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    name: str, drawn: str, message: str, tmp_path: Path, no_ffmpeg: None
) -> None:
    import holdfast

    (tmp_path / "blind.py").write_text(BLIND.replace("DRAWN", drawn))
    (tmp_path / "blind.yaml").write_text(
        f"tasks: [{{name: a, env: 'blind:{name}', steps: 32, changes: {{time_limit: 8}}}}]\n"
        "agent: {algorithm: ppo, n_steps: 32, batch_size: 32}\nevaluation: {episodes: 1}\n"
    )
    (opened,) = holdfast.run(holdfast.load(tmp_path / "blind.yaml"), runs=tmp_path / "runs")
    with pytest.raises(HoldfastError, match=message) as caught:
        list(film(opened.folder.path))
    assert isinstance(caught.value, EnvironmentFailed | UsageError)
    assert list((opened.folder.path / "videos").iterdir()) == []
