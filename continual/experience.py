"""The protocol of an experience: one stage of a stream, as the loop and methods know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.agent import Start


class Experience(Start, Protocol):
    """One task at one place of the stream: what every agent needs of it, and what methods may ask.

    What the scenario hides from the learner is masked in the copy that ``train`` returns: reading
    it raises Avalanche's ``MaskedAttributeError``.

    Attributes:
        task: The task itself.
        task_count: Length of the stream.
        earlier_tasks: Indices of the tasks of the stages before this one, in order.
        first: The first stage, where one model learns the stream as a single task; else None.
        is_detected: Whether a detector finds where methods are told that a task ends.
        slot: Which slot it is, where a detector takes up slots again; else None. What a method
            keeps of a slot, it keeps of its newest visit.
    """

    task: Any
    task_count: int
    earlier_tasks: tuple[int, ...]
    slot: int | None

    @property
    def first(self) -> Any: ...  # noqa: D102  # see above
    @property
    def is_detected(self) -> bool: ...  # noqa: D102  # see above

    def train(self) -> Any:
        """Return a copy without what the scenario hides from the learner."""

    def generator(self, *names: str) -> np.random.Generator:
        """Return this task's generator for a method, by name; the same after a restart."""

    def noise(self, device: torch.device, *names: str) -> torch.Generator:
        """Return such a generator of torch's, on a device."""

    def generators(self) -> dict[str, Tensor]:
        """Return the states of the generators that methods were given in this task."""

    def set_generators(self, states: Mapping[str, Tensor]) -> None:
        """Put back what ``generators`` gave, once methods have asked for theirs again."""
