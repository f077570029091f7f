"""Signals that a detector tests: numbers of what the learner lives through, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from holdfast.agents.base.parameters import Named
from holdfast.agents.detection.dynamics import Dynamics, Rows
from holdfast.errors import UsageError

MOST_ENTRIES = 400
"""Of an observation and an action that a model of the dynamics is learned from at every step."""


@dataclass(frozen=True)
class Lived:
    """One step of the environments side by side, as they gave it.

    Attributes:
        observations: Shape (n_envs, ...).
        actions: Shape (n_envs, ...), as the environments got them.
        rewards: Shape (n_envs,).
        following: Observations after the step, of the same episode; shape (n_envs, ...).
        ends: Where an episode ended, or was cut; shape (n_envs,).
        returns: Of the episodes that ended, in the order of their environments.
    """

    observations: Any
    actions: NDArray[Any]
    rewards: NDArray[np.float64]
    following: Any
    ends: NDArray[np.bool_]
    returns: list[float]


class Signal(Protocol):
    """A signal; what it remembers is a part of the detector's state."""

    def numbers(self, lived: Lived) -> list[float]:
        """Return the numbers of a step, none or several."""

    def forget(self) -> None:
        """Be told that a new slot begins."""

    def state(self) -> Named:
        """Return all that must survive a restart."""

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""


class _Memoryless:
    """A signal of one step alone."""

    def forget(self) -> None:
        """Forget nothing."""

    def state(self) -> Named:
        """Return nothing."""
        return {}

    def load_state(self, tensors: Named) -> None:
        """Take nothing back."""


class Rewards(_Memoryless):
    """The reward of every step."""

    def numbers(self, lived: Lived) -> list[float]:
        """Return one number for each environment."""
        return [float(reward) for reward in lived.rewards]


class Returns(_Memoryless):
    """The return of every episode, at its end."""

    def numbers(self, lived: Lived) -> list[float]:
        """Return one number for each episode that ended."""
        return lived.returns


class Prediction:
    """The error of a model of the dynamics; see ``Dynamics``.

    Args:
        observations: Space of observations.
        actions: Space of actions; those of a Discrete are taken as one-hot vectors.
        rng: Draws the model's features.

    Attributes:
        model: Of the dynamics.

    Raises:
        UsageError: See ``check_spaces``.
    """

    def __init__(
        self, observations: gym.Space[Any], actions: gym.Space[Any], rng: np.random.Generator
    ) -> None:
        width, acts = check_spaces(observations, actions)
        self._count = int(actions.n) if isinstance(actions, gym.spaces.Discrete) else 0
        self.model = Dynamics(width + acts, width + 1, rng)

    def numbers(self, lived: Lived) -> list[float]:
        """Return the error in each environment, and learn from them."""
        return [float(error) for error in self.model.errors(*self.transitions(lived))]

    def transitions(self, lived: Lived) -> tuple[Rows, Rows]:
        """Return what the model learns from: inputs and outputs, a row for each environment."""
        seen, following = _rows(lived.observations), _rows(lived.following)
        acts = np.eye(self._count)[lived.actions.reshape(-1)] if self._count else lived.actions
        inputs = np.concatenate([seen, _rows(acts)], axis=1)
        return inputs, np.concatenate([following - seen, _rows(lived.rewards)], axis=1)

    def forget(self) -> None:
        """Learn the dynamics of the new slot from the prior."""
        self.model.forget()

    def state(self) -> Named:
        """Return what the model has learned."""
        return self.model.state()

    def load_state(self, tensors: Named) -> None:
        """Take back what ``state`` returned."""
        self.model.load_state(tensors)


def check_spaces(observations: gym.Space[Any], actions: gym.Space[Any]) -> tuple[int, int]:
    """Return the numbers that a model of the dynamics gets of an observation and of an action.

    Raises:
        UsageError: If they are not vectors, or too long.
    """
    is_vector = isinstance(observations, gym.spaces.Box) and len(observations.shape) == 1
    has_action = isinstance(actions, gym.spaces.Box | gym.spaces.Discrete)
    if not is_vector or not has_action:
        raise UsageError(
            "dynamics needs vectors as observations, and boxes or one number as "
            f"actions; here they are {observations} and {actions}; write signal: reward, or return"
        )
    discrete = isinstance(actions, gym.spaces.Discrete)
    width = int(np.prod(observations.shape or ()))
    acts = int(actions.n) if discrete else int(np.prod(actions.shape or ()))  # type: ignore[attr-defined]  # of a Discrete
    if width + acts > MOST_ENTRIES:
        raise UsageError(
            f"dynamics takes at most {MOST_ENTRIES} numbers of an observation and "
            f"an action, here they are {width + acts}; write signal: reward, or return"
        )
    return width, acts


def _rows(values: Any) -> NDArray[np.float64]:
    """Return one row of numbers for each environment: (n_envs, width)."""
    array = np.asarray(values, dtype=np.float64)
    return array.reshape(len(array), -1)
