"""The protocol of an experience: one stage of a stream, as the loop and methods know it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Experience(Protocol):
    """One task at one place of the stream.

    What the scenario hides from the learner is masked in the copy that ``train`` returns: reading
    it raises Avalanche's ``MaskedAttributeError``.

    Attributes:
        stage: Position in the stream, from 0.
        task: The task itself.
        task_index: Which task of the scenario; the same number when it comes again.
        task_count: Length of the stream.
        steps: Budget of environment steps; supervised: of updates.
        first_step: Steps of the stream before this experience.
        seed: Seed of the agent and of the training environments.
    """

    stage: int
    task: Any
    task_index: int
    task_count: int
    steps: int
    first_step: int
    seed: int

    def train(self) -> Any:
        """Return a copy without what the scenario hides from the learner."""

    def generator(self, *names: str) -> np.random.Generator:
        """Return this task's generator for a method, by name; the same after a restart."""
