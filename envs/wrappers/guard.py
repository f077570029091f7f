"""The outermost wrapper of a task: what goes wrong inside gets a name and a place."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.errors import EnvironmentFailed, HoldfastError

NAN_KEY = "holdfast.nan"

LARGEST = float(np.finfo(np.float32).max)
"""Largest reward that the buffers of agents, which are of float32, do not turn into infinity."""

# The check below multiplies by zero; np.errstate at every step would cost three times the check.
warnings.filterwarnings("ignore", "invalid value encountered in dot", RuntimeWarning, __name__)


class EnvironmentCrashed(EnvironmentFailed):
    """An environment raised an exception; a pool rebuilds it and goes on."""


class Guard(gym.Wrapper[Any, Any, Any, Any]):
    """Turns exceptions, wrong result forms and NaN into :class:`EnvironmentFailed`.

    An exception (``SystemExit`` included; not Ctrl-C) keeps its traceback as the cause. Costs about
    2 microseconds a step for a vector observation.

    Args:
        env: The environment of one task.
        task_name: Name for the error texts.
        on_nan: What a NaN or infinity in an observation or a reward does. ``error`` stops the run.
            ``truncate`` ends the episode as truncated, with the last good observation, reward 0 and
            ``info["holdfast.nan"]``, so that nothing infinite reaches a buffer. After a reset there
            is no episode to end, so that one is always an error.

    Attributes:
        truncates: Whether NaN ends an episode rather than the run.
    """

    def __init__(
        self, env: gym.Env[Any, Any], task_name: str, on_nan: Literal["error", "truncate"] = "error"
    ) -> None:
        super().__init__(env)
        self._task_name = task_name
        self.truncates = on_nan == "truncate"
        self._finite = _finite_check(env.observation_space)
        self._note = ""
        self._step = 0  # of the current episode
        self._last: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; see the class for what is refused."""
        self._step = 0
        self._enter()
        try:
            result: Any = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            self._fail(f"reset(seed={seed})", error)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise EnvironmentFailed(
                f"task '{self._task_name}': reset() returned {_form(result)}, not (observation, "
                "info): the API of the old gym; `holdfast check-env` says what to change"
            )
        try:
            is_finite = self._finite(result[0])
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            place = f"task '{self._task_name}', reset(seed={seed})"
            raise EnvironmentFailed(f"{place}: {self._unread(result[0])}") from error
        if not is_finite:
            raise EnvironmentFailed(f"{self.not_finite(result[0], 0.0)}, returned by reset()")
        if self.truncates:
            self._last = copied(result[0])
        AT_WORK.check(f"task '{self._task_name}', reset(seed={seed})")
        return result[0], result[1]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; see the class for what is refused or truncated."""
        self._step += 1
        if AT_WORK.note is not self._note:
            self._enter()
        try:
            result: Any = self.env.step(action)
        except (Exception, SystemExit) as error:
            self._fail(f"step {self._step}, action {_short(action)}", error)
        try:
            observation, reward, terminated, truncated, info = result
            if self._finite(observation) and math.fabs(reward) <= LARGEST:
                if self.truncates:
                    self._last = copied(observation)
                if terminated or truncated:
                    AT_WORK.check(f"task '{self._task_name}', step {self._step}")
                return observation, reward, terminated, truncated, info
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise self._malformed(result, action) from error
        if not self.truncates:
            place = self.place(self._step, action)
            raise EnvironmentFailed(f"{self.not_finite(observation, reward)}, {place}")
        return copied(self._last), 0.0, False, True, {**info, NAN_KEY: True}

    def close(self) -> None:
        """Close the environment."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            self._fail("close()", error)

    def _enter(self) -> None:
        """Note that this environment is at work, for whoever finds the process dead.

        Copies of an environment have one note. To write it whenever another copy steps was a tenth
        of a cell of the quickstart, as profiled.
        """
        if not self._note:
            spec = self.env.unwrapped.spec
            name = spec.id if spec is not None else type(self.env.unwrapped).__name__
            self._note = sys.intern(f"task '{self._task_name}' ({name})")
        AT_WORK.enter(self._note)

    def _fail(self, place: str, error: BaseException) -> NoReturn:
        """Raise what the environment raised, with a name and a place."""
        AT_WORK.end_copy()
        if isinstance(error, EnvironmentCrashed):  # in a process of its own
            raise EnvironmentCrashed(f"task '{self._task_name}', {place}: {error}") from None
        if isinstance(error, HoldfastError):
            raise error
        hint = ""
        if isinstance(error, ValueError | TypeError) and "unpack" in str(error):
            hint = (
                "; an environment that returns another number of values than Gymnasium asks for "
                "(the old gym did) fails so: `holdfast check-env` tells"
            )
        raise EnvironmentCrashed(
            f"task '{self._task_name}', {place}: {type(error).__name__}: {error}{hint}"
        ) from error

    def _malformed(self, result: Any, action: Any) -> EnvironmentFailed:
        text = f"task '{self._task_name}', step {self._step}, action {_short(action)}: "
        if not isinstance(result, tuple) or len(result) != 5:
            return EnvironmentFailed(
                f"{text}step() returned {_form(result)}, not (observation, reward, terminated, "
                "truncated, info): the API of the old gym; `holdfast check-env` says what to change"
            )
        return EnvironmentFailed(text + self._unread(result[0], result[1]))

    def _unread(self, observation: Any, reward: Any = 0.0) -> str:
        """Return why an observation or a reward cannot be read."""
        space = self.env.observation_space
        why = misfit(observation, space)
        if why or isinstance(reward, int | float):
            shown = f"cannot read the observation {_short(observation)}"
            return f"{shown}: {why}; the observation space is {space}" if why else shown
        return f"cannot read the reward {_short(reward)}; a reward is one number"

    @staticmethod
    def place(step: int, action: Any) -> str:
        """Return where in an episode something was not finite, and what else could be done."""
        return (
            f"at step {step} of an episode, action {_short(action)}; "
            "`on_nan: truncate` would end the episode there instead"
        )

    def not_finite(self, observation: Any, reward: Any) -> str:
        """Return which entry of an observation, or that the reward, is NaN or infinite."""
        found = [
            f"{key} is {values}" for key, values in bad_entries(observation, "observation")
        ] or [f"reward is {reward}{beyond(reward)}"]
        return f"task '{self._task_name}' ({self.env.unwrapped}): {'; '.join(found)}"


