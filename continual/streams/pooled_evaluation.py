"""Evaluation on EnvPool: many episodes side by side, each with a seed of its own."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from holdfast.continual.streams.evaluation import LONGEST_EPISODE, Played, never_ends
from holdfast.continual.streams.experience import MeasuredExperience
from holdfast.envs.base.fitting import TaskId
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.envpool.batch import Batch, write
from holdfast.envs.envpool.single import rows
from holdfast.envs.vector import task_env
from holdfast.scenarios.schema.scenario import Scenario

if TYPE_CHECKING:
    from holdfast.agents.agent import Act

MOST_COPIES = 64
"""Evaluation environments of one task in one pool; more episodes take turns."""


class PooledEvalExperience(MeasuredExperience):
    """One task to be measured on in an EnvPool; see ``EvalExperience``.

    EnvPool takes its seeds when a pool is built, so every evaluation builds one, with a seed for
    each episode. An environment's trajectory depends on its own seed alone: how many run side by
    side changes nothing.
    """

    def __init__(self, scenario: Scenario, task_index: int, spaces: StreamSpaces) -> None:
        super().__init__(scenario, task_index)
        self._copies = min(scenario.evaluation.episodes, MOST_COPIES)
        self._make = partial(task_env, scenario, task_index, spaces)

    @cached_property
    def batch(self) -> Batch:
        """The copies of the task."""
        return Batch(self._make(), self.task.name)

    def open(self) -> int:
        """Return how many episodes are played side by side."""
        return self._copies

    def show_task(self, task_index: int) -> None:
        """Let the observations carry the id of ``task_index`` from the next episode on."""
        if isinstance(self.batch.env, TaskId):
            self.batch.env.index = task_index

    def play(self, act: Act, seeds: list[int], deterministic: bool) -> list[Played]:
        """Return one episode per seed."""
        try:
            return [
                result
                for start in range(0, len(seeds), self._copies)
                for result in play_pooled(
                    self.batch, act, seeds[start : start + self._copies], deterministic
                )
            ]
        finally:
            self.batch.close()  # the next evaluation builds its own; threads and models go

    def close(self) -> None:
        """Let go of the pool."""
        batch = self.__dict__.pop("batch", None)
        if batch is not None:
            batch.close()


def play_pooled(batch: Batch, act: Act, seeds: list[int], deterministic: bool) -> list[Played]:
    """Return one episode per seed, played side by side; ``play`` does the same one by one.

    Raises:
        EnvironmentFailed: If an episode does not end.
    """
    count = len(seeds)
    observations = batch.start(seeds)
    totals, lengths = np.zeros(count), np.zeros(count, dtype=int)
    succeeded: np.ndarray | None = None
    running = np.ones(count, dtype=bool)
    state, starts = None, np.ones(count, dtype=bool)
    while running.any():
        # The policy sees all to the end, so that no episode depends on the length of another; what
        # is over keeps its last observation and is not stepped.
        actions, state = act(observations, state, starts, deterministic=deterministic)
        starts = np.zeros(count, dtype=bool)
        ids = np.flatnonzero(running).astype(np.int32)
        steps = batch.step(rows(actions, ids), ids)
        write(observations, ids, steps.observations)
        totals[ids] += steps.rewards
        lengths[ids] += 1
        if steps.successes is not None:
            succeeded = np.zeros(count) if succeeded is None else succeeded
            succeeded[ids] = np.maximum(succeeded[ids], steps.successes)
        running[ids] = ~(steps.terminated | steps.truncated)
        if lengths.max() >= LONGEST_EPISODE:
            raise never_ends()
    return [
        Played(
            float(totals[i]), int(lengths[i]), None if succeeded is None else float(succeeded[i])
        )
        for i in range(count)
    ]
