"""The global state of a PettingZoo environment, for what trains a team centrally.

It is the environment's own ``state()`` where it has a ``state_space``; else the observations of all
its possible agents one after the other, with zeros for those that are absent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from holdfast.envs.base.spaces import Space, StreamSpaces, merged_spaces
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.scenario import Scenario

Parallel: TypeAlias = Any
"""A ``pettingzoo.ParallelEnv``; PettingZoo ships no types."""


def own_state_space(env: Parallel) -> spaces.Box | None:
    """Return the space of the environment's ``state()``; None where it has none."""
    space = getattr(env, "state_space", None)
    return space if isinstance(space, spaces.Box) else None


def state_space(env: Parallel, agents: Mapping[str, StreamSpaces], where: str) -> spaces.Box:
    """Return the space of the global state, as this module defines it.

    Raises:
        UsageError: The environment has no state of its own, and observations that are no vectors.
    """
    own = own_state_space(env)
    if own is not None:
        return own
    for name, seen in agents.items():
        if isinstance(seen.observation, spaces.Box) and len(seen.observation.shape) > 1:
            raise UsageError(
                f"{where}: the environment has no state_space, and agent '{name}' does not observe "
                "a vector, so that there is no global state to train with"
            )
    size = sum(gym.spaces.flatdim(seen.observation) for seen in agents.values())
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def merged_state(scenario: Scenario, found: Sequence[Space], tasks: Sequence[str]) -> Space:
    """Return one space for the states of all tasks, by the rule for observations.

    Raises:
        ScenarioError: They differ, and the key to set.
    """
    beside = spaces.Discrete(2)  # the rule is asked for whole spaces, and a state has no actions
    states = [StreamSpaces(space, beside) for space in found]
    return merged_spaces(scenario, states, [f"state of {task}" for task in tasks]).observation


class States:
    """The global state of each copy of an environment.

    Args:
        env: One of the copies.
        agents: The spaces of its agents.
        space: Of the stream's states; a shorter vector is filled with zeros.
        copies: How many there are.

    Attributes:
        values: What each copy's state is now, shape (copies, ...).
    """

    def __init__(
        self, env: Parallel, agents: Mapping[str, StreamSpaces], space: Space, copies: int
    ) -> None:
        self._has_own = own_state_space(env) is not None
        self._seen = {name: own.observation for name, own in agents.items()}
        self._shape = state_space(env, agents, "").shape
        self.values: NDArray[Any] = np.zeros((copies, *(space.shape or ())), space.dtype)

    def take(
        self, copy: int, env: Parallel, observations: Mapping[str, Any], present: Collection[str]
    ) -> None:
        """Keep the state of one copy.

        Args:
            copy: Which one.
            env: It.
            observations: What its agents see now, their action masks left out.
            present: The agents whose observations count.

        Raises:
            EnvironmentFailed: Its ``state()`` is not of its ``state_space``.
        """
        state = np.asarray(env.state()) if self._has_own else self._joint(observations, present)
        if state.shape != self._shape:
            raise EnvironmentFailed(
                f"state() has the shape {state.shape}, and state_space {self._shape}"
            )
        self.values[copy][tuple(slice(size) for size in state.shape)] = state

    def _joint(
        self, observations: Mapping[str, Any], present: Collection[str]
    ) -> NDArray[np.float32]:
        parts: list[Any] = [
            gym.spaces.flatten(space, observations[name])
            if name in present
            else np.zeros(gym.spaces.flatdim(space))
            for name, space in self._seen.items()
        ]
        return np.concatenate(parts).astype(np.float32)
