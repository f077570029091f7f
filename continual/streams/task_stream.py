"""The stream of tasks: an Avalanche scenario whose experiences build environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from avalanche.benchmarks.scenarios.generic_scenario import CLScenario, EagerCLStream
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from holdfast.agents.base.agent import Shown
from holdfast.agents.base.buffers import OBSERVATIONS, by_key, by_name
from holdfast.agents.base.demonstrations import read_demonstrations
from holdfast.continual.streams.evaluation import Stepped, play
from holdfast.continual.streams.experience import MeasuredExperience, Played, StageExperience
from holdfast.envs.base.fitting import PadAction, PadObservation, TaskId
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.endless import Endless, Online, World, ended, endless_vector
from holdfast.envs.envpool.batch import Batch, write
from holdfast.envs.envpool.single import rows
from holdfast.envs.make import stream_spaces
from holdfast.envs.processes.pool import OnFailure, ProcessPool
from holdfast.envs.processes.process import CLOSING_S, STARTING_S
from holdfast.envs.vector import Interleaved, Successive, pooled, task_env, vectorize
from holdfast.envs.wrappers.drift import Drifting
from holdfast.envs.wrappers.robot import Slot
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.cost import COST
from holdfast.scenarios.schema.observation_keys import MASKS
from holdfast.scenarios.schema.scenario import Pool, Scenario
from holdfast.seeding import derive

if TYPE_CHECKING:
    from holdfast.agents.base.agent import Act, Observations
    from holdfast.agents.base.pauses import Again
    from holdfast.envs.multiagent.players import FrozenPlayers

GAME = "game"
"""Key of an info at a game's end: who was the opponent, and where the learner sat."""

MOST_COPIES = 16
"""Evaluation environments of one task that are open at once; more episodes take turns."""

MOST_PROCESSES = 4
"""As ``MOST_COPIES``, where each is a process of another interpreter."""

MOST_IN_POOL = 64
"""As ``MOST_COPIES``, in one EnvPool."""


MOST_DRIFTED = 1_000
"""Steps of a stage of an endless stream at which what a drift sets is noted, at most."""

MOST_OPEN = 32
"""Tasks whose evaluation environments stay open; of more, those measured last."""


class OpenTasks:
    """Tasks whose evaluation environments are open, the one measured last at the end.

    They are bounded, because environments of hundreds of tasks would fill the memory.
    """

    def __init__(self) -> None:
        self._tasks: dict[int, EvalExperience] = {}

    def opened(self, experience: EvalExperience) -> None:
        """Be told that a task is measured; close the one that was not for the longest time."""
        self._tasks.pop(experience.task_index, None)
        self._tasks[experience.task_index] = experience
        if len(self._tasks) > MOST_OPEN:
            self._tasks.pop(next(iter(self._tasks))).close()


