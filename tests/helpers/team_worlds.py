"""Small PettingZoo environments in which everything that is shown can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

Dicts = tuple[dict[str, Any], ...]


class TwoStep(ParallelEnv[str, Any, Any]):
    """The two-step game of the QMIX paper (Rashid et al. 2018, section 5 and table 1).

    In the first step agent 0 chooses between two second steps: one that pays 7 whatever both do,
    and one that pays 8 if both choose action 1, 1 if one of them does, and 0 if none. Everybody
    sees the state, a one-hot of three. Each agent is paid half.
    """

    render_mode = None
    metadata = {"name": "two_step"}  # noqa: RUF012  # as PettingZoo has it
    payoffs = {1: ((7.0, 7.0), (7.0, 7.0)), 2: ((0.0, 1.0), (1.0, 8.0))}  # noqa: RUF012

    def __init__(self) -> None:
        self.possible_agents = ["agent_0", "agent_1"]
        self.agents: list[str] = []
        self.state_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self.now = 0

    def observation_space(self, agent: str) -> spaces.Box:
        return self.state_space

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(2)

    def state(self) -> Any:
        return np.eye(3, dtype=np.float32)[self.now]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.now = list(self.possible_agents), 0
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        first, second = (int(actions[agent]) for agent in self.possible_agents)
        over = self.now > 0
        paid = self.payoffs[self.now][first][second] if over else 0.0
        if not over:
            self.now = 1 + first
        rewards = dict.fromkeys(self.possible_agents, paid / 2)
        overs = dict.fromkeys(self.possible_agents, over)
        cut = dict.fromkeys(self.possible_agents, False)
        infos: dict[str, Any] = {agent: {} for agent in self.possible_agents}
        self.agents = [] if over else list(self.possible_agents)
        return self._seen(), rewards, overs, cut, infos

    def _seen(self) -> dict[str, Any]:
        return {agent: self.state() for agent in self.possible_agents}


class Leaving(ParallelEnv[str, Any, Any]):
    """Agents that leave one by one; who leaves has seen the end, the last is cut off.

    Agent ``i`` of ``k`` acts in the first ``i + 2`` steps of an episode. It observes its number and
    the steps taken, ``[i, steps]``, and is paid ``10^i`` a step. Action 0 is not allowed in odd
    steps where ``masked``. The environment has no state of its own.

    Args:
        k: How many agents there are.
        masked: Whether action masks are shown; a masked action raises.
    """

    render_mode = None
    metadata = {"name": "leaving"}  # noqa: RUF012

    def __init__(self, k: int = 2, *, masked: bool = False) -> None:
        self.possible_agents = [f"agent_{i}" for i in range(k)]
        self.agents: list[str] = []
        self.masked, self.steps = masked, 0

    def observation_space(self, agent: str) -> Any:
        seen = spaces.Box(0.0, 100.0, (2,), np.float32)
        if not self.masked:
            return seen
        return spaces.Dict({"observation": seen, "action_mask": spaces.MultiBinary(3)})

    def action_space(self, agent: str) -> spaces.Discrete:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.steps = list(self.possible_agents), 0
        return self._seen(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        acting = list(self.agents)
        assert set(actions) == set(acting)
        if self.masked and self.steps % 2:
            assert all(action != 0 for action in actions.values()), "a masked action was taken"
        self.steps += 1
        last = self.possible_agents[-1]
        leaving = {a: self.steps == self.possible_agents.index(a) + 2 for a in acting}
        self.agents = [agent for agent in acting if not leaving[agent]]
        return (
            self._seen(acting),
            {agent: 10.0 ** self.possible_agents.index(agent) for agent in acting},
            {agent: leaving[agent] and agent != last for agent in acting},
            {agent: leaving[agent] and agent == last for agent in acting},
            {agent: {} for agent in acting},
        )

    def _seen(self, agents: list[str]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for agent in agents:
            number = self.possible_agents.index(agent)
            own = np.array([number, self.steps], np.float32)
            mask = np.array([self.steps % 2 == 0, 1, 1], np.int8)
            seen[agent] = {"observation": own, "action_mask": mask} if self.masked else own
        return seen


class Stating(Leaving):
    """Agents that leave, in an environment with a state of its own: ``[steps, agents, -1]``."""

    def __init__(self, k: int = 2) -> None:
        super().__init__(k)
        self.state_space = spaces.Box(-1.0, 100.0, (3,), np.float32)

    def state(self) -> Any:
        return np.array([self.steps, len(self.agents), -1], np.float32)
