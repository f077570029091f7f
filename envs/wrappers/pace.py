"""Real time: an environment that is stepped at a control rate."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym

LATE_KEY = "holdfast.late_s"


class Paced(gym.Wrapper[Any, Any, Any, Any]):
    """Begins its steps at a fixed rate of wall-clock time.

    A step waits for its tick. One that comes too late begins at once, its info holds under
    ``holdfast.late_s`` by how many seconds it was late, and the ticks after it are counted from it:
    lost time is not caught up, which would drive a robot faster than it can be controlled.

    Args:
        env: The environment.
        rate: Steps per second.
    """

    def __init__(self, env: gym.Env[Any, Any], rate: float) -> None:
        super().__init__(env)
        self._period = 1.0 / rate
        self._tick: float | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the first tick is its first step."""
        self._tick = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment at its tick."""
        now = time.monotonic()
        late = 0.0
        if self._tick is not None and now < self._tick:
            time.sleep(self._tick - now)
            self._tick += self._period
        else:
            late = now - self._tick if self._tick is not None else 0.0
            self._tick = now + self._period
        observation, reward, terminated, truncated, info = self.env.step(action)
        if late > 0.0:
            info = {**info, LATE_KEY: late}
        return observation, reward, terminated, truncated, info
