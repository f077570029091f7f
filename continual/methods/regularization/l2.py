"""L2 to the weights of finished tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from holdfast.agents.base.parameters import snapshot
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.regularization.quadratic import GROUPS, Penalized, Quadratic
from holdfast.continual.methods.snapshots import DEVIATION


@dataclass(kw_only=True, eq=False)
class L2(Penalized):
    """Holds every weight near its old value, all alike.

    The penalty added to the loss is::

        strength * (number of finished tasks) * sum over weights i of (theta[i] - theta_old[i])^2

    with ``theta_old`` the weights at the end of the latest task (``summed``, as Continual World,
    arXiv:2105.10919, whose L2 is EWC with a Fisher information of one), or with a term for every
    task (``separate``), which pulls towards the mean of their weights. It is the baseline that
    Kirkpatrick et al. 2017 (arXiv:1612.00796, section 2.1) compare EWC with. A head per task is
    left out, as in Continual World: other tasks do not move it, and the coming one must be free to.

    Args:
        strength: Factor of the penalty; 1e5 in Continual World and COOM. It acts on every weight
            alike, so small networks want far less.
        kind: ``summed``, ``separate``, or ``online`` (as ``summed``, with earlier tasks times
            ``decay``).
        decay: Of earlier tasks, for ``online``; at 0 the penalty does not grow with the tasks.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``.
        hold_log_std: Whether PPO's and A2C's bare ``log_std`` is held too. Ours is False: it says
            how much the policy explores, and can matter hundreds of times as much as a weight.
    """

    name = "l2"
    convention = (
        "strength x number of finished tasks x sum of (theta - theta_old)^2, no factor 1/2, not "
        "divided by the number of weights; actor only by default"
    )

    strength: Annotated[float, (0, None)] = 1.0
    kind: Literal["separate", "online", "summed"] = "summed"
    decay: Annotated[float, (0, 1)] = 0.0

    def __post_init__(self) -> None:
        self.penalty = Quadratic(self.strength, self.kind, self.decay)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Anchor at the weights of the finished task."""
        held = doors.gradients.parameters(*GROUPS[self.regularize])
        if doors.facts.has_heads:  # every task has its own
            held = {n: p for n, p in held.items() if ".heads." not in n and n != DEVIATION}
        parameters = snapshot(held)
        ones = {name: torch.ones_like(value) for name, value in parameters.items()}
        self.penalty.consolidate(parameters, ones)
