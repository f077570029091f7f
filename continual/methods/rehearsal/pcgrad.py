"""Projecting conflicting gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, joined
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.rehearsal.episodic import Draws, Projected, Projecting


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
    convention = "no strength; finished tasks' gradients are projected against only"

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Project the gradients of the coming task, once there is something to protect."""
        self._order = experience.generator("pcgrad", "order")
        super().pre_adapt(doors, experience)

    def draw(self, doors: Doors, parameters: Named, drawn: Draws) -> Tensors:
        """Return a batch of rows of each finished task, and an order of the tasks."""
        tasks = self.stored.batches(doors, parameters, drawn)
        order = torch.as_tensor(self._order.permutation(len(tasks)), device=doors.facts.device)
        return {"tasks": tasks, "order": order}

    def project(
        self, doors: Doors, parameters: Named, gradients: Named, batch: Tensors
    ) -> Iterable[Projected]:
        """Project against one finished task after another, in a new order each time."""
        references = torch.stack(
            [joined(doors.gradients.loss_gradient(parameters, task)) for task in batch["tasks"]]
        )  # (tasks, n)
        found, products = project_in_turn(joined(gradients), references, batch["order"])
        yield Projected(gradients, found, (products < 0).any(), products.isfinite().all())


def project_in_turn(gradient: Tensor, references: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return a gradient after one projection against each reference that it conflicts with.

    Args:
        gradient: Shape (n,).
        references: Shape (tasks, n).
        order: Indices of the references, in the order of projection, shape (tasks,).

    Returns:
        The gradient, shape (n,), and its product with each reference when it came to that, in the
        order of projection, shape (tasks,); it was projected where that is negative.
    """
    products = []
    for reference in references.index_select(0, order):
        product = gradient @ reference
        # As a Python number over a tensor is divided: the reciprocal first.
        without = gradient - (reference @ reference).reciprocal() * product * reference
        gradient = torch.where(product < 0, without, gradient)
        products.append(product)
    return gradient, torch.stack(products)
