"""Films of a run: every task, with the final policy and with the one that was best at it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from holdfast import seeding
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.trust import vouch
from holdfast.continual.results.curves import curves, matrix
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.tensorboard import TensorBoard
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.source.regular_file import made_folder, remove

Frames = list[NDArray[np.uint8]]

_FPS = 30
_THUMBNAIL = 160  # pixels, the longer side
_THUMBNAIL_FRAMES = 40


class Scene(NamedTuple):
    """Scene to film.

    Attributes:
        task: Index of the task.
        stage: The policy is that of this stage's end.
        name: Name of the file, without its ending.
    """

    task: int
    stage: int
    name: str


def film(
    run: Path,
    *,
    tasks: Sequence[str] = (),
    episodes: int = 1,
    longest: int = 1000,
    trust_code: bool = False,
) -> Iterator[Path]:
    """Film the tasks of a run and yield each file when it is written, into ``videos/``.

    An episode starts from the seed of the evaluation episode of the same number, so that it is one
    of those in ``scores.jsonl``. MP4 needs imageio-ffmpeg; without it a GIF is written.

    Args:
        run: A cell's folder.
        tasks: Names of the tasks; all of them by default.
        episodes: Episodes of each task, one after another.
        longest: Steps after which an episode is cut in the film.
        trust_code: As of ``open_run``.

    Raises:
        UsageError: If there is no such task, no checkpoint, or an environment draws no pictures.
        EnvironmentFailed: If drawing fails.
    """
    folder = open_run(run, trust_code=trust_code).folder
    filmed = scenes(folder, tasks)
    vouch(folder)
    place = folder.path / "videos"
    made_folder(place, folders=2)
    with closing(TensorBoard(folder.path / "tb")) as board:
        for scene in filmed:
            frames, fps = _filmed(folder, scene, episodes, longest)
            path = write(place / scene.name, frames, fps)
            end = sum(folder.scenario.stage_steps[: scene.stage + 1])
            _thumbnail(board, scene, frames, fps, step=end)
            yield path


def scenes(folder: RunFolder, tasks: Sequence[str] = ()) -> list[Scene]:
    """Return what is filmed of a run: each task at the end, and at its best where that is earlier.

    The best policy of a task is that of the boundary where its mean score was highest, the latest
    of equals.

    Raises:
        UsageError: If there is no such task, no finished stage, nothing to be seen, or the
            checkpoint of a best policy is gone.
    """
    scenario = folder.scenario
    if why := kind_of(scenario).unfilmable:
        raise UsageError(f"{folder.path}: {why}")
    names = [task.name for task in scenario.tasks]
    for name in tasks:
        task_index(scenario, name, str(folder.path))
    scores = matrix(curves(folder.scores(), scenario))  # (stages + 1, tasks)
    last, found = checkpoint.newest_stage(folder), []
    for index, name in enumerate(names):
        if tasks and name not in tasks:
            continue
        found.append(Scene(index, last, f"{name}-final"))
        reached = np.nan_to_num(scores[1 : last + 2, index], nan=-np.inf)
        best = last - int(np.argmax(reached[::-1]))
        if best != last:
            checkpoint.asked_stage(folder, best, f"{name} was best at the end of stage {best}: ")
            found.append(Scene(index, best, f"{name}-best-after-stage-{best + 1}"))
    return found


def _filmed(folder: RunFolder, scene: Scene, episodes: int, longest: int) -> tuple[Frames, float]:
    """Play episodes and return their frames, each (height, width, 3), and their rate in Hz."""
    kind = kind_of(folder.scenario)
    agent = kind.act(kind.restore(folder, scene.stage), scene.task)
    frames: Frames = []
    with closing(agent.make_env(render_mode="rgb_array")) as env:
        for episode in range(episodes):
            seed = seeding.derive(folder.seed, "evaluation", scene.task, episode)
            frames += islice(_episode(agent, env, seed, episode), longest + 1)
    return frames, float(env.metadata.get("render_fps") or _FPS)


def _episode(agent: Any, env: Any, seed: int, number: int) -> Iterator[NDArray[np.uint8]]:
    for _ in agent.episode(env, seed, number):
        yield _frame(env)
    yield _frame(env)  # of the end


def _frame(env: Any) -> NDArray[np.uint8]:
    try:
        drawn = env.render()
    except NotImplementedError as error:
        raise EnvironmentFailed(
            f"{type(env.unwrapped).__name__} has no render(), and films need one: with render_mode "
            "rgb_array it gives a picture, (height, width, 3) of uint8"
        ) from error
    except Exception as error:
        raise EnvironmentFailed(
            f"{env.unwrapped}: render() failed: {type(error).__name__}: {error}. Without a display "
            "MuJoCo draws with MUJOCO_GL=egl (or osmesa) in the environment"
        ) from error
    picture = np.asarray(drawn)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise EnvironmentFailed(
            f"{env.unwrapped}: render() returned {type(drawn).__name__} of shape {picture.shape} "
            f"and type {picture.dtype}; with render_mode rgb_array it must give (height, width, 3) "
            "of uint8"
        )
    return picture


def write(path: Path, frames: Frames, fps: float) -> Path:
    """Write a film and return its path: .mp4, or .gif where imageio-ffmpeg is not installed."""
    try:
        from imageio_ffmpeg import write_frames
    except ImportError:
        target = path.with_name(f"{path.name}.gif")
        remove(target)
        target.write_bytes(gif(frames, fps))
        return target
    target = path.with_name(f"{path.name}.mp4")
    remove(target)  # never written through a link
    height, width = (side - side % 2 for side in frames[0].shape[:2])  # the codec wants even sides
    writer = write_frames(str(target), (width, height), fps=fps, macro_block_size=1)
    with closing(writer):
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame[:height, :width]))
    return target


def gif(frames: Frames, fps: float, side: int | None = None) -> bytes:
    """Return frames as an animated GIF.

    Args:
        frames: Each (height, width, 3), all alike.
        fps: Frames per second; a GIF's frames last whole hundredths of a second.
        side: Longest side in pixels; None leaves the size as it is.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    if side is not None:
        for picture in pictures:
            picture.thumbnail((side, side))
    out = io.BytesIO()
    form: dict[str, Any] = {"format": "GIF", "duration": max(20, round(100 / fps) * 10), "loop": 0}
    pictures[0].save(out, save_all=True, append_images=pictures[1:], **form)
    return out.getvalue()


def _thumbnail(board: TensorBoard, scene: Scene, frames: Frames, fps: float, step: int) -> None:
    skip = -(-len(frames) // _THUMBNAIL_FRAMES)
    encoded = gif(frames[::skip], fps / skip, _THUMBNAIL)
    with Image.open(io.BytesIO(encoded)) as picture:
        board.image(f"video/{scene.name}", encoded, *picture.size, step)
