"""Riemannian walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Named, Step, joined, split
from holdfast.continual.methods.regularization.path_integral import PathIntegral
from holdfast.continual.methods.regularization.quadratic import (
    Penalized,
    Quadratic,
    regularized,
    snapshot,
)

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience


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
    """

    name: ClassVar[str] = "rwalk"
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "strength": (0, None),
        "alpha": (0, 1),
        "interval": (1, None),
        "epsilon": (1e-30, None),
    }
    memory: ClassVar[str] = "4 numbers per weight, however many tasks"
    convention: ClassVar[str] = (
        "strength x sum of (F + s) (theta - theta_old)^2, no factor 1/2; F and s each scaled to a "
        "maximum of 1; actor only by default"
    )

    def __init__(
        self,
        *,
        strength: float = 1.0,
        alpha: float = 0.9,
        interval: int = 10,
        epsilon: float = 1e-7,
        regularize: Literal["actor", "critic", "both"] = "actor",
    ) -> None:
        # Each task's importance replaces the one before: it was averaged with it already.
        self.penalty = Quadratic(strength, "online", decay=0.0)
        self.alpha = alpha
        self.interval = interval
        self.epsilon = epsilon
        self.regularize = regularize
        self.fisher: Named = {}
        self.scores: Named = {}
        self._sums: dict[str, tuple[Named, Tensor]] = {}
        self._paths: dict[str, PathIntegral] = {}
        self._vectors: dict[str, Tensor] = {}

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Follow the coming task's path; add the penalty once there is something to hold."""
        self._sums, self._paths, self._vectors = {}, {}, {}
        super().pre_adapt(agent, experience)
        agent.gradients.watch(self.walk, lambda: regularized(agent, self.regularize))

    def walk(self, step: Step) -> None:
        """Take one step of an optimizer into account."""
        optimizer = next(iter(step.parameters))  # its first weight stands for it
        squares = step.raw.square()
        fisher = self._vectors.get(optimizer)
        if fisher is not None:
            fisher.lerp_(squares, self.alpha)
        else:
            if optimizer in self.fisher:
                old = joined({name: self.fisher[name] for name in step.parameters})
                squares = old.lerp_(squares, self.alpha)
            self._vectors[optimizer] = squares
            self.fisher |= step.named(squares)  # views: they go on with the vector
        if optimizer in self._paths:
            self._paths[optimizer].add(step)
        else:
            self._paths[optimizer] = PathIntegral(step)
        path = self._paths[optimizer]
        if path.steps == self.interval:
            self._score(optimizer, step.after)

    def _score(self, optimizer: str, end: Tensor) -> None:
        path = self._paths.pop(optimizer)
        moved = (end - path.start).square_()
        score = path.gains / moved.mul_(self._vectors[optimizer]).mul_(0.5).add_(self.epsilon)
        sums = self._sums.setdefault(optimizer, (path.parameters, torch.zeros_like(score)))
        sums[1].add_(score)

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Turn Fisher information and scores into importances, and anchor at the weights."""
        parameters = snapshot(regularized(agent, self.regularize))
        for optimizer, path in [*self._paths.items()]:  # an interval that the task's end cut short
            self._score(optimizer, path.vector(parameters))
        self.consolidate(parameters)
        self._sums, self._paths, self._vectors = {}, {}, {}

    def consolidate(self, parameters: Named) -> None:
        """Hold ``parameters`` by what was gathered in the finished task and before."""
        new: Named = {}
        for like, total in self._sums.values():
            new |= split(total, like)
        for name, score in new.items():
            old = self.scores.get(name)
            self.scores[name] = score if old is None else 0.5 * (old + score)
        fisher, scores = _scaled(self.fisher), _scaled(self.scores)
        zero = torch.zeros(())
        importance = {
            name: torch.zeros_like(value) + fisher.get(name, zero) + scores.get(name, zero)
            for name, value in parameters.items()
        }
        self.penalty.consolidate(parameters, importance)

    def state(self) -> dict[str, Tensor]:
        """Return importance and centre of every weight, the Fisher information and the scores."""
        fisher = {f"fisher/{name}": value for name, value in self.fisher.items()}
        scores = {f"score/{name}": value for name, value in self.scores.items()}
        return super().state() | fisher | scores

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
        super().load_state(agent, tensors)
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            if kind in ("fisher", "score"):
                kept = self.fisher if kind == "fisher" else self.scores
                kept[name] = tensor.to(agent.device, copy=True)  # changed in place


def _scaled(values: Named) -> Named:
    """Return the values, none below zero, divided by the largest of them all."""
    if not values:
        return {}
    positive = {name: value.clamp_min(0) for name, value in values.items()}
    largest = torch.stack([value.max() for value in positive.values()]).max()
    # Where none is positive, all are zero; the divisor must not be.
    return {n: value / largest.clamp_min(1e-38) for n, value in positive.items()}
