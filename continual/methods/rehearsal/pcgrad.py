"""Projecting conflicting gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Named, joined
from holdfast.continual.methods.rehearsal.episodic import Draws, Projecting, check_finite

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience


class PCGrad(Projecting):
    """Takes out of each gradient, task by task, what conflicts with a finished task.

    With g the gradient of the update, after clipping, and r_k that of the algorithm's own loss on a
    batch of finished task k, for each k in random order, where g.r_k < 0::

        g <- g - (g.r_k / r_k.r_k) r_k

    Source: Yu et al. 2020, Gradient Surgery for Multi-Task Learning (arXiv:2001.06782), algorithm
    1. There all tasks are learned at once and the step takes the sum of their projected gradients;
    here only the current task is learned, and only its gradient is projected. A later projection
    may bring back some of an earlier conflict: ``gem`` meets all constraints at once. SAC, TQC, TD3
    and DDPG have an optimizer for the actor and for the critic, whose gradients are projected
    apart.

    Args:
        samples: Rows kept per task; as many as A-GEM keeps in Continual World.
        batch_size: Rows per finished task and update.
    """

    name = "pcgrad"
    convention: ClassVar[str] = "no strength; finished tasks' gradients are projected against only"

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Project the gradients of the coming task, once there is something to protect."""
        self._order = experience.generator("pcgrad", "order")
        super().pre_adapt(agent, experience)

    def project(
        self, agent: StableBaselinesAgent, parameters: Named, gradients: Named, drawn: Draws
    ) -> Iterator[tuple[Named, Tensor | None]]:
        """Project against one finished task after another, in a new order each time."""
        references = torch.stack(
            [joined(reference) for reference in self.stored.gradients(agent, parameters, drawn)]
        )  # (tasks, n)
        order = self._order.permutation(len(references)).tolist()
        yield gradients, project_in_turn(joined(gradients), references, order)


def project_in_turn(gradient: Tensor, references: Tensor, order: Iterable[int]) -> Tensor | None:
    """Return a gradient after one projection against each reference that it conflicts with.

    Args:
        gradient: Shape (n,).
        references: Shape (tasks, n).
        order: Indices of the references, in the order of projection.

    Returns:
        Shape (n,); None where the gradient conflicts with none.
    """
    projected: Tensor | None = None
    for task in order:
        reference, current = references[task], gradient if projected is None else projected
        product = (current @ reference).item()
        check_finite(product, "pcgrad")
        if product < 0:
            projected = current - (product / (reference @ reference)) * reference
    return projected
