"""Elastic weight consolidation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast.continual.methods.regularization.importance import (
    analytic_fisher,
    fisher_information,
    measured,
)
from holdfast.continual.methods.regularization.quadratic import Penalized, Quadratic

if TYPE_CHECKING:
    from holdfast.agents.doors.doors import Doors
    from holdfast.continual.streams.experience import StageExperience


class EWC(Penalized):
    """Holds each weight near its old value, in proportion to its Fisher information.

    The penalty added to the loss is::

        strength * sum over tasks t, weights i of F_t[i] * (theta[i] - theta_t[i])^2

    with ``F_t`` the mean of squared per-sample gradients of log pi(a | s), a drawn from the policy
    and s from task t. ``separate`` keeps every task's term (Kirkpatrick et al. 2017,
    arXiv:1612.00796, equation 3, there with a factor 1/2). ``online`` keeps F <- decay * F + F_t
    and anchors at the latest weights only (Schwarz et al. 2018, Progress & Compress,
    arXiv:1805.06370, equation 9). ``summed`` does so without decay, as Continual World.

    Args:
        strength: Factor of the penalty; 1e4 and no factor 1/2 as in Continual World.
        kind: ``separate``, ``online`` or ``summed``.
        decay: Of the older Fisher information, for ``online``; at most 1. Progress & Compress uses
            values below 1, CORA .99.
        samples: Observations of each task that the Fisher information is estimated on; 10 batches
            of 256 as in Continual World.
        fisher: ``sampled`` draws one action per observation; ``analytic`` takes the expectation
            over actions exactly, as Continual World, for one backward pass per output.
        floor: Least Fisher information of a weight per observation; Continual World uses 1e-5.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``; the critic's values count
            as the mean of a unit Gaussian.
    """

    name: ClassVar[str] = "ewc"
    doors: ClassVar[tuple[str, ...]] = ("gradients", "output", "memory")
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "strength": (0, None),
        "decay": (0, 1),
        "samples": (1, None),
        "floor": (0, None),
    }
    extra: ClassVar[str] = "one backward pass per kept observation after each task"
    convention: ClassVar[str] = (
        "strength x sum over tasks of F (theta - theta_t)^2, no factor 1/2; F is the mean of "
        "per-sample squared gradients of the log-likelihood, not normalised; actor only by default"
    )

    def __init__(
        self,
        *,
        strength: float = 1e4,
        kind: Literal["separate", "online", "summed"] = "separate",
        decay: float = 0.99,
        samples: int = 2560,
        fisher: Literal["sampled", "analytic"] = "sampled",
        floor: float = 0.0,
        regularize: Literal["actor", "critic", "both"] = "actor",
    ) -> None:
        self.penalty = Quadratic(strength, kind, decay)
        self.samples = samples
        self.fisher = fisher
        self.floor = floor
        self.regularize = regularize

    def pre_adapt(self, doors: Doors, experience: StageExperience) -> None:
        """Add the penalty's gradient for the coming task, once there is something to hold."""
        doors.memory.keep_rollouts(self.samples)
        super().pre_adapt(doors, experience)

    def forget(self) -> None:
        """Release every weight; the penalty is zero until another task is consolidated."""
        self.penalty.importance, self.penalty.centre = {}, {}
        if self._term is not None:
            self._term.stop()

    def post_adapt(self, doors: Doors, experience: StageExperience) -> None:
        """Estimate the Fisher information of the finished task and add its parabola."""
        rng = experience.generator("ewc")
        observations = doors.memory.policy_input(doors.memory.observations(self.samples, rng))
        measure: Any = partial(analytic_fisher, floor=self.floor)
        if self.fisher == "sampled":
            measure = partial(fisher_information, rng=rng, floor=self.floor)
        self.penalty.consolidate(*measured(doors, self.regularize, observations, measure))
