"""Messages between a worker process and its parent: values, spaces, observations, errors.

Both ends import it, a worker perhaps under another interpreter: the standard library, gymnasium and
numpy only, and written for Python 3.8 and numpy 1 as well.
"""

from __future__ import annotations

import base64
import math
import sysconfig
import traceback
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ARRAY = "$array"


def encoded(value: Any) -> Any:
    """Return a value as JSON can hold it; arrays keep their type and shape.

    Raises:
        TypeError: If it holds something else than numbers, texts, arrays, lists and dicts of them.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return encoded(value.item())
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {ARRAY: [value.dtype.str, value.shape, data]}
    if isinstance(value, (list, tuple)):
        return [encoded(entry) for entry in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: encoded(entry) for key, entry in value.items()}
    raise TypeError(f"a {type(value).__name__} cannot travel between processes")


def cannot_travel(value: Any) -> str:
    """Return why :func:`encoded` refuses a value; empty if it does not."""
    try:
        encoded(value)
    except TypeError as error:
        return str(error)
    return ""


def decoded(found: dict[str, Any]) -> Any:
    """Return what :func:`encoded` wrote; an ``object_hook`` of ``json.loads``."""
    if ARRAY not in found:
        return found
    dtype, shape, data = found[ARRAY]
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()


class Malformed(Exception):
    """An environment returned what does not fit its spaces."""


class Unusable(Exception):
    """The target is no environment, or one whose spaces cannot travel."""


# What each kind of space is built from; attributes bear the names of the arguments.
_PARTS = {
    "Box": ("low", "high", "dtype"),
    "Discrete": ("n", "start"),
    "MultiDiscrete": ("nvec", "dtype", "start"),
    "MultiBinary": ("n",),
}


def describe_space(space: Any) -> dict[str, Any]:
    """Return a space as JSON can hold it.

    Raises:
        Unusable: If it is of another kind than those above, or a Dict of them.
    """
    if isinstance(space, spaces.Dict) and all(isinstance(key, str) for key in space.spaces):
        entries = [[key, describe_space(entry)] for key, entry in space.spaces.items()]
        return {"kind": "Dict", "entries": entries}
    for kind, parts in _PARTS.items():
        if isinstance(space, getattr(spaces, kind)):
            # An old MultiDiscrete has no start.
            found = {part: getattr(space, part) for part in parts if hasattr(space, part)}
            if "dtype" in found:
                found["dtype"] = np.dtype(found["dtype"]).str
            return {"kind": kind, **encoded(found)}
    raise Unusable(
        f"the space {space} cannot travel between processes; Box, Discrete, MultiDiscrete, "
        "MultiBinary and Dict of those can"
    )


def space_of(found: dict[str, Any]) -> gym.Space[Any]:
    """Return the space that :func:`describe_space` described."""
    parts = {**found}
    kind = parts.pop("kind")
    if kind == "Dict":
        return spaces.Dict([(key, space_of(entry)) for key, entry in parts["entries"]])
    if "dtype" in parts:
        parts["dtype"] = np.dtype(parts["dtype"]).type
    return getattr(spaces, kind)(**parts)  # type: ignore[no-any-return]  # a space


class Leaf(NamedTuple):
    """An array of an observation: its keys, type and shape."""

    path: tuple[str, ...]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


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


def viewed(memory: Any, blocks: list[dict[str, Any]]) -> dict[str, dict[tuple[str, ...], Any]]:
    """Return the arrays in shared memory, by name and by keys of the observation.

    Args:
        memory: Its map.
        blocks: Name, path in the observation, dtype, shape and offset of each array.
    """
    found: dict[str, dict[tuple[str, ...], Any]] = {}
    for block in blocks:
        count, shape = math.prod(block["shape"]), tuple(block["shape"])
        flat = np.frombuffer(memory, np.dtype(block["dtype"]), count, block["offset"])
        found.setdefault(block["name"], {})[tuple(block["path"])] = flat.reshape(shape)
    return found


def at(observation: Any, path: tuple[str, ...]) -> Any:
    """Return the array under these keys of an observation."""
    for key in path:
        observation = observation[key]
    return observation


def is_reset(found: Any) -> bool:
    """Return whether Gymnasium's ``reset`` may return this."""
    return isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)


def is_step(found: Any) -> bool:
    """Return whether Gymnasium's ``step`` may return this."""
    if not (isinstance(found, tuple) and len(found) == 5 and isinstance(found[4], dict)):
        return False
    _, reward, terminated, truncated, _ = found
    ends = isinstance(terminated, (bool, np.bool_)) and isinstance(truncated, (bool, np.bool_))
    return ends and isinstance(reward, (int, float, np.floating, np.integer))


def traced(error: BaseException, program: str) -> str:
    """Return a traceback from the first file on that is the user's own, or else not ours.

    Args:
        error: Of the user's code, or of an environment's.
        program: The file of the worker.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    files = [frame.f_code.co_filename for frame, _ in frames]
    modules = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    here = (program, __file__)
    ours = [f in here or f.startswith("<") or m == "holdfast" for f, m in zip(files, modules)]
    installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    others = [index for index in range(len(frames)) if not ours[index]]
    own = [index for index in others if not files[index].startswith(installed)]
    if not others:
        return ""
    head = "Traceback (from your own code on)" if own else "Traceback (most recent call last)"
    lines = traceback.StackSummary.extract(iter(frames[(own or others)[0] :])).format()
    last = traceback.format_exception_only(type(error), error)
    return "".join([f"{head}:\n", *lines, *last])
