"""The ``stream:`` section: in which order tasks come, and what each seed draws of it."""

from __future__ import annotations

from itertools import accumulate, count, cycle, islice, takewhile
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from holdfast.scenarios.schema.fields import SECTION, Positive, Steps, Text
from holdfast.scenarios.schema.task import Task, read_distribution
from holdfast.scenarios.source import bounds

if TYPE_CHECKING:
    import numpy as np

Tasks = tuple[Task, ...]


def _word_or_list(value: Any) -> str:
    # Another word is more likely a task's name, which belongs in a list.
    return "word" if isinstance(value, str) and value.startswith("shuf") else "list"


Order = Annotated[
    Annotated[Literal["shuffled"], Tag("word")]
    | Annotated[tuple[Text, ...], Field(min_length=1), Tag("list")],
    Discriminator(_word_or_list),
]


class Stream(BaseModel):
    """In which order tasks come, and what the learner may know about it."""

    model_config = SECTION

    order: Order | None = None
    """Names of tasks in training order, which may repeat; or shuffled: each seed has an
    order of its own, new at every repetition. Default: as listed.
    """
    repeat: Annotated[Positive, Field(le=bounds.STAGES)] = 1
    """Number of times that the order is repeated."""
    steps: Steps | None = None
    """Instead of repeat: the order is gone through until so many steps are taken."""
    task_id: Literal["hidden", "observed", "heads"] = "observed"
    """Nothing, a one-hot beside the observation, or a head per task."""
    boundaries: Literal["known", "hidden", "detected"] = "known"
    """known tells methods where a task ends; detected tells them where detector: finds it."""
    task_count: Literal["known", "unknown"] = "unknown"
    """known tells methods how many tasks there are."""
    max_tasks: Annotated[Positive, Field(le=bounds.STAGES)] | None = None
    """Width of the one-hot. Default: the number of tasks."""


def stages(tasks: Tasks, stream: Stream) -> tuple[int, ...]:
    """Return the index of the task at each stage, in the listed order where it is shuffled."""
    once = tuple(range(len(tasks)))
    if isinstance(stream.order, tuple):
        place = {task.name: index for index, task in enumerate(tasks)}
        once = tuple(place[name] for name in stream.order)
    budget = stream.steps
    if budget is None:
        return once * stream.repeat
    ends = accumulate(tasks[index].steps for index in cycle(once))
    return tuple(islice(cycle(once), 1 + sum(1 for _ in takewhile(lambda end: end < budget, ends))))


def drawn(tasks: Tasks, stream: Stream, seed: int) -> tuple[Tasks, Stream]:
    """Return the stream with its order written out and every sampled visit as a task of its own.

    A visit to a task with ``sample:`` becomes a task ``<name>-<n>``, n from 1, whose arguments and
    changes hold what was drawn. A stream that leaves nothing to chance comes back as it is.

    Args:
        tasks: The tasks.
        stream: The stream.
        seed: The cell's seed; the same one draws the same.
    """
    sampled = any(task.sample for task in tasks)
    if not sampled and stream.order != "shuffled":
        return tasks, stream
    visits = _visits(tasks, stream, seed)
    visited_tasks: dict[tuple[int, int], Task] = {}
    order: list[str] = []
    numbers = {index: count(1) for index in set(visits)}
    for index in visits:
        task, number = tasks[index], 0
        if task.sample:
            number = next(numbers[index])
            task = visited(task, number, seed)
        visited_tasks[index, number] = task
        order.append(task.name)
    # Sorted, so that they are listed alike for every seed.
    listed = tuple(task for _, task in sorted(visited_tasks.items())) if sampled else tasks
    return listed, stream.model_copy(update={"order": tuple(order), "repeat": 1})


def _visits(tasks: Tasks, stream: Stream, seed: int) -> list[int]:
    """Return the index of the task at each stage, as listed or shuffled in every repetition."""
    listed = list(stages(tasks, stream))
    if stream.order != "shuffled":
        return listed
    from holdfast import seeding  # here, as below: checking a scenario needs no numpy

    rng = seeding.generator(seed, "order")
    visits: list[int] = []
    budget, lap, taken = stream.steps, sum(task.steps for task in tasks), 0
    while len(visits) < len(listed) if budget is None else taken < budget:
        visits += rng.permutation(len(tasks)).tolist()
        taken += lap
    if budget is not None:  # the last repetition may be cut
        while taken - tasks[visits[-1]].steps >= budget:
            taken -= tasks[visits.pop()].steps
    return visits


def visited(task: Task, number: int, seed: int) -> Task:
    """Return a task as it is at one visit, counted from 1: everything that it samples is drawn."""
    from holdfast import seeding

    rng = seeding.generator(seed, "sample", task.name, number)
    data = task.model_dump(exclude={"sample"}, exclude_unset=True)
    for path, draws in task.sample.items():
        place, keys = data, sample_path(path)
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = (
            [draw(text, rng) for text in draws] if isinstance(draws, tuple) else draw(draws, rng)
        )
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
        import numpy as np

        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))


def _plain(number: float) -> float | int:
    return int(number) if number.is_integer() else number
