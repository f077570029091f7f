"""The penalty of methods that hold weights: one parabola per weight."""

from __future__ import annotations

from operator import is_not
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from holdfast.agents.doors.gradients import Named, named_parameters
from holdfast.continual.method import Method
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience

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
        self._known: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def gradient(self, parameters: Named) -> Named:
        """Return the gradient of the penalty at ``parameters``; a term for the gradient door."""
        names = [name for name in self.importance if name in parameters]
        if not names:
            return {}
        gaps = torch._foreach_sub(
            [parameters[name] for name in names], [self.centre[name] for name in names]
        )
        torch._foreach_mul_(gaps, self._slopes(names))
        return dict(zip(names, gaps, strict=True))

    def _slopes(self, names: list[str]) -> list[Tensor]:
        """Return 2 x strength x importance; kept, because a factor costs more than a tensor."""
        importance = [self.importance[name] for name in names]
        known, slopes = self._known.get(names[0], ([], []))
        if len(known) != len(importance) or any(map(is_not, known, importance)):
            slopes = list(torch._foreach_mul(importance, 2 * self.strength))
            self._known[names[0]] = importance, slopes
        return slopes

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
        return {f"importance/{name}": value for name, value in self.importance.items()} | {
            f"centre/{name}": value for name, value in self.centre.items()
        }

    def load(self, tensors: Named, device: torch.device) -> None:
        """Take importance and centre back; entries of other names are left to the caller."""
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            if kind in ("importance", "centre"):
                kept = self.importance if kind == "importance" else self.centre
                kept[name] = tensor.to(device)


class Penalized(Method):
    """What the methods share that hold weights by parabolas.

    Attributes:
        name: Of the method, for errors.
        penalty: What holds the weights.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients",)
    memory: ClassVar[str] = "2 numbers per weight, however many tasks"

    penalty: Quadratic
    regularize: str

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Add the penalty's gradient for the coming task, once there is something to hold."""
        check_critic(agent, self.name, self.regularize)
        if self.penalty.importance:
            agent.gradients.add(self.penalty.gradient)

    def state(self) -> dict[str, Tensor]:
        """Return importance and centre of every weight."""
        return self.penalty.state()

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take importance and centre back."""
        self.penalty.load(tensors, agent.device)


def regularized(agent: StableBaselinesAgent, regularize: str) -> dict[str, nn.Parameter]:
    """Return the parameters of the current policy that ``regularize`` names."""
    return named_parameters(agent.policy, *GROUPS[regularize])


def shared(
    agent: StableBaselinesAgent, parameters: dict[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    """Return the parameters without those of which every task has its own (``task_id: heads``)."""
    if not agent.has_heads:
        return parameters
    return {n: p for n, p in parameters.items() if ".heads." not in n and n != "log_std"}


def snapshot(parameters: dict[str, nn.Parameter] | Named) -> Named:
    """Return a detached copy of each."""
    if not parameters:
        return {}
    copies = torch._foreach_clone([parameter.detach() for parameter in parameters.values()])
    return dict(zip(parameters, copies, strict=True))


def check_critic(agent: StableBaselinesAgent, method: str, regularize: str) -> None:
    """Raise where a critic is asked for and the algorithm's only network decides the action.

    Raises:
        UsageError: If there is no critic.
    """
    if regularize == "critic" and agent.algorithm.output == "values":
        raise UsageError(
            f"method {method}.regularize: critic: {agent.scenario.agent.algorithm} has no critic "
            "besides the action values that it acts by, and they count as the actor; write actor"
        )
