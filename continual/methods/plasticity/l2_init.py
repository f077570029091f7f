"""Regenerative regularisation: L2 to the initial weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.regularization.quadratic import GROUPS, check_critic


@dataclass(kw_only=True, eq=False)
class L2Init(Method):
    """Pulls every weight back to where it started before any learning, to stay plastic.

    The penalty added to the loss from the first update of the first task on is::

        strength * sum over weights i of (theta[i] - theta_0[i])^2

    so that weights which the loss does not need drift back to their initial values. Source: Kumar
    et al. 2023, Maintaining Plasticity in Continual Learning via Regenerative Regularization
    (arXiv:2308.11958), section 4. It needs no boundaries.

    Args:
        strength: Factor of the penalty; the paper searches 1e-5 to 1e-2.
        regularize: ``both`` as in the paper, ``actor`` (with its encoder) or ``critic``.
    """

    doors = ("gradients",)
    acts_by = ()
    memory = "1 number per weight"
    convention = (
        "strength x sum of (theta - theta_0)^2, no factor 1/2, not divided by the number of "
        "weights; actor and critic"
    )

    strength: Annotated[float, (0, None)] = 1e-3
    regularize: Literal["actor", "critic", "both"] = "both"
    initial: Named = field(init=False, default_factory=dict)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the penalty's gradient for the coming task."""
        check_critic(doors, "l2-init", self.regularize)
        groups = GROUPS[self.regularize]
        doors.gradients.add(self.gradient, state=self.begun, groups=groups)

    def begun(self, parameters: Named) -> Named:
        """Return the initial weights; a weight seen for the first time is initial."""
        for name, value in parameters.items():
            if name not in self.initial:
                self.initial[name] = value.clone()
        return {name: self.initial[name] for name in parameters}

    def gradient(self, parameters: Named, state: Tensors, _batch: Tensors) -> Named:
        """Return the gradient of the penalty, 2 strength (theta - theta_0)."""
        gaps = torch._foreach_sub(list(parameters.values()), [state[name] for name in parameters])
        torch._foreach_mul_(gaps, 2 * self.strength)
        return dict(zip(parameters, gaps, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Return the initial weights."""
        return dict(self.initial)

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the initial weights back."""
        self.initial = {name: tensor.to(doors.facts.device) for name, tensor in tensors.items()}
