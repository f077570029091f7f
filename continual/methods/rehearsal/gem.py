"""Gradient episodic memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, joined
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors
from holdfast.continual.methods.imitation import clipped
from holdfast.continual.methods.rehearsal.episodic import Draws, Projected, Projecting

_RIDGE = 1e-9
"""Keeps the products of unit vectors positive definite where two tasks' gradients are parallel.

The authors' 1e-3, on vectors of any length, would let short gradients break the constraints."""


@dataclass(kw_only=True, eq=False)
class GEM(Projecting):
    """Takes the nearest gradient that raises the loss of no finished task.

    With g the gradient of the update, after clipping, and r_k that of the algorithm's own loss on a
    batch of finished task k, where some g.r_k < 0 the step is taken with g + sum_k v_k r_k, where v
    solves the quadratic program::

        minimise 1/2 |g + sum_k v_k r_k|^2  subject to  v_k >= memory_strength

    At strength 0 that is the projection on all constraints at once. Source: Lopez-Paz and Ranzato
    2017 (arXiv:1706.08840), section 3. There the strength is added to v; here, as in the
    authors' code and in Avalanche, it bounds v from below, which keeps every constraint. The
    constraints hold for the gradient, not for what Adam makes of it. SAC, TQC, TD3 and DDPG have an
    optimizer, and so a program, for the actor and for the critic.

    Args:
        memory_strength: Least weight of each finished task's gradient where any constraint is
            broken; .5 in the paper and in Avalanche. Gradients of finished tasks are clipped as the
            algorithm clips its own, so that it compares like with like.
        samples: Rows kept per task; the paper keeps 256 and takes all of them in each update.
        batch_size: Rows per finished task and update.
    """

    name = "gem"
    packages = ("quadprog",)
    convention = (
        "memory_strength is the least weight of each finished task's gradient in the step, where "
        "any constraint is broken"
    )

    memory_strength: Annotated[float, (0, None)] = 0.5

    def draw(self, doors: Doors, parameters: Named, drawn: Draws) -> Tensors:
        """Return a batch of rows of each finished task."""
        return {"tasks": self.stored.batches(doors, parameters, drawn)}

    def project(
        self, doors: Doors, parameters: Named, gradients: Named, batch: Tensors
    ) -> Iterable[Projected]:
        """Solve the quadratic program against every finished task at once."""
        norm = doors.facts.settings.get("max_grad_norm")
        own = [doors.gradients.loss_gradient(parameters, task) for task in batch["tasks"]]
        references = torch.stack([joined(clipped(reference, norm)) for reference in own])
        given = joined(gradients)
        products = references @ given  # (tasks,)
        found, is_finite = None, products.isfinite().all()
        if is_finite and not (products >= 0).all():
            found = project_into_cone(given, references, self.memory_strength)
        changed = torch.tensor(found is not None, device=given.device)
        yield Projected(gradients, given if found is None else found, changed, is_finite)


def project_into_cone(
    gradient: Tensor, references: Tensor, memory_strength: float = 0.0
) -> Tensor | None:
    """Return a gradient plus the references, weighted so that no product with one is negative.

    Args:
        gradient: Shape (n,).
        references: Shape (tasks, n).
        memory_strength: Least weight of each reference; at 0, what comes back is the nearest vector
            to the gradient in the cone.

    Returns:
        Shape (n,); None where the gradient has no negative product with any reference.
    """
    if (references @ gradient >= 0).all():
        return None
    from quadprog import solve_qp  # here: `validate` says what is missing before a run starts

    lengths, scale = references.norm(dim=1), gradient.norm()
    there = lengths > 0
    # In units of each vector's own length, so that the ridge means the same everywhere.
    units = (references[there] / lengths[there, None]).double()
    quadratic = (units @ units.T).cpu().numpy()
    quadratic[range(len(quadratic)), range(len(quadratic))] += _RIDGE
    least = memory_strength * lengths[there] / scale
    weights, *_ = solve_qp(  # 1/2 w'Gw - a'w, where C'w >= b
        G=quadratic,
        a=-(units @ (gradient / scale).double()).cpu().numpy(),
        C=np.eye(len(quadratic)),
        b=least.double().cpu().numpy(),
    )
    moved = torch.as_tensor(weights, device=units.device) @ units  # (n,)
    projected: Tensor = gradient + (scale * moved).to(gradient)
    return projected
