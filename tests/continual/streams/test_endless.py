"""Endless worlds: killed at any step equals never killed, and nothing grows with the steps."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from kills import assert_same, assert_unharmed, cell, silent
from safetensors.torch import load_file

from holdfast.continual.reports.stream_report import online_sections
from holdfast.continual.results.document import Table
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.detections import read_detections
from holdfast.continual.run_folder.point_record import ONLINE
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.preflight import build
from holdfast.errors import EnvironmentFailed, ScenarioError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

FIELD = "holdfast.envs.worlds.foraging:ForagingField"
ARM = "holdfast.envs.worlds.arm:WearingArm"
SMALL = {"policy_kwargs": {"net_arch": [16]}}
OFF = {"learning_starts": 40, "batch_size": 16, "buffer_size": 100, **SMALL}
RUNNING = {"normalize": {"observations": "running", "rewards": "running"}}
AGENTS: dict[str, dict[str, Any]] = {
    "stream_q": {"algorithm": "stream_q", **SMALL},
    "dqn": {"algorithm": "dqn", "train_freq": 7, "n_steps": 3, **OFF},
    "ppo": {"algorithm": "ppo", "n_steps": 32, "batch_size": 16, "n_epochs": 2, **SMALL, **RUNNING},
    "sac": {"algorithm": "sac", "train_freq": 3, **OFF, **RUNNING},
}


def data(agent: str, **more: Any) -> dict[str, Any]:
    env, kwargs = (ARM, "period") if agent == "sac" else (FIELD, "year")
    return {
        "name": "life",
        "endless": True,
        "tasks": [
            {"name": n, "env": env, "steps": 160, "kwargs": {kwargs: p}}
            for n, p in (("a", 300), ("b", 90))
        ],
        "stream": {"task_id": "hidden", "boundaries": "hidden"},
        "n_envs": 1 if agent == "stream_q" else 2,
        "agent": AGENTS[agent],
        "evaluation": {"every": 64, "episodes": 1, "most_steps": 20, "window": 50},
        "checkpoint": {"every": 48, "keep": "all"},
        **more,
    }


@pytest.mark.thorough
@pytest.mark.parametrize("agent", AGENTS)
def test_killed_and_continued_equals_never_killed(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = assert_unharmed(monkeypatch, tmp_path, data(agent), [30, 111, 170, 290])
    assert [begun > 48 for begun in kills.begun] == [False, False, True, True, True]


@pytest.mark.thorough
def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    """Other worlds begin again at a checkpoint; these do not."""
    points = []
    for name, every in (("none", "off"), ("many", 16)):
        given = data("dqn", checkpoint={"every": every, "keep": "all"})
        folder = cell(tmp_path / name, given)
        run_cell(folder, silent)
        points.append(ONLINE.read(folder.path))
    assert points[0] == points[1]
    assert [point["step"] for point in points[0]] == [64, 128, 160, 224, 288, 320]
    assert [point["phase_steps"] for point in points[0]] == [64, 128, 160, 64, 128, 160]


class Counter(gym.Env[Any, Any]):
    """Counts the steps of its life, which a reset would end."""

    observation_space = gym.spaces.Box(-1, 1e9, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, pay: float = 1.0, end: int = 10**9) -> None:
        self.pay, self.end = pay, end

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        over = self.count >= self.end
        return np.full(1, self.count, np.float32), self.pay, over, False, {"count": self.count}

    def get_state(self) -> Any:
        return {"count": self.count}

    def set_state(self, state: Any) -> None:
        self.count = state["count"]


class Slow(Counter):
    """Takes longer for a step than its rate allows, once in ten steps."""

    def step(self, action: Any) -> Any:
        time.sleep(0.03 if self.count % 10 == 5 else 0.0)
        return super().step(action)


class Tilting(Counter):
    """Shows and pays what a drift sets."""

    slope = 0.0

    def step(self, action: Any) -> Any:
        super().step(action)
        return np.full(1, self.slope, np.float32), self.slope, False, False, {}


class Forgetful(Counter):
    """Has no state to be saved."""

    get_state: Any = None


def counting(world: str = "Counter", **more: Any) -> dict[str, Any]:
    given = data("stream_q", **more)
    given["tasks"] = [
        {"name": n, "env": f"{__name__}:{world}", "steps": 100, "kwargs": {"pay": pay}}
        for n, pay in (("a", 1.0), ("b", 3.0))
    ]
    return given


@pytest.mark.parametrize("resets", [False, True])
def test_the_world_is_reset_only_where_that_is_asked_for(resets: bool, tmp_path: Path) -> None:
    given = counting("Forgetful" if resets else "Counter")
    given["score"] = {"random": 0.0, "reference": 40.0}  # 2 a step
    given["checkpoint"] = {"every": 48, "resets": resets}
    folder = cell(tmp_path, given)
    run_cell(folder, silent)
    points = ONLINE.read(folder.path)
    assert points[-1] == {
        "stage": 1,
        "step": 200,
        "phase_steps": 100,
        "phase_return": 300.0,
        "reward_rate": 3.0,
        "late_steps": 0,
    }
    last = load_file(folder.path / "checkpoints" / "task-1" / "last.safetensors")["_last_obs/"]
    assert last.item() == (100 - 96 if resets else 200)


def test_steps_that_came_too_late_are_counted(tmp_path: Path) -> None:
    given = counting("Slow", checkpoint={"every": "off"})
    given["tasks"] = [{**given["tasks"][0], "rate": 100.0}]
    folder = cell(tmp_path, given)
    run_cell(folder, silent)
    late = ONLINE.read(folder.path)[-1]["late_steps"]
    assert 10 <= late <= 60  # ten of its own; a busy machine adds some


@pytest.mark.thorough
def test_a_drift_moves_at_every_step_and_goes_on_after_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = counting("Tilting")
    drift = {"slope": {"linear": [0.0, 1.0], "per": "step"}}
    given["tasks"] = [{**task, "kwargs": {}, "drift": drift} for task in given["tasks"]]
    assert_unharmed(monkeypatch, tmp_path, given, [60, 130])
    for name in ("straight", "killed"):
        (folder,) = (tmp_path / name / "life").glob("*/seed-*")
        first, last = (
            [p for p in ONLINE.read(folder) if p["stage"] == stage][-1] for stage in (0, 1)
        )
        assert first["phase_return"] == pytest.approx(50.0, abs=1.0)  # the mean slope is .5
        assert last["phase_return"] == pytest.approx(50.0, abs=1.0)


@pytest.mark.thorough
def test_a_detector_finds_a_phase_and_the_report_says_what_was_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pay falls from 3 to 1 with the second phase, and no episode ends."""
    given = counting("Counter", methods=[{"ewc": {"samples": 16}}])
    given["tasks"] = [
        {**t, "kwargs": {"pay": p}} for t, p in zip(given["tasks"], (3.0, 1.0), strict=True)
    ]
    given |= {
        "agent": AGENTS["dqn"],
        "stream": {"task_id": "hidden", "boundaries": "detected"},
        "detector": {
            "signal": "reward",
            "page_hinkley": {"tolerance": 0.1, "threshold": 5.0},
            "cooldown": 20,
        },
        "score": {"random": 0.0, "reference": 40.0},  # 2 a step
    }
    assert_unharmed(monkeypatch, tmp_path, given, [50, 150])
    (folder,) = (tmp_path / "killed" / "life").glob("*/seed-*")
    (found,) = read_detections(folder)
    assert 100 < found.step <= 110
    assert found.begun is not None
    assert found.begun - found.step <= 16  # no episode's end is waited for
    (section,) = online_sections(gather(folder))
    table = section.blocks[1]
    assert isinstance(table, Table)
    told = ["ewc-samples=16", "2.0000", "1.0000", "0", "0"]  # 200 steps, 400 paid, 400 by reference
    assert [one.text for one in table.rows[0]][1:] == told[1:]


