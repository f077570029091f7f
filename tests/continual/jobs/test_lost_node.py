"""A cluster of two nodes on this machine loses one of them in the middle of a study."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cells import run_all

from holdfast.continual.jobs.on_ray import connected
from holdfast.continual.jobs.queue import Outcome, Unwatched
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.processes.offspring import descendants
from holdfast.scenarios.schema.scenario import Scenario

STEPS = 2048  # long enough that a cell still runs when its progress is heard


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": 100 << 20,
        },
    )
    try:
        yield made
    finally:
        made.shutdown()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Lose(Unwatched):
    """Kills a node, its raylet first, once a cell that runs on it is in its second task."""

    def __init__(self, raylet: int, folders: list[RunFolder]) -> None:
        self._raylet, self._folders = raylet, {f"ewc/{f.path.name}": f for f in folders}
        self.lost = ""
        self.retried: list[Outcome] = []

    def progress(self, progress: Any) -> None:
        if self.lost or not STEPS < progress.step < 2 * STEPS - 256:
            return
        _, pid, *_ = (self._folders[progress.cell].path / "lock").read_text().split()
        if parent(int(pid)) == self._raylet:
            self.lost = progress.cell
            for number in (self._raylet, *descendants(self._raylet)):  # as a machine that stops
                os.kill(number, signal.SIGKILL)

    def retrying(self, outcome: Outcome) -> None:
        self.retried.append(outcome)


@pytest.mark.kill
@pytest.mark.slow
def test_a_lost_node_costs_an_attempt_and_no_result(
    tmp_path: Path, make_scenario: Callable[..., Scenario], cluster: Any
) -> None:
    base = {"env": "CartPole-v1", "steps": STEPS}
    turned = {"name": "right", **base, "changes": {"action_map": [1, 0]}}
    scenario = make_scenario(
        tasks=[{"name": "left", **base}, turned],
        agent={"algorithm": "ppo", "n_steps": 128, "batch_size": 64, "n_epochs": 1},
        evaluation={"episodes": 1, "every": 128},
        seeds=[0, 1],
        methods=["ewc"],
    )
    serial = run_all(scenario, tmp_path / "serial")
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    folders = prepare(tmp_path / "runs", scenario)
    (raylet,) = node.all_processes["raylet"]
    watched = Lose(raylet.process.pid, folders)
    with connected(scenario, address=cluster.address) as execute:
        found = run_cells(folders, watcher=watched, execute=execute)
    assert [outcome.status for outcome in found] == ["finished"] * 2
    assert [outcome.cell for outcome in watched.retried] == [watched.lost]
    assert watched.lost
    for one, two in zip(folders, serial, strict=True):
        assert one.scores() == two.scores()
        for stage in (0, 1):
            name = f"checkpoints/task-{stage}/policy.safetensors"
            assert (one.path / name).read_bytes() == (two.path / name).read_bytes()
        failures = [failure["reason"] for failure in one.info()["failures"]]
        assert len(failures) == (f"ewc/{one.path.name}" == watched.lost)
        assert all("the Ray task was lost" in reason for reason in failures)
