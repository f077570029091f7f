"""All tasks of a stream in one environment, an episode of each in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from holdfast.seeding import derive


class Interleaved(gym.Env[Any, Any]):
    """Plays an episode of the task that has had the smallest part of its budget so far.

    Episodes differ in length, so turns are counted in steps. Each task's environment is built when
    its first turn comes.

    Args:
        makers: Build the environment of each task; their spaces are equal.
        budgets: Steps that each task is to get, in proportion.
        first: Task of the first episode, so that several such environments start differently.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        budgets: Sequence[int],
        first: int = 0,
    ) -> None:
        self._makers, self._budgets = makers, budgets
        self._envs: dict[int, gym.Env[Any, Any]] = {}
        self._steps = [0] * len(makers)
        self._turn, self._next = first, first
        self._seed: int | None = None
        self._env = self._open(first)
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space
        self.metadata = self._env.metadata

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the next task; each task has its own stream of random numbers."""
        if seed is not None:
            self._seed = seed
            for env in self._envs.values():
                env.close()
            self._envs.clear()
        self._turn = self._next
        is_new = self._turn not in self._envs
        self._env = self._open(self._turn)
        own = derive(self._seed, "interleaved", self._turn) if self._seed is not None else None
        return self._env.reset(seed=own if is_new else None, options=options)

    def step(self, action: Any) -> Any:
        """Step the task whose episode it is."""
        result = self._env.step(action)
        self._steps[self._turn] += 1
        if result[2] or result[3]:
            parts = [s / b for s, b in zip(self._steps, self._budgets, strict=True)]
            self._next = parts.index(min(parts))
        return result

    def close(self) -> None:
        """Close every environment that was built."""
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def __getattr__(self, name: str) -> Any:
        """Ask the task whose episode it is for what else it has, such as its action masks."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self._env.get_wrapper_attr(name)

    def _open(self, index: int) -> gym.Env[Any, Any]:
        if index not in self._envs:
            self._envs[index] = self._makers[index]()
        return self._envs[index]
