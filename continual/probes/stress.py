"""Stress: every stage's policy under changes that it has not learned, and under attack.

The changes are those of scenarios (``changes:``), on top of the task's own. An episode under stress
begins from the seed that the same episode of evaluation has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

import numpy as np

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.trust import vouch
from holdfast.continual.probes.outcomes import (
    ATTACK,
    BY_ENTRY,
    UNCHANGED,
    Stressed,
    StressPlan,
    stress_record,
)
from holdfast.continual.probes.record import Tell
from holdfast.continual.results.curves import Array, curves
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import UsageError
from holdfast.scenarios.checks.messages import did_you_mean
from holdfast.scenarios.schema.changes import Changes
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.seeding import derive

EACH = "each"
"""In place of a list of entries: each by itself; of many, ``MOST_EACH`` at even distances."""

MOST_EACH = 8

GRID: Mapping[str, Any] = {
    "observation_noise": [0.05, 0.1, 0.2, 0.4],
    "action_delay": [1, 2, 3],
    "action_gain": [0.5, 0.75, 1.25, 1.5],
    "dead_actuators": EACH,
    "observation_mask": EACH,
    ATTACK: [0.05, 0.1, 0.2],
}
"""Levels of each change; of the attack, in standard deviations of the observation's entries."""


class Choice(NamedTuple):
    """Part of the runs that is looked at; None for all of it."""

    tasks: Sequence[str] | None = None
    stages: Sequence[int] | None = None


def stress(
    cells: Sequence[RunFolder],
    plan: StressPlan,
    choice: Choice = Choice(),  # noqa: B008  # it is immutable
    tell: Tell = lambda *_: None,
    *,
    overwrite: bool = False,
) -> None:
    """Measure every stage of runs under stress; what is on file is kept.

    A stage is measured in the tasks that were trained up to its end.

    Args:
        cells: The runs, as ``probed_cells`` returns them.
        plan: What is measured.
        choice: Which tasks and stages; those asked for are measured whether trained or not.
        tell: Takes how many levels of how many are done.
        overwrite: Delete results of another plan.

    Raises:
        UsageError: There is nothing to measure, or results of another plan are there; a change of
            the plan does not fit a task.
        CheckpointUnusable: If a checkpoint or a record cannot be read.
    """
    pairs = {cell.path: list(_pairs(cell, choice)) for cell in cells}
    if not any(pairs.values()):
        where = ", ".join(str(cell.path) for cell in cells)
        raise UsageError(f"{where}: no stage was finished yet, so that no policy can be stressed")
    done, wanted = 0, {cell.path: _wanted(cell, pairs[cell.path], plan) for cell in cells}
    total = sum(len(levels) for of_cell in wanted.values() for levels in of_cell.values())
    for cell in cells:
        with cell.lock():
            known = stress_record(cell).begin(plan, overwrite=overwrite)
            for count in _measure(cell, wanted[cell.path], plan, known):
                done += count
                tell(done, total)


def _pairs(cell: RunFolder, choice: Choice) -> Iterator[tuple[int, int]]:
    """Yield the stages to look at, each with every task to look at then."""
    scenario, there = cell.scenario, checkpoint.named_stages(cell.path / checkpoint.FOLDER)
    if there:
        checkpoint.newest_stage(cell)
    named = [task_index(scenario, name, str(cell.path)) for name in choice.tasks or ()]
    asked = [checkpoint.asked_stage(cell, stage) for stage in choice.stages or ()]
    for stage in asked if choice.stages else there:
        trained = dict.fromkeys(scenario.stream_tasks[: stage + 1])
        yield from ((stage, index) for index in (named if choice.tasks else trained))


# -- levels ----------------------------------------------------------------------------------------


