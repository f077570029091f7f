"""Counterfactuals: the same state, and then another action, another policy or another world.

An evaluation episode of the task's own end is played again, from its seed, and checked against the
record. Its states are reached again, and from each the rest is played: by the policy of the task's
end (the factual branch, which must equal the recording), by the policy of the stream's end, after
another first action, and under the changes of other tasks. What a return differs by is the value of
what was lost there, by real steps of the environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast import seeding
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.trust import vouch
from holdfast.continual.probes import world_state
from holdfast.continual.probes.outcomes import (
    FINAL,
    Alternative,
    CounterfactualPlan,
    counterfactual_record,
)
from holdfast.continual.probes.record import Tell
from holdfast.continual.probes.rollouts import Met, Player, Point, Recording, Rows, World, copied
from holdfast.continual.probes.world_state import Tap
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import MASKS
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.scenarios.source.regular_file import made_folder

MOST_WORLDS = 4
"""Worlds that are tried where nobody names any: the first ones."""

MOST_ACTIONS = 9
"""Discrete actions that are all tried; of more, as of continuous ones, the other policy's alone."""


def plan_of(
    scenario: Scenario, task: str, states: int, worlds: Sequence[str] | None = None
) -> CounterfactualPlan:
    """Return a plan; by default the worlds are tasks that differ from it in changes alone.

    Raises:
        UsageError: If there is no such task, or a world is no such task.
    """
    index = task_index(scenario, task, scenario.name)
    own = scenario.tasks[index]
    alike = [one.name for one in scenario.tasks if one.name != task and _is_alike(one, own)]
    for name in worlds or ():
        task_index(scenario, name, scenario.name)
        if name not in alike:
            raise UsageError(
                f"--world {name}: is not '{task}' under other changes; it has another env, kwargs "
                f"or wrappers, or drifts. There are: {', '.join(alike) or 'none'}"
            )
    return CounterfactualPlan(
        task=task, states=states, worlds=list(alike[:MOST_WORLDS] if worlds is None else worlds)
    )


def _is_alike(one: Task, other: Task) -> bool:
    """Return whether two tasks differ in their changes alone, and nothing moves by itself."""
    same = ("env", "kwargs", "wrappers", "python")
    still = not (one.wrappers or one.drift or one.randomize)
    return still and all(getattr(one, name) == getattr(other, name) for name in same)


def counterfactual(
    cells: Sequence[RunFolder],
    plan: CounterfactualPlan,
    tell: Tell = lambda *_: None,
    *,
    overwrite: bool = False,
) -> None:
    """Play every branch from states of a task in runs; states that are on file are kept.

    Args:
        cells: The runs, as ``probed_cells`` returns them.
        plan: What is asked.
        tell: Takes how many states of how many are done.
        overwrite: Delete results of another plan.

    Raises:
        UsageError: The task was not trained, nothing recorded can be compared with, or a state
            cannot be reached again; the text says what is the matter.
        CheckpointUnusable: If a checkpoint or a record cannot be read.
    """
    total, done = plan.states * len(cells), 0
    for cell in cells:
        _check(cell, plan)
    for cell in cells:
        vouch(cell)
        made_folder(counterfactual_record(cell, plan).path.parent, folders=3)
        with cell.lock():
            record = counterfactual_record(cell, plan)
            known = {(one.episode, one.step) for one in record.begin(plan, overwrite=overwrite)}
            for found in _branches(cell, plan, known):
                if found is not None:
                    record.append(found)
                done += 1
                tell(done, total)


def _check(cell: RunFolder, plan: CounterfactualPlan) -> None:
    """Raise unless the episodes of a cell's task can be played again, as far as can be told."""
    scenario = cell.scenario
    index = task_index(scenario, plan.task, str(cell.path))
    task, where = scenario.tasks[index], f"{cell.path}: task '{plan.task}'"
    ended = cell.stages_ended()
    if index not in scenario.stream_tasks[:ended]:
        raise UsageError(f"{where} was not trained yet, so that nothing of it can be lost")
    why = ""
    if task.opponents is not None:
        why = "is a game, whose opponents cannot be put back"
    elif task.drift or scenario.endless:
        why = "drifts, or never ends, so that no episode can be played again"
    elif scenario.backend == "envpool":
        why = "is in EnvPool, which cannot be put back"
    elif scenario.agent.algorithm == "recurrent_ppo":
        why = "is played by recurrent_ppo, whose own state is no part of the environment"
    elif not scenario.evaluation.deterministic:
        why = "was measured with sampled actions; evaluation: {deterministic: true} can be compared"
    if why:
        raise UsageError(f"{where} {why}")


# -- one cell --------------------------------------------------------------------------------------


class _Recorder(Rows):
    """Rows that keep the states which are asked for."""

    def __init__(self, envs: Sequence[Any], taps: Sequence[Tap], *rest: Any) -> None:
        super().__init__(envs, *rest)
        self.wanted: set[Point] = set()
        self.met: dict[Point, Met] = {}
        self._taps = taps

    def before(self, row: int) -> None:
        point = Point(int(row), self._steps[row])
        if point in self.wanted:
            seen, shown = copied(self._latest[row]), copied(self._taps[row].shown)
            self.met[point] = Met(seen, shown, world_state.taken(self.envs[row]))


