"""Adaptation: how fast every stage of a run learns one more task, beside an agent that is fresh.

Each stage's checkpoint goes on in a stream of its own, which holds the stages up to it and then the
task: a run folder that begins as the run's own did, extended by one stage. So the loop learns the
task as it learns any other: methods are told of it, and it is measured as it is learned.

Under ``adapt:`` every finished cell of a scenario does so with the tasks that its stream does not
train, and ``run.json`` gets what it gains.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.continual.jobs.queue import Execute, Watcher
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.trust import vouch
from holdfast.continual.probes.longer_stream import Given, extended, told_of
from holdfast.continual.probes.outcomes import FRESH, Adapted, AdaptPlan, adapt_record, adapt_work
from holdfast.continual.probes.record import difference
from holdfast.continual.results.curves import curves
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.files import has_second_name, write_whole
from holdfast.continual.run_folder.record import SCENARIO, SCORES, RunFolder
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.regular_file import is_there, made_folder, read, remove

POINTS = 20
"""Measurements while a task is learned, where nobody says how many."""


def plan_of(
    scenario: Scenario, task: str, steps: int, *, every: int | None = None, episodes: int = 5
) -> AdaptPlan:
    """Return a plan, with ``POINTS`` measurements where nobody says how many."""
    n_envs = scenario.n_envs
    often = every or max(1, round(steps / POINTS / n_envs)) * n_envs
    return AdaptPlan(task=task, steps=steps, every=often, episodes=episodes)


def count(cells: Sequence[RunFolder], stages: Sequence[int] | None) -> int:
    """Return how many agents learn, those that are fresh among them."""
    return sum(1 + len(_whole_stages(cell, stages)) for cell in cells)


def adapt(
    cells: Sequence[RunFolder],
    plan: AdaptPlan,
    *,
    given: Given | None = None,
    stages: Sequence[int] | None = None,
    jobs: int = 1,
    watcher: Watcher | None = None,
    execute: Execute | None = None,
    overwrite: bool = False,
) -> None:
    """Let every stage of runs learn a task, and a fresh agent beside them.

    Running it again continues what was interrupted and keeps what is done.

    Args:
        cells: The runs, as ``probed_cells`` returns them.
        plan: What is learned.
        given: The task, where it is none of the runs' own.
        stages: Which stages; by default all from which training can go on.
        jobs: Cells learned side by side.
        watcher: Is told what happens.
        execute: Instead of ``jobs``: learns them.
        overwrite: Delete what was learned of this task in as many steps, and start again.

    Raises:
        UsageError: The task cannot come after the stages of a run, or another plan is on file.
        CheckpointUnusable: If a checkpoint cannot be read, or keeps its policy alone.
        HoldfastError: The first failure, after all others have run.
    """
    trials = [trial for cell in cells for trial in _trials(cell, plan, given, stages)]
    for cell in cells:
        made_folder(adapt_work(cell, plan), folders=3)
        with cell.lock():
            if overwrite:
                remove(adapt_work(cell, plan))
                made_folder(adapt_work(cell, plan), folders=3)
            adapt_record(cell, plan).begin(plan)
    for trial in trials:
        trial.check()
    left = [trial for trial in trials if not trial.is_done]
    folders = [trial.prepared() for trial in left]
    outcomes = run_cells(folders, jobs=jobs, watcher=watcher, execute=execute)
    for trial, folder, outcome in zip(left, folders, outcomes, strict=True):
        if outcome.failure is not None:
            raise outcome.failure.as_error()
        if outcome.status == "in use":
            raise UsageError(f"{folder.path} is learned by {outcome.user}; run this again after it")
        with trial.cell.lock():
            if not trial.is_done:
                adapt_record(trial.cell, plan).append(trial.result(folder))


# -- tasks that the stream does not train ----------------------------------------------------------


Watched = Callable[[int, int], AbstractContextManager[Watcher | None]]
"""Makes what is told of so many agents that learn so many steps each."""


def check_held_out(runs: Path, scenario: Scenario) -> None:
    """Raise UsageError where what ``adapt:`` asks for cannot be done; nothing is written.

    Args:
        runs: The folder of all results.
        scenario: What is to be run.
    """
    for cell in scenario.cells() if scenario.adapt is not None else ():
        path = runs / scenario.name / cell.label / f"seed-{cell.seed}"
        folder = RunFolder(path, given=scenario.only(cell))
        for plan in _held_out_plans(folder.scenario):
            record = adapt_record(folder, plan)
            known = record.read()[0]
            if known not in (None, plan):
                raise UsageError(
                    f"{record.path} was measured by another plan ({difference(known, plan)}); "
                    "write adapt: as it was, or delete that folder"
                )
            last = len(folder.scenario.stream_tasks) - 1
            if not folder.scenario.closed and cell.seed == scenario.seeds[0]:
                extended(folder, plan, last, None)


def adapt_held_out(
    folders: Sequence[RunFolder],
    scenario: Scenario,
    watched: Watched,
    *,
    execute: Execute | None = None,
) -> None:
    """Let the finished cells of a scenario learn the tasks that its stream does not train.

    As ``adapt:`` asks; where it does not, nothing happens. What is on file is kept. Cells of
    methods that learn all tasks as one are left out.

    Args:
        folders: Of the cells, as ``prepare`` returns them.
        scenario: Of all of them.
        watched: Makes the watcher of each task.
        execute: Learns them; by default this process.

    Raises:
        HoldfastError: The first failure, after all others have run.
    """
    asked = scenario.adapt
    if asked is None:
        return
    ended = [one for one in folders if one.info().get("status") == "finished"]
    cells = [one for one in ended if not one.scenario.closed]
    for plan in _held_out_plans(scenario) if cells else ():
        last = len(cells[0].scenario.stream_tasks) - 1
        stages = None if asked.stages == "all" else [last]
        with watched(count(cells, stages), plan.steps) as watcher:
            adapt(cells, plan, stages=stages, execute=execute, watcher=watcher)
    for cell in cells:
        with cell.lock():
            cell.update(adaptation=_gains(cell))


def _held_out_plans(scenario: Scenario) -> list[AdaptPlan]:
    """Return what is learned of each task that the stream does not train."""
    asked = scenario.adapt
    assert asked is not None
    how = {"every": asked.every, "episodes": asked.episodes}
    names = [scenario.tasks[task].name for task in scenario.held_out]
    return [plan_of(scenario, name, asked.steps, **how) for name in names]  # type: ignore[arg-type]


def _gains(cell: RunFolder) -> dict[str, float]:
    """Return the area of the stream's end less that of the fresh agent, by the task's name."""
    last = len(cell.scenario.stream_tasks) - 1
    found = {}
    for plan in _held_out_plans(cell.scenario):
        areas = {one.stage: one.area for one in adapt_record(cell, plan).read()[1]}
        found[plan.task] = areas[last] - areas[FRESH]
    return found


# -- one stage -------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """One stage of a run that learns a task.

    Attributes:
        cell: The run.
        plan: What is learned.
        stage: Which stage; ``FRESH`` for none.
        scenario: The stages up to it, and then the task.
    """

    cell: RunFolder
    plan: AdaptPlan
    stage: int
    scenario: Scenario

    @property
    def is_done(self) -> bool:
        """Whether its result is on file."""
        return any(one.stage == self.stage for one in adapt_record(self.cell, self.plan).read()[1])

    @property
    def path(self) -> Path:
        """Its run folder."""
        name = "fresh" if self.stage == FRESH else f"after-{self.stage}"
        work = adapt_work(self.cell, self.plan)
        return work / f"{self.cell.label}-{name}" / f"seed-{self.cell.seed}"

    def check(self) -> None:
        """Raise UsageError where its run folder is of another scenario, as of another task."""
        if is_there(self.path / SCENARIO) and RunFolder(self.path).scenario != self.scenario:
            raise UsageError(
                f"{self.path} is of another scenario than this run and task have now; learn the "
                "task again with --overwrite"
            )

    def prepared(self) -> RunFolder:
        """Return its run folder, which goes on where the stage ended."""
        if is_there(self.path / SCENARIO):
            return RunFolder(self.path, given=self.scenario)
        made_folder(self.path, folders=5)
        if self.stage != FRESH:
            self._copy()
        whole = self.cell.info()
        kept = {name: whole[name] for name in ("lockstep", "engines") if name in whole}
        return RunFolder.create(self.path, self.scenario, stages=self.stage + 1, **kept)

    def _copy(self) -> None:
        """Take over what the stage left: its checkpoint, and that before it; its record."""
        here, there = self.path / checkpoint.FOLDER, self.cell.path / checkpoint.FOLDER
        made_folder(here, folders=6)
        # Both, because the shape of a policy depends on what its methods knew before.
        for stage in range(max(0, self.stage - 1), self.stage + 1):
            source, target = (
                checkpoint.task_folder(there, stage),
                checkpoint.task_folder(here, stage),
            )
            saved = checkpoint.read_manifest(source)
            beside = target.with_name(f"{target.name}.tmp-{os.getpid()}")
            for place in (beside, target):
                remove(place)
            beside.mkdir()
            for name in (*saved, checkpoint.MANIFEST):
                _take_over(source / name, beside / name)
            beside.rename(target)
        size = checkpoint.read_state(checkpoint.task_folder(here, self.stage))["scores_bytes"]
        content = read(self.cell.path / SCORES, size + (1 << 30))[:size]
        write_whole(self.path / SCORES, content)

    def result(self, folder: RunFolder) -> Adapted:
        """Return what its finished run has measured."""
        scenario, name = self.scenario, self.plan.task
        index, first = task_index(scenario, name, str(folder.path)), sum(scenario.stage_steps[:-1])
        own = [one for one in folder.scores() if one["task"] == name]
        began = len(scenario.stream_tasks) - 1
        if self.stage != FRESH:  # before the first step nobody has measured it
            own = [*self._start(index), *(one for one in own if one["step"] > first)]
        own = [one for one in own if one["stage"] >= began]
        scores, totals = (curves(own, scenario, quantity) for quantity in ("score", "return"))
        return Adapted(
            stage=self.stage,
            steps=[int(step) - first for step in scores.steps],
            scores=scores.values[:, index].tolist(),
            totals=totals.values[:, index].tolist(),
            had_learned=index in scenario.stream_tasks[:-1],
            is_normalized=scenario.score_of(index) is not None,
        )

    def _start(self, index: int) -> list[Any]:
        """Measure the stage's policy in the task."""
        from holdfast.continual.streams.evaluation import evaluate

        folder = RunFolder(self.path, given=self.scenario)
        kind = kind_of(self.scenario)
        restored = kind.restore(folder, self.stage)
        stream = kind.stream(folder.seed, restored.spaces)
        step = sum(self.scenario.stage_steps[:-1])
        with closing(stream.eval_stream[index]) as experience:
            return evaluate(
                restored.agent,
                [experience],
                self.scenario.evaluation,
                folder.seed,
                stage=self.stage + 1,
                step=step,
            )


