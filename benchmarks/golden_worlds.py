"""Worlds of the golden record: a walk on a line, seen and steered in many ways, and a crowd of two.

``golden.py`` copies this file beside the scenarios, as a user's own. It never imports Holdfast.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

LENGTH = 16
SIDE = 36
"""Pixels of a picture's side: the least that Stable-Baselines3's network for pictures takes."""

ACTIONS: dict[str, gym.Space[Any]] = {
    "discrete": gym.spaces.Discrete(3),
    "two": gym.spaces.MultiDiscrete([3, 2]),
    "buttons": gym.spaces.MultiBinary(2),
    "push": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
}
SEEN: dict[str, gym.Space[Any]] = {
    "vector": gym.spaces.Box(-2.0, 2.0, (3,), np.float32),
    "dict": gym.spaces.Dict(
        place=gym.spaces.Box(-2.0, 2.0, (2,), np.float32), near=gym.spaces.Discrete(2)
    ),
    "picture": gym.spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8),
}


class Walk(gym.Env[Any, Any]):
    """A walker on a line, paid for being near the middle; ``wind`` pushes it.

    Args:
        seen: What is observed: ``vector``, ``dict`` or ``picture``.
        actions: How it is steered: ``discrete``, ``two``, ``buttons`` or ``push``.
        wind: Added to every step.
    """

    def __init__(self, seen: str = "vector", actions: str = "discrete", wind: float = 0.0) -> None:
        self.observation_space, self.action_space = SEEN[seen], ACTIONS[actions]
        self.seen, self.actions, self.wind = seen, actions, wind
        self.place, self.steps = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin somewhere on the line."""
        super().reset(seed=seed, options=options)
        self.place, self.steps = float(self.np_random.uniform(-1.0, 1.0)), 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move; the end is reached after ``LENGTH`` steps or off the line."""
        push = {
            "discrete": lambda: float(action) - 1.0,
            "two": lambda: (float(action[0]) - 1.0) * (1.0 + float(action[1])),
            "buttons": lambda: float(action[0]) - float(action[1]),
            "push": lambda: float(action[0]) + 0.5 * float(action[1]),
        }[self.actions]()
        self.place = float(np.clip(self.place + 0.2 * push + 0.1 * self.wind, -2.0, 2.0))
        self.steps += 1
        over = abs(self.place) >= 2.0 or self.steps >= LENGTH
        return self._show(), 1.0 - abs(self.place), over, False, {"success": abs(self.place) < 0.2}

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed: none may lead further off."""
        allowed = np.array([self.place > -1.0, True, self.place < 1.0])
        return allowed if self.actions == "discrete" else np.append(allowed, [True, True])

    def _show(self) -> Any:
        near = abs(self.place) < 0.5
        if self.seen == "dict":
            return {"place": np.array([self.place, self.wind], np.float32), "near": int(near)}
        if self.seen == "picture":
            picture = np.zeros((SIDE, SIDE, 1), np.uint8)
            picture[:, int((self.place + 2.0) / 4.0 * (SIDE - 1))] = 255
            return picture
        return np.array([self.place, self.wind, near], np.float32)


class Crowd(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # PettingZoo ships no types
    """Two walkers that are paid for keeping apart; the second one leaves early.

    Args:
        length: Steps of an episode; the second agent takes three less.
        masked: Whether action masks are shown.
    """

    render_mode = None
    metadata = {"name": "crowd"}  # noqa: RUF012  # as PettingZoo has it

    def __init__(self, length: int = 8, *, masked: bool = False) -> None:
        self.possible_agents = ["first", "second"]
        self.agents: list[str] = []
        self.length, self.masked, self.steps = length, masked, 0
        self.state_space = gym.spaces.Box(-9.0, 9.0, (3,), np.float32)
        self.places, self.rng = np.zeros(2), np.random.default_rng(0)

    def observation_space(self, agent: str) -> Any:  # noqa: ARG002  # all are alike
        """Return what an agent sees: its place, the other's distance, and who it is."""
        seen = gym.spaces.Box(-9.0, 9.0, (3,), np.float32)
        if not self.masked:
            return seen
        return gym.spaces.Dict({"observation": seen, "action_mask": gym.spaces.MultiBinary(3)})

    def action_space(self, agent: str) -> gym.spaces.Discrete:  # noqa: ARG002  # as above
        """Return the three ways to go."""
        return gym.spaces.Discrete(3)

    def state(self) -> NDArray[np.float32]:
        """Return both places and the steps taken."""
        return np.array([*self.places, self.steps / self.length], np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:  # noqa: ARG002  # unused
        """Begin at places that the seed draws, or that come after those it drew."""
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.places = self.rng.uniform(-1.0, 1.0, 2)
        self.agents, self.steps = list(self.possible_agents), 0
        return self._seen(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        """Move all agents; who leaves has seen the end."""
        acting = list(self.agents)
        for agent in acting:
            self.places[self.possible_agents.index(agent)] += 0.2 * (int(actions[agent]) - 1)
        self.places = np.clip(self.places, -4.0, 4.0)
        self.steps += 1
        apart = float(abs(self.places[0] - self.places[1]))
        ends = {"first": self.length, "second": self.length - 3}
        over = {agent: self.steps >= ends[agent] for agent in acting}
        self.agents = [agent for agent in acting if not over[agent]]
        paid = {agent: apart - 0.1 * abs(int(actions[agent]) - 1) for agent in acting}
        return self._seen(acting), paid, over, dict.fromkeys(acting, False), {a: {} for a in acting}

    def _seen(self, agents: list[str]) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for agent in agents:
            own = self.possible_agents.index(agent)
            seen = np.array([self.places[own], self.places[1 - own], own], np.float32)
            mask = np.array([self.places[own] > -1.0, 1, self.places[own] < 1.0], np.int8)
            shown[agent] = {"observation": seen, "action_mask": mask} if self.masked else seen
        return shown
