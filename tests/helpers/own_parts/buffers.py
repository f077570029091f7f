"""Replay buffers as a user writes them, and a world with goals for hindsight."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer


class Fading(ReplayBuffer):
    """Draws a row the less often, the more often it was drawn."""

    def __init__(self, *args: Any, fading: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fading = fading
        self.weights = np.zeros(self.buffer_size)
        self.draws = 0

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.weights[self.pos] = 1.0
        super().add(*args, **kwargs)

    def sample(self, batch_size: int, env: Any = None) -> Any:
        weights = self.weights[: self.size()]
        rows = np.random.choice(self.size(), size=batch_size, p=weights / weights.sum())
        self.weights[rows] *= self.fading
        self.draws += batch_size
        return self._get_samples(rows, env=env)


class Line(gym.Env[Any, Any]):
    """A point on a line is to reach a goal; as Gymnasium-Robotics has worlds with goals."""

    def __init__(self, reach: float = 1.0) -> None:
        place = gym.spaces.Box(-2, 2, (1,), np.float32)
        self.observation_space = gym.spaces.Dict(
            {"observation": place, "achieved_goal": place, "desired_goal": place}
        )
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.reach = reach

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.taken = np.zeros(1, np.float32), 0
        self.goal = self.np_random.uniform(-self.reach, self.reach, 1).astype(np.float32)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + 0.2 * action, -2, 2).astype(np.float32)
        self.taken += 1
        reward = float(self.compute_reward(self.place, self.goal, {}))
        return self._seen(), reward, False, self.taken == 10, {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -(np.abs(achieved - desired).max(axis=-1) > 0.1).astype(np.float32)

    def _seen(self) -> dict[str, Any]:
        here = self.place.copy()
        return {"observation": here, "achieved_goal": here, "desired_goal": self.goal}


class Long(gym.Env[Any, Any]):
    """Three numbers of nothing, and the actions of MountainCarContinuous-v0."""

    observation_space = gym.spaces.Box(-2, 2, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