def plan_of(texts: Sequence[str], episodes: int) -> StressPlan:
    """Return a plan from texts such as ``observation_noise=[0.1, 0.2]``; none gives all of GRID.

    Raises:
        UsageError: A key or a value is none.
    """
    import yaml

    grid: dict[str, Any] = {}
    for text in texts:
        key, is_pair, value = text.partition("=")
        if not is_pair or key not in GRID:
            known = did_you_mean(key, list(GRID), "there are")
            raise UsageError(f"{text}: write CHANGE=[LEVEL, ...]; no change '{key}'{known}")
        try:
            levels = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"{text}: not YAML") from error
        grid[key] = _checked(key, levels, text)
    return StressPlan(grid=grid or dict(GRID), episodes=episodes, is_default=not grid)


def _checked(key: str, levels: Any, text: str) -> Any:
    if levels == EACH and key in BY_ENTRY:
        return EACH
    found = levels if isinstance(levels, list) else [levels]
    is_whole = key in BY_ENTRY or key == "action_delay"
    kind = int if is_whole else (int, float)
    least = -np.inf if key == "action_gain" else 0
    if not found or any(
        not isinstance(one, kind) or isinstance(one, bool) or not least <= one < np.inf
        for one in found
    ):
        numbers = "whole numbers from 0" if is_whole else "numbers"
        more = f", or {EACH}" if key in BY_ENTRY else " from 0" if least == 0 else ""
        raise UsageError(f"{text}: write {numbers} in a list{more}")
    return sorted({float(one) for one in found})


def _levels(scenario: Scenario, index: int, plan: StressPlan) -> list[tuple[str, float]]:
    """Return every level of a task, the unchanged one first; levels are tried on its environment.

    Raises:
        UsageError: If one does not fit, and was asked for.
    """
    from holdfast.envs.make import make_env  # here: it imports gymnasium

    task = scenario.tasks[index]
    with closing(make_env(scenario, task)) as env:
        spaces = {"dead_actuators": env.action_space, "observation_mask": env.observation_space}
    found = [(UNCHANGED, 0.0)]
    for change, given in plan.grid.items():
        levels = _each(spaces[change]) if given == EACH else [float(one) for one in given]
        try:
            if not levels:
                raise UsageError(f"{change}={EACH}: task '{task.name}' has {spaces[change]}")
            for level in levels if change != ATTACK else ():
                stressed_task = with_change(task, change, level)
                make_env(scenario, stressed_task).close()
        except UsageError:
            if not plan.is_default:
                raise
            continue
        found += [(change, level) for level in levels]
    return found


def _each(space: Any) -> list[float]:
    """Return the entries that are tried by themselves; none where there is no vector."""
    count = space.shape[0] if len(space.shape or ()) == 1 else 0
    if not count:
        return []
    return sorted({float(round(at)) for at in np.linspace(0, count - 1, min(count, MOST_EACH))})


def with_change(task: Task, change: str, level: float) -> Task:
    """Return a task with a change on top of its own ones.

    Noise adds up in variance and delays in steps, gains are multiplied, and what is dead or masked
    stays so.
    """
    own = task.changes
    value: Any
    match change:
        case "observation_noise":
            value = float(np.hypot(own.observation_noise or 0.0, level))
        case "action_delay":
            value = (own.action_delay or 0) + int(level)
        case "action_gain":
            gain = 1.0 if own.action_gain is None else own.action_gain
            is_one = isinstance(gain, int | float)
            value = gain * level if is_one else tuple(one * level for one in gain)  # type: ignore[union-attr,operator]  # of one kind each
        case "dead_actuators":
            value = (*(own.dead_actuators or ()), int(level))
        case _:
            value = tuple(dict.fromkeys((*(own.observation_mask or ()), int(level))))
    changes: Changes = own.model_copy(update={change: value})
    return task.model_copy(update={"changes": changes})


# -- measuring -------------------------------------------------------------------------------------


Wanted = dict[int, list[tuple[int, str, float]]]
"""Task, change and level of all that is wanted of each stage."""


