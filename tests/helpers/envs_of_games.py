"""A turn-based game of PettingZoo's kind that is nobody else's."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from pettingzoo import AECEnv


class Nim(AECEnv):
    """Five matches, of which one or two are taken by turns; who takes the last one wins."""

    metadata = {"name": "nim", "is_parallelizable": False}  # noqa: RUF012  # as PettingZoo has it

    def __init__(self, render_mode=None):
        super().__init__()
        self.possible_agents = ["first", "second"]
        self.render_mode = render_mode
        seen = gym.spaces.Dict(
            {
                "observation": gym.spaces.Box(0, 5, (1,), np.int8),
                "action_mask": gym.spaces.Box(0, 1, (2,), np.int8),
            }
        )
        self.observation_spaces = dict.fromkeys(self.possible_agents, seen)
        self.action_spaces = dict.fromkeys(self.possible_agents, gym.spaces.Discrete(2))

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.left = 5
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = "first"

    def observe(self, agent):
        mask = np.array([self.left >= 1, self.left >= 2], np.int8)
        return {"observation": np.array([self.left], np.int8), "action_mask": mask}

    def step(self, action):
        me = self.agent_selection
        if self.terminations[me]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[me] = 0
        self._clear_rewards()
        other = self.possible_agents[1 - self.possible_agents.index(me)]
        self.left -= action + 1
        if self.left == 0:
            self.rewards = {me: 1, other: -1}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = other
        self._accumulate_rewards()
