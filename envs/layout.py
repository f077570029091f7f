"""Observations as arrays of a fixed size, and spaces as they come from another process."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Leaf(NamedTuple):
    """An array of an observation: its keys, type and shape."""

    path: tuple[str, ...]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def space_of(found: dict[str, Any]) -> gym.Space[Any]:
    """Return the space that ``worker.describe_space`` described."""
    kind = found["kind"]
    if kind == "Box":
        return spaces.Box(found["low"], found["high"], dtype=np.dtype(found["dtype"]).type)
    if kind == "Discrete":
        return spaces.Discrete(found["n"], start=found["start"])
    if kind == "MultiDiscrete":
        dtype = np.dtype(found["dtype"]).type
        return spaces.MultiDiscrete(found["nvec"], dtype=dtype, start=found["start"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(found["n"])
    return spaces.Dict([(key, space_of(entry)) for key, entry in found["entries"]])


def leaves(space: gym.Space[Any], path: tuple[str, ...] = ()) -> list[Leaf]:
    """Return the arrays that one value of a space consists of.

    Raises:
        TypeError: If the space has no fixed size.
    """
    if isinstance(space, spaces.Dict):
        return [leaf for k, entry in space.spaces.items() for leaf in leaves(entry, (*path, k))]
    if space.dtype is None or space.shape is None:
        raise TypeError(f"the space {space} has no fixed size")
    return [Leaf(path, np.dtype(space.dtype), space.shape)]


def assembled(arrays: dict[tuple[str, ...], Any]) -> Any:
    """Return the observation with these arrays: a dict, or the one array."""
    if () in arrays:
        return arrays[()]
    found: dict[str, Any] = {}
    for path, array in arrays.items():
        inner = found
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = array
    return found
