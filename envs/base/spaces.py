"""One observation space and one action space for the whole stream, out of those of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete

from holdfast.errors import Problem, ScenarioError
from holdfast.scenarios.schema.scenario import Scenario

Space = gym.Space[Any]


@dataclass(frozen=True)
class StreamSpaces:
    """The spaces that every task of a stream is fitted to, before the task id is added.

    Attributes:
        observation: Where the tasks' bounds differ, the widest of each.
        action: The action space.
        beside: What a team's learner is shown beside the observation, in a Dict; None where it is
            shown the observation as it is.
    """

    observation: Space
    action: Space
    beside: Mapping[str, Space] | None = None


def merged_spaces(
    scenario: Scenario, found: Sequence[StreamSpaces], names: Sequence[str] = ()
) -> StreamSpaces:
    """Return the spaces of the stream, out of those of each task.

    With ``spaces: same``, spaces must be alike in kind, shape and type; bounds of observations may
    differ (networks do not see them), bounds of actions may not (they scale the policy's output).
    With ``spaces: pad``, vectors of observations are filled with zeros at their end; a stream's
    action vector is as long as the longest, its bounds the widest, and each task ignores the
    dimensions it lacks and rescales the others to its own bounds; the stream has as many discrete
    actions as the richest task, and elsewhere action ``a`` stands for ``a % n``.

    Args:
        scenario: The scenario.
        found: Of each task, or of each agent of a group.
        names: What these are called in errors; by default, the tasks.

    Raises:
        ScenarioError: The tasks that differ, and the key to set.
    """
    problems: list[Problem] = []
    names = names or [task.name for task in scenario.tasks]
    merged: dict[str, Space] = {}
    for kind in ("observation", "action"):
        own = [getattr(task, kind) for task in found]
        try:
            merged[kind] = _merged(kind, own, getattr(scenario.spaces, kind), names)
        except ValueError as error:
            problems.append(scenario.problem(f"spaces.{kind}", str(error)))
    if problems:
        raise ScenarioError(problems)
    return StreamSpaces(merged["observation"], merged["action"])


def _merged(what: str, found: Sequence[Space], rule: str, names: Sequence[str]) -> Space:
    """Return one space for all tasks.

    Raises:
        ValueError: If they differ in a way that the rule does not bridge.
    """
    for name, space in zip(names, found, strict=True) if what == "observation" else ():
        if text := not_learnable(space):
            raise ValueError(f"task '{name}': {text}")
    padded = _padded(what, found)
    if rule == "pad" and padded is not None:
        return padded
    merged: Space | None = found[0]
    for space in found[1:]:
        merged = _alike(merged, space, widen=what == "observation") if merged is not None else None
    if merged is not None:
        return merged
    listed = "\n".join(f"    {name}: {space}" for name, space in zip(names, found, strict=True))
    kinds = "vectors" if what == "observation" else "vectors of actions and discrete actions"
    hint = (
        f"only {kinds} of one kind can be padded; bring them together with `wrappers:`"
        if rule == "pad" or padded is None
        else f"`spaces: {{{what}: pad}}` brings them together"
    )
    raise ValueError(f"the tasks' {what} spaces differ; {hint}\n{listed}")


def not_learnable(space: Space) -> str:
    """Return why no Stable-Baselines3 policy can take an observation space; empty if one can."""
    simple = (Box, Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if isinstance(space, simple):
        return ""
    if not isinstance(space, spaces.Dict):
        return (
            f"no policy can take the observation space {space}; "
            "try `wrappers: [gymnasium.wrappers:FlattenObservation]`"
        )
    good = [key for key, entry in space.spaces.items() if isinstance(entry, simple)]
    bad = [key for key in space.spaces if key not in good]
    if not bad:
        return ""
    if not good:
        return (
            f"no policy can take the observation space {space}; "
            "try `wrappers: [gymnasium.wrappers:FlattenObservation]`"
        )
    return (
        f"no policy can take the entry '{bad[0]}' of the observation, {space[bad[0]]}; keep the "
        "others with `wrappers: [{gymnasium.wrappers:FilterObservation: "
        f"{{filter_keys: [{', '.join(good)}]}}}}]`, or convert it with a wrapper of your own"
    )


def _alike(one: Space, other: Space, *, widen: bool) -> Space | None:
    """Return a space that holds both, if they differ in bounds at most; else None."""
    if one == other:
        return one
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        if one.spaces.keys() != other.spaces.keys():
            return None
        both = {key: _alike(one[key], other[key], widen=widen) for key in one.spaces}
        entries = {key: entry for key, entry in both.items() if entry is not None}
        return spaces.Dict(entries) if len(entries) == len(both) else None
    if not (widen and isinstance(one, Box) and isinstance(other, Box)):
        return None
    if one.shape != other.shape or one.dtype != other.dtype:
        return None
    return Box(
        np.minimum(one.low, other.low), np.maximum(one.high, other.high), dtype=one.dtype.type
    )


def _padded(what: str, found: Sequence[Space]) -> Space | None:
    """Return the smallest space that all tasks can be padded to, or None where they cannot be."""
    boxes = [space for space in found if isinstance(space, Box) and len(space.shape) == 1]
    floats = all(np.issubdtype(box.dtype, np.floating) for box in boxes)
    if len(boxes) == len(found) and (floats or what == "observation"):
        size = max(box.shape[0] for box in boxes)
        dtype = np.result_type(*(box.dtype for box in boxes))
        # An observation has zeros where a task has no entry; an action has no value there at all.
        low_fill, high_fill = (0.0, 0.0) if what == "observation" else (np.inf, -np.inf)
        lows = [np.pad(b.low, (0, size - b.shape[0]), constant_values=low_fill) for b in boxes]
        highs = [np.pad(b.high, (0, size - b.shape[0]), constant_values=high_fill) for b in boxes]
        low, high = np.min(lows, axis=0).astype(dtype), np.max(highs, axis=0).astype(dtype)
        return Box(low, high, dtype=dtype.type)
    discrete = [space for space in found if isinstance(space, Discrete)]
    if what == "action" and len(discrete) == len(found) and all(d.start == 0 for d in discrete):
        return Discrete(max(int(space.n) for space in discrete))
    return None
