"""A task's environment in the stream's spaces: padded, with the task id and more beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from holdfast.envs.base.spaces import Space, StreamSpaces
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import MASKS, OBSERVATION, TASK_ID
from holdfast.scenarios.schema.scenario import Scenario


def fit(
    env: gym.Env[Any, Any], stream: StreamSpaces, scenario: Scenario, task_index: int
) -> gym.Env[Any, Any]:
    """Return the environment in the stream's spaces, with the task id unless it is hidden."""
    if env.observation_space != stream.observation:
        env = PadObservation(env, stream.observation)
    if env.action_space != stream.action:
        env = PadAction(env, stream.action)
    if stream.beside is not None:
        env = Beside(env, stream.beside)
    if scenario.id_width:
        env = TaskId(env, task_index, scenario.id_width)
    return env


class PadObservation(gym.ObservationWrapper[Any, Any, Any]):
    """Shows observations in the stream's space: vectors filled with zeros, others as they are.

    Its ``observation``, that of :class:`TaskId`, and ``action`` of :class:`PadAction` take batches
    too, with further dimensions in front.

    Args:
        env: The environment of one task.
        space: The stream's observation space.
    """

    def __init__(self, env: gym.Env[Any, Any], space: Space) -> None:
        super().__init__(env)
        own = env.observation_space
        self._padded = own.shape != space.shape or own.dtype != space.dtype
        self._size, self._dtype = (space.shape, space.dtype) if self._padded else (None, None)
        self.observation_space = space

    def observation(self, observation: Any) -> Any:
        """Return the observation, of the stream's shape and type."""
        if not self._padded:
            return observation
        padded = np.zeros((*observation.shape[:-1], *(self._size or ())), self._dtype)
        padded[..., : observation.shape[-1]] = observation
        return padded


class Beside(gym.ObservationWrapper[Any, Any, Any]):
    """Shows an observation in a Dict, with what else a team's learner is shown.

    Attributes:
        shown: What that is now; for a batch of observations, a batch of it.
    """

    def __init__(self, env: gym.Env[Any, Any], beside: Mapping[str, Space]) -> None:
        super().__init__(env)
        self.shown: dict[str, Any] = {}
        self.observation_space = spaces.Dict({OBSERVATION: env.observation_space, **beside})

    def observation(self, observation: Any) -> Any:
        """Return the observation, of one agent or a batch, with what is shown beside it."""
        return {OBSERVATION: observation, **self.shown}


class PadAction(gym.ActionWrapper[Any, Any, Any]):
    """Takes actions of the stream's space; see ``stream_spaces`` for what becomes of them.

    Where the environment has ``action_masks()``, so has this one, for the stream's actions.

    Args:
        env: The environment of one task.
        space: The stream's action space.
    """

    def __init__(self, env: gym.Env[Any, Any], space: Space) -> None:
        super().__init__(env)
        own = env.action_space
        self._count = int(own.n) if isinstance(own, Discrete) else None
        self._scale: Any = None
        if isinstance(own, Box) and isinstance(space, Box):
            dimensions = own.shape[0]
            low, high = space.low[:dimensions], space.high[:dimensions]
            self._dimensions, self._dtype = dimensions, own.dtype
            same = np.array_equal(low, own.low) and np.array_equal(high, own.high)
            if not same and own.is_bounded() and space.is_bounded():
                self._low, self._own = low, own
                self._scale = (own.high - own.low) / (high - low)
        self.action_space = space
        if env.has_wrapper_attr(MASKS):
            self.action_masks = lambda: self.masks(env.get_wrapper_attr(MASKS)())

    def masks(self, own: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the stream's actions stand for one that the task allows.

        Args:
            own: One truth value for each of the task's own actions.
        """
        if not isinstance(self.action_space, Discrete):
            return own
        return np.resize(own, int(self.action_space.n))  # repeats them: a stands for a % n

    def action(self, action: Any) -> Any:
        """Return the task's own action."""
        if self._count is not None:
            return action % self._count
        own = action[..., : self._dimensions]
        if self._scale is not None:
            own = self._own.low + (own - self._low) * self._scale
            own = np.clip(own, self._own.low, self._own.high)
        return own.astype(self._dtype)


class TaskId(gym.ObservationWrapper[Any, Any, Any]):
    """Shows a one-hot of the task beside the observation.

    A vector observation gets it as its last ``width`` entries, and is float32 as a whole. Any other
    becomes a Dict with an entry ``task_id`` (beside ``observation`` where it was no Dict before).

    Args:
        env: The environment of one task, in the stream's spaces.
        index: Number of the task. May be changed between episodes.
        width: Length of the one-hot.
    """

    def __init__(self, env: gym.Env[Any, Any], index: int, width: int) -> None:
        if not 0 <= index < width:
            raise UsageError(f"task {index} does not fit a task id of width {width}")
        super().__init__(env)
        self.index = index
        self._width = width
        own = env.observation_space
        one_hot = Box(0.0, 1.0, (width,), np.float32)
        self._entries = own.shape[0] if isinstance(own, Box) and len(own.shape) == 1 else None
        self._dict = isinstance(own, spaces.Dict)
        if isinstance(own, Box) and self._entries is not None:
            low = np.concatenate([own.low, one_hot.low]).astype(np.float32)
            high = np.concatenate([own.high, one_hot.high]).astype(np.float32)
            self.observation_space = Box(low, high, dtype=np.float32)
        elif isinstance(own, spaces.Dict):
            if TASK_ID in own.spaces:
                raise UsageError(f"the observation already has an entry '{TASK_ID}'")
            self.observation_space = spaces.Dict({**own.spaces, TASK_ID: one_hot})
        else:
            self.observation_space = spaces.Dict({OBSERVATION: own, TASK_ID: one_hot})

    def observation(self, observation: Any) -> Any:
        """Return the observation, or those of a batch, with the task id."""
        if self._entries is not None:
            shown = np.zeros((*observation.shape[:-1], self._entries + self._width), np.float32)
            shown[..., : self._entries] = observation
            shown[..., self._entries + self.index] = 1.0
            return shown
        count = _batch_shape(observation, self.env.observation_space)
        one_hot = np.zeros((*count, self._width), np.float32)
        one_hot[..., self.index] = 1.0
        if self._dict:
            return {**observation, TASK_ID: one_hot}
        return {OBSERVATION: observation, TASK_ID: one_hot}


def _batch_shape(observation: Any, space: Space) -> tuple[int, ...]:
    """Return the dimensions in front of an observation of this space."""
    if isinstance(space, spaces.Dict):
        key = next(iter(space.spaces))
        return _batch_shape(observation[key], space[key])
    shape = np.shape(observation)
    return tuple(shape[: len(shape) - len(space.shape or ())])
