"""Exploration as earlier tasks: who is chosen by hand, and what a model does meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from all_doors import every_door

from holdfast.agents.base.observations import with_task_ids
from holdfast.agents.doors.exploration import Exploration, Heads

RNG = np.random.default_rng(0)


def test_best_return_tries_each_and_then_takes_the_best_mean() -> None:
    heads = Heads("best_return", [4, 7, 2], RNG)
    played = []
    for total in (1.0, 5.0, 3.0, 0.0, 9.0, 0.0):
        played.append(heads.choose())
        heads.ended(played[-1], total)
    # After one try each 7 leads with 5; then its mean falls to 5/2, and 2 leads with 3, then with
    # (3 + 9) / 2 = 6, then with (3 + 9 + 0) / 3 = 4.
    assert played == [4, 7, 2, 7, 2, 2]
    assert heads.choose() == 2


def test_best_return_side_by_side_goes_round_until_an_episode_ends() -> None:
    heads = Heads("best_return", [4, 7], RNG)
    assert [heads.choose() for _ in range(3)] == [4, 7, 4]
    heads.ended(7, -2.0)
    assert heads.choose() == 7  # the only one with a return
    heads.ended(4, -1.0)
    assert heads.choose() == 4


def test_previous_and_uniform() -> None:
    assert Heads("previous", [4, 7, 2], RNG).choose() == 2
    heads = Heads("uniform", [4, 7, 2], np.random.default_rng(1))
    assert {heads.choose() for _ in range(50)} == {4, 7, 2}


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_only_the_task_id_changes(kind: str) -> None:
    batch: Any = np.array([[0.5, 2.0, 1.0, 0.0], [0.1, 3.0, 0.0, 1.0]], np.float32)
    other = np.array([[0.5, 2.0, 0.0, 1.0], [0.1, 3.0, 0.0, 1.0]], np.float32)
    batch = torch.as_tensor(batch) if kind == "tensor" else batch
    shown = with_task_ids(batch, np.array([1, 1]), 2)
    assert type(shown) is type(batch)
    assert np.array_equal(np.asarray(shown), other)
    in_dict = with_task_ids({"camera": batch, "task_id": batch[:, 2:]}, np.array([1, 1]), 2)
    assert in_dict["camera"] is batch
    assert np.array_equal(np.asarray(in_dict["task_id"]), other[:, 2:])


SAC = {"algorithm": "sac", "learning_starts": 30, "batch_size": 8, "buffer_size": 200}
DQN = {"algorithm": "dqn", "learning_starts": 30, "batch_size": 8, "buffer_size": 200}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "env", "task_id"),
    [
        (SAC, "Pendulum-v1", "observed"),
        (SAC, "Pendulum-v1", "heads"),
        (DQN, "CartPole-v1", "heads"),
    ],
)
def test_the_first_steps_are_taken_as_earlier_tasks(
    arguments: dict[str, Any], env: str, task_id: str, make_agent: Any
) -> None:
    """Rewards are scaled: the returns that are compared are those of the environment."""
    agent, (_, experience) = make_agent(
        arguments | {"normalize": {"rewards": "running"}},
        env,
        steps=200,
        n_envs=2,
        stream={"task_id": task_id},
    )
    agent.start(experience)
    model, heads = agent.model, Heads("best_return", [0], np.random.default_rng(0))
    every_door(agent).lifecycle.explore(Exploration(100, heads, id_width=2))
    shown: list[tuple[int, int, float]] = []
    published = model.predict

    def predict(observation: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("deterministic"):
            ids = observation[:, -2:].argmax(-1)
            assert len(set(ids.tolist())) == 1
            rate = getattr(model, "exploration_rate", 0.05)
            shown.append((model.num_timesteps, int(ids[0]), rate))
        return published(observation, *args, **kwargs)

    model.predict = predict
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    assert {task for step, task, _ in shown if step < 100} == {0}
    assert {task for step, task, _ in shown if step >= 100} == {1}
    # No uniformly random action before ``learning_starts``, and DQN's share of them is the last.
    assert [step for step, *_ in shown] == list(range(0, 200, 2))
    assert {rate for step, _, rate in shown if step < 100} == {0.05}
    # What is stored shows the task itself, and the seams are closed again.
    buffer = model.replay_buffer
    assert (buffer.observations[:100, :, -1] == 1).all()
    assert "_sample_action" not in vars(model)
    assert "_store_transition" not in vars(model)
    assert agent.plan.exploration is None
    returns = _returns(buffer.rewards[:50], buffer.dones[:50])
    assert heads.returns[0] == pytest.approx(returns)


def _returns(rewards: Any, dones: Any) -> list[float]:
    """Returns of the finished episodes, in the order of their ends."""
    totals, ended = np.zeros(rewards.shape[1]), []
    for reward, done in zip(rewards, dones, strict=True):
        totals += reward
        for env in np.flatnonzero(done):
            ended.append(float(totals[env]))
            totals[env] = 0.0
    return ended
