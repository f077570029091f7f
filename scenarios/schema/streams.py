"""What a stream leaves to chance, drawn for one seed: sampled tasks and shuffled orders."""

from __future__ import annotations

from itertools import count

import numpy as np

from holdfast import seeding
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.scenarios.schema.task import read_distribution


def drawn(scenario: Scenario, seed: int) -> Scenario:
    """Return the scenario with its order written out and every sampled visit as a task of its own.

    A visit to a task with ``sample:`` becomes a task ``<name>-<n>``, n from 1, whose arguments and
    changes hold what was drawn. A scenario that leaves nothing to chance comes back as it is.

    Args:
        scenario: The scenario.
        seed: The cell's seed; the same one draws the same.
    """
    sampled = any(task.sample for task in scenario.tasks)
    if not sampled and scenario.stream.order != "shuffled":
        return scenario
    visits = _visits(scenario, seed)
    if not sampled:
        return _with(scenario, scenario.tasks, [scenario.tasks[index].name for index in visits])
    tasks: dict[tuple[int, int], Task] = {}
    order: list[str] = []
    numbers = {index: count(1) for index in set(visits)}
    for index in visits:
        task, number = scenario.tasks[index], 0
        if task.sample:
            number = next(numbers[index])
            task = visited(task, number, seed)
        tasks[index, number] = task
        order.append(task.name)
    listed = tuple(task for _, task in sorted(tasks.items()))  # alike for every seed
    return _with(scenario, listed, order)


def _visits(scenario: Scenario, seed: int) -> list[int]:
    """Return the index of the task at each stage, as listed or shuffled in every repetition."""
    listed = list(scenario.stream_tasks)
    if scenario.stream.order != "shuffled":
        return listed
    size = len(scenario.tasks)
    rng = seeding.generator(seed, "order")
    visits: list[int] = []
    steps = scenario.stream.steps
    while len(visits) < len(listed) if steps is None else _steps(scenario, visits) < steps:
        visits += rng.permutation(size).tolist()
    if steps is not None:  # the last repetition may be cut
        while _steps(scenario, visits[:-1]) >= steps:
            visits.pop()
    return visits


def _steps(scenario: Scenario, visits: list[int]) -> int:
    return sum(scenario.tasks[index].steps for index in visits)


def _with(scenario: Scenario, tasks: tuple[Task, ...], order: list[str]) -> Scenario:
    stream = scenario.stream.model_copy(update={"order": tuple(order), "repeat": 1})
    return scenario.model_copy(update={"tasks": tasks, "stream": stream})


def visited(task: Task, number: int, seed: int) -> Task:
    """Return a task as it is at one visit, counted from 1: everything that it samples is drawn."""
    rng = seeding.generator(seed, "sample", task.name, number)
    data = task.model_dump(exclude={"sample"}, exclude_unset=True)
    for path, text in task.sample.items():
        place, keys = data, sample_path(path)
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = draw(text, rng)
    return Task.model_validate({**data, "name": f"{task.name}-{number}"})


def sample_path(path: str) -> list[str]:
    """Return where in a task a sampled value belongs.

    >>> sample_path("gravity"), sample_path("kwargs.g"), sample_path("model.opt.timestep")
    (['changes', 'set', 'gravity'], ['kwargs', 'g'], ['changes', 'set', 'model.opt.timestep'])
    >>> sample_path("changes.action_gain"), sample_path("changes.set.model.g")
    (['changes', 'action_gain'], ['changes', 'set', 'model.g'])
    """
    section, _, rest = path.partition(".")
    if section == "kwargs" and rest:
        return ["kwargs", rest]
    if section == "changes" and rest.startswith("set."):
        return ["changes", "set", rest.removeprefix("set.")]
    if section == "changes" and rest:
        return ["changes", *rest.split(".")]
    return ["changes", "set", path]


def draw(text: str, rng: np.random.Generator) -> float | int:
    """Return one value of a distribution, as ``read_distribution`` reads it."""
    kind, numbers = read_distribution(text)
    if kind == "choice":
        return _plain(numbers[int(rng.integers(len(numbers)))])
    low, high = numbers
    if kind == "integers":
        return int(rng.integers(int(low), int(high), endpoint=True))
    if kind == "normal":
        return float(rng.normal(low, high))
    if kind == "log_uniform":
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))


def _plain(number: float) -> float | int:
    return int(number) if number.is_integer() else number
