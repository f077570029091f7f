"""Costs of steps: what an environment is to keep below a limit beside its reward."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import gymnasium as gym
import numpy as np

from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.cost import COST, Cost, CostTerm

Reading = Callable[[Any, Any, dict[str, Any]], float]
"""Observation, action and info of a step to the number that a term looks at."""

_ATTRIBUTE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)((?:\[\d+\])*)")


class Costs(gym.Wrapper[Any, Any, Any, Any]):
    """Tells in ``info["cost"]`` what each step cost: a number of at least 0.

    Without terms that is what the environment tells itself, which is checked.

    Args:
        env: The environment as its author made it.
        cost: What costs.
        task_name: Name for the error texts.

    Raises:
        UsageError: A term looks at what the environment does not have; the text begins with the
            key.
    """

    def __init__(self, env: gym.Env[Any, Any], cost: Cost, task_name: str) -> None:
        super().__init__(env)
        self._task_name = task_name
        self._terms = [(_reading(env, term, at), term) for at, term in enumerate(cost.terms)]

    def step(self, action: Any) -> Any:
        """Step the environment.

        Raises:
            EnvironmentFailed: It does not tell what costs.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        try:
            cost = self._cost(observation, action, info) if self._terms else _told(info)
        except EnvironmentFailed as error:
            raise EnvironmentFailed(f"task '{self._task_name}': {error}") from None
        return observation, reward, terminated, truncated, {**info, COST: cost}

    def _cost(self, observation: Any, action: Any, info: dict[str, Any]) -> float:
        return sum(
            term.weight
            for read, term in self._terms
            if _is_outside(read(observation, action, info), term)
        )


def _told(info: dict[str, Any]) -> float:
    """Return the cost that an environment tells.

    Raises:
        EnvironmentFailed: It tells none, or one that is no number of at least 0.
    """
    if COST not in info:
        raise EnvironmentFailed(
            'cost: has no terms:, and the environment tells none in info["cost"]; write terms:, or '
            "let it tell one with every step"
        )
    try:
        cost = float(info[COST])
    except (TypeError, ValueError):
        cost = math.nan
    if not 0 <= cost < math.inf:
        raise EnvironmentFailed(
            f'info["cost"] is {info[COST]!r:.80}; a cost is a finite number of at least 0'
        )
    return cost


def _is_outside(value: float, term: CostTerm) -> bool:
    return (term.above is not None and value > term.above) or (
        term.below is not None and value < term.below
    )


def _reading(env: gym.Env[Any, Any], term: CostTerm, at: int) -> Reading:
    """Return what reads the number that a term looks at."""
    key = f"cost.terms[{at}]"
    if term.info is not None:
        return _of_info(term.info, key)
    if term.observation is not None:
        entry = _among(env.observation_space, term.observation, f"{key}.observation")
        return lambda observation, _action, _info: float(observation[entry])
    if term.action is not None:
        place = _among(env.action_space, term.action, f"{key}.action")
        return lambda _observation, action, _info: float(action[place])
    assert term.attribute is not None
    return _of_attribute(env.unwrapped, term.attribute, f"{key}.attribute")


def _of_info(name: str, key: str) -> Reading:
    def read(_observation: Any, _action: Any, info: dict[str, Any]) -> float:
        if name not in info:
            told = ", ".join(map(str, info)) or "nothing"
            raise EnvironmentFailed(
                f"{key}.info: the environment tells no '{name}' with a step; it tells {told}"
            )
        return float(info[name])

    return read


def _among(space: gym.Space[Any], entry: int, key: str) -> int:
    count = _length(space, key)
    if entry >= count:
        raise UsageError(f"{key}: {entry} is not one of the entries, 0 to {count - 1}")
    return entry


def _length(space: gym.Space[Any], key: str) -> int:
    """Return how many entries a vector has."""
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        return int(space.shape[0])
    raise UsageError(f"{key}: needs a vector, but it is {space}")


def _of_attribute(unwrapped: Any, path: str, key: str) -> Reading:
    """Return what reads an attribute such as ``data.qvel[1]``."""
    match = _ATTRIBUTE.fullmatch(path)
    if match is None:
        raise UsageError(f"{key}: {path!r} is no attribute; write one like data.qvel[1]")
    named, indices = attrgetter(match[1]), [int(n) for n in re.findall(r"\d+", match[2])]

    def value() -> Any:
        found = named(unwrapped)
        for index in indices:
            found = found[index]
        return found

    try:
        shape = np.shape(value())
    except (AttributeError, LookupError, TypeError) as error:
        raise UsageError(f"{key}: {type(unwrapped).__name__} has no '{path}' ({error})") from None
    if shape != ():
        raise UsageError(f"{key}: '{path}' has the shape {shape}; add an index, like {path}[0]")
    return lambda _observation, _action, _info: float(value())