@pytest.mark.parametrize(
    ("end", "where"), [(30, "step 30"), (10, "in evaluation.*step 10")], ids=["life", "measured"]
)
def test_an_endless_world_that_ends_is_told(end: int, where: str, tmp_path: Path) -> None:
    given = counting()
    for task in given["tasks"]:
        task["kwargs"]["end"] = end
    with pytest.raises(EnvironmentFailed, match=f"{where}.*endless: true is for environments"):
        run_cell(cell(tmp_path, given), silent)


def test_a_world_without_a_state_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"Forgetful has no get_state.*resets: true"):
        build(Scenario.model_validate(counting("Forgetful")))
    limited = {**counting(), "tasks": [{"name": "a", "env": "Pendulum-v1", "steps": 100}]}
    limited["agent"] = {"algorithm": "sac"}
    with pytest.raises(ScenarioError, match=r"end after 200 steps.*max_episode_steps: -1"):
        build(Scenario.model_validate(limited))


# -- real processes --------------------------------------------------------------------------------

YAML = f"""
name: life
endless: true
tasks:
  - {{name: a, env: "{FIELD}", steps: 6000, kwargs: {{year: 300}}}}
  - {{name: b, env: "{FIELD}", steps: 6000, kwargs: {{year: 900}}}}
stream: {{task_id: hidden, boundaries: hidden}}
agent: {{algorithm: stream_q}}
evaluation: {{every: 500, episodes: 1, most_steps: 20}}
checkpoint: {{every: 200, keep: all}}
"""


