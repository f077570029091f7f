"""The penalty of methods that hold weights: one parabola per weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, below, flat, is_deviation
from holdfast.agents.doors.gradients import Tensors, Work
from holdfast.continual.method import Doors, Experience, Method
from holdfast.errors import UsageError

Kind = Literal["separate", "online", "summed"]

GROUPS = {
    "actor": ("actor", "encoder"),
    "critic": ("critic",),
    "both": ("actor", "encoder", "critic"),
}
"""Groups of parameters that ``regularize`` names; an encoder goes with the actor."""


class Quadratic:
    """strength * sum over weights i of importance[i] * (theta[i] - centre[i])^2, and its gradient.

    ``consolidate`` merges a finished task. By ``kind``:

    * ``separate``: every task keeps its own term. A sum of parabolas is one parabola, so it is held
      exactly as one importance and one centre per weight, however many tasks there were.
    * ``summed``: importances add up, and the centre is the latest weights (Continual World).
    * ``online``: as ``summed``, with older importances times ``decay`` first (Schwarz et al. 2018,
      Progress & Compress, arXiv:1805.06370, equation 9).

    Args:
        strength: Factor of the penalty; no factor 1/2.
        kind: How tasks are merged.
        decay: Of older importances, for ``online``.
    """

    def __init__(self, strength: float, kind: Kind = "separate", decay: float = 1.0) -> None:
        self.strength = strength
        self.kind = kind
        self.decay = decay
        self.importance: Named = {}
        self.centre: Named = {}

    def tensors(self) -> dict[str, Named]:
        """Return the state of ``pull``: slopes, 2 x strength x importance, and centres."""
        if not self.importance:
            return {"slope": {}, "centre": {}}
        slopes = torch._foreach_mul(list(self.importance.values()), 2 * self.strength)
        return {
            "slope": dict(zip(self.importance, slopes, strict=True)),
            "centre": dict(self.centre),
        }

    def gradient(self, parameters: Named) -> Named:
        """Return the gradient of the penalty at ``parameters``."""
        return pull(parameters, self.tensors(), {})

    def consolidate(self, parameters: Named, importance: Named) -> None:
        """Merge the parabola of a finished task: its weights at the end, and what they matter."""
        kept = self.decay if self.kind == "online" else 1.0
        for name, anchor in parameters.items():
            old = self.importance.get(name, torch.zeros_like(anchor)) * kept
            total = old + importance[name]
            centre = anchor
            if self.kind == "separate" and name in self.centre:
                # Written as a step from the anchor: where no task cared, the anchor stays exact.
                share = torch.where(total > 0, old / total.clamp_min(1e-38), 0.0)
                centre = anchor + share * (self.centre[name] - anchor)
            self.importance[name], self.centre[name] = total, centre

    def state(self) -> Named:
        """Return importance and centre of every weight."""
        return flat({"importance": self.importance, "centre": self.centre})

    def load(self, tensors: Named, device: torch.device) -> None:
        """Take importance and centre back; entries of other names are left to the caller."""
        self.importance = below(tensors, "importance", device)
        self.centre = below(tensors, "centre", device)


def pull(parameters: Named, state: Tensors, _batch: Tensors) -> Named:
    """Return slope x (theta - centre) of each weight, the gradient of a ``Quadratic``."""
    slopes, centres = state["slope"], state["centre"]
    names = [name for name in slopes if name in parameters]
    if not names:
        return {}
    gaps = torch._foreach_sub(
        [parameters[name] for name in names], [centres[name] for name in names]
    )
    torch._foreach_mul_(gaps, [slopes[name] for name in names])
    return dict(zip(names, gaps, strict=True))


@dataclass(kw_only=True, eq=False)
class Penalized(Method):
    """Base of the methods that hold weights by parabolas.

    Attributes:
        name: Of the method, for errors.
        penalty: What holds the weights.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``.
        hold_log_std: Whether a bare ``log_std`` (PPO and A2C on boxes) is held as well.
    """

    name: ClassVar[str]
    needs = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients",)
    acts_by: ClassVar[tuple[str, ...]] = ()
    memory = "2 numbers per weight, however many tasks"

    regularize: Literal["actor", "critic", "both"] = "actor"
    hold_log_std: bool = False
    penalty: Quadratic = field(init=False)
    _term: Work | None = field(init=False, default=None)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the penalty's gradient for the coming task, once there is something to hold."""
        check_critic(doors, self.name, self.regularize)
        self._term = None
        if self.penalty.importance:
            groups = GROUPS[self.regularize]
            state = self.penalty.tensors()
            held = {of: self.held(tensors) for of, tensors in state.items()}
            self._term = doors.gradients.add(pull, state=held, groups=groups)

    def held(self, tensors: Named) -> Named:
        """Return those of the weights that are held: exploration is free unless asked otherwise."""
        return {n: t for n, t in tensors.items() if self.hold_log_std or not is_deviation(n)}

    def free(self) -> Named:
        """Return which of the held weights have an importance of exactly zero."""
        return {name: value == 0 for name, value in self.held(self.penalty.importance).items()}

    def state(self) -> dict[str, Tensor]:
        """Return importance and centre of every weight."""
        return self.penalty.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take importance and centre back."""
        self.penalty.load(tensors, doors.facts.device)


def check_critic(doors: Doors, method: str, regularize: str) -> None:
    """Raise where a critic is asked for and the algorithm's only network decides the action.

    Raises:
        UsageError: If there is no critic.
    """
    if regularize == "critic" and doors.facts.output == "values":
        raise UsageError(
            f"method {method}.regularize: critic: {doors.facts.algorithm} has no critic "
            "besides the action values that it acts by, and they count as the actor; write actor"
        )
