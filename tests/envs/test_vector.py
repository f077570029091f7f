from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import Interleaved, task_env, vectorize
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


class _Counter(gym.Env[Any, Any]):
    """Episodes of a given length; the observation says which task it is, and a random number."""

    def __init__(self, name: int, length: int, log: list[str]) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gym.spaces.Discrete(2)
        self.name, self.length, self.log = name, length, log
        log.append(f"open {name}")

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.array([self.name, self.np_random.random()]), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.array([self.name, 0.0]), 1.0, False, self.t >= self.length, {}

    def close(self) -> None:
        self.log.append(f"close {self.name}")


def _make(lengths: list[int], budgets: list[int], log: list[str], first: int = 0) -> Interleaved:
    makers = [lambda i=i, n=n: _Counter(i, n, log) for i, n in enumerate(lengths)]
    return Interleaved(makers, budgets, first)


def _turns(env: Interleaved, episodes: int, seed: int | None = None) -> list[tuple[int, float]]:
    played = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        played.append((int(observation[0]), float(observation[1])))
        done = False
        while not done:
            *_, terminated, truncated, _ = env.step(0)
            done = terminated or truncated
    return played


def test_turns_are_counted_in_steps_not_in_episodes() -> None:
    """Episodes of 1 and of 3 steps: after one long one, three short ones catch up."""
    env = _make([1, 3], [10, 10], [])
    assert [task for task, _ in _turns(env, 8)] == [0, 1, 0, 0, 0, 1, 0, 0]


def test_a_larger_budget_gets_more_turns() -> None:
    env = _make([1, 1], [30, 10], [])
    turns = [task for task, _ in _turns(env, 40)]
    assert turns.count(0) == 30


def test_copies_may_begin_with_different_tasks() -> None:
    assert _turns(_make([1, 1, 1], [1, 1, 1], [], first=2), 1)[0][0] == 2


def test_environments_are_built_at_their_first_turn_and_all_closed() -> None:
    log: list[str] = []
    env = _make([1, 1], [1, 1], log)
    assert log == ["open 0"]
    _turns(env, 3)
    assert log == ["open 0", "open 1"]
    env.close()
    assert log[2:] == ["close 0", "close 1"]


def test_a_seed_fixes_every_task_and_each_has_its_own_numbers() -> None:
    first, second = (_turns(_make([1, 1], [1, 1], []), 6, seed=3) for _ in range(2))
    other = _turns(_make([1, 1], [1, 1], []), 6, seed=4)
    assert first == second
    assert first != other
    numbers = [number for _, number in first]
    assert len(set(numbers)) == 6
    env = _make([1, 1], [1, 1], [])
    assert _turns(env, 6, seed=3)[:2] != _turns(env, 6)[:2]
