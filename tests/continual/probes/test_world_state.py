"""A state that is put back goes on as it was: in classic control, MuJoCo and a user's own world."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from holdfast.continual.probes import world_state
from holdfast.envs.make import make_env
from holdfast.scenarios.schema.scenario import Scenario

CHANGED = {"observation_noise": 0.1, "action_delay": 2, "time_limit": 40}


def played(env: gym.Env[Any, Any], actions: list[Any]) -> list[tuple[bytes, float, bool, bool]]:
    found = []
    for action in actions:
        seen, reward, terminated, truncated, _ = env.step(action)
        found.append((np.asarray(seen).tobytes(), float(reward), terminated, truncated))
        if terminated or truncated:
            break
    return found


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("Acrobot-v1", {}),
        ("MountainCar-v0", {}),
        ("HalfCheetah-v5", {}),
        ("Reacher-v5", {}),
        ("holdfast.scenarios.custom_env.reach:Reach", {}),
        ("FrozenLake-v1", {"is_slippery": True}),
    ],
)
def test_what_follows_is_the_same(
    env_id: str, kwargs: dict[str, Any], make_scenario: Callable[..., Scenario]
) -> None:
    """Wrappers' counters, pending actions and generators of noise are part of a state."""
    changes = CHANGED if env_id != "FrozenLake-v1" else {"action_delay": 1, "time_limit": 40}
    task = {"name": "t", "env": env_id, "kwargs": kwargs, "steps": 10, "changes": changes}
    scenario = make_scenario(tasks=[task])
    env, other = (make_env(scenario, scenario.tasks[0]) for _ in range(2))
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(60)]
    env.reset(seed=1)
    played(env, actions[:5])
    state = world_state.taken(env)
    after = played(env, actions[5:])
    # Into the same one, further on; into another one, of which nothing is known but its seed.
    world_state.put(env, state)
    assert played(env, actions[5:]) == after
    other.reset(seed=1)
    world_state.put(other, state)
    assert played(other, actions[5:]) == after
    env.close()
    other.close()


class Owned(gym.Env[Any, Any]):
    """A world whose state is in an object, with methods of its author's."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)

    class Inner:
        at = 0.0

    def __init__(self) -> None:
        self.inner = self.Inner()

    def reset(self, **kwargs: Any) -> Any:
        super().reset(seed=kwargs.get("seed"))
        self.inner.at = float(self.np_random.normal())
        return np.array([self.inner.at]), {}

    def step(self, action: Any) -> Any:
        self.inner.at += 1.0 if action else -0.5
        return np.array([self.inner.at]), self.inner.at, False, False, {}

    def get_state(self) -> dict[str, float]:
        return {"at": self.inner.at}

    def set_state(self, state: dict[str, float]) -> None:
        self.inner.at = state["at"]


def test_a_users_own_methods_are_asked() -> None:
    env = gym.wrappers.TimeLimit(Owned(), 10)
    env.reset(seed=0)
    played(env, [1, 0])
    state = world_state.taken(env)
    after = played(env, [1] * 8)
    assert after[-1][3]  # the time limit has counted on
    world_state.put(env, state)
    assert played(env, [1] * 8) == after


def test_another_world_keeps_what_it_changes(make_scenario: Callable[..., Scenario]) -> None:
    def task(name: str, **changes: Any) -> dict[str, Any]:
        return {"name": name, "env": "CartPole-v1", "steps": 10, "changes": changes}

    heavy = {"set": {"gravity": 20.0}, "observation_permutation": [2, 3, 0, 1]}
    scenario = make_scenario(tasks=[task("plain"), task("heavy", **heavy)])
    env, other = (make_env(scenario, one) for one in scenario.tasks)
    taps = [world_state.tapped(one) for one in (env, other)]
    env.reset(seed=3)
    played(env, [0, 1, 1])
    state, shown = world_state.taken(env), taps[0].shown
    other.reset(seed=4)
    seen = world_state.put_elsewhere(other, state, taps[1], shown)
    assert np.array_equal(seen, shown[[2, 3, 0, 1]])
    assert other.unwrapped.gravity == 20.0
    # By hand: CartPole's own equations from that state, under the other gravity.
    x, speed, angle, turning = (float(value) for value in env.unwrapped.state)
    sine, cosine = np.sin(angle), np.cos(angle)
    push = (10.0 + 0.05 * turning**2 * sine) / 1.1
    turned = (20.0 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    moved = push - 0.05 * turned * cosine / 1.1
    after, *_ = other.step(1)
    by_hand = [x + 0.02 * speed, speed + 0.02 * moved, angle + 0.02 * turning]
    by_hand.append(turning + 0.02 * turned)
    assert after == pytest.approx(np.array(by_hand)[[2, 3, 0, 1]], rel=1e-5)