def beyond(reward: Any) -> str:
    """Return why a finite reward is refused; empty for one that is not finite."""
    return ", too large for float32" if math.isfinite(reward) else ""


def bad_entries(observation: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the values of every part of an observation that holds NaN or infinity."""
    if isinstance(observation, dict):
        for name, entry in observation.items():
            yield from bad_entries(entry, f"{key}['{name}']")
    elif isinstance(observation, tuple):
        for index, entry in enumerate(observation):
            yield from bad_entries(entry, f"{key}[{index}]")
    else:
        values = np.asarray(observation)
        if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            place = f"{key}[{', '.join(map(str, where))}]" if where else key
            yield place, str(values[where])


def _finite_check(space: gym.Space[Any]) -> Callable[[Any], bool]:
    """Return the quickest function that tells whether an observation of this space is finite.

    Raises inside the function (those caught in Guard.step) mean: not of this space.
    """
    if isinstance(space, spaces.Box):
        shape = space.shape
        if not np.issubdtype(space.dtype, np.floating):
            return lambda observation: _has_shape(observation, shape)
        zeros = np.zeros(int(np.prod(shape)), space.dtype)
        flat = _itself if len(shape) == 1 else np.ravel

        def box_is_finite(observation: Any) -> bool:
            # A product with zeros is zero unless something is NaN or infinite, and unlike a sum or
            # a sum of squares it cannot overflow. A third of the time of np.isfinite(...).all().
            if observation.shape != shape:
                raise ValueError(observation.shape)
            try:
                return math.isfinite(flat(observation).dot(zeros))
            except RuntimeWarning:  # infinity times zero, where warnings are errors
                return False

        return box_is_finite
    if isinstance(space, spaces.Dict):
        checks = [(key, _finite_check(entry)) for key, entry in space.spaces.items()]
        return lambda observation: all(check(observation[key]) for key, check in checks)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return lambda _: True  # whole numbers are always finite
    return lambda observation: not any(bad_entries(observation, ""))


def misfit(observation: Any, space: gym.Space[Any]) -> str:
    """Return in what form an observation differs from its space; empty where it does not."""
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict):
            return f"it is a {type(observation).__name__}, not a dict"
        for key, entry in space.spaces.items():
            if key not in observation:
                return f"its key '{key}' is missing"
            if inside := misfit(observation[key], entry):
                return f"of its key '{key}', {inside}"
    elif isinstance(space, spaces.Box):
        if not hasattr(observation, "shape"):
            kind = type(observation).__name__
            return f"it is a {kind}, not an array; return np.array(..., np.{space.dtype})"
        if observation.shape != space.shape:
            return f"its shape is {observation.shape}, not {space.shape}"
    return ""


def _itself(observation: Any) -> Any:
    return observation


def _has_shape(observation: Any, shape: tuple[int, ...]) -> bool:
    if observation.shape != shape:
        raise ValueError(observation.shape)
    return True


def copied(observation: Any) -> Any:
    """Return a copy, because environments may write the next observation into the same array."""
    if isinstance(observation, dict):
        return {key: copied(entry) for key, entry in observation.items()}
    return observation.copy() if isinstance(observation, np.ndarray) else observation


def _form(result: Any) -> str:
    if isinstance(result, tuple):
        return f"a tuple of {len(result)}"
    return f"a {type(result).__name__}"


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, np.ndarray) else str(value.tolist())
    return text if len(text) <= 200 else f"{text[:200]}..."
