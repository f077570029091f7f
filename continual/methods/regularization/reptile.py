"""Reptile between tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.continual.method import Doors, Experience, Method

_START = "start"


@dataclass(kw_only=True, eq=False)
class Reptile(Method):
    """Starts each task a part of the way from the last task's start to its end: Reptile.

    With phi the weights that the last task started from, and W those that it ended with, the next
    one starts from::

        phi + step_size * (W - phi)

    so that the starts move towards weights from which all tasks are learned in few updates. Source:
    Nichol et al. 2018, On First-Order Meta-Learning Algorithms (arXiv:1803.02999), algorithm 1. The
    paper draws tasks again and again, and gives each a few updates; here each task of the stream is
    one such round, and its budget the inner loop. A finished task is measured at its end, before
    the way back. All tensors of the policy are moved, those of target networks too, but not SAC's
    entropy coefficient.

    Args:
        step_size: Part of the way, epsilon of the paper; 1 goes on from the end, as ``naive``. Most
            of the authors' commands (openai/supervised-reptile) anneal it from 1 to 0 over batches
            of 3 to 10 tasks, which share the step: .2 is a task's share of 5 at the start.
    """

    needs = ("boundaries",)
    doors = ("lifecycle",)
    claims = ("weights",)
    acts_by = ()
    memory = "1 copy of the policy, however many tasks"
    convention = (
        "start of a task = start of the last + step_size x (its end - its start); all tensors, "
        "actor, critic and targets"
    )

    step_size: Annotated[float, (0, 1)] = 0.2
    starts: Named = field(init=False, default_factory=dict)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Go back from the last task's end at the coming start, and keep where that is."""
        doors.lifecycle.blend(lambda carried, _fresh: self.blended(carried))
        doors.lifecycle.before_learning(_START)

    def blended(self, ends: Named) -> Named:
        """Return what the next task starts from, by name."""
        names = [n for n, start in self.starts.items() if n in ends and _alike(start, ends[n])]
        return {name: torch.lerp(self.starts[name], ends[name], self.step_size) for name in names}

    def due(self, doors: Doors, name: str) -> None:
        """Keep what the task starts from."""
        self.starts = dict(doors.lifecycle.snapshot()["policy"])

    def state(self) -> dict[str, Tensor]:
        """Return the weights that the task started from."""
        return dict(self.starts)

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self.starts = {name: tensor.to(doors.facts.device) for name, tensor in tensors.items()}


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether both are numbers of the same shape."""
    return one.shape == other.shape and one.is_floating_point()
