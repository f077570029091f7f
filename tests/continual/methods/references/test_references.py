"""The two references that are no continual learners: all tasks at once, and the first one alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import assert_unharmed

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.references.frozen import Frozen
from holdfast.continual.methods.references.joint import Joint
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.streams.task_stream import make_stream
from holdfast.scenarios.schema.scenario import Scenario

Run = Callable[..., RunFolder]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_frozen_keeps_the_first_tasks_weights_bit_for_bit(
    run: Run, weights: Any, algorithm: str
) -> None:
    folder = run(algorithm, "frozen")
    naive = run(algorithm, "naive", runs="other")
    first = weights(folder, 0)
    assert all(torch.equal(first[name], weights(naive, 0)[name]) for name in first)
    for task in (1, 2):
        later = weights(folder, task)
        assert all(torch.equal(first[name], later[name]) for name in first)
    points = {(row["stage"], row["step"]) for row in folder.scores()}
    assert points == {(row["stage"], row["step"]) for row in naive.scores()}


def test_frozen_with_heads_acts_by_the_head_it_learned() -> None:
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": "CartPole-v1", "steps": 64} for n in "abc"],
            "stream": {"task_id": "heads"},
            "agent": {"algorithm": "ppo", "n_steps": 64, "batch_size": 64},
        }
    )
    agent, method = StableBaselinesAgent(scenario), Frozen()
    for experience in make_stream(scenario, 0).train_stream:
        method.pre_adapt(agent.doors(method), experience)
        agent.start(experience)
        agent.learn(experience, lambda step: None, lambda scalars, step: None)
        method.post_adapt(agent, experience)
    assert [agent.shown_task(task) for task in range(3)] == [(0, False), (0, True), (0, True)]


def test_joint_with_heads_is_measured_by_each_tasks_own_from_the_start() -> None:
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": "CartPole-v1", "steps": 64} for n in "abc"],
            "stream": {"task_id": "heads"},
            "agent": {"algorithm": "ppo", "n_steps": 64, "batch_size": 64},
            "methods": ["joint"],
        }
    )
    agent, method = StableBaselinesAgent(scenario), Joint()
    experience = make_stream(scenario, 0).train_stream[0]
    method.pre_adapt(agent.doors(method), experience)
    agent.start(experience)
    assert [agent.shown_task(task) for task in range(3)] == [(0, False), (1, False), (2, False)]
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    assert [agent.shown_task(task) for task in range(3)] == [(0, False), (1, False), (2, False)]
    agent.close()


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_joint_learns_from_all_tasks_in_every_stage(algorithm: str) -> None:
    env = "CartPole-v1" if algorithm == "ppo" else "Pendulum-v1"
    arguments = {"n_steps": 64, "batch_size": 64} if algorithm == "ppo" else {"buffer_size": 500}
    changes = {"time_limit": 16}
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": env, "steps": 256, "changes": changes} for n in "abc"],
            "n_envs": 2,
            "agent": {"algorithm": algorithm, "learning_starts": 1000, **arguments}
            if algorithm == "sac"
            else {"algorithm": algorithm, **arguments},
        }
    )
    agent, method = StableBaselinesAgent(scenario), Joint()
    for experience in make_stream(scenario, 0).train_stream:
        method.pre_adapt(agent.doors(method), experience)
        agent.memory.keep_rollouts(256)
        agent.start(experience)
        agent.learn(experience, lambda step: None, lambda scalars, step: None)
        seen = agent.memory.observations(256, experience.generator("test"))[""]
        shares = seen[:, -3:].mean(0)  # of the one-hot task id
        assert shares.sum() == pytest.approx(1.0)
        assert shares.min() > 0.2


SMALL = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 48, "batch_size": 16, "n_epochs": 2, **SMALL}
SAC = {"algorithm": "sac", "learning_starts": 16, "batch_size": 16, "buffer_size": 1000, **SMALL}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "agent", [PPO, pytest.param(SAC, marks=pytest.mark.slow)], ids=lambda one: one["algorithm"]
)
def test_joint_killed_after_a_boundary_equals_never_killed(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boundary is inside a rollout, and turns go on: episodes are longer than a stage."""
    env, limit = ("CartPole-v1", {}) if agent is PPO else ("Pendulum-v1", {"time_limit": 200})
    task = {"env": env, "steps": 160, "changes": limit}
    data = {
        "name": "demo",
        "tasks": [{"name": name, **task} for name in "abc"],
        "agent": agent,
        "methods": ["joint"],
        "evaluation": {"every": None, "episodes": 1},
        "checkpoint": {"every": "off"},
    }
    kills = assert_unharmed(monkeypatch, tmp_path, data, [170, 330, 400])
    assert kills.begun[1:] == [161, 321, 321]


@pytest.mark.slow
def test_joint_is_repeatable_and_another_learner_than_naive(run: Run, weights: Any) -> None:
    first, second = run("ppo", "joint"), run("ppo", "joint", runs="again")
    assert all(torch.equal(weights(first)[n], w) for n, w in weights(second).items())
    naive = weights(run("ppo", "naive", runs="naive"))
    assert not all(torch.equal(weights(first)[name], naive[name]) for name in naive)
