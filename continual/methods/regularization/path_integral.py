"""What each weight's own movement gained: the path integral of the loss, weight by weight."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Named, Step, joined, split


class PathIntegral:
    """The first-order fall of the loss along an optimizer's steps: -sum of gradient x move.

    Attributes:
        parameters: The weights that it moves; the vectors are in their order.
        gains: By weight; positive where its movement lowered the loss.
        start: Each weight before the first step.
        steps: Steps taken.
    """

    def __init__(self, step: Step) -> None:
        self.parameters = step.parameters
        self.start, self.gains = step.before, torch.zeros_like(step.before)
        self.steps = 0
        self.add(step)

    def add(self, step: Step) -> None:
        """Add a step."""
        self.gains.addcmul_(step.after - step.before, step.raw, value=-1)
        self.steps += 1

    def vector(self, named: Named) -> Tensor:
        """Return values of the weights, by name, in the order of the vectors."""
        return joined({name: named[name] for name in self.parameters})

    def named(self, vector: Tensor) -> Named:
        """Return a vector by the names of the weights."""
        return split(vector, self.parameters)
