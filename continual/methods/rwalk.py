"""Riemannian walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from holdfast.agents.gradients import Named
from holdfast.continual.path_integral import PathIntegral, follow
from holdfast.continual.quadratic import Penalized, Quadratic, regularized, snapshot

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent
    from holdfast.continual.stream import TaskExperience


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
        self._new: Named = {}
        self._paths: dict[str, PathIntegral] = {}

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Follow the coming task's path; add the penalty once there is something to hold."""
        self._new, self._paths = {}, {}
        super().pre_adapt(agent, experience)
        follow(agent, self.regularize, self.walk)

    def walk(self, names: list[str], before: Named, raw: Named, after: Named) -> None:
        """Take one step of an optimizer into account.

        Args:
            names: The weights it moves that are held.
            before: Weights before the step.
            raw: Gradients of the algorithm's own loss.
            after: Weights after the step.
        """
        gradients = [raw[name] for name in names]
        if names[0] in self.fisher:
            fisher = [self.fisher[name] for name in names]
            torch._foreach_mul_(fisher, 1 - self.alpha)
            torch._foreach_addcmul_(fisher, gradients, gradients, value=self.alpha)
        else:
            squares = torch._foreach_mul(gradients, gradients)
            self.fisher |= dict(zip(names, squares, strict=True))
        path = self._paths.setdefault(names[0], PathIntegral())  # one per optimizer
        path.add(names, before, raw, after)
        if path.steps == self.interval:
            self._score(path, after)
            del self._paths[names[0]]

    def _score(self, path: PathIntegral, end: Named) -> None:
        for (name, gain), move in zip(path.gains.items(), path.moved(end), strict=True):
            score = gain / (0.5 * self.fisher[name] * move.square() + self.epsilon)
            self._new[name] = self._new[name] + score if name in self._new else score

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Turn Fisher information and scores into importances, and anchor at the weights."""
        parameters = snapshot(regularized(agent, self.regularize))
        for path in self._paths.values():  # an interval that the task's end cut short
            self._score(path, parameters)
        self.consolidate(parameters)
        self._new, self._paths = {}, {}

    def consolidate(self, parameters: Named) -> None:
        """Hold ``parameters`` by what was gathered in the finished task and before."""
        for name, score in self._new.items():
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
