"""Base classes of experiences, whether their tasks are environments or data sets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.scenarios.generic_scenario import CLExperience
from torch import Tensor

from holdfast import seeding
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.scenarios.source.bounds import EPISODE_STEPS


class StageExperience(CLExperience):  # type: ignore[misc]  # Avalanche ships no types
    """One task at one place of the stream.

    What the scenario hides from the learner (``task_index``, ``task_count``) is masked by
    Avalanche's own mechanism in the copy that ``train()`` returns.

    Attributes:
        stage: Position in the stream, from 0.
        task: The task itself.
        task_index: Which task of the scenario; the same number when it comes again.
        task_count: Length of the stream.
        earlier_tasks: Tasks of the stages before this one, in order.
        steps: Budget of environment steps; supervised: of updates.
        first_step: Steps of the stream before this experience.
        seed: Seed of the agent and of the training environments.
        first: The first stage of a stream that one model learns as a single task, as where its
            boundaries are hidden; None where every task begins again.
        is_detected: Whether a detector finds where methods are told that a task ends.
        slot: Which slot it is, where a detector takes up slots again; else None.
    """

    first: StageExperience | None = None

    def __init__(self, scenario: Scenario, seed: int, stage: int) -> None:
        super().__init__(stage, None)
        order = scenario.stream_tasks
        self.stage = stage
        self.task_index = order[stage]
        self.task_count = len(order)
        self.earlier_tasks = tuple(order[:stage])
        self.task: Task = scenario.tasks[order[stage]]
        self.steps: int = scenario.stage_steps[stage]
        self.first_step = sum(scenario.stage_steps[:stage])
        self.seed = seeding.task_seed(seed, stage)
        self.is_detected = scenario.detects_boundaries
        self.slot: int | None = 0 if scenario.recurs else None
        self._cell_seed = seed
        self._given: list[np.random.Generator | torch.Generator] = []  # shared with train()'s copy
        self._as_attributes("task_index", use_in_train=scenario.stream.task_id != "hidden")
        self._as_attributes("earlier_tasks", use_in_train=scenario.stream.task_id != "hidden")
        self._as_attributes("task_count", use_in_train=scenario.stream.task_count == "known")

    @property
    def is_hidden(self) -> bool:
        """Whether nothing happens to the learner where this stage begins and ends."""
        return self.first is not None

    def generator(self, *names: str) -> np.random.Generator:
        """Return this task's generator for a method, by name; the same after a restart.

        Where a task goes on from a checkpoint inside it, those that ``pre_adapt`` asked for are as
        they were there.
        """
        rng = seeding.generator(self._cell_seed, "method", *names, self.stage)
        self._given.append(rng)
        return rng

    def noise(self, device: torch.device, *names: str) -> torch.Generator:
        """Return a generator of torch's on a device, as ``generator`` does."""
        seed = seeding.generator(self._cell_seed, "method", *names, self.stage).integers(2**63)
        made = torch.Generator(device=device).manual_seed(int(seed))
        self._given.append(made)
        return made

    def begin_slot(self, visit: int, slot: int) -> None:
        """Become what methods are told of a visit to a slot; generators are its own."""
        self.stage = visit
        self.slot = None if self.slot is None else slot
        self._given.clear()  # not replaced: shared with the stage whose copy this is

    def generators(self) -> dict[str, Tensor]:
        """Return the states of the generators that methods were given, by number."""
        return {str(number): seeding.state_of(rng) for number, rng in enumerate(self._given)}

    def set_generators(self, states: Mapping[str, Tensor]) -> None:
        """Put back what ``generators`` gave, once ``pre_adapt`` has asked for its own again.

        Raises:
            CheckpointUnusable: If it has asked for others.
        """
        if len(states) < len(self._given):
            raise CheckpointUnusable(
                f"the checkpoint holds {len(states)} generators of methods, and they have asked "
                f"for {len(self._given)}; was it written by another version?"
            )
        for number, rng in enumerate(self._given):
            seeding.set_state_of(rng, states[str(number)])


class Played(NamedTuple):
    """One episode; of a team, also the return of each agent; of a game, who played.

    ``is_cut`` marks one that was ended from outside, as it did not end by itself; ``cost`` is None
    where the task has none.
    """

    total: float
    length: int
    success: float | None
    agents: dict[str, float] | None = None
    game: dict[str, str] | None = None
    is_cut: bool = False
    cost: float | None = None


class MeasuredExperience(CLExperience):  # type: ignore[misc]  # Avalanche ships no types
    """One task to be measured on.

    Attributes:
        task: The task.
        task_index: Which task of the scenario.
    """

    def __init__(self, scenario: Scenario, task_index: int) -> None:
        super().__init__(task_index, None)
        self.task_index = task_index
        self.task: Task = scenario.tasks[task_index]
        self._most_steps = scenario.evaluation.most_steps

    @cached_property
    def most_steps(self) -> int:
        """Steps after which an episode is cut; the environments are built where they must say."""
        return self._most_steps or self.time_limit() or EPISODE_STEPS

    def time_limit(self) -> int:
        """Return the steps after which an episode ends by itself; 0 where nothing says so."""
        return self.task.changes.time_limit or 0

    def open(self) -> int:
        """Build the environments where they are not open; return how many run side by side."""
        return 1

    def show_task(self, task_index: int) -> None:
        """Put the id of ``task_index`` into the observations from the next episode on."""

    def show_step(self, step: int) -> None:
        """Set what drifts as it is at this step of the stream, while the task is measured."""

    @abstractmethod
    def play(self, act: Any, seeds: Sequence[int], deterministic: bool) -> list[Played]:
        """Return one episode per seed.

        Args:
            act: What the agent's ``view`` gives.
            seeds: Of the episodes.
            deterministic: The most likely action rather than a sample.
        """

    def close(self) -> None:
        """Close the environments; they are built again if they are asked for again."""
