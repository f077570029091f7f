"""The stream of tasks: an Avalanche scenario whose experiences build environments."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from avalanche.benchmarks.scenarios.generic_scenario import CLScenario, EagerCLStream
from stable_baselines3.common.vec_env import VecEnv

from holdfast.continual.streams.evaluation import Played, play
from holdfast.continual.streams.experience import MeasuredExperience, StageExperience
from holdfast.continual.streams.pooled_evaluation import PooledEvalExperience
from holdfast.envs.base.fitting import TaskId
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.make import stream_spaces
from holdfast.envs.processes.pool import OnFailure, ProcessPool
from holdfast.envs.processes.process import CLOSING_S, STARTING_S
from holdfast.envs.vector import Interleaved, pooled, task_env, vectorize
from holdfast.envs.wrappers.drift import Drifting
from holdfast.envs.wrappers.robot import Slot
from holdfast.scenarios.schema.scenario import Pool, Scenario

if TYPE_CHECKING:
    from holdfast.agents.base.agent import Act


class TaskExperience(StageExperience):
    """One task at one place of the stream, with the environments to train in.

    Attributes:
        drifted: What a drift has set so far, with the step of the task.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        stage: int,
        spaces: StreamSpaces,
        slot: Slot,
        *,
        on_failure: OnFailure | None = None,
    ) -> None:
        super().__init__(scenario, seed, stage)
        order = scenario.stream_tasks
        self.drifted: list[tuple[int, dict[str, float]]] = []
        self._n_envs, self._pool = scenario.n_envs, _timed(scenario)
        self._on_failure = on_failure
        self._make_one = partial(
            task_env,
            scenario,
            order[stage],
            spaces,
            slot=slot,
            # Only this process can be told; `validate` keeps what drifts out of others.
            applied=None if self._pool.workers else self._note_drift,
        )
        self._pooled = None
        if scenario.backend == "envpool":
            self._pooled = partial(pooled, scenario, order[stage], spaces, self._n_envs, self.seed)
        self._make_each = [
            partial(task_env, scenario, index, spaces, slot=slot) for index in dict.fromkeys(order)
        ]
        stages = list(zip(order, scenario.stage_steps, strict=True))
        self._budgets = [
            sum(steps for index, steps in stages if index == task) for task in dict.fromkeys(order)
        ]

    def _note_drift(self, step: int, values: dict[str, float]) -> None:
        self.drifted.append((step, values))

    def make_env(self, *, interleaved: bool = False) -> VecEnv:
        """Return the training environments, newly built and seeded.

        Args:
            interleaved: All tasks of the stream, taking turns, instead of this one alone.
        """
        if self._pooled is not None:
            assert not interleaved  # `joint` is refused by validate
            return self._pooled()
        makers: list[Callable[[], gym.Env[Any, Any]]] = [self._make_one] * self._n_envs
        if interleaved:
            tasks = len(self._make_each)
            makers = [
                partial(Interleaved, self._make_each, self._budgets, index % tasks)
                for index in range(self._n_envs)
            ]
        if self._pool.workers:
            return ProcessPool(makers, self._pool, seed=self.seed, on_failure=self._on_failure)
        take = iter(makers)
        return vectorize(lambda: next(take)(), self._n_envs, self.seed)


def _timed(scenario: Scenario) -> Pool:
    """Return the pool's settings; a worker that times a process of its own gets a moment more."""
    pool = scenario.pool
    if all(task.python is None for task in scenario.tasks):
        return pool
    later = {
        "reset_timeout_s": pool.reset_timeout_s + STARTING_S,
        "step_timeout_s": pool.step_timeout_s + CLOSING_S + 1.0,
    }
    return pool.model_copy(update=later)


class EvalExperience(MeasuredExperience):
    """One task to be measured on; its environments are built at the first use and kept."""

    def __init__(
        self, scenario: Scenario, task_index: int, spaces: StreamSpaces, slot: Slot
    ) -> None:
        super().__init__(scenario, task_index)
        most = MOST_COPIES if self.task.python is None else MOST_PROCESSES
        copies = 1 if self.task.exclusive else min(scenario.evaluation.episodes, most)
        self._make = partial(task_env, scenario, task_index, spaces, slot=slot)
        self._copies = copies
        stages = zip(scenario.stream_tasks, scenario.stage_steps, strict=True)
        ends = accumulate(scenario.stage_steps)
        self._visits = [
            (end - steps, steps)
            for (index, steps), end in zip(stages, ends, strict=True)
            if index == task_index
        ]

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

    def show_step(self, step: int) -> None:
        """Let what drifts be as it is at this step of the stream, while the task is measured.

        Before the task's first visit it is as at its start, after a visit as at its end.
        """
        began = [(first, steps) for first, steps in self._visits if first < step]
        first, steps = began[-1] if began else (step, 0)
        for env in self.environments if self.task.drift else ():
            inner: Any = env
            while not isinstance(inner, Drifting):
                inner = inner.env
            inner.show_step(min(step - first, steps))

    def play(self, act: Act, seeds: list[int], deterministic: bool) -> list[Played]:
        """Return one episode per seed, in the environments side by side."""
        envs = self.environments
        # Seats and opponents come by turns, so that each has its share.
        is_game = self.task.opponents is not None
        turns = [{"measured": turn} if is_game else None for turn in range(len(seeds))]
        played: list[Played] = []
        for start in range(0, len(seeds), len(envs)):
            now = slice(start, start + len(envs))
            played += play(envs, act, seeds[now], deterministic, options=turns[now])
        return played

    def close(self) -> None:
        """Close the environments; they are built anew if they are asked for again."""
        for env in self.__dict__.pop("environments", []):
            env.close()


MOST_COPIES = 16
"""Evaluation environments of one task that are open at once; more episodes take turns."""

MOST_PROCESSES = 4
"""As ``MOST_COPIES``, where each is a process of another interpreter."""


def make_stream(
    scenario: Scenario,
    seed: int,
    spaces: StreamSpaces | None = None,
    *,
    on_failure: OnFailure | None = None,
) -> CLScenario[Any]:
    """Return an Avalanche scenario with the streams ``train`` and ``eval``.

    The train stream has one experience per stage, the eval stream one per task. No environment
    stays open until it is used. A supervised scenario's experiences carry data sets instead.

    Args:
        scenario: The scenario.
        seed: The cell's seed.
        spaces: What ``stream_spaces`` returned, where that is known already.
        on_failure: Takes the record of every failure of a process with training environments.

    Raises:
        ScenarioError: If the tasks' spaces differ and the scenario does not say how to align them.
    """
    if scenario.is_supervised:
        # Here: it is built on this module's neighbours, and loads data sets.
        from holdfast.continual.streams.data_stream import make_data_stream

        return make_data_stream(scenario, seed)
    if scenario.agent.policies is not None:
        from holdfast.continual.streams.team_stream import make_team_stream  # here, as above

        return make_team_stream(scenario, seed)
    spaces, slot = spaces or stream_spaces(scenario), Slot()
    train = [
        TaskExperience(scenario, seed, stage, spaces, slot, on_failure=on_failure)
        for stage in range(len(scenario.stream_tasks))
    ]
    assert scenario.backend != "auto"  # settled before anything is built
    measured: list[MeasuredExperience] = [
        PooledEvalExperience(scenario, index, spaces)
        if scenario.backend == "envpool"
        else EvalExperience(scenario, index, spaces, slot)
        for index in range(len(scenario.tasks))
    ]
    return CLScenario([EagerCLStream("train", train), EagerCLStream("eval", measured)])