class TaskExperience(StageExperience):
    """One task at one place of the stream, with the environments to train in.

    Attributes:
        drifted: What a drift has set so far, with the step of the task; of an endless stream, at
            ``MOST_DRIFTED`` steps at most.
        online: What the worlds of an endless stream were paid; one for all stages.
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
        frozen: FrozenPlayers | None = None,
    ) -> None:
        super().__init__(scenario, seed, stage)
        order = scenario.stream_tasks
        self.drifted: list[tuple[int, dict[str, float]]] = []
        self._n_envs, self._pool = scenario.n_envs, _timed(scenario)
        self._on_failure = on_failure
        # One for each task of the stream is made where it is asked for: streams may be long.
        self._make = partial(task_env, scenario, spaces=spaces, slot=slot, frozen=frozen)
        self._order, self._place = order, scenario.place
        # Only this process can be told; `validate` keeps what drifts out of others.
        applied = None if self._pool.workers else self._note_drift
        self._make_one = partial(self._make, order[stage], applied=applied)
        self._pooled = None
        if scenario.backend == "envpool":
            self._pooled = partial(pooled, scenario, order[stage], spaces, self._n_envs)
        self._stage_steps = scenario.stage_steps
        self.later: list[TaskExperience] = []  # stages after this one, where one model learns all
        self._keeps_worlds, self._endless = scenario.keeps_worlds, scenario.endless
        self.online = Online(scenario.evaluation.rate_steps)

    def _note_drift(self, step: int, values: dict[str, float]) -> None:
        every = -(-self.steps // MOST_DRIFTED)
        if self._endless and self.drifted and step // every == self.drifted[-1][0] // every:
            return
        self.drifted.append((step, values))

    def make_env(
        self, *, interleaved: bool = False, turns: Sequence[Any] = (), begun: int = 0
    ) -> VecEnv:
        """Return the training environments, newly built and seeded.

        Args:
            interleaved: All tasks of the stream, taking turns, instead of this one alone.
            turns: What ``worlds`` gave, where those of an earlier stage went on until here.
            begun: Steps of this stage that endless worlds have taken.
        """
        if self._endless:
            return endless_vector(self._endless_makers(turns, begun), self.seed)
        return self._made(self._makers(interleaved, None, turns), self.seed, interleaved)

    def build_again(self, env: VecEnv, again: Again, *, interleaved: bool = False) -> VecEnv:
        """Close the training environments and return others, of this place inside the task.

        Args:
            env: Those of this task.
            again: Where inside the task they go on.
            interleaved: As for ``make_env``.
        """
        seed = derive(self.seed, "checkpoint", again.number)
        if self._endless:
            env.close()
            return endless_vector(self._endless_makers(again.worlds, again.step), seed)
        makers = self._makers(interleaved, again)
        if isinstance(env, ProcessPool):
            env.rebuild(makers, seed)
            return env
        env.close()
        return self._made(makers, seed, interleaved)

    def demonstrations(self) -> Shown | None:
        """Return the demonstrations of this task in the stream's spaces; None where it has none.

        Raises:
            UsageError: They are not those of this task, or leave actions of the stream open.
        """
        asked = self.task.demonstrations
        if asked is None:
            return None
        env: Any = self._make(self._order[self.stage])
        env.close()
        layers: list[Any] = []
        while isinstance(env, TaskId | PadAction | PadObservation):
            layers.append(env)
            env = env.env
        found = read_demonstrations(
            self._place / asked.data, env.observation_space, env.action_space
        )
        if any(isinstance(layer, PadAction) for layer in layers):
            raise UsageError(
                f"{asked.data}: its actions are the task's own, and those of the stream are others "
                "(spaces.action: pad); remove demonstrations: from this task"
            )
        rows = dict(found.rows)
        for layer in layers[::-1]:
            for name in OBSERVATIONS:
                entries = by_key(rows, name)
                rows = {n: v for n, v in rows.items() if n.partition(".")[0] != name}
                rows |= by_name(name, layer.observation(entries.get("", entries)))
        return Shown(rows, asked.share, found.digest, asked.cloning)

    def _made(
        self, makers: list[Callable[[], gym.Env[Any, Any]]], seed: int, interleaved: bool
    ) -> VecEnv:
        if self._pooled is not None:
            assert not interleaved  # `joint` is refused by validate
            return self._pooled(seed)
        if self._pool.workers:
            return ProcessPool(
                makers,
                self._pool,
                seed=seed,
                on_failure=self._on_failure,
                name=f"task '{self.task.name}'",
            )
        take = iter(makers)
        return vectorize(lambda: next(take)(), self._n_envs, seed)

    def _makers(
        self, interleaved: bool, again: Again | None, turns: Sequence[Any] = ()
    ) -> list[Callable[[], gym.Env[Any, Any]]]:
        """Return what builds each environment, of the later stages too where one model learns."""
        n_envs, taken = self._n_envs, 0 if again is None else again.step // self._n_envs
        each: list[Callable[..., gym.Env[Any, Any]]] = [self._make_one] * n_envs
        if interleaved:
            each = self._all_at_once()
        made = [partial(make, taken=taken) for make in each]
        if interleaved:
            so_far = again.worlds if again is not None else turns or [None] * n_envs
            made = [partial(make, taken=taken) for make, taken in zip(each, so_far, strict=True)]
        if not self.later:
            return [*made]

        def worlds(index: int) -> list[World]:
            later = each[index] if interleaved else None
            return self._lives(made[index], taken, later)

        return [partial(Successive, worlds(index), index) for index in range(n_envs)]

    def _lives(
        self,
        make: Callable[[], gym.Env[Any, Any]],
        taken: int,
        later: Callable[..., gym.Env[Any, Any]] | None = None,
    ) -> list[World]:
        """Return what an environment is in this stage and in those after it.

        Args:
            make: Builds it as it is in this stage.
            taken: Its steps in this stage so far.
            later: Builds it in the others, if not each in its own way.
        """
        n_envs = self._n_envs
        here = World(make, self.steps // n_envs - taken, self.seed)
        return [here] + [
            World(
                later or stage._make_one,
                stage.steps // n_envs,
                stage.seed,
                takes_over=later is not None,
            )
            for stage in self.later
        ]

    def _endless_makers(
        self, saved: Sequence[Any], begun: int
    ) -> list[Callable[[], gym.Env[Any, Any]]]:
        """Return what builds each endless world, to go on with what ``worlds`` gave."""
        online, *states = saved or [None] * (self._n_envs + 1)
        if online is not None:
            self.online.load_state(online)
        taken = begun // self._n_envs
        worlds = self._lives(partial(self._make_one, taken=taken), taken)
        return [
            partial(
                Endless,
                worlds,
                index,
                self.online,
                stage=self.stage,
                state=state,
                within=begun > 0,
                resets=not self._keeps_worlds,
            )
            for index, state in enumerate(states)
        ]

    def _all_at_once(self) -> list[Callable[..., gym.Env[Any, Any]]]:
        """Return what builds environments in which all tasks of the stream take turns."""
        budgets = dict.fromkeys(self._order, 0)
        for index, steps in zip(self._order, self._stage_steps, strict=True):
            budgets[index] += steps
        each, shares = [partial(self._make, index) for index in budgets], [*budgets.values()]
        firsts = [index % len(each) for index in range(self._n_envs)]
        return [partial(_interleaved, each, shares, first) for first in firsts]

    def worlds(self, env: VecEnv, *, interleaved: bool = False) -> list[Any]:
        """Return what environments that are built again go on with: whose turn it is, or all."""
        if self._endless:
            return [self.online.state(), *env.env_method("get_state")]
        return list(env.env_method("turns")) if interleaved else []


def _interleaved(
    each: Sequence[Callable[..., gym.Env[Any, Any]]],
    shares: Sequence[int],
    first: int,
    taken: Sequence[int] | None = None,
) -> Interleaved:
    """Return tasks that take turns, each from where it is after its steps so far."""
    on = each if taken is None else [partial(m, taken=t) for m, t in zip(each, taken, strict=True)]
    return Interleaved(on, shares, first, taken=taken)


def _timed(scenario: Scenario) -> Pool:
    """Return the pool's settings; a worker that times a process of its own gets a moment more."""
    pool = scenario.pool
    if all(task.python is None for task in scenario.tasks):
        return pool
    reset_s, step_s = pool.reset_timeout_s + STARTING_S, pool.step_timeout_s + CLOSING_S + 1.0
    return pool.model_copy(update={"reset_timeout_s": reset_s, "step_timeout_s": step_s})


