"""Demonstrations: transitions of somebody who acts well, in a file, and in batches beside others.

The file is one of safetensors: arrays by name, and nothing that could be run. All have a row for
each transition, as the task's own environment shows it, before the stream adds anything:
``observations`` and ``next_observations`` (with ``.key`` for each entry of a Dict), ``actions``,
``rewards``, ``terminations`` and ``truncations``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from safetensors.numpy import load, save
from torch import Tensor

from holdfast.agents.base.agent import Shown
from holdfast.agents.base.buffers import OBSERVATIONS, Arrays, by_name
from holdfast.errors import UsageError
from holdfast.scenarios.source.regular_file import read

SUFFIX = ".safetensors"
MOST_BYTES = 8 << 30
"""Of a file: more is not read."""

_SCALARS = {"rewards": "fiu", "terminations": "b", "truncations": "b"}


class Demonstrations(NamedTuple):
    """Transitions of one task, as its own environment shows them.

    Attributes:
        rows: By name, each of shape (rows, ...).
        digest: SHA-256 of the file, by which a task that goes on knows it again.
    """

    rows: Arrays
    digest: str


def content_of(rows: Arrays, about: Mapping[str, str]) -> bytes:
    """Return the content of a file of demonstrations; ``about`` stands in it for people."""
    plain = {name: np.ascontiguousarray(values) for name, values in rows.items()}
    return bytes(save(plain, metadata=dict(about)))


def read_demonstrations(
    path: Path, observation: gym.Space[Any], action: gym.Space[Any]
) -> Demonstrations:
    """Return the demonstrations in a file, which may come from elsewhere.

    Args:
        path: The file.
        observation: The space of the task's own observations.
        action: The space of the task's own actions.

    Raises:
        UsageError: It is not there, no such file, or is of other spaces; the text says which.
        CheckpointUnusable: It is no regular file, or too large.
    """
    try:
        content = read(path.resolve(), MOST_BYTES, folders=0)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file; `holdfast record` writes one") from error
    try:
        rows: Arrays = load(content)
    except Exception as error:  # of the package: a SafetensorError, a KeyError of a type, ...
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise UsageError(f"{path}: holds no demonstrations: {what}") from error
    try:
        check_rows(rows, observation, action)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    kinds: dict[str, Any] = {"rewards": np.float32}
    kinds |= {name: space.dtype for name, space in _spaces(observation, action).items()}
    typed = {name: values.astype(kinds.get(name, values.dtype)) for name, values in rows.items()}
    return Demonstrations(typed, hashlib.sha256(content).hexdigest())


def check_rows(rows: Arrays, observation: gym.Space[Any], action: gym.Space[Any]) -> None:
    """Raise unless rows are transitions of a task with these spaces.

    Raises:
        ValueError: They are not; the text names the array.
    """
    wanted = _spaces(observation, action)
    names = {*wanted, *_SCALARS}
    if rows.keys() != names:
        odd = sorted(rows.keys() ^ names)[0]
        has = "has no" if odd in names else "has a strange"
        raise ValueError(f"{has} array {odd[:200]!r}; the task needs {', '.join(sorted(names))}")
    count = len(rows["rewards"]) if rows["rewards"].ndim else 0
    if not count:
        raise ValueError("holds no transition")
    for name, kinds in _SCALARS.items():
        if rows[name].shape != (count,) or rows[name].dtype.kind not in kinds:
            raise ValueError(f"{name} is {_form(rows[name])}, not a number for each transition")
    for name, space in wanted.items():
        _check_values(name, rows[name], space, count)
    if not np.isfinite(rows["rewards"]).all():
        raise ValueError("rewards has a number that is not finite")


def _spaces(observation: gym.Space[Any], action: gym.Space[Any]) -> dict[str, gym.Space[Any]]:
    """Return the space of each array that has one."""
    inner: Any = observation.spaces if isinstance(observation, spaces.Dict) else observation
    found: Any = {"actions": action}
    for name in OBSERVATIONS:
        found |= by_name(name, inner)
    return dict(found)


def _check_values(name: str, values: Any, space: gym.Space[Any], count: int) -> None:
    """Raise unless an array has one element of a space for each transition."""
    shape = (count, *(space.shape or ()))
    kinds = "fiu" if isinstance(space, spaces.Box) and space.dtype.kind == "f" else "iu"
    if values.shape != shape or values.dtype.kind not in kinds:
        raise ValueError(f"{name} is {_form(values)}, and the task's space is {space}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has a number that is not finite")
    low, high = _ends(space)
    if name == "actions" and ((values < low - 1e-5) | (values > high + 1e-5)).any():
        raise ValueError(f"{name} has one outside of the task's space {space}")


def _ends(space: Any) -> tuple[Any, Any]:
    """Return the smallest and the largest values of a space."""
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.Box):
        return space.low, space.high
    return -np.inf, np.inf


def _form(values: Any) -> str:
    return f"{values.dtype} of shape {tuple(values.shape)}"


# -- beside what a learner has seen ----------------------------------------------------------------


def stored_as(model: Any, shown: Shown) -> Arrays:
    """Return demonstrations as the rows of a model's replay buffer would be.

    See ``stored_rows`` of ``buffers.py``; box actions are scaled to -1..1, as they are there.
    """
    rows, actions = shown.rows, shown.rows["actions"]
    found: Arrays = {
        name: values.reshape(len(values), -1) if values.ndim == 1 else values
        for name, values in rows.items()
        if name.partition(".")[0] in OBSERVATIONS
    }
    if isinstance(model.action_space, spaces.Box):
        actions = model.policy.scale_action(actions)
    kind = model.replay_buffer.actions.dtype
    found["actions"] = actions.reshape(len(actions), -1).astype(kind)
    found["rewards"] = rows["rewards"].astype(np.float32)[:, None]
    found["dones"] = rows["terminations"].astype(np.float32)[:, None]
    return found


def mixing(
    rows: Arrays, share: float, as_batch: Callable[[Arrays], dict[str, Tensor]]
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Return what replaces the last rows of a batch by demonstrations, drawn evenly.

    They are drawn where Stable-Baselines3's buffers draw, from NumPy's global generator, which a
    checkpoint holds. Source: symmetric sampling, Ball et al. 2023, Efficient Online Reinforcement
    Learning with Offline Data (arXiv:2302.02948), section 4.1.

    Args:
        rows: As ``stored_as`` gives them.
        share: Of each batch.
        as_batch: Gives stored rows as a batch of the buffer.
    """
    count = len(rows["actions"])

    def mix(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        size = len(batch["actions"])
        drawn = np.random.randint(count, size=round(size * share))
        shown = as_batch({name: values[drawn] for name, values in rows.items()})
        kept = size - len(drawn)
        return {name: torch.cat([own[:kept], shown[name]]) for name, own in batch.items()}

    return mix
