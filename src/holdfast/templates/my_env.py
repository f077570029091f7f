"""A point that is to be driven to a goal. Replace it, piece by piece, by your own world."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class MyEnv(gym.Env[Vector, Vector]):
    """A point on a line, driven to a goal by its acceleration.

    Actions: one number from -1 to 1, the acceleration in m/s^2.
    Observations: position (m), speed (m/s), distance to the goal (m).
    Reward: minus the distance to the goal, at every step of 0.1 s.
    Episodes start at rest between -1 and 1 m and never end by themselves: a scenario cuts them with
    ``changes: {time_limit: 100}``. ``info["is_success"]`` says whether it is within 5 cm.

    Args:
        goal: Where it is to be driven to, in m. What differs between tasks is an argument.
    """

    def __init__(self, goal: float = 0.5) -> None:
        self.goal = goal
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.position = self.speed = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Put the point somewhere, at rest."""
        super().reset(seed=seed)  # seeds self.np_random; draw everything random from it
        self.position, self.speed = float(self.np_random.uniform(-1.0, 1.0)), 0.0
        return self._observation(), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Accelerate for 0.1 s."""
        self.speed += 0.1 * float(np.clip(action[0], -1.0, 1.0))
        self.position += 0.1 * self.speed
        distance = abs(self.goal - self.position)
        return self._observation(), -distance, False, False, {"is_success": distance < 0.05}

    def _observation(self) -> Vector:
        return np.array([self.position, self.speed, self.goal - self.position], np.float32)
