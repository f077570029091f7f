"""Environments of a stream together: side by side, in a pool, or one task after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from holdfast.envs.base.fitting import fit
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.endless import World
from holdfast.envs.make import make_env
from holdfast.envs.wrappers.drift import Applied
from holdfast.envs.wrappers.robot import ExclusiveEnv, Slot
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.seeding import derive

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from holdfast.envs.multiagent.players import FrozenPlayers


def task_env(
    scenario: Scenario,
    task_index: int,
    spaces: StreamSpaces,
    *,
    slot: Slot | None = None,
    render_mode: str | None = None,
    applied: Applied | None = None,
    frozen: FrozenPlayers | None = None,
    taken: int = 0,
) -> gym.Env[Any, Any]:
    """Return a new environment as the agent sees it in this task: made, fitted to the stream.

    Args:
        scenario: The scenario.
        task_index: Which of ``scenario.tasks``.
        spaces: What :func:`~holdfast.envs.make.stream_spaces` returned.
        slot: Shared by the exclusive environments of a run; needed where the task is exclusive and
            more than one environment is built in the run.
        render_mode: For example ``rgb_array``; None renders nothing.
        applied: Called with what a drift sets.
        frozen: Finds opponents that earlier runs left.
        taken: Steps of the task that an environment in its place has taken before.
    """
    task = scenario.tasks[task_index]
    make = partial(
        make_env,
        scenario,
        task,
        render_mode=render_mode,
        n_envs=scenario.n_envs,
        applied=applied,
        taken=taken,
    )
    env = ExclusiveEnv(make, slot or Slot()) if task.exclusive else make()
    env = fit(env, spaces, scenario, task_index)
    if task.opponents is not None:
        # Here: only games need PettingZoo.
        from holdfast.envs.multiagent.self_play import SelfPlay, View

        assert isinstance(env.unwrapped, SelfPlay)
        env.unwrapped.view = View(env)  # past selves see the game as the learner does
        env.unwrapped.frozen = frozen
    return env


def vectorize(make_one: Callable[[], gym.Env[Any, Any]], n_envs: int, seed: int) -> VecEnv:
    """Return ``n_envs`` environments in one process, monitored and seeded as plain SB3 does it.

    The first reset gives environment ``i`` the seed ``seed + i``; later ones give none. If one of
    the constructors fails, those that were built before it are closed.

    Args:
        make_one: Builds a new environment at every call.
        n_envs: How many.
        seed: Seed of the first one.
    """
    from stable_baselines3.common.env_util import make_vec_env  # here: it imports torch

    built: list[gym.Env[Any, Any]] = []

    def make_and_keep() -> gym.Env[Any, Any]:
        built.append(make_one())
        return built[-1]

    try:
        return make_vec_env(make_and_keep, n_envs=n_envs, seed=seed)
    except BaseException:
        for env in built:
            env.close()
        raise


def pooled(
    scenario: Scenario, task_index: int, spaces: StreamSpaces, n_envs: int, seed: int
) -> VecEnv:
    """Return ``n_envs`` environments of a task in an EnvPool, seeded as ``vectorize`` does it.

    Raises:
        UsageError: The task has something that EnvPool cannot take; see ``envs/envpool/batch.py``.
    """
    # Here: it imports torch, and most scenarios do not need it.
    from holdfast.envs.envpool.vector import EnvPoolVector

    env = task_env(scenario, task_index, spaces)
    return EnvPoolVector(env, n_envs, seed, scenario.tasks[task_index].name)


class Successive(gym.Wrapper[Any, Any, Any, Any]):
    """Replaces itself by the next world after some steps: its episode is truncated there.

    The next world is built and seeded at the reset that follows, as ``vectorize`` would do it. The
    spaces stay those of the first world, and with them the generator that an agent draws from.

    Args:
        worlds: One after another; the last one stays.
        index: Which of the environments side by side this is.
    """

    def __init__(self, worlds: Sequence[World], index: int) -> None:
        self._worlds, self._index = list(worlds), index
        super().__init__(self._worlds[0].make())
        self.action_space, self.observation_space = self.action_space, self.observation_space
        self._steps = 0

    @property
    def _is_over(self) -> bool:
        return len(self._worlds) > 1 and self._steps >= self._worlds[0].steps

    def step(self, action: Any) -> Any:
        """Step the world; its last step truncates the episode."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return observation, reward, terminated, truncated or self._is_over, info

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> Any:
        """Begin an episode, of the next world where it is its turn."""
        if self._is_over:
            before: Any = self.env
            before.close()
            self._worlds.pop(0)
            given = {"taken": before.turns()} if self._worlds[0].takes_over else {}
            self.env, self._steps = self._worlds[0].make(**given), 0
            seed = self._worlds[0].seed + self._index
            self.env.action_space.seed(seed)
        return self.env.reset(seed=seed, **kwargs)


class Interleaved(gym.Env[Any, Any]):
    """Plays an episode of the task that has had the smallest part of its budget so far.

    Episodes differ in length, so turns are counted in steps. Each task's environment is built when
    its first turn comes.

    Args:
        makers: Build the environment of each task; their spaces are equal.
        budgets: Steps that each task is to get, in proportion.
        first: Task of the first episode, so that several such environments start differently.
        taken: Steps that each task has had before, as ``turns`` told them; None where none has.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        budgets: Sequence[int],
        first: int = 0,
        *,
        taken: Sequence[int] | None = None,
    ) -> None:
        self._makers, self._budgets = makers, budgets
        self._envs: dict[int, gym.Env[Any, Any]] = {}
        self._steps = [0] * len(makers) if taken is None else list(taken)
        self._next = first if taken is None else self._least()
        self._turn = self._next
        self._seed: int | None = None
        self._env = self._open(self._turn)
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space
        self.metadata = self._env.metadata

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the next task; each task has its own stream of random numbers."""
        if seed is not None:
            self._seed = seed
            self.close()
        self._turn = self._next
        is_new = self._turn not in self._envs
        self._env = self._open(self._turn)
        own = derive(self._seed, "interleaved", self._turn) if self._seed is not None else None
        return self._env.reset(seed=own if is_new else None, **kwargs)

    def step(self, action: Any) -> Any:
        """Step the task whose episode it is."""
        result = self._env.step(action)
        self._steps[self._turn] += 1
        if result[2] or result[3]:
            self._next = self._least()
        return result

    def turns(self) -> list[int]:
        """Return the steps that each task has had so far."""
        return list(self._steps)

    def _least(self) -> int:
        """Return the task that has had the smallest part of its budget."""
        parts = [s / b for s, b in zip(self._steps, self._budgets, strict=True)]
        return parts.index(min(parts))

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
