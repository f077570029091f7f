"""The ``metaworld`` package's environments with the goals that EnvPool's copy draws.

Runs under an interpreter that has ``metaworld``, without Holdfast. EnvPool draws a task's random
vector (positions of objects and goal) with C++'s ``std::mt19937`` and
``std::uniform_real_distribution<double>``; the same is done here, so that equal seeds give equal
goals, reset after reset.
"""

import gymnasium as gym
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP


class Twin(gym.Env):
    """One task of Meta-World v3 as EnvPool has it: goals visible, and drawn at every reset.

    Args:
        task: For example ``push-v3``.
    """

    def __init__(self, task):
        self._policy = ENV_POLICY_MAP[task]()
        self._rng = np.random.RandomState(0)
        self._before = self._rng.get_state()
        self._env = env = ALL_V3_ENVIRONMENTS[task]()
        self._reset_model = env.reset_model
        env.reset_model, env._get_state_rand_vec = self._reset_twice, self._drawn
        self._env._set_task_called = True
        self._env._partially_observable = False
        vars(self._env).pop("sawyer_observation_space", None)  # kept from when it was True
        self.observation_space = self._env.sawyer_observation_space
        self.action_space = self._env.action_space

    def _reset_twice(self):
        """Draw the same again: a reset of the package draws twice, and goes by the second."""
        self._rng.set_state(self._before)
        return self._reset_model()

    def _drawn(self):
        space = self._env._random_reset_space
        words = self._rng.randint(0, 2**32, (space.low.size, 2), dtype=np.uint32).astype(float)
        unit = (words[:, 0] + words[:, 1] * 2.0**32) / 2.0**64
        self._env._last_rand_vec = unit * (space.high - space.low) + space.low
        return self._env._last_rand_vec

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._rng.seed(seed)
        self._before = self._rng.get_state()
        observation, _ = self._env.reset()
        return observation, {}

    def step(self, action):
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, float(reward), terminated, truncated, {"is_success": info["success"]}

    def scripted_action(self, observation):
        """Return what the package's own scripted policy of this task does."""
        return np.clip(self._policy.get_action(observation), -1, 1).astype(np.float32)

    def close(self):
        self._env.close()