def run(scenario: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "holdfast", "run", str(scenario), "--runs", str(runs)]
    return subprocess.Popen(  # our own
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.slow
def test_killed_processes_go_on_bit_for_bit(tmp_path: Path) -> None:
    scenario = tmp_path / "life.yaml"
    scenario.write_text(YAML)
    assert run(scenario, tmp_path / "straight").wait() == 0
    rng, killed, inside = random.Random(0), 0, 0
    for _ in range(30):
        process = run(scenario, tmp_path / "killed")
        place = tmp_path / "killed" / "life" / "naive" / "seed-0"
        begun = {path.name for path in place.glob("checkpoints/*")}
        while process.poll() is None and {p.name for p in place.glob("checkpoints/*")} <= begun:
            time.sleep(0.05)
        try:
            assert process.wait(rng.uniform(0.0, 2.0)) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            inside += bool([*place.glob("checkpoints/task-*.at-*")])
    assert killed >= 3
    assert inside >= 2
    assert_same(RunFolder(place), RunFolder(tmp_path / "straight" / "life" / "naive" / "seed-0"))


@pytest.mark.slow
def test_memory_and_disk_do_not_grow_with_the_length(tmp_path: Path) -> None:
    sizes = []
    for steps in (2_000, 8_000):
        given = counting(checkpoint={"every": 500})
        given["tasks"] = [{**given["tasks"][0], "steps": steps}]
        given["evaluation"] = {"episodes": 1, "most_steps": 20}
        folder = cell(tmp_path / str(steps), given)
        tracemalloc.start()
        run_cell(folder, silent)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        kept = sum(p.stat().st_size for p in folder.path.glob("checkpoints/**/*") if p.is_file())
        sizes.append((peak, kept))
    assert sizes[1][0] < sizes[0][0] + 300_000
    assert sizes[1][1] < sizes[0][1] + 3_000


# -- what needs episodes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("stream: {boundaries: known}", "write stream: .*boundaries: hidden"),
        ("evaluation: {episodes: 1}", "say how many steps one takes"),
        ("score: success", "success is of an episode"),
        ("agent: {algorithm: stream_q, engine: compiled}", "compiled"),
        ("methods: [joint]", "'joint' takes tasks in turns by episodes"),
        ("on_nan: truncate", "no episode can be cut"),
        ("tasks[0].changes: {time_limit: 9}", "a limit of steps ends episodes"),
        ("tasks[0].changes: {action_delay: 2}", "its state is in no checkpoint"),
        ("tasks[0].randomize: {year: 'uniform(1, 2)'}", "it draws at every reset"),
        ("tasks[0].drift: {year: {linear: [1, 2]}}", "write per: step"),
        ("tasks[0].env: CartPole-v1", "give all tasks the same env"),
        ("tasks[0].wrappers: [{frame_stack: {n: 2}}]", "its state is in no checkpoint"),
    ],
)
def test_what_needs_episodes_is_refused(more: str, message: str, tmp_path: Path) -> None:
    scenario = tmp_path / "life.yaml"
    scenario.write_text(YAML)
    key, _, value = more.partition(": ")
    with pytest.raises(ScenarioError, match=message):
        load(scenario, [f"{key}={value}"])


def test_a_window_is_of_endless_streams_alone(tmp_path: Path) -> None:
    scenario = tmp_path / "life.yaml"
    scenario.write_text(YAML)
    with pytest.raises(ScenarioError, match="only an endless stream has a reward rate"):
        load(scenario, ["endless=false", "evaluation.window=10"])
