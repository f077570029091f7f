"""Cells, one after another and side by side: the same results, and no cell stops another."""

import json
import multiprocessing
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import holdfast
from holdfast.continual.jobs.queue import Outcome
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.scenario import Scenario

# CartPole that fails in cells of one seed. In those of another it takes its process with it, in the
# second task, once.
FRAGILE = """\
import os
import signal
import time
from pathlib import Path

from gymnasium.envs.classic_control import CartPoleEnv

HERE = os.environ.get("FRAGILE_HOME")

class Fragile(CartPoleEnv):
    left = None
    deadly = False
    hangs = False

    def reset(self, *, seed=None, options=None):
        self.hangs = self.hangs or seed == 103
        if seed == 101:
            self.left = 20
            print("a thin pole")
            os.system("echo a process of its own")
        Fragile.deadly = Fragile.deadly or seed == 102
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if self.hangs:
            time.sleep(3600)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("the pole broke")
        if self.deadly and HERE and list(Path(HERE).glob("runs/*/*/seed-102/checkpoints/task-0")):
            Fragile.deadly = False
            if not Path(HERE, "died").exists():
                Path(HERE, "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)
"""

STAGES = 2


def fragile_scenario(folder: Path, **keys: object) -> Scenario:
    folder.mkdir(exist_ok=True)
    (folder / "fragile.py").write_text(FRAGILE, "utf-8")
    tasks = [
        {"name": "left", "env": "fragile:Fragile", "steps": 64},
        {"name": "right", "env": "fragile:Fragile", "steps": 64, "changes": {"action_map": [1, 0]}},
    ]
    for task in tasks:
        task.setdefault("changes", {})["time_limit"] = 50
    given = {
        "name": "fragile",
        "tasks": tasks,
        "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 2},
        "methods": ["ewc"],
        "seeds": [7, 8],
        "evaluation": {"episodes": 2, "every": 32},
    }
    scenario = Scenario.model_validate(given | keys)
    scenario._folder = folder
    return scenario


class Watched:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = {}
        self.outcomes: list[Outcome] = []
        self.retried: list[Outcome] = []

    def progress(self, progress) -> None:
        self.steps.setdefault(progress.cell, []).append(progress.step)

    def retrying(self, outcome: Outcome) -> None:
        self.retried.append(outcome)
        self.steps[outcome.cell] = []

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Ran(NamedTuple):
    folders: list[RunFolder]
    outcomes: list[Outcome]
    watched: Watched


def run_all(runs: Path, scenario: Scenario, jobs: int) -> Ran:
    folders, watched = prepare(runs, scenario), Watched()
    return Ran(folders, run_cells(folders, jobs=jobs, retries=1, watcher=watched), watched)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("serial")
    return run_all(folder / "runs", fragile_scenario(folder, seeds=[7, 8, 102]), jobs=1)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("parallel")
    scenario = fragile_scenario(folder, seeds=[102, 101, 7, 8])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAGILE_HOME", str(folder))
        ran = run_all(folder / "runs", scenario, jobs=2)
    yield ran
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_workers_give_what_one_process_gives(serial: Ran, parallel: Ran) -> None:
    for one in serial.folders:
        (two,) = [folder for folder in parallel.folders if folder.path.name == one.path.name]
        assert one.scores() == two.scores()
        assert len(one.scores()) == 2 * 2 * (1 + 2 * STAGES)  # episodes, tasks, points
        for stage in range(STAGES):
            weights, others = (
                load_file(folder.path / "checkpoints" / f"task-{stage}" / "policy.safetensors")
                for folder in (one, two)
            )
            assert weights.keys() == others.keys()
            assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.thorough
@pytest.mark.kill
def test_a_cell_that_is_killed_goes_on_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAGILE_HOME", str(tmp_path))
    ran = run_all(tmp_path / "runs", fragile_scenario(tmp_path, seeds=[102, 7]), jobs=2)
    assert {o.cell: (o.status, o.attempt) for o in ran.outcomes} == {
        "ewc/seed-102": ("finished", 2),
        "ewc/seed-7": ("finished", 1),
    }
    (died,) = ran.watched.retried
    assert died.failure is not None
    assert "SIGKILL, exit code -9" in died.failure.text
    assert ran.watched.steps["ewc/seed-102"][0] == 64  # from its checkpoint
    infos = {f.path.name: f.info() for f in ran.folders}
    assert ["SIGKILL" in row["reason"] for row in infos["seed-102"]["failures"]] == [True]
    assert infos["seed-7"]["failures"] == []
    assert multiprocessing.active_children() == []


