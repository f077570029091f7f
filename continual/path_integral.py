"""What each weight's own movement gained: the path integral of the loss, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.agents.gradients import Named
from holdfast.continual.quadratic import regularized

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent


class PathIntegral:
    """The first-order fall of the loss along the steps taken: -sum of gradient x move.

    Attributes:
        gains: By weight; positive where its movement lowered the loss.
        start: Each weight before the first step.
        steps: Steps taken.
    """

    def __init__(self) -> None:
        self.gains: Named = {}
        self.start: Named = {}
        self.steps = 0

    def add(self, names: Sequence[str], before: Named, raw: Named, after: Named) -> None:
        """Add a step of some weights.

        Args:
            names: Which; the same at every call.
            before: Weights before the step; never written to later.
            raw: Gradients of the loss itself, without penalties.
            after: Weights after the step.
        """
        if not self.steps:
            self.start = {name: before[name] for name in names}
            self.gains = {name: torch.zeros_like(before[name]) for name in names}
        moves = torch._foreach_sub([after[n] for n in names], [before[n] for n in names])
        torch._foreach_addcmul_(list(self.gains.values()), moves, [raw[n] for n in names], value=-1)
        self.steps += 1

    def moved(self, end: Named) -> list[Tensor]:
        """Return how far each weight is from its start, in the order of ``gains``."""
        return list(torch._foreach_sub([end[n] for n in self.gains], list(self.start.values())))


def follow(
    agent: StableBaselinesAgent,
    regularize: str,
    step: Callable[[list[str], Named, Named, Named], None],
) -> None:
    """Show ``step`` every step of an optimizer in the coming task that moves held weights.

    Args:
        agent: The learner; its model need not exist yet.
        regularize: Which weights are held.
        step: Takes their names, the weights before, gradients of the loss itself and the weights
            after, as ``PathIntegral.add`` does.
    """
    held: set[str] = set()

    def look(before: Named, raw: Named, after: Named) -> None:
        if not held:
            held.update(regularized(agent, regularize))
        names = [name for name in before if name in held and name in raw]
        if names:
            step(names, before, raw, after)

    agent.gradients.watch(look)
