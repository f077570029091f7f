"""A PettingZoo environment without chance, in which agents die and appear."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from pettingzoo import ParallelEnv

AGENTS = ["first", "second", "third"]


class Relay(ParallelEnv):
    """Episodes of five steps: ``second`` dies in step 2, ``third`` is there from step 3 on.

    An agent sees (its number, time, seed, action before last step); its reward is its action.
    """

    def __init__(self, length=5, cut=False):
        self.metadata = {"name": "relay"}
        self.possible_agents = list(AGENTS)
        self.length, self.cut, self.render_mode = length, cut, None
        self.seed = -1

    def observation_space(self, agent):
        return gym.spaces.Box(-1e6, 1e6, (4,), np.float32)

    def action_space(self, agent):
        return gym.spaces.Discrete(3)

    def see(self, agent):
        done = self.taken.get(agent, 0)
        return np.array([AGENTS.index(agent), self.time, self.seed, done], np.float32)

    def reset(self, seed=None, options=None):
        self.seed = self.seed + 1 if seed is None else seed
        self.time, self.taken, self.agents = 0, {}, ["first", "second"]
        return {agent: self.see(agent) for agent in self.agents}, {a: {} for a in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.time += 1
        self.taken = {agent: int(action) for agent, action in actions.items()}
        over = self.time == self.length
        dead = {agent: over or (agent == "second" and self.time == 2) for agent in actions}
        seen = {agent: self.see(agent) for agent in actions}
        self.agents = [agent for agent in actions if not dead[agent]]
        if self.time == 2:
            self.agents.append("third")
            seen["third"] = self.see("third")
        rewards = {agent: float(action) for agent, action in actions.items()}
        ends = {agent: dead[agent] and not self.cut for agent in actions}
        cuts = {agent: dead[agent] and self.cut for agent in actions}
        return seen, rewards, ends, cuts, {agent: {} for agent in seen}


def broken():
    """Fail, as a constructor may."""
    raise TypeError("no relay today")
