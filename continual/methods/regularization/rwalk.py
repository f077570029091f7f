"""Riemannian walk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, below, flat, joined, snapshot, split
from holdfast.agents.doors.gradients import Step, Tensors, Work
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.regularization.path_integral import begun, walked
from holdfast.continual.methods.regularization.quadratic import GROUPS, Penalized, Quadratic


@dataclass(kw_only=True, eq=False)
class RWalk(Penalized):
    """Holds weights by an online Fisher information and by what their movement gained.

    The penalty added to the loss is::

        strength * sum over weights i of (F[i] + s[i]) * (theta[i] - theta_old[i])^2

    with ``theta_old`` the latest weights. ``F`` is a moving average over updates, alpha * g^2 +
    (1 - alpha) * F, of the squared gradient g of the algorithm's own loss. ``s`` sums over
    intervals of ``interval`` updates the fall of the loss per Riemannian distance, -(sum of g x
    move) / (F / 2 x (move over the interval)^2 + epsilon); after each task it is averaged with the
    tasks before. Both are divided by their largest entry, and scores below zero count as zero.
    Source: Chaudhry et al. 2018, Riemannian Walk for Incremental Learning (arXiv:1801.10112),
    section 4. As in Avalanche's RWalk, g is the gradient of a minibatch's mean: per-sample
    gradients at every update would cost more than learning does.

    Args:
        strength: Factor of the penalty; Avalanche's default is .1. No weight's importance exceeds
            2, so this reads as that of ``l2``.
        alpha: Weight of the newest squared gradient, 0 to 1; .9 in Avalanche.
        interval: Updates between scores; 10 in Avalanche.
        epsilon: Keeps the distance above zero; the machine epsilon, about 1e-7, in Avalanche.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``.
        hold_log_std: Whether PPO's and A2C's bare ``log_std`` is held too. Ours is False: it says
            how much the policy explores, and can matter hundreds of times as much as a weight.
    """

    name = "rwalk"
    has_importance = True
    memory = "4 numbers per weight, however many tasks"
    convention = (
        "strength x sum of (F + s) (theta - theta_old)^2, no factor 1/2; F and s each scaled to a "
        "maximum of 1; actor only by default"
    )

    strength: Annotated[float, (0, None)] = 1.0
    alpha: Annotated[float, (0, 1)] = 0.9
    interval: Annotated[int, (1, None)] = 10
    epsilon: Annotated[float, (1e-30, None)] = 1e-7
    fisher: Named = field(init=False, default_factory=dict)
    scores: Named = field(init=False, default_factory=dict)
    _walk: Work | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # Each task's importance replaces the one before: it was averaged with it already.
        self.penalty = Quadratic(self.strength, "online", decay=0.0)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Follow the coming task's path; add the penalty once there is something to hold."""
        super().pre_adapt(doors, experience)
        self._walk = doors.gradients.watch(
            self.walk, state=self.begun, groups=GROUPS[self.regularize], flags=self.flags
        )

    def begun(self, parameters: Named) -> Tensors:
        """Return the state of a walk before its first step, as vectors.

        Beside those of a path: ``fisher``, and ``score``, of all intervals.
        """
        zero = torch.zeros_like(joined(parameters))
        known = {name: self.fisher[name] for name in parameters if name in self.fisher}
        return {**begun(parameters), "score": zero, "fisher": joined(known) if known else zero}

    def flags(self, updates: int) -> dict[str, bool]:
        """Return whether an interval begins and ends with this update, and all with it."""
        place = updates % self.interval
        is_first = not updates and not self.fisher
        return {"begins": place == 0, "ends": place == self.interval - 1, "is_first": is_first}

    def walk(
        self,
        step: Step,
        state: Tensors,
        batch: Tensors,
        *,
        begins: bool,
        ends: bool,
        is_first: bool = False,
    ) -> Tensors:
        """Return the state after a step of an optimizer."""
        squares = step.raw.square()
        if not is_first:
            squares = state["fisher"].lerp(squares, self.alpha)
        if begins:
            state = {**state, "start": step.before, "gains": torch.zeros_like(step.before)}
        state = walked(step, {**state, "fisher": squares}, batch)
        return self.scored(state, step.after) if ends else state

    def scored(self, state: Tensors, end: Tensor) -> Tensors:
        """Return the state after an interval has ended at these weights."""
        moved = (end - state["start"]).square()
        score = state["gains"] / (moved * state["fisher"] * 0.5 + self.epsilon)
        return {**state, "score": state["score"] + score}

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Turn Fisher information and scores into importances, and anchor at the weights."""
        parameters = snapshot(doors.gradients.parameters(*GROUPS[self.regularize]))
        for part in self._walk.parts if self._walk else ():
            if part.state is not None:
                end = {name: parameters[name] for name in part.parameters}
                is_cut = part.updates % self.interval  # by the task's end
                state = self.scored(part.state, joined(end)) if is_cut else part.state
                self.take(state, end)
        self.consolidate(parameters)
        self._walk = None

    def take(self, state: Tensors, like: Named) -> None:
        """Take Fisher information and scores of a finished walk, in the order of ``like``."""
        self.fisher |= split(state["fisher"], like)
        for name, score in split(state["score"], like).items():
            old = self.scores.get(name)
            self.scores[name] = score if old is None else 0.5 * (old + score)

    def consolidate(self, parameters: Named) -> None:
        """Hold ``parameters`` by what was gathered in the finished task and before."""
        # What is not held must not be the largest, by which the others are divided.
        fisher, scores = _scaled(self.held(self.fisher)), _scaled(self.held(self.scores))
        zero = torch.zeros(())
        importance = {
            name: torch.zeros_like(value) + fisher.get(name, zero) + scores.get(name, zero)
            for name, value in parameters.items()
        }
        self.penalty.consolidate(parameters, importance)

    def state(self) -> dict[str, Tensor]:
        """Return importance and centre of every weight, the Fisher information and the scores."""
        return super().state() | flat({"fisher": self.fisher, "score": self.scores})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
        super().load_state(doors, tensors)
        self.fisher = below(tensors, "fisher", doors.facts.device)
        self.scores = below(tensors, "score", doors.facts.device)


def _scaled(values: Named) -> Named:
    """Return the values, none below zero, divided by the largest of them all."""
    if not values:
        return {}
    positive = {name: value.clamp_min(0) for name, value in values.items()}
    largest = torch.stack([value.max() for value in positive.values()]).max()
    # Where none is positive, all are zero; the divisor must not be.
    return {n: value / largest.clamp_min(1e-38) for n, value in positive.items()}
