"""Streaming learners in the loop: checkpoints, evaluation, what a task start carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from kills import assert_unharmed, cell, silent, two_tasks
from safetensors.torch import load_file

from holdfast.continual.training.cell import run_cell
from holdfast.envs.base.compatibility import check_policy
from holdfast.errors import ScenarioError
from holdfast.scenarios.schema.scenario import Scenario

AGENTS: dict[str, dict[str, Any]] = {
    "stream_q": {"algorithm": "stream_q", "exploration_fraction": 0.7},
    "stream_ac": {"algorithm": "stream_ac", "policy_kwargs": {"net_arch": [16]}},
}
COUNT = {"stream_q": "q_net.moments.count", "stream_ac": "actor.moments.count"}


def scenario(name: str, method: str = "naive", **more: Any) -> dict[str, Any]:
    """Return two tasks of 160 steps; those of ``stream_ac`` have episodes of 25."""
    data = two_tasks(AGENTS[name], method, **more)
    if name == "stream_q":
        data["tasks"] = [task | {"env": "CartPole-v1", "changes": {}} for task in data["tasks"]]
    return data


def ended(folder: Any, task: int) -> dict[str, torch.Tensor]:
    """Return the policy at the end of a task."""
    return load_file(folder.path / "checkpoints" / f"task-{task}" / "policy.safetensors")


@pytest.mark.thorough
@pytest.mark.parametrize("name", AGENTS)
def test_killed_inside_tasks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_unharmed(monkeypatch, tmp_path, scenario(name), [70, 140, 150, 240, 310])


@pytest.mark.thorough
@pytest.mark.parametrize("name", AGENTS)
def test_killed_between_hidden_boundaries(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model learns both tasks; its statistics, traces and return so far are not begun again."""
    hidden = {"task_id": "hidden", "boundaries": "hidden"}
    data = scenario(name, stream=hidden, checkpoint={"every": "off", "keep": "all"})
    assert_unharmed(monkeypatch, tmp_path, data, [100, 170, 250])


@pytest.mark.thorough
@pytest.mark.parametrize("name", AGENTS)
def test_budgets_are_exact_and_evaluation_moves_nothing(name: str, tmp_path: Path) -> None:
    """Every observation of training is counted once: of each step, and of each first one."""
    off, ends, folders = {"every": "off", "keep": "all"}, [], []
    for place, evaluation in (
        ("few", {"episodes": 1}),
        ("many", {"episodes": 3, "every": 10, "deterministic": False}),
    ):
        folder = cell(tmp_path / place, scenario(name, evaluation=evaluation, checkpoint=off))
        run_cell(folder, silent)
        ends.append([ended(folder, 0), ended(folder, 1)])
        folders.append(folder)
    for one, other in zip(*ends, strict=True):
        assert one.keys() == other.keys()
        assert all(one[key].equal(other[key]) for key in one)
    rewards = [int(policy["reward_moments.count"]) for policy in ends[0]]
    assert rewards == [160, 320]
    networks = {"stream_q": 1, "stream_ac": 2}[name]
    assert folders[0].info()["updates"] == 320 * networks
    first, second = (int(policy[COUNT[name]]) for policy in ends[0])
    if name == "stream_ac":  # seven episodes of 25 steps begin in each task
        assert (first, second) == (167, 334)
    else:
        assert 160 < first < 180 < 320 < second < 360


@pytest.mark.thorough
def test_isolated_begins_with_new_statistics_and_a_view_brings_the_old_ones(tmp_path: Path) -> None:
    off = {"every": "off", "keep": "all"}
    folder = cell(tmp_path, scenario("stream_ac", "isolated", checkpoint=off))
    run_cell(folder, silent)
    assert [int(ended(folder, task)["reward_moments.count"]) for task in (0, 1)] == [160, 160]
    last = {(s["task"], s["step"]): s["return"] for s in folder.scores()}
    assert last["a", 160] == last["a", 320]  # seen as at its end, by its own statistics


@pytest.mark.thorough
def test_the_task_id_is_left_as_it_is(tmp_path: Path) -> None:
    """Of Pendulum's three numbers and a one-hot of two, three have moments."""
    folder = cell(tmp_path, scenario("stream_ac"))
    run_cell(folder, silent)
    policy = ended(folder, 1)
    assert policy["actor.moments.mean"].shape == (3,)
    assert policy["actor.layers.0.weight"].shape == (16, 5)
    assert policy["actor.moments.mean"].equal(policy["critic.moments.mean"])
    assert np.isfinite([s["return"] for s in folder.scores()]).all()


@pytest.mark.parametrize(
    ("task_id", "observations", "path", "message"),
    [
        ("hidden", spaces.Dict({"arm": spaces.Box(-1, 1, (2,))}), "tasks", "reads one array of"),
        ("hidden", spaces.Discrete(4), "tasks", "FlattenObservation"),
        ("observed", spaces.Box(-1, 1, (2, 2)), "stream.task_id", "an observation that is no vec"),
        ("hidden", spaces.Box(-1, 1, (2, 2)), "", ""),
        ("observed", spaces.Box(-1, 1, (4,)), "", ""),
    ],
)
def test_observations_that_are_no_single_array_are_refused(
    task_id: str, observations: spaces.Space[Any], path: str, message: str
) -> None:
    made = Scenario.model_validate(scenario("stream_q", stream={"task_id": task_id}))
    if not path:
        check_policy(made, observations)
        return
    with pytest.raises(ScenarioError) as caught:
        check_policy(made, observations)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message
