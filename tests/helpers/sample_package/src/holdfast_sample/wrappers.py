"""A change to environments."""

import gymnasium as gym
import numpy as np


class Fog(gym.ObservationWrapper):
    """Shows nothing that is further away than it is thick."""

    def __init__(self, env, thickness: float = 0.5):
        super().__init__(env)
        self.thickness = thickness

    def observation(self, observation):
        return np.where(np.abs(observation) > self.thickness, 0, observation).astype(np.float32)
