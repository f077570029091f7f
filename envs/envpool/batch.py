"""Several copies of one task, stepped at once by EnvPool, with its changes applied to batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, FlattenObservation
from numpy.typing import NDArray

from holdfast.envs.base.fitting import PadAction, PadObservation, TaskId
from holdfast.envs.envpool.single import EnvPoolSingle, cast_to, rows, success_key
from holdfast.envs.wrappers.action_changes import ActionGain, ActionMap, DeadActuators
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.envs.wrappers.changes import RewardScale
from holdfast.envs.wrappers.guard import LARGEST, Guard
from holdfast.envs.wrappers.observation_changes import (
    ObservationMask,
    ObservationNoise,
    ObservationOffset,
    ObservationPermutation,
)
from holdfast.errors import EnvironmentFailed, UsageError

Ids = NDArray[np.int32]

_ACTIONS = (ActionMap, ActionGain, DeadActuators, PadAction)
_OBSERVATIONS = (
    *(ObservationOffset, ObservationPermutation, ObservationMask),
    *(FilterObservation, PadObservation),
)
_OTHERS = (ObservationNoise, FlattenObservation, RewardScale, Guard, TaskId)


class Steps(NamedTuple):
    """Results of one step of some environments of a batch; each array has one entry per env.

    Attributes:
        observations: As the agent sees them.
        rewards: float64, scaled.
        terminated: Whether the episode ended by itself.
        truncated: Whether it was cut, whatever ``terminated`` says.
        successes: True where the family reports success now; None where it reports none ever.
        info: EnvPool's own, by key.
        bad: Where NaN made an episode end (``on_nan: truncate``); None where nowhere.
    """

    observations: Any
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    successes: NDArray[np.bool_] | None
    info: dict[str, Any]
    bad: NDArray[np.bool_] | None


class Batch:
    """Copies of a task in one pool.

    The wrappers of one environment of the task are read, and their own functions applied to whole
    batches; so a batch equals single environments by construction. Noise alone is drawn copy by
    copy, each from its own generator, so that an episode does not depend on its neighbours.

    Args:
        env: The task as ``task_env`` returns it, on top of an EnvPoolSingle.
        task_name: For error texts.

    Raises:
        UsageError: A wrapper that cannot be applied to a batch.
    """

    def __init__(self, env: gym.Env[Any, Any], task_name: str) -> None:
        layers = []
        self.env, self._task_name = env, task_name
        self._note = sys.intern(f"task '{task_name}', in EnvPool")
        while isinstance(env, gym.Wrapper):
            layers.append(env)
            env = env.env
        known = (*_ACTIONS, *_OBSERVATIONS, *_OTHERS, EnvPoolSingle)
        unknown = [layer for layer in (*layers, env) if not isinstance(layer, known)]
        if unknown:
            raise UsageError(
                f"task '{task_name}': EnvPool cannot take {type(unknown[0]).__name__}, which works "
                "on one environment at a time; write `backend: gymnasium`"
            )
        assert isinstance(env, EnvPoolSingle)  # of all that is known, nothing else is innermost
        self.source = env
        self._actions = [layer.action for layer in layers if isinstance(layer, _ACTIONS)]
        outwards = layers[::-1]  # as observations pass
        at_guard = next(i for i, layer in enumerate(outwards) if isinstance(layer, Guard))
        # Found out once: asking every layer at every step takes as long as a light simulator.
        inside = (self._change_of(layer) for layer in outwards[:at_guard])
        self._inside = [change for change in inside if change is not None]
        self._outside = [x for x in outwards[at_guard:] if isinstance(x, PadObservation | TaskId)]
        self._scale = next((x.scale for x in layers if isinstance(x, RewardScale)), None)
        self._guard = next(layer for layer in layers if isinstance(layer, Guard))
        self._noise = [layer for layer in layers if isinstance(layer, ObservationNoise)]
        self._pool: Any = None
        self._rngs: list[np.random.Generator] = []
        self._lengths = np.zeros(0, np.int64)
        self._last: Any = None
        self._sent: tuple[NDArray[Any], Ids, NDArray[np.bool_]]

    def start(self, seeds: Sequence[int]) -> Any:
        """Build one environment for each seed and return their first observations."""
        self._pool = self.source.open_pool(seeds)
        self._rngs = [ObservationNoise.generator(seed) for seed in seeds] if self._noise else []
        self._lengths = np.zeros(len(seeds), np.int64)
        self._last = None
        return self.restart(np.arange(len(seeds), dtype=np.int32))

    def restart(self, ids: Ids) -> Any:
        """Begin new episodes in some of the environments and return their observations.

        A partial reset of EnvPool's: the others are not touched, and the rows come in the order of
        ``ids``.
        """
        self._lengths[ids] = 0
        observations, _ = self._called("reset()", self._pool.reset, ids)
        shown, bad = self._shown(observations, ids)
        if bad is not None:
            values = self._guard.not_finite(rows(shown, bad.argmax()), 0.0)
            raise EnvironmentFailed(f"{values}, returned by reset()")
        self._keep(shown, ids)
        return self._fitted(shown)

    def step(self, actions: NDArray[Any], ids: Ids) -> Steps:
        """Step some of the environments: ``send``, then ``receive``."""
        self.send(actions, ids)
        return self.receive()

    def send(self, actions: NDArray[Any], ids: Ids) -> None:
        """Begin a step of some of the environments, which the simulators do meanwhile.

        Args:
            actions: The agent's, one row for each.
            ids: Which environments.

        Raises:
            EnvironmentFailed: The simulator refuses the actions.
        """
        for change in self._actions:
            actions = change(actions)
        self._called("step()", self._pool.send, actions, ids)
        self._lengths[ids] += 1
        self._sent = actions, ids, self._lengths[ids] >= (self.source.limit or np.inf)

    def receive(self) -> Steps:
        """End the step that was begun.

        Raises:
            EnvironmentFailed: The simulator raised, or returned NaN (``on_nan: error``).
        """
        actions, ids, out_of_time = self._sent
        observations, rewards, terminated, truncated, info = self._called("step()", self._pool.recv)
        truncated = truncated | out_of_time
        rewards = rewards.astype(np.float64)
        if self._scale is not None:
            rewards = rewards * self._scale
        shown, bad = self._shown(observations, ids)
        if not (np.abs(rewards) <= LARGEST).all():  # NaN is not
            wrong = ~(np.abs(rewards) <= LARGEST)
            bad = wrong if bad is None else bad | wrong
        if bad is not None:
            self._repair(shown, rewards, bad, actions, ids)
            terminated, truncated = terminated & ~bad, truncated | bad
        self._keep(shown, ids)
        key = success_key(info)
        successes = None if key is None else info[key] > 0
        shown = self._fitted(shown)
        return Steps(shown, rewards, terminated, truncated, successes, info, bad)

    def close(self) -> None:
        """Release the pool."""
        self._pool = None
        self.env.close()

    def _called(self, place: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if AT_WORK.note is not self._note:
            AT_WORK.enter(self._note)
        try:
            return function(*arguments)
        except Exception as error:
            raise EnvironmentFailed(
                f"task '{self._task_name}', {place}: {type(error).__name__}: {error}"
            ) from error

    def _shown(self, raw: Any, ids: Ids) -> tuple[Any, NDArray[np.bool_] | None]:
        """Return observations as they leave the guard, and where they are not finite."""
        shown = cast_to(self.source.observation_space, raw)
        for change in self._inside:
            shown = change(shown, ids)
        return shown, _not_finite(shown)

    def _change_of(self, layer: gym.Env[Any, Any]) -> Callable[[Any, Ids], Any] | None:
        """Return what a layer inside the guard does to the observations of a batch, if anything."""
        if isinstance(layer, ObservationNoise):
            return partial(self._with_noise, layer)
        if isinstance(layer, FlattenObservation):
            space = layer.env.observation_space
            return lambda shown, _: flattened(space, shown)
        if isinstance(layer, _OBSERVATIONS):
            change = layer.observation
            return lambda shown, _: change(shown)
        return None

    def _with_noise(self, layer: ObservationNoise, shown: Any, ids: Ids) -> Any:
        pairs = zip(shown, ids, strict=True)
        return np.stack([layer.noisy(row, self._rngs[i]) for row, i in pairs])

    def _fitted(self, shown: Any) -> Any:
        """Return observations in the stream's space, with the task id."""
        for layer in self._outside:
            shown = layer.observation(shown)
        return shown

    def _repair(
        self,
        shown: Any,
        rewards: NDArray[np.float64],
        bad: NDArray[np.bool_],
        actions: Any,
        ids: Ids,
    ) -> None:
        """Put the last good observation where one is not finite, as Guard does, or raise."""
        first = int(bad.argmax())
        if not self._guard.truncates:
            values = self._guard.not_finite(rows(shown, first), rewards[first])
            place = self._guard.place(int(self._lengths[ids[first]]), actions[first])
            raise EnvironmentFailed(f"{values}, {place}")
        rewards[bad] = 0.0
        write(shown, bad, rows(self._last, ids[bad]))

    def _keep(self, shown: Any, ids: Ids) -> None:
        """Keep a copy of the last good observations, where it may be needed."""
        if not self._guard.truncates:
            return
        if len(ids) == len(self._lengths):
            self._last = rows(shown, np.argsort(ids))
        else:
            write(self._last, ids, shown)


