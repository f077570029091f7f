"""Replay: which rows a batch holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.stable_baselines import StableBaselinesAgent
from holdfast.continual.methods.replay import Replay
from holdfast.continual.stream import make_stream
from holdfast.scenarios.schema import Scenario

WORLDS = {
    "dqn": ("CartPole-v1", {}),
    "sac": ("Pendulum-v1", {}),
    "dqn-n": ("CartPole-v1", {"n_steps": 3}),
}


@pytest.mark.parametrize("case", WORLDS)
def test_half_of_a_batch_is_old_and_its_size_stays(case: str) -> None:
    env, arguments = WORLDS[case]
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": env, "steps": 64} for n in "abc"],
            "agent": {
                "algorithm": case.partition("-")[0],
                "learning_starts": 1000,
                "buffer_size": 500,
                **arguments,
            },
        }
    )
    agent, method = StableBaselinesAgent(scenario), Replay(samples=20, fraction=0.5)
    batches: list[Any] = []
    for experience in make_stream(scenario, 0).train_stream:
        method.pre_adapt(agent, experience)
        agent.start(experience)

        def watch(step: int, agent: StableBaselinesAgent = agent) -> None:
            if step == 60:
                batches.append(agent.model.replay_buffer.sample(32))

        agent.learn(experience, watch, lambda scalars, step: None)
        method.post_adapt(agent, experience)
    ids = [batch.observations[:, -3:].argmax(-1) for batch in batches]
    assert [len(task_ids) for task_ids in ids] == [32, 32, 32]
    assert (ids[0] == 0).all()
    assert (ids[1][:16] == 0).all()
    assert (ids[1][16:] == 1).all()
    assert set(ids[2][:16].tolist()) == {0, 1}
    assert (ids[2][16:] == 2).all()
    assert len(method.state()["actions"]) == 60
    if case == "dqn-n":
        assert torch.allclose(batches[1].discounts[:16], torch.tensor(0.99))


def test_stored_transitions_are_those_of_the_buffer() -> None:
    """Truncation is not termination: a time limit leaves no ``done`` in what is stored."""
    scenario = Scenario.model_validate(
        {
            "tasks": [
                {"name": "a", "env": "Pendulum-v1", "steps": 64, "changes": {"time_limit": 8}}
            ],
            "n_envs": 2,
            "agent": {"algorithm": "sac", "learning_starts": 1000, "buffer_size": 500},
        }
    )
    agent = StableBaselinesAgent(scenario)
    (experience,) = make_stream(scenario, 0).train_stream
    agent.start(experience)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    rows = agent.transitions(64, np.random.default_rng(0))
    buffer = agent.model.replay_buffer
    assert buffer.dones[:32].sum() == 8
    assert rows["dones"].sum() == 0
    assert np.array_equal(rows["rewards"].reshape(32, 2), buffer.rewards[:32])
    assert np.array_equal(rows["observations"].reshape(32, 2, -1), buffer.observations[:32])
