"""A small environment with Dict observations and several choices, which ends in both ways."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv


class Mixed(gym.Env[Any, Any]):
    """Shows a walk that actions push; terminates far out, and is cut after ``limit`` steps.

    Args:
        actions: The space of actions.
        limit: Steps after which an episode is truncated.
        single: Whether the observation is the walk alone, and no Dict.
    """

    def __init__(self, actions: spaces.Space[Any], limit: int = 9, *, single: bool = False) -> None:
        self.action_space = actions
        walk = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        both = spaces.Dict({"walk": walk, "clock": spaces.Discrete(limit + 1)})
        self.observation_space = walk if single else both
        self._limit, self._is_single = limit, single
        self._at, self._steps = np.zeros(3), 0

    def _seen(self) -> Any:
        walk = self._at.astype(np.float32)
        return walk if self._is_single else {"walk": walk, "clock": self._steps}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._at, self._steps = self.np_random.normal(size=3), 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        push = float(np.sum(action)) - 1
        self._at = self._at + 0.3 * push + 0.4 * self.np_random.normal(size=3)
        self._steps += 1
        ended = bool(np.abs(self._at).max() > 3)
        info = {"is_success": self._at[0] > 0}
        return self._seen(), float(self._at.sum()), ended, self._steps >= self._limit, info

    def action_masks(self) -> Any:
        """Forbid what would push further out; of each choice at least one is left."""
        far = self._at[0] > 0
        sizes = getattr(self.action_space, "nvec", None)
        sizes = [self.action_space.n] if sizes is None else sizes  # type: ignore[attr-defined]  # Discrete
        return np.concatenate([np.r_[True, [not far] * (n - 1)] for n in sizes])


def mixed(actions: spaces.Space[Any], n_envs: int, **arguments: Any) -> DummyVecEnv:
    """Return such environments side by side, seeded."""
    env = DummyVecEnv([lambda: Monitor(Mixed(actions, **arguments)) for _ in range(n_envs)])
    env.seed(5)
    return env