def flattened(space: gym.Space[Any], batch: Any) -> NDArray[Any]:
    """Return ``gymnasium.spaces.flatten`` of every row of a batch, shape (n, size).

    Raises:
        UsageError: For an entry that is neither a Box, Discrete nor a Dict of those.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([flattened(sub, batch[key]) for key, sub in space.items()], axis=1)
    if isinstance(space, spaces.Box):
        return np.asarray(batch, space.dtype).reshape(len(batch), -1)
    if isinstance(space, spaces.Discrete):
        one_hot = np.eye(int(space.n), dtype=np.int64)  # Gymnasium's type
        chosen: NDArray[Any] = one_hot[np.asarray(batch) - space.start]
        return chosen
    raise UsageError(f"EnvPool: observations in {space} cannot be flattened as a batch")


def write(batch: Any, index: Any, values: Any) -> None:
    """Write some environments' part of a batch in place."""
    if isinstance(batch, dict):
        for key, value in batch.items():
            write(value, index, values[key])
    else:
        batch[index] = values


def _not_finite(shown: Any) -> NDArray[np.bool_] | None:
    """Return where observations hold NaN or infinity; None if nowhere, the common case."""
    if isinstance(shown, dict):
        parts = [part for part in map(_not_finite, shown.values()) if part is not None]
        return np.logical_or.reduce(parts) if parts else None
    if shown.dtype.kind != "f":
        return None
    finite = np.isfinite(shown)
    if finite.all():
        return None
    bad: NDArray[np.bool_] = ~finite.reshape(len(shown), -1).all(axis=1)
    return bad