def _branches(
    cell: RunFolder, plan: CounterfactualPlan, known: set[tuple[int, int]]
) -> Iterator[Alternative | None]:
    """Yield what came from each state; None for those on file."""
    scenario, index = cell.scenario, task_index(cell.scenario, plan.task, str(cell.path))
    ended = cell.stages_ended()
    own_end = max(at for at, one in enumerate(scenario.stream_tasks[:ended]) if one == index)
    recorded = _recorded(cell, own_end, index)
    waves = _waves([row["length"] for row in recorded], plan.states)
    left = [wave for wave in waves if any(p not in known for p in wave.chosen)]
    yield from (None for wave in waves if wave not in left for _ in wave.chosen)
    if left:
        study = _Study(cell, plan, own_end, index, recorded)
        with study:
            study.record({point for wave in left for point in wave.points})
            for wave in left:
                yield from (None if p in known else one for p, one in study.branches(wave))


class Wave(NamedTuple):
    """States that are played side by side, one of each episode.

    Attributes:
        points: One for each row; those that were not chosen keep the rows as they were recorded.
        chosen: Those that are wanted.
    """

    points: tuple[Point, ...]
    chosen: tuple[Point, ...]


def _waves(lengths: Sequence[int], states: int) -> list[Wave]:
    """Return states at even distances over all steps of the episodes, in waves.

    A policy's output may round otherwise in a batch of another size or order: so every wave has a
    row for each episode, in its place.
    """
    ends = np.cumsum(lengths)
    places = np.unique(np.linspace(0, ends[-1] - 1, min(states, int(ends[-1]))).round().astype(int))
    rows = np.searchsorted(ends, places, side="right")
    starts = ends - np.array(lengths)
    of_row: dict[int, list[Point]] = {row: [] for row in range(len(lengths))}
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        of_row[row].append(Point(row, place - int(starts[row])))
    waves = []
    for number in range(max(map(len, of_row.values()))):
        chosen = [own[number] if number < len(own) else None for own in of_row.values()]
        points = tuple(one or Point(row, 0) for row, one in enumerate(chosen))
        waves.append(Wave(points, tuple(one for one in chosen if one is not None)))
    return waves


def _recorded(cell: RunFolder, own_end: int, index: int) -> list[Any]:
    """Return the episodes on record at the end of a stage that were played side by side.

    Raises:
        UsageError: If there are none.
    """
    from holdfast.continual.streams.task_stream import MOST_COPIES, MOST_PROCESSES

    scenario = cell.scenario
    task, step = scenario.tasks[index], sum(scenario.stage_steps[: own_end + 1])
    most = MOST_COPIES if task.python is None else MOST_PROCESSES
    found = [
        row
        for row in cell.scores()
        if (row["stage"], row["step"], row["task"]) == (own_end + 1, step, task.name)
    ]
    if not found:
        raise UsageError(
            f"{cell.path}: task '{task.name}' was not measured at the end of stage {own_end}, so "
            "that there is no episode to play again"
        )
    return found[: min(most, scenario.evaluation.episodes)]


