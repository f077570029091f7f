"""Cells as tasks of a Ray cluster: what is refused, and, slow, a real one that loses a worker."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cells import run_all

from holdfast.continual.jobs import on_ray
from holdfast.continual.jobs.on_ray import connected
from holdfast.continual.jobs.queue import Execute, Outcome, Unwatched
from holdfast.continual.jobs.run import made_executor, run_cells
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import HoldfastError, MissingExtra, UsageError
from holdfast.scenarios.schema.scenario import Scenario

Make = Callable[..., Scenario]
STEPS = 2048  # long enough that a cell still runs when its progress is heard


def scenario_of(make_scenario: Make, **keys: Any) -> Scenario:
    """Return two tasks of a pole, two seeds."""
    base = {"env": "CartPole-v1", "steps": STEPS}
    given = {
        "tasks": [
            {"name": "left", **base},
            {"name": "right", **base, "changes": {"action_map": [1, 0]}},
        ],
        "agent": {"algorithm": "ppo", "n_steps": 128, "batch_size": 64, "n_epochs": 1},
        "evaluation": {"episodes": 1, "every": 256},
        "seeds": [0, 1],
        "methods": ["ewc"],
    }
    return make_scenario(**(given | keys))


def refused(make_scenario: Make, address: str | None = None, **keys: Any) -> str:
    try:
        with connected(scenario_of(make_scenario, **keys), address=address):
            pass
    except UsageError as error:
        return str(error)
    raise AssertionError


def free_port(stack: ExitStack) -> socket.socket:
    found = stack.enter_context(socket.socket())
    found.bind(("127.0.0.1", 0))
    return found


def test_an_address_where_nothing_listens_is_refused_at_once(make_scenario: Make) -> None:
    with ExitStack() as stack:
        port = free_port(stack).getsockname()[1]
        text = refused(make_scenario, f"127.0.0.1:{port}")
    assert text.startswith(f"no Ray cluster answers at 127.0.0.1:{port} (")
    assert "refused" in text


def test_an_address_that_says_nothing_is_given_up(
    make_scenario: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "CONNECT_S", 1.0)
    with ExitStack() as stack:
        silent = free_port(stack)
        silent.listen()
        text = refused(make_scenario, f"127.0.0.1:{silent.getsockname()[1]}")
    assert "(waited 1 s)" in text


def test_what_cannot_work_is_refused_before_ray_is_there(
    make_scenario: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "HOST:6379" in refused(make_scenario, "ray://head:10001")
    agent = {"algorithm": "ppo", "device": "cuda"}
    assert "resources: {gpus: 1}" in refused(make_scenario, agent=agent)
    robot = [{"name": "arm", "env": "CartPole-v1", "steps": 64, "exclusive": True}]
    made = make_scenario(tasks=robot)
    with pytest.raises(UsageError, match="'arm' is exclusive"), connected(made):
        pass
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'"holdfast\[ray\]"'), connected(made):
        pass


def test_an_address_is_for_ray_alone(make_scenario: Make) -> None:
    with (
        pytest.raises(UsageError, match="needs the executor ray"),
        made_executor("processes", scenario_of(make_scenario), address="head:6379"),
    ):
        pass


@pytest.mark.parametrize(
    ("resources", "place"),
    [({"cpus": 0}, "cpus"), ({"gpus": 1.5}, "gpus"), ({"memory": "4 GB"}, "memory")],
)
def test_resources_are_checked_by_the_scenario(
    make_scenario: Make, resources: dict[str, Any], place: str
) -> None:
    with pytest.raises((HoldfastError, ValueError), match=place):
        scenario_of(make_scenario, resources=resources)


# -- a cluster on this machine ---------------------------------------------------------------------


@pytest.mark.slow
def test_what_no_node_can_hold_is_refused(make_scenario: Make) -> None:
    # Before the next tests: a process has one cluster at a time.
    text = refused(make_scenario, "local", resources={"gpus": 64})
    assert "CPU 1, GPU 64" in text
    assert "no node of the cluster" in text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Execute]:
    given = {"tasks": [{"name": "any", "env": "CartPole-v1", "steps": 64}]}
    scenario = Scenario.model_validate(given | {"agent": {"algorithm": "ppo"}})
    with connected(scenario, jobs=2, address="local") as execute:
        yield execute


@pytest.fixture
def serial(tmp_path: Path, make_scenario: Make) -> list[RunFolder]:
    return run_all(scenario_of(make_scenario), tmp_path / "serial")


class Killer(Unwatched):
    """Kills the process of the first cell once, after its first task."""

    def __init__(self, kill: Callable[[int], None]) -> None:
        self.kill, self.cells = kill, dict[str, list[int]]()
        self.folders: list[RunFolder] = []
        self.retried: list[Outcome] = []
        self._is_done = False

    def progress(self, progress: Any) -> None:
        self.cells.setdefault(progress.cell, []).append(progress.step)
        if not self._is_done and progress.step > STEPS and progress.cell == "ewc/seed-0":
            self._is_done = True
            _, pid, *_ = (self.folders[0].path / "lock").read_text().split()
            self.kill(int(pid))

    def retrying(self, outcome: Outcome) -> None:
        self.retried.append(outcome)
        self.cells[outcome.cell] = []


def same(folders: list[RunFolder], others: list[RunFolder]) -> None:
    for one, two in zip(folders, others, strict=True):
        assert one.scores() == two.scores()
        for stage in (0, 1):
            name = f"checkpoints/task-{stage}/policy.safetensors"
            assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


@pytest.mark.kill
@pytest.mark.slow
def test_a_killed_worker_costs_an_attempt_and_no_result(
    tmp_path: Path, make_scenario: Make, serial: list[RunFolder], cluster: Execute
) -> None:
    killer = Killer(lambda pid: os.kill(pid, signal.SIGKILL))
    killer.folders = prepare(tmp_path / "runs", scenario_of(make_scenario))
    found = run_cells(killer.folders, watcher=killer, execute=cluster)
    assert [(o.cell, o.status, o.attempt) for o in found] == [
        ("ewc/seed-0", "finished", 2),
        ("ewc/seed-1", "finished", 1),
    ]
    (lost,) = killer.retried
    assert lost.failure is not None
    assert "the Ray task was lost (WorkerCrashedError)" in lost.failure.text
    (failure,) = killer.folders[0].info()["failures"]
    assert "WorkerCrashedError" in failure["reason"]
    assert killer.cells["ewc/seed-0"][0] == STEPS  # from its checkpoint
    same(killer.folders, serial)


@pytest.mark.slow
def test_ctrl_c_stops_cells_that_continue(
    tmp_path: Path, make_scenario: Make, serial: list[RunFolder], cluster: Execute
) -> None:
    def interrupt(pid: int) -> None:
        raise KeyboardInterrupt

    killer = Killer(interrupt)
    killer.folders = prepare(tmp_path / "runs", scenario_of(make_scenario))
    with pytest.raises(KeyboardInterrupt):
        run_cells(killer.folders, watcher=killer, execute=cluster)
    assert killer.folders[0].info()["status"] == "stopped"
    run_cells(killer.folders, execute=cluster)
    assert [folder.info()["status"] for folder in killer.folders] == ["finished"] * 2
    same(killer.folders, serial)


@pytest.mark.kill
@pytest.mark.slow
def test_seeds_in_lockstep_are_one_task_and_each_is_tried_again_alone(
    tmp_path: Path, make_scenario: Make, cluster: Execute
) -> None:
    agent = {"algorithm": "ppo", "engine": "compiled", "seeds_at_once": 2, "n_steps": 128}
    scenario = scenario_of(make_scenario, agent=agent)
    straight = prepare(tmp_path / "straight", scenario)
    run_cells(straight)
    killer = Killer(lambda pid: os.kill(pid, signal.SIGKILL))
    killer.folders = prepare(tmp_path / "runs", scenario)
    found = run_cells(killer.folders, watcher=killer, execute=cluster)
    assert [(o.cell, o.status, o.attempt) for o in found] == [
        ("ewc/seed-0", "finished", 2),
        ("ewc/seed-1", "finished", 2),
    ]
    assert len(killer.retried) == 2
    assert all(folder.info()["lockstep"] for folder in killer.folders)
    same(killer.folders, straight)
