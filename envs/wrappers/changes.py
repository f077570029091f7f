"""Turn one environment into many tasks: what ``changes:`` asks for, each change a small wrapper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from holdfast.envs.wrappers import observation_changes
from holdfast.envs.wrappers.action_changes import ActionDelay, ActionGain, ActionMap, DeadActuators
from holdfast.envs.wrappers.mujoco_changes import MujocoFactors
from holdfast.errors import UsageError
from holdfast.registry import suggestion
from holdfast.scenarios.schema.changes import Changes


def apply_changes(env: gym.Env[Any, Any], changes: Changes) -> gym.Env[Any, Any]:
    """Return the environment with every change but ``time_limit``, which belongs to its making.

    An action passes map, gain, delay and dead actuators in that order before it reaches the
    environment; an observation passes noise, offset, permutation and mask in that order on its way
    back.

    Raises:
        UsageError: If a change does not fit the environment; the text begins with its key.
    """
    for key, change in _CHANGES.items():
        value = getattr(changes, key)
        if value or (value is not None and key == "action_gain"):  # a gain of 0 is a change
            env = change(env, value)
    return env


class SetAttributes(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Sets attributes of the unwrapped environment, now and around every reset.

    The type of an attribute is kept: a whole number given for a float becomes one, a list given for
    an array takes its dtype and shape. An attribute that the environment computed from others in
    its constructor does not follow them: to make CartPole's pole heavier set ``masspole``,
    ``total_mass`` and ``polemass_length``.

    Args:
        env: The environment to change.
        values: Value for each attribute; a dotted name reaches into one (``model.opt.timestep``).
        key: Of the task, which errors name: ``changes.set``, ``drift``.
    """

    def __init__(
        self, env: gym.Env[Any, Any], values: Mapping[str, Any], key: str = "changes.set"
    ) -> None:
        RecordConstructorArgs.__init__(self, values=values, key=key)
        gym.Wrapper.__init__(self, env)
        self._key = key
        self._settings: dict[str, tuple[Any, str, Any]] = {}
        self.change(values)

    def change(self, values: Mapping[str, Any]) -> None:
        """Set these attributes from now on, beside those that were set before."""
        for path, value in values.items():
            owner, name = _owner(self.env.unwrapped, path, self._key)
            old, key = getattr(owner, name), f"{self._key}.{path}"
            self._settings[path] = owner, name, _converted(old, value, key)
        self._apply()

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, with the attributes set before and after."""
        self._apply()
        result = self.env.reset(**kwargs)
        self._apply()
        return result

    def _apply(self) -> None:
        for owner, name, value in self._settings.values():
            # A copy, because the environment may write into a list or an array of its own.
            setattr(owner, name, copy.copy(value))


class RewardScale(gym.RewardWrapper[Any, Any], RecordConstructorArgs):
    """Multiplies the reward; a negative factor turns the task around.

    Args:
        env: The environment to change.
        scale: The factor.
    """

    def __init__(self, env: gym.Env[Any, Any], scale: float) -> None:
        RecordConstructorArgs.__init__(self, scale=scale)
        gym.RewardWrapper.__init__(self, env)
        self.scale = scale

    def reward(self, reward: Any) -> float:
        """Return the scaled reward."""
        return float(reward) * self.scale


_CHANGES: Mapping[str, Callable[[gym.Env[Any, Any], Any], gym.Env[Any, Any]]] = {
    "set": SetAttributes,
    "mujoco": lambda env, factors: MujocoFactors(env, **dict(factors)),
    "dead_actuators": DeadActuators,
    "action_delay": ActionDelay,
    "action_gain": ActionGain,
    "action_map": ActionMap,
    "observation_noise": observation_changes.ObservationNoise,
    "observation_offset": observation_changes.ObservationOffset,
    "observation_permutation": observation_changes.ObservationPermutation,
    "observation_mask": observation_changes.ObservationMask,
    "reward_scale": RewardScale,
}
"""Wrapper of each key of ``changes:``, innermost first."""


def _owner(unwrapped: Any, path: str, key: str) -> tuple[Any, str]:
    """Return the object that holds the last name of a dotted path, and that name."""
    *parents, last = path.split(".")
    owner = unwrapped
    for position, name in enumerate([*parents, last]):
        _check_attribute(owner, name, f"{key}.{path}", ".".join(parents[:position]))
        if position == len(parents):
            break
        value = getattr(owner, name)
        held_by_class = name not in getattr(owner, "__dict__", {}) and name in vars(type(owner))
        if held_by_class and value is vars(type(owner))[name]:
            # Shared by every instance of the class, other tasks among them: this one gets its own.
            value = copy.deepcopy(value)
            setattr(owner, name, value)
        owner = value
    return owner, last


def _check_attribute(owner: Any, name: str, key: str, prefix: str) -> None:
    known = [known for known in dir(owner) if not known.startswith("_")]
    if name in known:
        if callable(getattr(owner, name)):
            raise UsageError(f"{key}: '{name}' is a method, not a value")
        return
    hint = suggestion(name, known, f"; did you mean '{f'{prefix}.' if prefix else ''}{{}}'?")
    if name.startswith("_"):
        hint = "; names that begin with an underscore are the environment's own"
    raise UsageError(f"{key}: {type(owner).__name__} has no attribute '{name}' to set{hint}")


def _converted(old: Any, value: Any, key: str) -> Any:
    """Return ``value`` in the type of the attribute's present value.

    Raises:
        UsageError: If it cannot be written in that type without loss.
    """
    try:
        if isinstance(old, np.ndarray):
            return np.array(np.broadcast_to(np.asarray(value, dtype=old.dtype), old.shape))
        if old is None or (type(value) is type(old)):
            return value
        if isinstance(old, bool | np.bool_) or isinstance(value, bool | str):
            raise TypeError(value)
        if isinstance(old, int | float | np.number) and type(old)(value) == value:
            return type(old)(value)
        if isinstance(old, tuple) and isinstance(value, list):
            return tuple(value)
    except (TypeError, ValueError, OverflowError):
        pass
    shape = f" of shape {old.shape}" if isinstance(old, np.ndarray) else ""
    raise UsageError(
        f"{key}: {value!r} does not fit; the attribute is a {type(old).__name__}{shape}: {old!r}"
    )