class _Study:
    """The branches of one cell: two policies, and the worlds that they play in."""

    def __init__(
        self,
        cell: RunFolder,
        plan: CounterfactualPlan,
        own_end: int,
        index: int,
        recorded: Sequence[Mapping[str, Any]],
    ) -> None:
        self._cell, self._plan, self._index, self._recorded = cell, plan, index, recorded
        kind = kind_of(cell.scenario)
        restored = kind.restore(cell, own_end)
        final = kind.restore(cell, checkpoint.newest_stage(cell))
        self._own = Player(restored.agent, index, cell.seed)
        self._final = Player(final.agent, index, cell.seed)
        shown, _ = restored.agent.shown_task(index)
        scenario, task = restored.scenario, restored.scenario.tasks[index]
        stream = kind_of(scenario).stream(cell.seed, restored.spaces)
        experience = stream.eval_stream[index]
        self._most_steps = experience.most_steps
        experience.close()
        numbers = range(len(recorded))
        seeds = [seeding.derive(cell.seed, "evaluation", index, number) for number in numbers]
        self._world = World(scenario, index, restored.spaces, seeds, shown)
        self._others = {}
        for name in plan.worlds:
            other = scenario.tasks[task_index(scenario, name, str(cell.path))]
            tasks = [*scenario.tasks]
            tasks[index] = task.model_copy(update={"changes": other.changes})
            changed = scenario.model_copy(update={"tasks": tuple(tasks)})
            self._others[name] = World(changed, index, restored.spaces, seeds, shown)
        self._by_actions = False
        self._tape = Recording([], [], {})

    def __enter__(self) -> _Study:
        self._closing = ExitStack()
        for world in (self._world, *self._others.values()):
            self._closing.callback(world.close)
        return self

    def __exit__(self, *raised: object) -> None:
        self._closing.close()

    def record(self, wanted: set[Point]) -> None:
        """Play the recorded episodes again, and keep the states that are wanted.

        Raises:
            UsageError: If they are others now.
        """
        world = self._world
        first = world.begun()
        steps = [0] * len(first)
        rows = _Recorder(world.envs, world.taps, first, steps, self._most_steps)
        rows.wanted = wanted
        self._own.play(rows, self._most_steps)
        for episode, (own, row) in enumerate(zip(rows.rewards, self._recorded, strict=True)):
            total = 0.0
            for reward in own:
                total += reward
            if (total, len(own)) != (row["return"], row["length"]):
                raise UsageError(
                    f"{self._cell.path}: episode {episode} of task '{self._plan.task}' does not "
                    f"repeat itself: return {row['return']:g} in {row['length']} steps on record, "
                    f"now {total:g} in {len(own)}; its states cannot be reached again"
                )
        self._tape = Recording(rows.rewards, rows.actions, rows.met)

    def branches(self, wave: Wave) -> Iterator[tuple[Point, Alternative]]:
        """Yield what comes from each state that a wave wants."""
        factual = self._factual(wave)
        final = self._played(self._final, wave)
        actions = {
            name: self._played(self._own, wave, first)
            for name, first in self._alternatives(factual, final).items()
        }
        worlds = {name: self._in_other(wave, name) for name in self._others}
        for point in wave.chosen:
            row = point.row
            alternatives: dict[str, float] = {}
            taken = factual.actions[row][0]
            for name, played in actions.items():
                own = played.actions[row][0]
                if name == FINAL or not np.array_equal(own, taken):
                    key = name if name == FINAL else str(int(own))
                    alternatives[key] = sum(played.rewards[row])
            yield (
                point,
                Alternative(
                    episode=row,
                    step=point.step,
                    steps=len(self._tape.rewards[row]),
                    factual=sum(factual.rewards[row]),
                    final=sum(final.rewards[row]),
                    actions=alternatives,
                    worlds={name: sum(one.rewards[row]) for name, one in worlds.items()},
                ),
            )

    def _factual(self, wave: Wave) -> Rows:
        """Return the factual branch, which is the recording itself.

        Raises:
            UsageError: If it is not, however its states are reached.
        """
        found = self._played(self._own, wave)
        if self._difference(wave, found) is not None and not self._by_actions:
            self._by_actions = True  # from here on: it has a state that nobody can see
            found = self._played(self._own, wave)
        if (point := self._difference(wave, found)) is not None:
            raise UsageError(
                f"{self._cell.path}: task '{self._plan.task}' cannot be brought back to the state "
                f"at step {point.step} of episode {point.row}: neither by its state nor by its "
                "seed and actions does what follows equal the recording"
            )
        return found

    def _difference(self, wave: Wave, found: Rows) -> Point | None:
        """Return the first state from which a branch is not the recording."""
        for point in wave.points:
            rest = self._tape.rewards[point.row][point.step :], self._tape.actions[point.row]
            if found.rewards[point.row] != rest[0] or not np.array_equal(
                found.actions[point.row], rest[1][point.step :]
            ):
                return point
        return None

    def _played(self, player: Player, wave: Wave, first: NDArray[Any] | None = None) -> Rows:
        shown = self._world.at(wave.points, self._tape, by_actions=self._by_actions)
        steps = [point.step for point in wave.points]
        rows = Rows(self._world.envs, shown, steps, self._most_steps, first=first)
        return player.play(rows, self._most_steps)

    def _in_other(self, wave: Wave, name: str) -> Rows:
        world = self._others[name]
        if self._by_actions:
            raise UsageError(
                f"{self._cell.path}: task '{self._plan.task}' is reached again by its actions "
                "alone, which lead elsewhere in another world; leave worlds out: --no-worlds"
            )
        try:
            shown = world.elsewhere(wave.points, self._tape)
        except UsageError as error:
            raise UsageError(f"{self._cell.path}: world '{name}': {error}") from error
        steps = [point.step for point in wave.points]
        rows = Rows(world.envs, shown, steps, self._most_steps)
        return self._own.play(rows, self._most_steps)

    def _alternatives(self, factual: Rows, final: Rows) -> dict[str, NDArray[Any]]:
        """Return first actions to try, for all rows: every other discrete one, or the final's."""
        space = self._world.envs[0].action_space
        taken = np.array([own[0] for own in factual.actions])
        # Where actions are masked, another one may not be allowed; the final policy's is.
        is_free = not space.shape and not self._world.envs[0].has_wrapper_attr(MASKS)
        count = int(getattr(space, "n", 0)) if is_free else 0
        if 0 < count <= MOST_ACTIONS:
            return {str(more): (taken + more) % count for more in range(1, count)}
        return {FINAL: np.array([own[0] for own in final.actions])}
