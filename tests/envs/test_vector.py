from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import task_env, vectorize
from holdfast.envs.wrappers.robot import ExclusiveEnv, Slot


def rollout(vec_env, steps=200):
    vec_env.action_space.seed(1)
    rows = [vec_env.reset()]
    for _ in range(steps):
        actions = np.array([vec_env.action_space.sample() for _ in range(vec_env.num_envs)])
        observation, reward, done, _ = vec_env.step(actions)
        rows += [observation, np.column_stack([reward, done])]
    vec_env.close()
    return rows


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_trajectories_equal_plain_stable_baselines3(make_scenario, env):
    scenario = make_scenario({"env": env}, stream={"task_id": "hidden"})
    spaces = stream_spaces(scenario)
    ours = vectorize(lambda: task_env(scenario, 0, spaces), 3, seed=11)
    for one, two in zip(rollout(ours), rollout(make_vec_env(env, 3, seed=11)), strict=True):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)


def test_the_seed_reaches_environments_and_action_spaces(make_scenario):
    scenario = make_scenario({"env": "CartPole-v1"})
    spaces = stream_spaces(scenario)
    ours = vectorize(lambda: task_env(scenario, 0, spaces), 2, seed=11)
    samples = [env.action_space.sample() for env in ours.envs]
    plain = make_vec_env("CartPole-v1", 2, seed=11)
    assert samples == [env.action_space.sample() for env in plain.envs]
    assert not np.array_equal(*ours.reset())
    assert isinstance(ours.envs[0], Monitor)


def test_a_task_is_built_changed_and_fitted(make_scenario):
    scenario = make_scenario(
        {"env": "CartPole-v1"},
        {"env": "CartPole-v1", "changes": {"action_map": [1, 0], "set": {"gravity": 20.0}}},
    )
    env = task_env(scenario, 1, stream_spaces(scenario))
    observation, _ = env.reset(seed=0)
    assert observation[-2:].tolist() == [0, 1]
    assert env.unwrapped.gravity == 20.0


def test_an_exclusive_task_shares_its_slot(make_scenario):
    scenario = make_scenario({"env": "Pendulum-v1", "exclusive": True})
    spaces, slot = stream_spaces(scenario), Slot()
    one = task_env(scenario, 0, spaces, slot=slot)
    two = task_env(scenario, 0, spaces, slot=slot)
    assert isinstance(slot.holder, ExclusiveEnv)
    one.reset(seed=0)
    first, _ = two.reset(seed=0)
    assert first.shape == (4,)


def test_if_one_constructor_fails_the_others_are_closed():
    closed = []

    class Third(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)
        built = 0

        def __init__(self):
            Third.built += 1
            if Third.built == 3:
                raise RuntimeError("no third arm")

        def close(self):
            closed.append(self)

    with pytest.raises(RuntimeError, match="no third arm"):
        vectorize(Third, 8, seed=0)
    assert len(closed) == 2
