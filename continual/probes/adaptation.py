"""Adaptation: how fast every stage of a run learns one more task, beside an agent that is fresh.

Each stage's checkpoint goes on in a stream of its own, which holds the stages up to it and then the
task: a run folder that begins as the run's own did, extended by one stage. So the loop learns the
task as it learns any other: methods are told of it, and it is measured as it is learned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.continual.jobs.queue import Watcher
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.trust import vouch
from holdfast.continual.probes.outcomes import FRESH, Adapted, AdaptPlan, adapt_record, adapt_work
from holdfast.continual.results.curves import curves
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.extension import obstacle
from holdfast.continual.run_folder.files import has_second_name, write_whole
from holdfast.continual.run_folder.record import SCENARIO, SCORES, RunFolder
from holdfast.errors import EnvironmentFailed, ScenarioError, UsageError
from holdfast.scenarios.load import load, load_resolved
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.bounds import RESOLVED_BYTES
from holdfast.scenarios.source.regular_file import is_there, made_folder, read, remove
from holdfast.scenarios.source.yaml_file import dump

POINTS = 20
"""Measurements while a task is learned, where nobody says how many."""


class Given(NamedTuple):
    """A task from a file.

    Attributes:
        entry: Of ``tasks:``, as plain data.
        path: Where it was found.
    """

    entry: dict[str, Any]
    path: str


def given_task(place: str, name: str) -> Given:
    """Return a task of a scenario's file, or the one that a file of its own holds.

    Args:
        place: The file, or a shipped scenario's name.
        name: Of the task; a task's own file may leave it out.

    Raises:
        UsageError: If it is not there.
    """
    from holdfast.scenarios.source.yaml_file import read as read_yaml

    path = Path(place)
    if path.is_file():
        source = read_yaml(read(path, RESOLVED_BYTES), place)
        if source.problems:
            raise ScenarioError(source.problems)
        data = source.data
        if isinstance(data, dict) and "tasks" not in data:
            if not {"env"} <= data.keys():
                raise UsageError(f"{place}: is neither a scenario nor a task: it has no env:")
            return Given({"name": name, **data}, place)
    other = load(place)
    index = task_index(other, name, place)
    entry = dict(_data(other)["tasks"][index])
    score = other.score_of(index)
    if score is not None and entry.get("score") is None:
        entry["score"] = score if isinstance(score, str) else score.model_dump()
    return Given(entry, place)


def plan_of(
    cell: RunFolder, task: str, steps: int, *, every: int | None = None, episodes: int = 5
) -> AdaptPlan:
    """Return a plan, with ``POINTS`` measurements where nobody says how many."""
    n_envs = cell.scenario.n_envs
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
    outcomes = run_cells(folders, jobs=jobs, watcher=watcher)
    for trial, folder, outcome in zip(left, folders, outcomes, strict=True):
        if outcome.failure is not None:
            raise outcome.failure.as_error()
        if outcome.status == "in use":
            raise UsageError(f"{folder.path} is learned by {outcome.user}; run this again after it")
        with trial.cell.lock():
            if not trial.is_done:
                adapt_record(trial.cell, plan).append(trial.result(folder))


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
        with _told_of(given):
            kind_of(found[0].scenario).spaces()
    return found


@contextmanager
def _told_of(given: Given | None) -> Iterator[None]:
    """Tell what is wrong with a task from a file as a fault of that file."""
    try:
        yield
    except (ScenarioError, EnvironmentFailed) as error:
        if given is None:
            raise
        raise UsageError(f"{given.path}: this task cannot be taken up: {error}") from error


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


# -- the longer stream -----------------------------------------------------------------------------


def extended(cell: RunFolder, plan: AdaptPlan, stage: int, given: Given | None) -> Scenario:
    """Return the scenario of a cell that ends after a stage with the task of a plan.

    Args:
        cell: The cell.
        plan: The task, its steps, and how it is measured.
        stage: The stage; ``FRESH`` for none before the task.
        given: The task, where it is none of the cell's own.

    Raises:
        UsageError: If the task cannot come there; the text says why.
    """
    old = cell.scenario
    _check(cell, plan, stage, given)
    data = _data(old)
    names = [task.name for task in old.tasks]
    if given is None:
        index = names.index(plan.task)
    else:
        index, own = len(names), {**given.entry, "name": plan.task, "steps": plan.steps}
        data["tasks"].append(own)
    before = [names[task] for task in old.stream_tasks[: stage + 1]]
    stream = {k: v for k, v in data.get("stream", {}).items() if k not in ("repeat", "steps")}
    data["stream"] = {**stream, "order": [*before, plan.task]}
    if plan.task in before:  # its visits keep their steps; the last one is cut
        data["stream"]["steps"] = sum(old.stage_steps[: stage + 1]) + plan.steps
    else:
        data["tasks"][index]["steps"] = plan.steps
    turns = {"sample": 1, "boundaries": "last"}
    measured = {"every": plan.every, "episodes": plan.episodes, "tasks": turns}
    data["evaluation"] = {**data.get("evaluation", {}), **measured}
    where = given.path if given is not None else cell.path / SCENARIO
    with _told_of(given):
        new = load_resolved(cell.path / SCENARIO, content=dump(data).encode(), place=old.place)
    new._folder, new._trusts_code = old._folder, old._trusts_code
    if why := obstacle(
        new if given is not None else new.model_copy(update={"tasks": old.tasks}), old
    ):
        raise UsageError(f"{where}: task '{plan.task}' cannot be taken up by {cell.path}: {why}")
    return new


def _check(cell: RunFolder, plan: AdaptPlan, stage: int, given: Given | None) -> None:
    old = cell.scenario
    if given is None:
        task_index(old, plan.task, str(cell.path))
    elif plan.task in [task.name for task in old.tasks]:
        raise UsageError(
            f"{given.path}: {cell.path} has a task '{plan.task}' of its own; leave --of out to "
            "learn that one"
        )
    for what, steps in (("--steps", plan.steps), ("--every", plan.every)):
        if steps % old.n_envs or not steps:
            raise UsageError(
                f"{what} {steps}: must be a multiple of n_envs, {old.n_envs}; the nearest is "
                f"{max(1, round(steps / old.n_envs)) * old.n_envs}"
            )
    before = old.stream_tasks[: stage + 1]
    for index, steps in zip(before, old.stage_steps, strict=False):
        task = old.tasks[index]
        if task.name == plan.task and given is None and plan.steps > task.steps:
            raise UsageError(
                f"--steps {plan.steps}: {cell.path} has learned '{task.name}' before stage "
                f"{stage + 1}, and a task that comes again has at most its own {task.steps:,} steps"
            )
        if steps != task.steps:
            raise UsageError(
                f"{cell.path}: stage {stage} was cut short by stream.steps, so that no task can "
                "come after it"
            )


def _data(scenario: Scenario) -> dict[str, Any]:
    """Return a resolved scenario as plain data, as its YAML has them."""
    from holdfast.scenarios.source.yaml_file import read as read_yaml

    found: dict[str, Any] = read_yaml(scenario.to_yaml().encode(), "", resolved=True).data
    return found
