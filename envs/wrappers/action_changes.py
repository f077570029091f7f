"""Changes between the agent's action and the environment's: each a small wrapper.

Their ``action`` methods take batches too, with further dimensions in front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from holdfast.envs.wrappers.mujoco_changes import actuator_index
from holdfast.envs.wrappers.observation_changes import check_among, permutation, vector
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import MASKS


def neutral_action(space: gym.Space[Any], key: str) -> Any:
    """Return the action that stands for doing nothing.

    Zero in every dimension of a Box (moved into its bounds where they leave zero out); the first
    action of a Discrete, MultiDiscrete or MultiBinary space, which have no zero of their own.
    """
    if isinstance(space, Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, Discrete):
        return np.int64(space.start)
    if isinstance(space, MultiDiscrete):
        return np.array(space.start, dtype=space.dtype)
    if isinstance(space, MultiBinary):
        return np.zeros(space.shape, space.dtype)
    raise UsageError(f"changes.{key}: cannot be applied to the action space {space}")


class ActionMap(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Relabels actions: the agent's action (or dimension) ``i`` becomes ``mapping[i]``.

    Discrete: the agent sees as many actions as ``mapping`` has entries, counted from zero, so that
    a shorter list removes actions and a list of real actions mends a space that does not start at
    zero. Box: a permutation of the dimensions; the bounds move along. Where the environment has
    ``action_masks()``, so has this one, for the agent's actions.

    Args:
        env: The environment to change.
        mapping: The environment's action, or dimension, for each of the agent's.
    """

    def __init__(self, env: gym.Env[Any, Any], mapping: Sequence[int]) -> None:
        RecordConstructorArgs.__init__(self, mapping=mapping)
        gym.ActionWrapper.__init__(self, env)
        space = env.action_space
        if isinstance(space, Discrete):
            first, last = int(space.start), int(space.start + space.n) - 1
            check_among(mapping, first, last, "action_map", "environment's actions")
            self._actions = np.array(mapping, dtype=np.int64)
            self._first = first
            self._source: NDArray[np.intp] | None = None
            self.action_space = Discrete(len(mapping))
            if env.has_wrapper_attr(MASKS):
                self.action_masks = lambda: self.masks(env.get_wrapper_attr(MASKS)())
        else:
            box = vector(env.action_space, "action_map", "continuous actions")
            order = permutation(mapping, box.shape[0], "action_map", "dimension")
            self._source = np.argsort(order)  # environment dimension -> agent dimension
            self.action_space = Box(box.low[order], box.high[order], dtype=box.dtype.type)

    def action(self, action: Any) -> Any:
        """Return the environment's action for the agent's."""
        if self._source is None:
            return self._actions[action]
        return np.asarray(action)[..., self._source]  # (..., dimensions)

    def masks(self, own: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the agent's actions stand for one that the environment allows.

        Args:
            own: One truth value for each of the environment's actions.
        """
        return own if self._source is not None else own[self._actions - self._first]


class ActionGain(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Multiplies the action by ``gain``, then cuts it at the environment's own bounds.

    The action space stays as it is. A gain above 1 saturates early; a negative one reverses motors.

    Args:
        env: The environment to change.
        gain: One factor, or one for each dimension.
    """

    def __init__(self, env: gym.Env[Any, Any], gain: float | Sequence[float]) -> None:
        RecordConstructorArgs.__init__(self, gain=gain)
        gym.ActionWrapper.__init__(self, env)
        box = vector(env.action_space, "action_gain", "continuous actions")
        self._gain = np.asarray(gain, dtype=box.dtype)
        if self._gain.shape not in ((), box.shape):
            raise UsageError(
                f"changes.action_gain: {self._gain.size} factors for {box.shape[0]} dimensions"
            )
        self._low, self._high = box.low, box.high

    def action(self, action: Any) -> Any:
        """Return the action times the gain, inside the environment's bounds."""
        return np.minimum(np.maximum(action * self._gain, self._low), self._high)


class ActionDelay(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Hands every action to the environment ``steps`` steps late.

    Until the first one arrives the environment gets :func:`neutral_action`.

    Args:
        env: The environment to change.
        steps: Delay in environment steps.
    """

    def __init__(self, env: gym.Env[Any, Any], steps: int) -> None:
        RecordConstructorArgs.__init__(self, steps=steps)
        gym.Wrapper.__init__(self, env)
        self._neutral = neutral_action(env.action_space, "action_delay")
        self._pending: deque[Any] = deque()
        self._steps = steps

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and forget the actions that have not arrived."""
        self._pending = deque([self._neutral] * self._steps)
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Step with the action that was given ``steps`` steps ago."""
        # A copy, because the caller may write its next action into the same array.
        self._pending.append(action.copy() if isinstance(action, np.ndarray) else action)
        return self.env.step(self._pending.popleft())


class DeadActuators(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Sets some action dimensions to zero (or the bound next to it), whatever the agent asks for.

    Args:
        env: The environment to change.
        actuators: Action dimensions, or names of MuJoCo actuators.
    """

    def __init__(self, env: gym.Env[Any, Any], actuators: Sequence[int | str]) -> None:
        RecordConstructorArgs.__init__(self, actuators=actuators)
        gym.ActionWrapper.__init__(self, env)
        box = vector(env.action_space, "dead_actuators", "continuous actions")
        dead = [
            actuator_index(env, entry, "dead_actuators") if isinstance(entry, str) else entry
            for entry in actuators
        ]
        check_among(dead, 0, box.shape[0] - 1, "dead_actuators", "action's dimensions")
        self._dead = np.array(dead, dtype=np.intp)
        self._value = neutral_action(box, "dead_actuators")[self._dead]

    def action(self, action: Any) -> Any:
        """Return a copy of the action with the dead dimensions at rest."""
        changed = np.array(action)
        changed[..., self._dead] = self._value
        return changed
