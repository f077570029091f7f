"""An environment that exists once, such as a robot: at most one instance is open at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from holdfast.errors import EnvironmentFailed
from holdfast.seeding import derive


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

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Take the slot if another one has it, then reset.

        An instance that was built anew has lost its random state; without a seed given it gets one
        derived from the last, so that runs stay repeatable.
        """
        rebuilt = self._slot.holder is not self
        if rebuilt:
            self.env = self._take()
        if seed is not None:
            self._seed = seed
        elif rebuilt and self._seed is not None:
            seed = derive(self._seed, "exclusive", self._builds)
        return self.env.reset(seed=seed, options=options)

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
