"""Synaptic intelligence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch

from holdfast.agents.base.parameters import Named, joined, snapshot, split
from holdfast.agents.doors.gradients import Tensors, Work
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.regularization.path_integral import begun, walked
from holdfast.continual.methods.regularization.quadratic import GROUPS, Penalized, Quadratic


@dataclass(kw_only=True, eq=False)
class SI(Penalized):
    """Holds each weight near its old value, in proportion to what its movement gained.

    The penalty added to the loss is::

        strength * sum over weights i of Omega[i] * (theta[i] - theta_old[i])^2

    with ``theta_old`` the latest weights and ``Omega`` the sum over finished tasks of w[i] /
    (D[i]^2 + xi): ``w`` is the path integral of the task, minus the sum over its updates of
    gradient x move, and ``D`` how far the weight moved in all. Source: Zenke et al. 2017, Continual
    Learning Through Synaptic Intelligence (arXiv:1703.04200), equations 3 to 5. The gradient is
    that of the algorithm's own loss on each minibatch, without penalties and before clipping; the
    move is the one that the optimizer made. A sum below zero counts as zero: it would push the
    weight away.

    Args:
        strength: Factor of the penalty, c of the paper: 1 on split and .1 on permuted MNIST.
        xi: Damping; 1e-3 in the paper, .1 on permuted MNIST.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``.
        hold_log_std: Whether PPO's and A2C's bare ``log_std`` is held too. Ours is False: it says
            how much the policy explores, and can matter hundreds of times as much as a weight.
    """

    name = "si"
    has_importance = True
    convention = (
        "strength x sum of Omega (theta - theta_old)^2, no factor 1/2; Omega sums over tasks the "
        "path integral / (distance^2 + xi); actor only by default"
    )

    strength: Annotated[float, (0, None)] = 1.0
    xi: Annotated[float, (1e-30, None)] = 1e-3
    _path: Work | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.penalty = Quadratic(self.strength, "summed")

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Follow the coming task's path; add the penalty once there is something to hold."""
        super().pre_adapt(doors, experience)
        groups = GROUPS[self.regularize]
        self._path = doors.gradients.watch(walked, state=begun, groups=groups)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Turn the paths into importances, and anchor at the weights of the finished task."""
        parameters = snapshot(doors.gradients.parameters(*GROUPS[self.regularize]))
        importance = {name: torch.zeros_like(value) for name, value in parameters.items()}
        for part in self._path.parts if self._path else ():
            if part.state is not None:
                end = {name: parameters[name] for name in part.parameters}
                importance |= self.importance(part.state, end)
        self.consolidate(parameters, importance)
        self._path = None

    def importance(self, path: Tensors, end: Named) -> Named:
        """Return w / (D^2 + xi) for every weight of a path that ended at ``end``."""
        moved = joined(end) - path["start"]
        return split(path["gains"] / (moved.square() + self.xi), end)

    def consolidate(self, parameters: Named, importance: Named) -> None:
        """Add the importances of a task, some perhaps negative, and anchor at ``parameters``."""
        zero = torch.zeros(())
        least = {n: -self.penalty.importance.get(n, zero).to(v) for n, v in importance.items()}
        allowed = {n: torch.maximum(value, least[n]) for n, value in importance.items()}
        self.penalty.consolidate(parameters, allowed)
