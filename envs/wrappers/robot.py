"""Robots: one instance is open at a time, it is stepped at a control rate and brought to rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from holdfast.errors import EnvironmentFailed
from holdfast.seeding import derive

LATE_KEY = "holdfast.late_s"
"""Key of an info: seconds by which a step came too late for its tick."""


class Slot:
    """The place that one environment at a time may hold; share one among those that exclude others.

    Attributes:
        holder: The environment that is open now, or None.
    """

    def __init__(self) -> None:
        self.holder: ExclusiveEnv | None = None


class ExclusiveEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Stands for an environment that is built when it is needed and closed when another one is.

    Building it (its spaces must be known) and ``reset`` take the slot: what another holder had open
    is closed, and this one builds its own. Stepping one that lost the slot is refused, so that an
    evaluation in the middle of an episode cannot go unnoticed.

    A robot is brought to rest by the method ``stop`` of its class, where it has one: before it is
    closed, and at once when a step fails or is interrupted.

    Args:
        make: Builds the environment.
        slot: Shared by all environments of which one may be open.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], slot: Slot) -> None:
        self._make = make
        self._slot = slot
        self._seed: int | None = None
        self._builds = 0
        super().__init__(self._take())

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Take the slot if another one has it, then reset.

        A rebuilt instance has lost its random state; without a seed given it gets one
        derived from the last, so that runs stay repeatable.
        """
        rebuilt = self._slot.holder is not self
        if rebuilt:
            self.env = self._take()
        if seed is not None:
            self._seed = seed
        elif rebuilt and self._seed is not None:
            seed = derive(self._seed, "exclusive", self._builds)
        return self.env.reset(seed=seed, **kwargs)

    def step(self, action: Any) -> Any:
        """Step the environment; refused if another one has taken the slot since the last reset."""
        if self._slot.holder is not self:
            raise EnvironmentFailed(
                f"{self.env} is exclusive and was closed for another one in the middle of an "
                "episode; evaluate between tasks only (evaluation.every: null)"
            )
        try:
            return self.env.step(action)
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        """Close the environment, if it is open, and leave the slot."""
        if self._slot.holder is self:
            self._slot.holder = None
            try:
                self._stop()
            finally:
                self.env.close()

    def _stop(self) -> None:
        """Bring a robot to rest, where its class has a method ``stop``."""
        stop = getattr(self.env.unwrapped, "stop", None)
        if callable(stop):
            stop()

    def _take(self) -> gym.Env[Any, Any]:
        if self._slot.holder is not None:
            self._slot.holder.close()
        env = self._make()
        self._slot.holder = self
        self._builds += 1
        return env


class Paced(gym.Wrapper[Any, Any, Any, Any]):
    """Begins its steps at a fixed rate of wall-clock time.

    A step waits for its tick. One that comes too late begins at once, its info holds under
    ``holdfast.late_s`` by how many seconds it was late, and the ticks after it are counted from it:
    lost time is not caught up, which would drive a robot faster than it can be controlled.

    Args:
        env: The environment.
        rate: Steps per second.
    """

    def __init__(self, env: gym.Env[Any, Any], rate: float) -> None:
        super().__init__(env)
        self._period = 1.0 / rate
        self._tick: float | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the first tick is its first step."""
        self._tick = None
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment at its tick."""
        now = time.monotonic()
        late = 0.0
        if self._tick is not None and now < self._tick:
            time.sleep(self._tick - now)
            self._tick += self._period
        else:
            late = now - self._tick if self._tick is not None else 0.0
            self._tick = now + self._period
        observation, reward, terminated, truncated, info = self.env.step(action)
        if late > 0.0:
            info = {**info, LATE_KEY: late}
        return observation, reward, terminated, truncated, info
