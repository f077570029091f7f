"""Changes between the environment's observation and the agent's: each a small wrapper.

Their ``observation`` methods take batches too, with further dimensions in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from holdfast.errors import UsageError
from holdfast.seeding import generator


def permutation(order: Sequence[int], count: int, key: str, noun: str) -> NDArray[np.intp]:
    """Return an order as indices.

    Raises:
        UsageError: It does not hold every number below ``count`` once.
    """
    if sorted(order) != list(range(count)):
        raise UsageError(
            f"changes.{key}: must hold every {noun} from 0 to {count - 1} once, got {list(order)}"
        )
    return np.array(order, dtype=np.intp)


def check_among(entries: Sequence[int], first: int, last: int, key: str, nouns: str) -> None:
    """Raise UsageError for the first entry that is not between two others."""
    for entry in entries:
        if not first <= entry <= last:
            raise UsageError(f"changes.{key}: {entry} is not one of the {nouns}, {first} to {last}")


def vector(space: gym.Space[Any], key: str, what: str) -> Box:
    """Return a space that is a one-dimensional Box, or raise UsageError."""
    if isinstance(space, Box) and len(space.shape) == 1:
        return space
    raise UsageError(f"changes.{key}: needs a vector of {what}, but they are {space}")


class ObservationNoise(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds Gaussian noise to observations; ``reset(seed=...)`` reseeds it.

    What leaves a bounded Box is cut at the bound, so that the space stays the one that the other
    tasks of a stream have. Whole-number observations (images) are rounded.

    Args:
        env: The environment to change.
        std: Standard deviation, in units of the observation.
    """

    def __init__(self, env: gym.Env[Any, Any], std: float) -> None:
        RecordConstructorArgs.__init__(self, std=std)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, Box):
            raise UsageError(
                f"changes.observation_noise: needs observations in a Box, but they are {space}"
            )
        self._low, self._high, self._dtype = space.low, space.high, space.dtype
        self._whole = not np.issubdtype(space.dtype, np.floating)
        self._std = std
        # Unseeded until reset(seed=...), as environments are.
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and the noise where a seed is given."""
        if seed is not None:
            self._rng = self.generator(seed)
        observation, info = self.env.reset(seed=seed, **kwargs)
        return self.noisy(observation, self._rng), info

    def step(self, action: Any) -> Any:
        """Step the environment and return what a noisy sensor would show."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        noisy = self.noisy(observation, self._rng)
        return noisy, reward, terminated, truncated, info

    @staticmethod
    def generator(seed: int) -> np.random.Generator:
        """Return the generator that ``reset(seed=...)`` makes."""
        return generator(seed, "observation_noise")

    def noisy(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return one observation as a noisy sensor would show it."""
        noisy = observation + self._std * rng.standard_normal(observation.shape)
        if self._whole:
            noisy = np.rint(noisy)
        return np.minimum(np.maximum(noisy, self._low), self._high).astype(self._dtype)


class ObservationOffset(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Adds the same numbers to every observation, as sensors that are off; the bounds move along.

    Args:
        env: The environment to change.
        offset: One number for all entries, or one for each, in units of the observation.
    """

    def __init__(self, env: gym.Env[Any, Any], offset: float | Sequence[float]) -> None:
        RecordConstructorArgs.__init__(self, offset=offset)
        gym.ObservationWrapper.__init__(self, env)
        space = vector(env.observation_space, "observation_offset", "observations")
        if not np.issubdtype(space.dtype, np.floating):
            raise UsageError(
                f"changes.observation_offset: needs observations of fractions, but they are {space}"
            )
        numbers = np.atleast_1d(np.asarray(offset, dtype=space.dtype))
        if len(numbers) not in (1, space.shape[0]):
            raise UsageError(
                "changes.observation_offset: must be one number, or one for each of "
                f"{space.shape[0]} entries, got {len(numbers)}"
            )
        self._offset = np.broadcast_to(numbers, space.shape)
        self.observation_space = Box(
            space.low + self._offset, space.high + self._offset, dtype=space.dtype.type
        )

    def observation(self, observation: Any) -> Any:
        """Return the observation with the offset added."""
        return observation + self._offset  # (..., entries)


class ObservationPermutation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Shows the entries of the observation in another order; the bounds move along.

    Args:
        env: The environment to change.
        order: The agent's entry ``i`` is the environment's entry ``order[i]``.
    """

    def __init__(self, env: gym.Env[Any, Any], order: Sequence[int]) -> None:
        RecordConstructorArgs.__init__(self, order=order)
        gym.ObservationWrapper.__init__(self, env)
        space = vector(env.observation_space, "observation_permutation", "observations")
        self._order = permutation(order, space.shape[0], "observation_permutation", "entry")
        self.observation_space = Box(
            space.low[self._order], space.high[self._order], dtype=space.dtype.type
        )

    def observation(self, observation: Any) -> Any:
        """Return the entries in the agent's order."""
        return observation[..., self._order]  # (..., entries)


class ObservationMask(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Sets some entries of the observation to zero, as a sensor that is unplugged.

    The space keeps its bounds, widened to hold zero where they did not.

    Args:
        env: The environment to change.
        indices: Entries to set to zero, counted after any ``observation_permutation``.
    """

    def __init__(self, env: gym.Env[Any, Any], indices: Sequence[int]) -> None:
        RecordConstructorArgs.__init__(self, indices=indices)
        gym.ObservationWrapper.__init__(self, env)
        space = vector(env.observation_space, "observation_mask", "observations")
        last = space.shape[0] - 1
        check_among(indices, 0, last, "observation_mask", "observation's entries")
        self._masked = np.array(indices, dtype=np.intp)
        low, high = space.low.copy(), space.high.copy()
        low[self._masked] = np.minimum(low[self._masked], 0)
        high[self._masked] = np.maximum(high[self._masked], 0)
        self.observation_space = Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: Any) -> Any:
        """Return a copy of the observation with the masked entries at zero."""
        masked = np.array(observation)
        masked[..., self._masked] = 0
        return masked