def _wanted(cell: RunFolder, pairs: Sequence[tuple[int, int]], plan: StressPlan) -> Wanted:
    """Return what is wanted of a cell."""
    vouch(cell)
    levels = {index: _levels(cell.scenario, index, plan) for index in {task for _, task in pairs}}
    wanted: Wanted = {}
    for stage, index in pairs:
        wanted.setdefault(stage, []).extend((index, *one) for one in levels[index])
    return wanted


def _measure(
    cell: RunFolder, wanted: Wanted, plan: StressPlan, known: Sequence[Stressed]
) -> Iterator[int]:
    """Measure what is not on file of a cell; yield how many more levels are done."""
    there, names = {one.place for one in known}, [task.name for task in cell.scenario.tasks]
    for stage, levels in wanted.items():
        left = [one for one in levels if (stage, names[one[0]], *one[1:]) not in there]
        yield len(levels) - len(left)
        trial = Trial(cell, stage, plan) if left else None
        for index, change, level in left:
            assert trial is not None
            # Where an attack is not possible and nobody asked for it, there is no result.
            with suppress(*((_Unattackable,) if plan.is_default else ())):
                stress_record(cell).append(trial.result(index, change, level))
            yield 1


class _Unattackable(UsageError):
    """A policy that cannot be attacked through its observations."""


class Trial:
    """The policy of one stage, to be measured under stress.

    Args:
        cell: Its run.
        stage: The stage.
        plan: How many episodes.
    """

    def __init__(self, cell: RunFolder, stage: int, plan: StressPlan) -> None:
        self._cell, self._stage = cell, stage
        self._restored = kind_of(cell.scenario).restore(cell, stage)
        changed = {"episodes": plan.episodes, "tasks": "all"}
        self._plan = self._restored.scenario.evaluation.model_copy(update=changed)
        self._scales: dict[int, Array] = {}

    def result(self, index: int, change: str, level: float) -> Stressed:
        """Return what the policy does at one level.

        Raises:
            UsageError: If it cannot be attacked, and this is an attack.
        """
        from holdfast.continual.streams.evaluation import evaluate

        scenario, cell = self._restored.scenario, self._cell
        if change not in (UNCHANGED, ATTACK):
            tasks = [*scenario.tasks]
            tasks[index] = with_change(tasks[index], change, level)
            scenario = scenario.model_copy(update={"tasks": tuple(tasks)})
        scenario = scenario.model_copy(update={"evaluation": self._plan})
        stream = kind_of(scenario).stream(cell.seed, self._restored.spaces)
        end = {
            "stage": self._stage + 1,
            "step": sum(scenario.stage_steps[: self._stage + 1]),
        }
        with closing(stream.eval_stream[index]) as experience:
            agent = self._restored.agent
            if change == ATTACK:
                agent = self._attacked(experience, level)
            episodes = evaluate(agent, [experience], self._plan, cell.seed, **end)
        successes = [one["success"] for one in episodes if one["success"] is not None]
        return Stressed(
            stage=self._stage,
            task=scenario.tasks[index].name,
            change=change,
            level=level,
            score=float(curves(episodes, scenario).values[0, index]),
            total=float(np.mean([one["return"] for one in episodes])),
            success=float(np.mean(successes)) if successes else None,
            length=float(np.mean([one["length"] for one in episodes])),
        )

    def _attacked(self, experience: Any, level: float) -> Any:
        from holdfast.continual.probes.attack import Attacked, attackable, scales

        name, index = experience.task.name, experience.task_index
        try:
            attackable(self._restored.agent)
        except UsageError as error:
            raise _Unattackable(f"{self._cell.path}: no attack in task '{name}': {error}") from None
        if not hasattr(experience, "environments"):
            raise _Unattackable(f"{self._cell.path}: no attack on environments of EnvPool")
        env = experience.environments[0]
        if index not in self._scales:
            self._scales[index] = scales(env, derive(self._cell.seed, "stress", index))
        seed = derive(self._cell.seed, "attack", index)
        return Attacked(
            self._restored.agent, level * self._scales[index], env.observation_space, seed
        )
