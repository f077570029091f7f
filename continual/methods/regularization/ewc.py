"""Elastic weight consolidation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from holdfast.agents.base.buffers import by_key
from holdfast.agents.base.parameters import Named, below, flat
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.regularization.importance import (
    analytic_fisher,
    fisher_information,
    floors,
    measured,
)
from holdfast.continual.methods.regularization.quadratic import Penalized, Quadratic


@dataclass(kw_only=True, eq=False)
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
            over actions exactly, for one backward pass per output; ``squashed`` does so with the
            mean as the environment gets it, tanh(mu) x scale for SAC, TQC and CrossQ, as Continual
            World. Other algorithms squash nothing, and get ``analytic`` by it.
        floor: Least Fisher information of a weight per observation, but for the heads of other
            tasks; Continual World uses 1e-5, and leaves out every head.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``; the critic's values count
            as the mean of a unit Gaussian.
        by_cost: Whether an observation counts for 1 / (1 + c) of one whose step costs nothing, c
            being what its own step cost: weights that served unsafe steps stay free. Cost-Fisher
            EWC of Coursey et al. 2026 (arXiv:2604.19737), by two accounts of the paper, which
            could not be read itself.
        hold_log_std: Whether PPO's and A2C's bare ``log_std`` is held too. Ours is False: it says
            how much the policy explores, and can matter hundreds of times as much as a weight.
    """

    name = "ewc"
    has_importance = True
    doors = ("gradients", "output", "memory")
    cost_arguments = ("by_cost",)
    extra = "one backward pass per kept observation after each task"
    convention = (
        "strength x sum over tasks of F (theta - theta_t)^2, no factor 1/2; F is the mean of "
        "per-sample squared gradients of the log-likelihood, not normalised; actor only by default"
    )

    strength: Annotated[float, (0, None)] = 1e4
    kind: Literal["separate", "online", "summed"] = "separate"
    decay: Annotated[float, (0, 1)] = 0.99
    samples: Annotated[int, (1, None)] = 2560
    fisher: Literal["sampled", "analytic", "squashed"] = "sampled"
    floor: Annotated[float, (0, None)] = 0.0
    by_cost: bool = False
    _mattered: Named = field(init=False, default_factory=dict)  # whatever the floor

    def __post_init__(self) -> None:
        self.penalty = Quadratic(self.strength, self.kind, self.decay)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the penalty's gradient for the coming task, once there is something to hold."""
        doors.memory.keep_rollouts(self.samples)
        super().pre_adapt(doors, experience)

    def forget(self) -> None:
        """Release every weight; the penalty is zero until another task is consolidated."""
        self.penalty.importance, self.penalty.centre, self._mattered = {}, {}, {}
        if self._term is not None:
            self._term.stop()

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Estimate the Fisher information of the finished task and add its parabola."""
        rng = experience.generator("ewc")
        weights: Tensor | None = None
        if self.by_cost:
            rows = doors.memory.transitions(self.samples, rng, costs=True)
            weights = 1 / (1 + torch.as_tensor(rows["costs"], device=doors.facts.device))
            observations = doors.memory.policy_input(by_key(rows, "observations"))
        else:
            observations = doors.memory.policy_input(doors.memory.observations(self.samples, rng))
        floor = floors(doors, self.floor, self.regularize)
        squashed = self.fisher == "squashed"
        mattered: Named | None = {} if self.floor else None
        how: Any = {"floor": floor, "weights": weights, "mattered": mattered}
        measure: Any = partial(analytic_fisher, squashed=squashed, **how)
        if self.fisher == "sampled":
            measure = partial(fisher_information, rng=rng, **how)
        found = measured(doors, self.regularize, observations, measure)
        if mattered is not None and self._mattered.keys() == self.penalty.importance.keys():
            before = {} if self.kind == "online" and not self.decay else self._mattered
            self._mattered = {n: before[n] | m if n in before else m for n, m in mattered.items()}
        self.penalty.consolidate(*found)

    def free(self) -> Named:
        """Return which of the held weights mattered to no finished task, before the floor.

        Nothing after a checkpoint of an older version: it has the importance with the floor alone.
        """
        if not self.floor:
            return super().free()
        return {name: ~mattered for name, mattered in self.held(self._mattered).items()}

    def state(self) -> dict[str, Tensor]:
        """Return importance and centre of every weight; with a floor, which mattered without it."""
        return super().state() | flat({"mattered": self._mattered})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
        super().load_state(doors, tensors)
        self._mattered = below(tensors, "mattered", doors.facts.device)
