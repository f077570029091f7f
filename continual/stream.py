"""The stream of tasks: an Avalanche scenario whose experiences build environments."""

from __future__ import annotations

import itertools
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from avalanche.benchmarks.scenarios.generic_scenario import (
    CLExperience,
    CLScenario,
    EagerCLStream,
)
from stable_baselines3.common.vec_env import VecEnv

from holdfast import seeding
from holdfast.continual.evaluate import Played, play
from holdfast.continual.pooled_evaluation import PooledEvalExperience
from holdfast.envs.exclusive import Slot
from holdfast.envs.interleaved import Interleaved
from holdfast.envs.spaces import StreamSpaces, TaskId, stream_spaces
from holdfast.envs.vector import pooled, task_env, vectorize
from holdfast.scenarios.schema import Scenario, Task

if TYPE_CHECKING:
    from holdfast.agents.agent import Act


class TaskExperience(CLExperience):  # type: ignore[misc]  # Avalanche ships no types
    """One task at one place of the stream.

    What the scenario hides from the learner (``task_index`` and ``task_count``) is masked by
    Avalanche's own mechanism in the copy that ``train()`` returns.

    Attributes:
        stage: Position in the stream, from 0.
        task: The task itself.
        task_index: Which task of the scenario; the same number when it comes again.
        task_count: Length of the stream.
        steps: Budget of environment steps.
        first_step: Environment steps of the stream before this experience.
        seed: Seed of the agent and of the training environments.
    """

    def __init__(
        self, scenario: Scenario, seed: int, stage: int, spaces: StreamSpaces, slot: Slot
    ) -> None:
        super().__init__(stage, None)
        order = scenario.stream_tasks
        self.stage = stage
        self.task_index = order[stage]
        self.task_count = len(order)
        self.task: Task = scenario.tasks[order[stage]]
        self.steps: int = self.task.steps
        self.first_step = sum(scenario.tasks[index].steps for index in order[:stage])
        self.seed = seeding.task_seed(seed, stage)
        self._cell_seed = seed
        self._n_envs = scenario.n_envs
        self._make_one = partial(task_env, scenario, order[stage], spaces, slot=slot)
        self._pooled = None
        if scenario.backend == "envpool":
            self._pooled = partial(pooled, scenario, order[stage], spaces, self._n_envs, self.seed)
        self._make_each = [
            partial(task_env, scenario, index, spaces, slot=slot) for index in dict.fromkeys(order)
        ]
        self._budgets = [
            order.count(index) * scenario.tasks[index].steps for index in dict.fromkeys(order)
        ]
        self._as_attributes("task_index", use_in_train=scenario.stream.task_id != "hidden")
        self._as_attributes("task_count", use_in_train=scenario.stream.task_count == "known")

    def make_env(self, *, interleaved: bool = False) -> VecEnv:
        """Return the training environments, newly built and seeded.

        Args:
            interleaved: All tasks of the stream, taking turns, instead of this one alone.
        """
        if self._pooled is not None:
            assert not interleaved  # `joint` is refused by validate
            return self._pooled()
        if not interleaved:
            return vectorize(self._make_one, self._n_envs, self.seed)
        first = itertools.cycle(range(len(self._make_each)))
        return vectorize(
            lambda: Interleaved(self._make_each, self._budgets, next(first)),
            self._n_envs,
            self.seed,
        )

    def generator(self, *names: str) -> np.random.Generator:
        """Return this task's generator for a method, by name; the same after a restart."""
        return seeding.generator(self._cell_seed, "method", *names, self.stage)


class EvalExperience(CLExperience):  # type: ignore[misc]  # Avalanche ships no types
    """One task to be measured on; its environments are built at the first use and kept.

    Attributes:
        task: The task.
        task_index: Which task of the scenario.
    """

    def __init__(
        self, scenario: Scenario, task_index: int, spaces: StreamSpaces, slot: Slot
    ) -> None:
        super().__init__(task_index, None)
        self.task_index = task_index
        self.task: Task = scenario.tasks[task_index]
        copies = 1 if self.task.exclusive else min(scenario.evaluation.episodes, MOST_COPIES)
        self._make = partial(task_env, scenario, task_index, spaces, slot=slot)
        self._copies = copies

    @cached_property
    def environments(self) -> list[gym.Env[Any, Any]]:
        """Environments to be stepped side by side, one episode in each."""
        return [self._make() for _ in range(self._copies)]

    def open(self) -> int:
        """Build the environments where they are not open, and return how many there are."""
        return len(self.environments)

    def show_task(self, task_index: int) -> None:
        """Let the observations carry the id of ``task_index`` from the next episode on."""
        for env in self.environments:
            if isinstance(env, TaskId):
                env.index = task_index

    def play(self, act: Act, seeds: list[int], deterministic: bool) -> list[Played]:
        """Return one episode per seed, in the environments side by side."""
        envs = self.environments
        return [
            result
            for start in range(0, len(seeds), len(envs))
            for result in play(envs, act, seeds[start : start + len(envs)], deterministic)
        ]

    def close(self) -> None:
        """Close the environments; they are built anew if they are asked for again."""
        for env in self.__dict__.pop("environments", []):
            env.close()


MOST_COPIES = 16
"""Evaluation environments of one task that are open at once; more episodes take turns."""


def make_stream(
    scenario: Scenario, seed: int, spaces: StreamSpaces | None = None
) -> CLScenario[Any]:
    """Return an Avalanche scenario with the streams ``train`` and ``eval``.

    The train stream has one experience per stage, the eval stream one per task. No environment
    stays open until it is used. A supervised scenario's experiences carry data sets instead.

    Args:
        scenario: The scenario.
        seed: The cell's seed.
        spaces: What ``stream_spaces`` returned, where that is known already.

    Raises:
        ScenarioError: If the tasks' spaces differ and the scenario does not say how to align them.
    """
    if scenario.is_supervised:
        # Here: it is built on this module's neighbours, and loads data sets.
        from holdfast.continual.data_stream import make_data_stream

        return make_data_stream(scenario, seed)
    spaces, slot = spaces or stream_spaces(scenario), Slot()
    train = [
        TaskExperience(scenario, seed, stage, spaces, slot)
        for stage in range(len(scenario.stream_tasks))
    ]
    assert scenario.backend != "auto"  # settled before anything is built
    measured: list[CLExperience] = [
        PooledEvalExperience(scenario, index, spaces)
        if scenario.backend == "envpool"
        else EvalExperience(scenario, index, spaces, slot)
        for index in range(len(scenario.tasks))
    ]
    return CLScenario([EagerCLStream("train", train), EagerCLStream("eval", measured)])
