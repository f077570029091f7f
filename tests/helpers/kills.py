"""Cells that are stopped at chosen steps and run again, compared with one that never was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cells import Interrupted

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.plasticity_record import read_points
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.journal import CellJournal
from holdfast.scenarios.schema.scenario import Scenario


def silent(progress: Any) -> None:
    """Take progress."""


class Kills:
    """Raises once at each of these steps of the stream, wherever a cell watches them.

    Attributes:
        begun: The first step of the stream that each attempt took in the task it went on with.
    """

    def __init__(self, patch: pytest.MonkeyPatch, steps: Sequence[int]) -> None:
        self.left = sorted(steps)
        self.begun: list[int] = []
        self._is_new = True
        published = CellJournal.watch

        def watch(journal: CellJournal, experience: Any) -> Callable[[int], None]:
            look = published(journal, experience)

            def looked(step: int) -> None:
                at = experience.first_step + step
                if self._is_new:
                    self.begun.append(at)
                    self._is_new = False
                look(step)
                if self.left and at >= self.left[0]:
                    self.left.pop(0)
                    raise Interrupted

            return looked

        patch.setattr(CellJournal, "watch", watch)

    def run(self, folder: RunFolder) -> RunFolder:
        """Run a cell again and again until it is finished."""
        while folder.info()["status"] != "finished":
            self.attempt(folder)
        assert not self.left
        return folder

    def attempt(self, folder: RunFolder) -> None:
        """Run a cell until it is killed, or finished."""
        self._is_new = True
        try:
            run_cell(folder, silent)
        except Interrupted:
            assert folder.info()["status"] == "failed"


def cell(runs: Path, data: dict[str, Any]) -> RunFolder:
    """Return the folder of a scenario's only cell, new."""
    (folder,) = prepare(runs, Scenario.model_validate(data))
    return folder


def content(folder: RunFolder) -> dict[str, bytes]:
    """Return scores, every tensor of every task boundary, and records, as bytes by file."""
    kinds = ("checkpoints/task-*/*.safetensors", "scores.jsonl", "plasticity.json", "drift/*.csv")
    kinds += ("detections.json", "online.json", "costs.json")
    files = [path for kind in kinds for path in folder.path.glob(kind)]
    found = {str(path.relative_to(folder.path)): path.read_bytes() for path in files}
    if "plasticity.json" in found:  # 0 and 0.0 are alike there, and the order of names
        points = [sorted((n, float(v)) for n, v in p.items()) for p in read_points(folder.path)]
        found["plasticity.json"] = repr(points).encode()
    return found


def assert_same(killed: RunFolder, straight: RunFolder) -> None:
    """Compare scores and tensors bit for bit; nothing of the inside of tasks is left."""
    one, other = content(killed), content(straight)
    assert one.keys() == other.keys()
    assert [name for name, data in one.items() if data != other[name]] == []
    assert not [*killed.path.glob("checkpoints/task-*.*")]
    assert killed.info()["updates"] == straight.info()["updates"]


def assert_unharmed(
    patch: pytest.MonkeyPatch, place: Path, data: dict[str, Any], steps: Sequence[int]
) -> Kills:
    """Run a scenario with and without kills at these steps, and compare.

    Returns:
        What killed it, which knows where each attempt began.
    """
    straight = cell(place / "straight", data)
    run_cell(straight, silent)
    with patch.context() as inner:
        kills = Kills(inner, steps)
        assert_same(kills.run(cell(place / "killed", data)), straight)
    return kills


def two_tasks(agent: dict[str, Any], method: Any = "naive", **more: Any) -> dict[str, Any]:
    """Return a scenario of two short tasks with checkpoints inside; ``more`` are its other keys."""
    of_discrete = ("ppo", "a2c", "dqn", "qrdqn", "trpo", "recurrent_ppo", "stream_q")
    discrete = agent["algorithm"] in of_discrete
    env = "CartPole-v1" if discrete else "Pendulum-v1"
    changes = more.pop("changes", [{}, {}] if discrete else [{"time_limit": 25}] * 2)
    return {
        "name": "demo",
        "tasks": [
            {"name": n, "env": env, "steps": 160, "changes": c}
            for n, c in zip("ab", changes, strict=True)
        ],
        "agent": agent,
        "methods": [method],
        "evaluation": {"every": 64, "episodes": 1},
        "checkpoint": {"every": 48},
        **more,
    }
