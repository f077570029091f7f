"""The data of a supervised scenario: an Avalanche benchmark's experiences, one for each task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskLabels, concat_datasets

from holdfast import registry, seeding
from holdfast.errors import HoldfastError, UsageError
from holdfast.scenarios.schema.scenario import Scenario, Task

SAMPLE = "sample_number"
"""Data attribute: the number of a training sample among those of all tasks.

It follows a sample into replay memories, which checkpoints therefore hold as numbers.
"""


@dataclass(frozen=True)
class TaskData:
    """Data that one task learns from and is measured on.

    Attributes:
        train: Avalanche data set of (input, class, task label).
        test: The same, held out.
        label: Task label: the task's index where there is a head per task, else 0.
        classes: The classes that it has, ascending.
    """

    train: Any
    test: Any
    label: int
    classes: tuple[int, ...]


@dataclass(frozen=True)
class StreamData:
    """The data of all tasks.

    Attributes:
        tasks: One for each task of the scenario.
        pool: The training data of all tasks, in the order of their sample numbers.
        input_shape: Shape of one input.
        class_count: Width of a network's output: one more than the highest class.
    """

    tasks: tuple[TaskData, ...]
    pool: Any
    input_shape: tuple[int, ...]
    class_count: int


def stream_data(scenario: Scenario) -> StreamData:
    """Return the data of every task; each benchmark is loaded once.

    Loading draws the same random numbers in every cell: what a benchmark leaves to chance (a class
    order without a seed) is the same for all methods and seeds.

    Raises:
        UsageError: If a benchmark cannot be loaded, lacks an experience, or its inputs differ in
            shape from those of another task.
    """
    loaded: dict[str, Any] = {}
    tasks: list[TaskData] = []
    first_sample = 0
    for index, task in enumerate(scenario.tasks):
        key = json.dumps([task.benchmark, task.kwargs], sort_keys=True)
        if key not in loaded:
            loaded[key] = _load(task, scenario)
        label = index if scenario.stream.task_id == "heads" else 0
        tasks.append(_task_data(task, loaded[key], label, first_sample))
        first_sample += len(tasks[-1].train)
    shapes = [tuple(data.train[0][0].shape) for data in tasks]
    for task, shape in zip(scenario.tasks, shapes, strict=True):
        if shape != shapes[0]:
            raise UsageError(
                f"task '{task.name}' has inputs of shape {shape}, and '{scenario.tasks[0].name}' "
                f"of {shapes[0]}; one network cannot take both"
            )
    pool = concat_datasets([data.train for data in tasks])
    return StreamData(tuple(tasks), pool, shapes[0], 1 + max(max(data.classes) for data in tasks))


def _load(task: Task, scenario: Scenario) -> Any:
    """Return the Avalanche scenario of a task's benchmark."""
    name = str(task.benchmark)
    target = registry.BENCHMARKS.get(name, name)
    with seeding.isolated(0):
        try:
            return registry.load(target, scenario.folder)(**task.kwargs)
        except HoldfastError:
            raise
        except Exception as error:  # of a download, a file, or a user's own function
            raise UsageError(
                f"the benchmark '{name}' of task '{task.name}' cannot be loaded: "
                f"{type(error).__name__}: {error}. Data sets that are not in scikit-learn's "
                "package are downloaded by Avalanche when they are first used"
            ) from error


def _task_data(task: Task, benchmark: Any, label: int, first_sample: int) -> TaskData:
    assert task.experience is not None
    train, test = _stream(benchmark, task, "train"), _stream(benchmark, task, "test")
    if not task.experience < len(train):
        raise UsageError(
            f"the benchmark '{task.benchmark}' has {len(train)} experiences, counted from 0; task "
            f"'{task.name}' asks for number {task.experience}"
        )
    # Some benchmarks (CORe50) have one test set for all experiences.
    measured = test[task.experience if len(test) == len(train) else 0]
    numbers = range(first_sample, first_sample + len(train[task.experience].dataset))
    learned = _labelled(train[task.experience].dataset, label)
    learned = learned.update_data_attribute(SAMPLE, DataAttribute(list(numbers), SAMPLE))
    classes = tuple(sorted(int(target) for target in learned.targets.uniques))
    return TaskData(learned, _labelled(measured.dataset, label), label, classes)


def _stream(benchmark: Any, task: Task, name: str) -> Sequence[Any]:
    streams = getattr(benchmark, "streams", {})
    if name not in streams or not len(streams[name]):
        raise UsageError(
            f"the benchmark '{task.benchmark}' of task '{task.name}' has no stream '{name}'; it "
            "must be a function that returns an Avalanche scenario with the streams train and test"
        )
    return streams[name]  # type: ignore[no-any-return]  # Avalanche's streams are sequences


def _labelled(dataset: Any, label: int) -> Any:
    """Return the data with one task label for all samples."""
    labels = TaskLabels(ConstantSequence(label, len(dataset)))
    return dataset.update_data_attribute("targets_task_labels", labels)