@pytest.mark.kill
@pytest.mark.slow
def test_a_cell_that_fails_or_dies_does_not_stop_the_others(parallel: Ran) -> None:
    found = {outcome.cell: outcome for outcome in parallel.outcomes}
    assert [(outcome.cell, outcome.status) for outcome in parallel.outcomes] == [
        ("ewc/seed-102", "finished"),
        ("ewc/seed-101", "failed"),
        ("ewc/seed-7", "finished"),
        ("ewc/seed-8", "finished"),
    ]
    again = {outcome.cell: outcome.failure for outcome in parallel.watched.retried}
    assert sorted(again) == ["ewc/seed-101", "ewc/seed-102"]
    raised, died = found["ewc/seed-101"].failure, again["ewc/seed-102"]
    assert raised is not None
    assert died is not None
    assert raised.exit_code == 3
    assert "RuntimeError: the pole broke" in raised.text
    assert "in step" in raised.trace
    assert "holdfast" not in raised.trace
    assert died.exit_code == 1
    assert "SIGKILL, exit code -9" in died.text
    assert "memory" in died.text
    assert sorted(o.cell for o in parallel.watched.outcomes) == sorted(found)
    assert parallel.watched.steps["ewc/seed-7"][-1] == 128
    assert parallel.watched.steps["ewc/seed-102"][0] == 64  # from its checkpoint
    assert {o.cell: o.attempt for o in parallel.outcomes} == {
        "ewc/seed-102": 2,
        "ewc/seed-101": 2,
        "ewc/seed-7": 1,
        "ewc/seed-8": 1,
    }


@pytest.mark.kill
@pytest.mark.slow
def test_run_folders_say_how_their_cells_ended(parallel: Ran) -> None:
    infos = {f"{f.label}/{f.path.name}": f.info() for f in parallel.folders}
    assert infos["ewc/seed-7"]["status"] == "finished"
    assert infos["ewc/seed-101"]["status"] == "failed"
    assert "the pole broke" in infos["ewc/seed-101"]["reason"]
    assert infos["ewc/seed-102"]["status"] == "finished"
    (died,) = infos["ewc/seed-102"]["failures"]
    assert "SIGKILL" in died["reason"]
    (raised,) = infos["ewc/seed-101"]["failures"]
    assert "the pole broke" in raised["reason"]
    assert infos["ewc/seed-7"]["failures"] == []


@pytest.mark.slow
def test_logs_hold_what_processes_of_cells_printed(
    parallel: Ran, serial: Ran, capfd: pytest.CaptureFixture[str]
) -> None:
    logs = {f.path.name: (f.path / "log.txt").read_text("utf-8") for f in parallel.folders}
    heading = r"^== \d{4}-\d\d-\d\dT\S+ attempt (\d), process \d+ on "
    assert re.findall(heading, logs["seed-101"], re.M) == ["1", "2"]
    for printed in ("a thin pole", "a process of its own", "RuntimeError: the pole broke"):
        assert logs["seed-101"].count(f"{printed}\n") >= 2, printed
    assert logs["seed-102"].count("== ") == 2
    assert "thin" not in logs["seed-7"]
    assert (serial.folders[0].path / "log.txt").read_text("utf-8").count("\n") == 1


@pytest.mark.slow
def test_a_cell_that_hangs_keeps_no_other_from_its_turn(tmp_path: Path) -> None:
    class Interrupted(Watched):
        def progress(self, progress) -> None:
            super().progress(progress)
            self.look()

        def ended(self, outcome: Outcome) -> None:
            super().ended(outcome)
            self.look()

        def look(self) -> None:
            if len(self.outcomes) == 2 and "ewc/seed-103" in self.steps:
                raise KeyboardInterrupt  # nobody waits longer for the one that hangs

    folders = prepare(tmp_path / "runs", fragile_scenario(tmp_path, seeds=[103, 7, 8]))
    watched = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run_cells(folders, jobs=2, watcher=watched)
    statuses = [folder.info()["status"] for folder in folders]
    assert statuses == ["stopped", "finished", "finished"]
    assert multiprocessing.active_children() == []


@pytest.mark.thorough
def test_finished_cells_are_skipped(serial: Ran) -> None:
    before = [folder.path.joinpath("scores.jsonl").read_bytes() for folder in serial.folders]
    again = run_cells(serial.folders, jobs=2)
    assert [outcome.status for outcome in again] == ["skipped"] * 3
    after = [folder.path.joinpath("scores.jsonl").read_bytes() for folder in serial.folders]
    assert before == after


