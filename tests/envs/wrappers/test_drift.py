"""A world that moves: what is set, when, in training and while it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.streams.task_stream import make_stream
from holdfast.continual.training.cell import run_cell
from holdfast.envs.wrappers.drift import Drifting, Randomized
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.task import Drift


def _played(drift: Drift, steps: int, n_envs: int = 1, limit: int = 5) -> list[float]:
    """Return the gravity at every step, with episodes of ``limit`` steps."""
    env = Drifting(gym.make("Pendulum-v1", max_episode_steps=limit), {"g": drift}, 20, n_envs)
    seen = []
    env.reset(seed=0)
    for _ in range(steps):
        *_, truncated, _ = env.step(np.zeros(1, np.float32))
        seen.append(float(env.unwrapped.g))  # type: ignore[attr-defined]
        if truncated:
            env.reset()
    return seen


def test_it_moves_within_episodes_or_between_them() -> None:
    """From 0 to 20 over 20 steps: the value is the step."""
    line = {"linear": (0.0, 20.0)}
    assert _played(Drift(**line, per="step"), 8) == list(range(8))  # type: ignore[arg-type]
    assert _played(Drift(**line), 12) == [0.0] * 5 + [5.0] * 5 + [10.0] * 2  # type: ignore[arg-type]
    side_by_side = _played(Drift(**line, per="step"), 4, n_envs=2)  # type: ignore[arg-type]
    assert side_by_side == [0.0, 2.0, 4.0, 6.0]


def test_it_changes_what_happens() -> None:
    """At double gravity the pendulum of the same seed falls otherwise."""

    def last(drift: Drift) -> Any:
        env = Drifting(gym.make("Pendulum-v1"), {"g": drift}, 10)
        env.reset(seed=3)
        return [env.step(np.zeros(1, np.float32))[0] for _ in range(5)][-1]

    assert np.array_equal(last(Drift(linear=(10.0, 10.0))), last(Drift(jumps=(10.0, 10.0))))
    assert not np.array_equal(last(Drift(linear=(10.0, 10.0))), last(Drift(linear=(20.0, 20.0))))


@pytest.mark.parametrize(
    ("name", "message"), [("gg", "no attribute 'gg'"), ("max_speed", "does not fit")]
)
def test_what_cannot_move_is_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Drifting(gym.make("Pendulum-v1"), {name: Drift(linear=(0.5, 2.0))}, 10)


DRIFT = {"linear": [10.0, 20.0], "per": "step"}


def _scenario(**changes: Any) -> Scenario:
    off = {"learning_starts": 20, "buffer_size": 200, "batch_size": 16, "train_freq": 4}
    tasks = [
        {"name": "still", "env": "Pendulum-v1", "steps": 60, "changes": {"time_limit": 20}},
        {
            "name": "moving",
            "env": "Pendulum-v1",
            "steps": 100,
            "changes": {"time_limit": 20},
            "drift": {"g": DRIFT},
        },
    ]
    given = {
        "name": "drifts",
        "tasks": tasks,
        "n_envs": 2,
        "agent": {"algorithm": "sac", **off},
        "evaluation": {"every": 50, "episodes": 2},
    }
    return Scenario.model_validate(given | changes)


def test_it_is_measured_as_it_is_at_that_step_of_the_stream() -> None:
    """Before its stage as at its start, in it as now, after it as at its end."""
    stream = make_stream(_scenario(), 0)
    measured = stream.eval_stream[1]
    seen = {}
    for step in (0, 60, 85, 160, 400):
        measured.show_step(step)
        (env, *_) = measured.environments
        env.reset(seed=0)
        seen[step] = env.unwrapped.g
    measured.close()
    assert seen == {0: 10.0, 60: 10.0, 85: 12.5, 160: 20.0, 400: 20.0}


def _run(runs: Path, scenario: Scenario, tell: Any = lambda progress: None) -> RunFolder:
    (folder,) = prepare(runs, scenario)
    run_cell(folder, tell)
    return folder


@pytest.mark.thorough
def test_what_was_applied_is_recorded_and_the_same_again(tmp_path: Path) -> None:
    first = _run(tmp_path / "one", _scenario())
    rows = (first.path / "drift" / "stage-1.csv").read_text().splitlines()
    assert rows[0] == "step,g"
    steps = [int(row.split(",")[0]) for row in rows[1:]]
    values = [float(row.split(",")[1]) for row in rows[1:]]
    assert values == pytest.approx([10 + step / 10 for step in steps])
    assert steps == sorted(set(steps))
    assert max(steps) >= 96
    assert not (first.path / "drift" / "stage-0.csv").exists()

    class Interrupted(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step >= 100:
            raise Interrupted

    with pytest.raises(Interrupted):
        _run(tmp_path / "two", _scenario(), stop)
    again = _run(tmp_path / "two", _scenario())
    assert again.scores() == first.scores()
    files = [folder.path / "drift" / "stage-1.csv" for folder in (first, again)]
    assert files[0].read_text() == files[1].read_text()


@pytest.mark.thorough
def test_sampled_and_shuffled_streams_run_and_go_on(tmp_path: Path) -> None:
    tasks = [
        {"name": name, "env": "Pendulum-v1", "steps": 60, "changes": {"time_limit": 20}}
        for name in ("plain", "heavy")
    ]
    tasks[1]["sample"] = {"m": "uniform(1, 2)"}  # type: ignore[index]
    stream = {"order": "shuffled", "steps": 200, "task_id": "hidden"}
    scenario = _scenario(tasks=tasks, stream=stream, seeds=[0, 1])
    folders = prepare(tmp_path, scenario)
    for folder in folders:
        run_cell(folder, lambda progress: None)
        assert folder.scenario.total_steps == 200
        assert max(score["step"] for score in folder.scores()) == 200
        assert {score["task"] for score in folder.scores()} >= {"plain", "heavy-1"}
    assert prepare(tmp_path, scenario) != []  # the same scenario again: nothing differs
    masses = [
        next(task.changes.set["m"] for task in folder.scenario.tasks if task.name == "heavy-1")
        for folder in folders
    ]
    assert masses[0] != masses[1]


def test_randomised_episodes_are_the_seeds_own_and_leave_its_other_numbers_alone() -> None:
    def episodes(seed: int) -> list[Any]:
        env = Randomized(gym.make("Pendulum-v1"), {"g": "uniform(5, 15)", "m": "choice(1, 2)"})
        found = []
        for reset_seed in (seed, None, None):
            observation, info = env.reset(seed=reset_seed)
            assert env.unwrapped.g == info["randomized"]["g"]  # type: ignore[attr-defined]
            found.append((observation.tolist(), info["randomized"]))
        return found

    plain = gym.make("Pendulum-v1")
    starts = [plain.reset(seed=reset_seed)[0].tolist() for reset_seed in (3, None, None)]
    assert [observation for observation, _ in episodes(3)] == starts
    assert episodes(3) == episodes(3)
    drawn = [values["g"] for _, values in episodes(3) + episodes(4)]
    assert len(set(drawn)) == 6
    assert all(5 <= value <= 15 for value in drawn)