class EvalExperience(MeasuredExperience):
    """One task to be measured on; its environments are built at the first use and kept."""

    def __init__(
        self,
        scenario: Scenario,
        task_index: int,
        spaces: StreamSpaces,
        slot: Slot,
        open_tasks: OpenTasks | None = None,
        *,
        frozen: FrozenPlayers | None = None,
    ) -> None:
        super().__init__(scenario, task_index)
        self._open_tasks = open_tasks or OpenTasks()
        most = MOST_COPIES if self.task.python is None else MOST_PROCESSES
        copies = 1 if self.task.exclusive else min(scenario.evaluation.episodes, most)
        self._make = partial(task_env, scenario, task_index, spaces, slot=slot, frozen=frozen)
        self._copies = copies
        steps = scenario.stage_steps
        stages = zip(scenario.stream_tasks, steps, accumulate(steps), strict=True)
        self._visits = [(end - own, own) for index, own, end in stages if index == task_index]
        self._endless, self._n_envs = scenario.endless, scenario.n_envs

    @cached_property
    def environments(self) -> list[gym.Env[Any, Any]]:
        """Environments to be stepped side by side, one episode in each."""
        self._open_tasks.opened(self)
        return [self._make() for _ in range(self._copies)]

    def time_limit(self) -> int:
        """Return the time limit of the task, or of its environment's spec."""
        return super().time_limit() or _spec_limit(self.environments[0])

    def open(self) -> int:
        """Build the environments where they are not open, and return how many there are."""
        return len(self.environments)

    def show_task(self, task_index: int) -> None:
        """Put the id of ``task_index`` into the observations from the next episode on."""
        for env in self.environments:
            if isinstance(env, TaskId):
                env.index = task_index

    def show_step(self, step: int) -> None:
        """Set what drifts as it is at this step of the stream, while the task is measured.

        Before the task's first visit it is as at its start, after a visit as at its end. A world
        that has a clock of its own, and a method ``show_step`` for it, begins at that step.
        """
        for env in self.environments if self._endless else ():
            world: Any = env.unwrapped
            if callable(getattr(world, "show_step", None)):
                world.show_step(step // self._n_envs)
        began = [(first, steps) for first, steps in self._visits if first < step]
        first, steps = began[-1] if began else (step, 0)
        for env in self.environments if self.task.drift else ():
            inner: Any = env
            while not isinstance(inner, Drifting):
                inner = inner.env
            inner.show_step(min(step - first, steps))

    def play(self, act: Act, seeds: Sequence[int], deterministic: bool) -> list[Played]:
        """Return one episode per seed, in the environments side by side."""
        envs = self.environments
        self._open_tasks.opened(self)
        # Seats and opponents come by turns, so that each has its share.
        is_game = self.task.opponents is not None
        turns = [{"measured": turn} if is_game else None for turn in range(len(seeds))]
        played: list[Played] = []
        for start in range(0, len(seeds), len(envs)):
            now = slice(start, start + len(envs))
            copies = _EnvCopies(envs, seeds[now], turns[now], has_cost=self.task.cost is not None)
            played += play(
                copies,
                act,
                len(seeds[now]),
                deterministic=deterministic,
                most_steps=self.most_steps,
            )
        if self._endless:
            if short := [one for one in played if not one.is_cut]:
                raise EnvironmentFailed(
                    f"task '{self.task.name}', in evaluation: "
                    f"{ended(envs[0], step=short[0].length)}"
                )
            played = [one._replace(is_cut=False) for one in played]  # as long as was asked for
        return played

    def close(self) -> None:
        """Close the environments; they are built again if they are asked for again."""
        for env in self.__dict__.pop("environments", []):
            env.close()


def _spec_limit(env: gym.Env[Any, Any]) -> int:
    """Return the time limit that an environment's spec states, 0 for none."""
    return (env.spec.max_episode_steps if env.spec is not None else None) or 0


class _EnvCopies:
    """Environments of one task, one for each seed, stepped one after another."""

    def __init__(
        self,
        envs: list[gym.Env[Any, Any]],
        seeds: Sequence[int],
        options: Sequence[dict[str, Any] | None],
        *,
        has_cost: bool,
    ) -> None:
        self._envs, self._has_cost = envs[: len(seeds)], has_cost
        self._masked = self._envs[0].has_wrapper_attr(MASKS)
        starts = zip(self._envs, seeds, options, strict=True)
        self._latest = [env.reset(seed=seed, options=given)[0] for env, seed, given in starts]

    def observations(self) -> Observations:
        first = self._latest[0]
        if isinstance(first, dict):
            return {key: np.stack([o[key] for o in self._latest]) for key in first}
        return np.stack(self._latest)

    def masks(self) -> NDArray[np.bool_] | None:
        if not self._masked:
            return None
        return np.stack([env.get_wrapper_attr(MASKS)() for env in self._envs])

    def step(self, actions: NDArray[Any], ids: NDArray[np.int32]) -> Stepped:
        rewards, over, successes, costs, games = [], [], [], [], []
        for i in ids:
            self._latest[i], reward, terminated, truncated, info = self._envs[i].step(actions[i])
            rewards.append(float(reward))
            over.append(bool(terminated or truncated))
            success = info.get("is_success", info.get("success"))
            successes.append(np.nan if success is None else max(0.0, float(success)))
            costs.append(info[COST] if self._has_cost else np.nan)
            games.append(info.get(GAME))
        return Stepped(
            np.array(rewards), np.array(over), np.array(successes), np.array(costs), games
        )


class PooledEvalExperience(MeasuredExperience):
    """One task to be measured on in an EnvPool; see ``EvalExperience``.

    EnvPool takes its seeds when a pool is built, so every evaluation builds one, with a seed for
    each episode. An environment's trajectory depends on its own seed alone: how many run side by
    side changes nothing.
    """

    def __init__(self, scenario: Scenario, task_index: int, spaces: StreamSpaces) -> None:
        super().__init__(scenario, task_index)
        self._copies = min(scenario.evaluation.episodes, MOST_IN_POOL)
        self._make = partial(task_env, scenario, task_index, spaces)

    @cached_property
    def batch(self) -> Batch:
        """The copies of the task."""
        return Batch(self._make(), self.task.name)

    def time_limit(self) -> int:
        """Return the time limit of the task, or of its simulator's configuration."""
        return super().time_limit() or _spec_limit(self.batch.env)

    def open(self) -> int:
        """Return how many episodes are played side by side."""
        return self._copies

    def show_task(self, task_index: int) -> None:
        """Put the id of ``task_index`` into the observations from the next episode on."""
        if isinstance(self.batch.env, TaskId):
            self.batch.env.index = task_index

    def play(self, act: Act, seeds: Sequence[int], deterministic: bool) -> list[Played]:
        """Return one episode per seed."""
        played: list[Played] = []
        try:
            for start in range(0, len(seeds), self._copies):
                now = seeds[start : start + self._copies]
                copies = _PoolCopies(self.batch, now)
                played += play(
                    copies,
                    act,
                    len(now),
                    deterministic=deterministic,
                    most_steps=self.most_steps,
                )
        finally:
            self.batch.close()  # the next evaluation builds its own; threads and models go
        return played

    def close(self) -> None:
        """Drop the pool."""
        if (batch := self.__dict__.pop("batch", None)) is not None:
            batch.close()


class _PoolCopies:
    """Environments of one pool, one for each seed."""

    def __init__(self, batch: Batch, seeds: Sequence[int]) -> None:
        self._batch, self._latest = batch, batch.start(seeds)

    def observations(self) -> Observations:
        latest: Observations = self._latest
        return latest

    def masks(self) -> None:
        return None  # of no family in EnvPool

    def step(self, actions: NDArray[Any], ids: NDArray[np.int32]) -> Stepped:
        steps = self._batch.step(rows(actions, ids), ids)
        write(self._latest, ids, steps.observations)
        none = np.full(len(ids), np.nan)
        successes = none if steps.successes is None else steps.successes.astype(np.float64)
        over = steps.terminated | steps.truncated
        return Stepped(steps.rewards, over, successes, none, [None] * len(ids))


def make_stream(
    scenario: Scenario,
    seed: int,
    spaces: StreamSpaces | None = None,
    *,
    on_failure: OnFailure | None = None,
    frozen: FrozenPlayers | None = None,
) -> CLScenario[Any]:
    """Return an Avalanche scenario with the streams ``train`` and ``eval``.

    The train stream has one experience per stage, the eval stream one per task. No environment
    stays open until it is used.

    Args:
        scenario: Of a single agent; ``kind_of(scenario).stream`` serves every scenario.
        seed: The cell's seed.
        spaces: What ``stream_spaces`` returned, where that is known already.
        on_failure: Takes the record of every failure of a process with training environments.
        frozen: Finds opponents that earlier runs left.

    Raises:
        ScenarioError: If the tasks' spaces differ and the scenario does not say how to align them.
    """
    spaces, slot, open_tasks = spaces or stream_spaces(scenario), Slot(), OpenTasks()
    train = [
        TaskExperience(scenario, seed, stage, spaces, slot, on_failure=on_failure, frozen=frozen)
        for stage in range(len(scenario.stream_tasks))
    ]
    if scenario.is_one_task:
        for stage, one in enumerate(train):
            one.first, one.later = train[0], train[stage + 1 :]
            one.online = train[0].online
    assert scenario.backend != "auto"  # settled before anything is built
    measured: list[MeasuredExperience] = [
        PooledEvalExperience(scenario, index, spaces)
        if scenario.backend == "envpool"
        else EvalExperience(scenario, index, spaces, slot, open_tasks, frozen=frozen)
        for index in range(len(scenario.tasks))
    ]
    return CLScenario([EagerCLStream("train", train), EagerCLStream("eval", measured)])