@pytest.mark.thorough
def test_run_returns_opened_runs_and_raises_what_failed(tmp_path: Path) -> None:
    (opened,) = holdfast.run(fragile_scenario(tmp_path, seeds=[7]), runs=tmp_path / "runs")
    assert opened.status == "finished"
    assert opened.folder.path == tmp_path / "runs" / "fragile" / "ewc" / "seed-7"
    both = fragile_scenario(tmp_path, seeds=[101, 8])
    with pytest.raises(EnvironmentFailed, match="the pole broke"):
        holdfast.run(both, runs=tmp_path / "runs")
    other = tmp_path / "runs" / "fragile" / "ewc" / "seed-8" / "run.json"
    assert json.loads(other.read_text("utf-8"))["status"] == "finished"


def test_an_unforeseen_exception_is_a_failure_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object, **named: object) -> None:
        raise ZeroDivisionError("no such thing")

    monkeypatch.setattr("holdfast.continual.training.cell.run_stream", broken)
    folders = prepare(tmp_path / "runs", fragile_scenario(tmp_path, seeds=[7]))
    (outcome,) = run_cells(folders)
    assert outcome.failure is not None
    assert outcome.failure.text == "ZeroDivisionError: no such thing"
    assert "in broken" in outcome.failure.trace
    assert outcome.failure.exit_code == 1


# -- opened runs -----------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "method", ["naive", "ewc", "isolated", "progressive", "packnet", "expandable"]
)
def test_an_opened_run_acts_as_it_was_evaluated(
    tmp_path: Path, make_scenario: Callable[..., Scenario], method: str, algorithm: str
) -> None:
    """The same episode from the same seed ends with the return that the record holds."""
    discrete = algorithm == "ppo"
    changes = {"action_map": [1, 0]} if discrete else {"action_gain": -1.0}
    base = {"env": "CartPole-v1" if discrete else "Pendulum-v1", "steps": 64}
    off_policy = {"learning_starts": 8, "buffer_size": 100, "batch_size": 8}
    scenario = make_scenario(
        tasks=[
            {"name": "left", **base, "changes": {"time_limit": 20}},
            {"name": "right", **base, "changes": {"time_limit": 20, **changes}},
        ],
        agent={"algorithm": algorithm, "normalize": {"observations": "running"}}
        | ({"n_steps": 32, "batch_size": 32} if discrete else off_policy),
        methods=[method],
        seeds=[3],
        stream={"task_count": "known"},
        score={"random": 0.0, "reference": 1e6},  # out of reach: expandable adds its module
        evaluation={"episodes": 1},
    )
    holdfast.run(scenario, runs=tmp_path)
    opened = holdfast.open_run(tmp_path / "demo" / method / "seed-3")
    assert opened.scenario == scenario
    assert opened.agent().task.name == "right"
    for index, task in enumerate(("left", "right")):
        agent = opened.agent(task)
        env = agent.make_env()
        total, ended = 0.0, False
        seed = holdfast.seeding.derive(3, "evaluation", index, 0)
        observation, _ = env.reset(seed=seed)
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            total += float(reward)
            ended = terminated or truncated
        env.close()
        (recorded,) = [s for s in opened.scores if s["stage"] == STAGES and s["task"] == task]
        assert total == pytest.approx(recorded["return"], abs=1e-9)


def test_an_opened_run_pads_what_the_tasks_environment_gives(
    tmp_path: Path, make_scenario: Callable[..., Scenario]
) -> None:
    scenario = make_scenario(
        tasks=[
            {"name": "cart", "env": "CartPole-v1", "steps": 32},
            {"name": "car", "env": "MountainCar-v0", "steps": 32, "changes": {"time_limit": 30}},
        ],
        spaces={"observation": "pad", "action": "pad"},
        agent={"algorithm": "ppo", "n_steps": 32, "batch_size": 32},
        evaluation={"episodes": 1},
    )
    (opened,) = holdfast.run(scenario, runs=tmp_path)
    agent = opened.agent("cart")
    env = agent.make_env()
    assert isinstance(env.observation_space, gym.spaces.Box)
    assert env.observation_space.shape == (4,)
    actions = {int(agent.act(np.zeros(4, np.float32), deterministic=False)) for _ in range(50)}
    assert actions <= {0, 1}  # CartPole's own, although the stream has three
    assert int(opened.agent("car").act(np.zeros(2, np.float32))) in (0, 1, 2)


def test_what_cannot_be_opened_is_refused(tmp_path: Path, serial: Ran) -> None:
    root = serial.folders[0].path.parents[1]
    with pytest.raises(UsageError, match=r"holds several runs; open one of them: .*ewc/seed-7"):
        holdfast.open_run(root)
    with pytest.raises(UsageError, match="no run folders in"):
        holdfast.open_run(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no task 'lefft'; did you mean 'left'"):
        holdfast.open_run(serial.folders[0].path).agent("lefft")
    (new,) = prepare(tmp_path / "runs", fragile_scenario(tmp_path, seeds=[7]))
    with pytest.raises(UsageError, match="no task was finished yet"):
        holdfast.open_run(new.path).agent()
