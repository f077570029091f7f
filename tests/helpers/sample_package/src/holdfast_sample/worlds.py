"""A world."""

import gymnasium as gym
import numpy as np


class Line(gym.Env):
    """A point on a line is to stay in its middle."""

    def __init__(self, wind=0.0):
        self.observation_space = gym.spaces.Box(-9, 9, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self.wind = wind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.taken = self.np_random.uniform(-1, 1, 1), 0
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.1 * (action - 1 + self.wind), -9, 9)
        self.taken += 1
        return (
            self.place.astype(np.float32),
            -abs(float(self.place[0])),
            False,
            self.taken == 20,
            {},
        )
