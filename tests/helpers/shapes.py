"""An environment that shows and takes whatever is asked for: its observations are random."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

PICTURE = Box(0, 255, (36, 36, 3), np.uint8)


def vector(size, scale=3.0):
    return Box(-scale, scale, (size,), np.float64)


class Shapes(gym.Env):
    def __init__(self, shown="vector", taken="discrete", size=3, count=4, bound=2.0):
        self.observation_space = {
            "vector": vector(size),
            "picture": PICTURE,
            "number": Discrete(5),
            "dict": Dict(arm=vector(size), camera=PICTURE, zone=Discrete(3)),
        }[shown]
        self.action_space = {
            "discrete": Discrete(count),
            "masked": Discrete(count),
            "box": Box(-np.full(count, bound, np.float32), np.full(count, 2 * bound, np.float32)),
            "multidiscrete": MultiDiscrete([count, 2]),
            "multibinary": MultiBinary(count),
        }[taken]
        if taken == "masked":
            self.action_masks = lambda: np.arange(count) % 3 != self.time % 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        return self.observation_space.sample(), 1.0, False, self.time >= 40, {}
