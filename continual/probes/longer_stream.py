"""A longer stream: the stages of a run up to one of them, and then one more task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.continual.probes.outcomes import AdaptPlan
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.extension import obstacle
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.errors import EnvironmentFailed, ScenarioError, UsageError
from holdfast.scenarios.load import load, load_resolved
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.bounds import RESOLVED_BYTES
from holdfast.scenarios.source.regular_file import read
from holdfast.scenarios.source.yaml_file import dump


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
    entry = dict(_plain(other)["tasks"][index])
    score = other.score_of(index)
    if score is not None and entry.get("score") is None:
        entry["score"] = score if isinstance(score, str) else score.model_dump()
    return Given(entry, place)


@contextmanager
def told_of(given: Given | None) -> Iterator[None]:
    """Tell what is wrong inside the block as a fault of the file that a task came from."""
    try:
        yield
    except (ScenarioError, EnvironmentFailed) as error:
        if given is None:
            raise
        raise UsageError(f"{given.path}: this task cannot be taken up: {error}") from error


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
    data = _plain(old)
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
    data.pop("adapt", None)
    where = given.path if given is not None else cell.path / SCENARIO
    with told_of(given):
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


def _plain(scenario: Scenario) -> dict[str, Any]:
    """Return a resolved scenario as plain data, as its YAML has them."""
    from holdfast.scenarios.source.yaml_file import read as read_yaml

    found: dict[str, Any] = read_yaml(scenario.to_yaml().encode(), "", resolved=True).data
    return found