def _take_over(there: Path, here: Path) -> None:
    """Give a file of a checkpoint, which nobody writes into, a second name; or copy it."""
    if not has_second_name(there, here):
        here.write_bytes(read(there, 1 << 40, folders=checkpoint.FOLDERS))


def _trials(
    cell: RunFolder, plan: AdaptPlan, given: Given | None, stages: Sequence[int] | None
) -> list[Trial]:
    """Return what is to be learned in a cell, the fresh agent first."""
    vouch(cell)
    if cell.scenario.closed:
        raise UsageError(f"{cell.path}: cannot take up a task: {cell.scenario.closed}")
    wanted = [FRESH, *_whole_stages(cell, stages)]
    found = [Trial(cell, plan, stage, extended(cell, plan, stage, given)) for stage in wanted]
    if given is not None:
        with told_of(given):
            kind_of(found[0].scenario).spaces()
    return found


def _whole_stages(cell: RunFolder, asked: Sequence[int] | None) -> list[int]:
    """Return the stages from which training can go on.

    Raises:
        UsageError: If there are none, or one that was asked for is none.
    """
    place = cell.path / checkpoint.FOLDER
    newest = checkpoint.newest_stage(cell)
    stages = [checkpoint.asked_stage(cell, one) for one in asked or checkpoint.named_stages(place)]
    whole = [
        one
        for one in stages
        if checkpoint.DROPPED not in checkpoint.read_manifest(checkpoint.task_folder(place, one))
    ]
    if lacking := [one for one in stages if one not in whole] if asked else []:
        raise UsageError(
            f"{cell.path}: of stage {lacking[0]} only what its policy needs to act was kept, so "
            f"that nothing can be learned from it; begin with checkpoint: {{keep: all}}. Stages "
            f"{newest} and the one before it are whole"
        )
    return whole
