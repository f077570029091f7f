"""Rollouts of a run's policies in its tasks, from the start of an episode or from its middle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast import seeding
from holdfast.continual.probes import world_state
from holdfast.continual.probes.world_state import State
from holdfast.scenarios.schema.observation_keys import MASKS
from holdfast.scenarios.schema.scenario import Scenario


class Point(NamedTuple):
    """A state of the recording.

    Attributes:
        row: The episode.
        step: Of the episode.
    """

    row: int
    step: int


class Met(NamedTuple):
    """A state as it was met.

    Attributes:
        observation: As the agent saw it.
        shown: As the environment itself showed it.
        state: The environment's.
    """

    observation: Any
    shown: Any
    state: State


class Recording(NamedTuple):
    """Evaluation episodes, played again.

    Attributes:
        rewards: Of each episode.
        actions: Of each episode.
        met: The states that were asked for.
    """

    rewards: list[list[float]]
    actions: list[list[Any]]
    met: dict[Point, Met]


class Rows:
    """Environments in the middle of episodes, one for each row; ``Copies`` of a task.

    Args:
        envs: The environments.
        observations: What each shows.
        steps: How many each has taken.
        most_steps: Steps after which an episode is cut.
        first: Actions that are taken first, in place of the policy's.

    Attributes:
        rewards: Of each row so far.
        actions: Of each row so far.
    """

    def __init__(
        self,
        envs: Sequence[Any],
        observations: Sequence[Any],
        steps: Sequence[int],
        most_steps: int,
        *,
        first: NDArray[Any] | None = None,
    ) -> None:
        self.envs, self._latest, self._steps = envs, list(observations), list(steps)
        self._most_steps, self._first = most_steps, first
        self.rewards: list[list[float]] = [[] for _ in envs]
        self.actions: list[list[Any]] = [[] for _ in envs]

    def observations(self) -> Any:
        """Return the latest observation of every row."""
        if isinstance(self._latest[0], dict):
            return {key: np.stack([one[key] for one in self._latest]) for key in self._latest[0]}
        return np.stack(self._latest)

    def masks(self) -> NDArray[np.bool_] | None:
        """Return the allowed actions of every row; None where the task has no masks."""
        if not self.envs[0].has_wrapper_attr(MASKS):
            return None
        return np.stack([env.get_wrapper_attr(MASKS)() for env in self.envs])

    def step(self, actions: NDArray[Any], ids: NDArray[np.int32]) -> Any:
        """Step some of the rows."""
        from holdfast.continual.streams.evaluation import Stepped

        actions, self._first = (actions if self._first is None else self._first), None
        over = []
        for i in ids:
            self.before(i)
            self.actions[i].append(np.copy(actions[i]))
            seen, reward, terminated, truncated, _ = self.envs[i].step(actions[i])
            self._latest[i] = seen
            self._steps[i] += 1
            self.rewards[i].append(float(reward))
            over.append(bool(terminated or truncated or self._steps[i] >= self._most_steps))
        rewards = np.array([self.rewards[i][-1] for i in ids])
        none = np.full(len(ids), np.nan)
        return Stepped(rewards, np.array(over), none, none, [None] * len(ids))

    def before(self, row: int) -> None:
        """Be told that a row is stepped next."""


class World:
    """Environments of a task, one for each row, and how their states are reached.

    Args:
        scenario: With the task as it is in this world.
        index: The task.
        spaces: Of the stream.
        seeds: Of the episodes, one for each row.
        shown: Task whose id the policy is shown.
    """

    def __init__(
        self, scenario: Scenario, index: int, spaces: Any, seeds: Sequence[int], shown: int
    ) -> None:
        from holdfast.envs.base.fitting import TaskId
        from holdfast.envs.vector import task_env

        self.seeds = seeds
        self.envs = [task_env(scenario, index, spaces) for _ in seeds]
        self.taps = [world_state.tapped(env) for env in self.envs]
        for env in self.envs:
            if isinstance(env, TaskId):
                env.index = shown

    def begun(self) -> list[Any]:
        """Return what each row shows at the start of its episode."""
        pairs = zip(self.envs, self.seeds, strict=True)
        return [env.reset(seed=seed)[0] for env, seed in pairs]

    def at(self, points: Sequence[Point], tape: Recording, *, by_actions: bool) -> list[Any]:
        """Bring every row to a state of its episode, and return what each shows.

        Args:
            points: One for each row, in order.
            tape: The recording.
            by_actions: Take the recorded actions again rather than put the state back.
        """
        shown = self.begun()
        for row, point in enumerate(points):
            met = tape.met[point]
            if not by_actions:
                world_state.put(self.envs[row], met.state)
                shown[row] = copied(met.observation)
                continue
            for action in tape.actions[row][: point.step]:
                shown[row] = self.envs[row].step(action)[0]
        return shown

    def elsewhere(self, points: Sequence[Point], tape: Recording) -> list[Any]:
        """Bring every row of another world to a state, and return what each shows."""
        self.begun()
        shown = []
        for row, point in enumerate(points):
            met, tap = tape.met[point], self.taps[row]
            put = world_state.put_elsewhere
            shown.append(put(self.envs[row], met.state, tap, copied(met.shown)))
        return shown

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


class Player(NamedTuple):
    """A policy of a run in a task."""

    agent: Any
    task: int
    seed: int

    @contextmanager
    def acting(self) -> Iterator[Any]:
        """Act as in evaluation."""
        derived = seeding.derive(self.seed, "evaluation", self.task)
        with (
            seeding.isolated(derived, *self.agent.random_spaces),
            self.agent.view(self.task) as act,
        ):
            yield act

    def play(self, rows: Rows, most_steps: int) -> Rows:
        """Play every row to its end, and return it."""
        from holdfast.continual.streams.evaluation import play

        with self.acting() as act:
            play(rows, act, len(rows.envs), deterministic=True, most_steps=most_steps)
        return rows


def copied(observation: Any) -> Any:
    """Return a copy of an observation, which an environment may write into again."""
    if isinstance(observation, dict):
        return {key: np.copy(value) for key, value in observation.items()}
    return np.copy(observation)
