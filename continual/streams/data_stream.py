"""The stream of a supervised scenario: Avalanche experiences that carry a data set."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from avalanche.benchmarks.scenarios.generic_scenario import CLScenario, EagerCLStream
from avalanche.benchmarks.utils import concat_datasets
from torch.utils.data import DataLoader

from holdfast.agents.base.agent import Act
from holdfast.continual.streams.experience import MeasuredExperience, Played, StageExperience
from holdfast.envs.datasets.benchmarks import StreamData, stream_data
from holdfast.scenarios.schema.scenario import Scenario

BATCH = 512
"""Samples that are measured at once."""


@dataclass(frozen=True)
class Known:
    """An experience as a network was told of it: its head and its classes."""

    task_labels: list[int]
    classes_in_this_experience: list[int]


class DataExperience(StageExperience):
    """One task at one place of a supervised stream; Avalanche's strategies train on it as it is.

    Attributes:
        dataset: Avalanche data set to learn from.
        task_labels: Its one task label: 0, or the task's index where there is a head per task.
        classes_in_this_experience: Its classes, ascending.
        earlier: The experiences before this one, in order.
        whole: All tasks of the stream, each once.
        pool: The training data of all tasks, by sample number.
        input_shape: Shape of one input.
        class_count: One more than the highest class of the stream.
    """

    def __init__(self, scenario: Scenario, seed: int, stage: int, data: StreamData) -> None:
        super().__init__(scenario, seed, stage)
        order = scenario.stream_tasks
        mine = data.tasks[order[stage]]
        self.dataset = mine.train
        self.task_labels, self.classes_in_this_experience = [mine.label], list(mine.classes)
        known = [Known([task.label], list(task.classes)) for task in data.tasks]
        self.earlier = [known[index] for index in order[:stage]]
        self.whole = [known[index] for index in dict.fromkeys(order)]
        self._stream_data = [data.tasks[index].train for index in sorted(set(order))]
        self.pool = data.pool
        self.input_shape, self.class_count = data.input_shape, data.class_count

    def joined(self) -> DataExperience:
        """Return this experience with the data of all tasks of the stream."""
        joined = copy(self)  # its label stays, because Avalanche grows one head at a time
        joined.dataset = concat_datasets(self._stream_data)
        return joined


class DataEvalExperience(MeasuredExperience):
    """One task's test set, which is measured whole: one episode, whose return is the accuracy.

    Inputs carry no task id (the agent's view chooses the head), and data sets do not drift.
    """

    def __init__(self, scenario: Scenario, task_index: int, data: StreamData) -> None:
        super().__init__(scenario, task_index)
        self.dataset = data.tasks[task_index].test

    def play(self, act: Act, seeds: Sequence[int], deterministic: bool) -> list[Played]:
        """Return the accuracy on the test set, once for each seed; nothing in it is random."""
        right, count = 0, len(self.dataset)
        for batch in DataLoader(self.dataset.eval(), batch_size=BATCH):
            inputs, classes = batch[0], batch[1].numpy()
            starts = np.ones(len(classes), dtype=bool)
            answers, _ = act(inputs, None, starts, deterministic=deterministic)
            right += int((answers == classes).sum())
        return [Played(right / count, count, None) for _ in seeds]


def make_data_stream(scenario: Scenario, seed: int, data: StreamData | None = None) -> Any:
    """Return an Avalanche scenario with the streams ``train`` and ``eval``.

    Args:
        scenario: A supervised scenario.
        seed: The cell's seed.
        data: What ``stream_data`` returned, where that is known already.

    Raises:
        UsageError: If the data cannot be loaded.
    """
    data = data or stream_data(scenario)
    stages = range(len(scenario.stream_tasks))
    train = [DataExperience(scenario, seed, stage, data) for stage in stages]
    measured = [DataEvalExperience(scenario, index, data) for index in range(len(data.tasks))]
    return CLScenario([EagerCLStream("train", train), EagerCLStream("eval", measured)])
