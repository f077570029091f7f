"""Averaged gradient episodic memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, joined
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors
from holdfast.continual.methods.rehearsal.episodic import Draws, Projected, Projecting


@dataclass(kw_only=True, eq=False)
class AGEM(Projecting):
    """Takes out of each gradient what would raise the mean loss on finished tasks.

    With g the gradient of the update, after clipping, and r that of the algorithm's own loss on a
    batch drawn evenly from the rows of all finished tasks, where g.r < 0 the step is taken with::

        g - (g.r / r.r) r

    Source: Chaudhry et al. 2018 (arXiv:1812.00420), equation 11; in RL as in Continual World
    (arXiv:2105.10919). The condition g.r >= 0 holds for the gradient, not for what Adam makes of
    it. On-policy, r is the gradient of PPO's or A2C's loss on stored rollouts, with their
    advantages as they were.

    Args:
        dot_product: ``joint`` takes one product over all parameters that one optimizer moves. For
            PPO and A2C these are actor, critic and encoder together. For SAC, TQC, TD3 and DDPG the
            actor and the critic have an optimizer each: there it is one product for either, where
            Continual World's SAC takes a single one over both. ``per_network`` takes one for each
            of actor, critic and encoder, so that the larger gradients of one cannot outvote those
            of another.
        samples: Rows kept per task; 10,000 in Continual World.
        batch_size: Rows per update; 128 in Continual World.
    """

    name = "agem"
    extra = "one more gradient per update"
    convention = "no strength; one constraint for the mean over finished tasks"

    dot_product: Literal["joint", "per_network"] = "joint"

    def draw(self, doors: Doors, parameters: Named, drawn: Draws) -> Tensors:
        """Return one batch of rows of all finished tasks."""
        return self.stored.batch(doors, parameters, drawn)

    def project(
        self, doors: Doors, parameters: Named, gradients: Named, batch: Tensors
    ) -> Iterable[Projected]:
        """Project away what conflicts with the mean gradient on finished tasks."""
        reference = doors.gradients.loss_gradient(parameters, batch)
        for names in self._networks(doors, gradients):
            part = {name: gradients[name] for name in names}
            given, against = joined(part), joined({name: reference[name] for name in names})
            conflict = given @ against
            yield Projected(part, project_away(given, against), conflict < 0, conflict.isfinite())

    def _networks(self, doors: Doors, gradients: Named) -> list[list[str]]:
        if self.dot_product == "joint":
            return [list(gradients)]
        groups = [doors.gradients.parameters(g) for g in ("actor", "critic", "encoder")]
        parts = [[name for name in gradients if name in group] for group in groups]
        return [part for part in parts if part]


def project_away(gradient: Tensor, reference: Tensor) -> Tensor:
    """Return the nearest vector to a gradient that has no negative product with a reference.

    Args:
        gradient: Shape (n,).
        reference: Shape (n,).

    Returns:
        Shape (n,).

    >>> import torch
    >>> project_away(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
    tensor([1., 0.])
    """
    product = gradient @ reference
    without = gradient - (product / (reference @ reference)) * reference
    return torch.where(product < 0, without, gradient)
