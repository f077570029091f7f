"""A mitigation of forgetting. Replace the penalty by your own idea."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor

from holdfast.agents.base.parameters import Named, snapshot
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors, Method


@dataclass(kw_only=True, eq=False)
class MyMethod(Method):
    """Pulls every weight of the actor back to where the last task left it.

    The penalty added to the loss is ``strength * sum of (theta - theta_old)^2``.

    Args:
        strength: Factor of the penalty.
    """

    needs = ("boundaries",)  # what it must be told
    doors = ("gradients",)  # how it reaches the agent
    memory = "1 number per weight"
    convention = "strength x sum of (theta - theta_old)^2, no factor 1/2; actor only"

    strength: Annotated[float, (0, None)] = 0.1  # at least 0
    old: Named = field(init=False, default_factory=dict)

    def pre_adapt(self, doors: Doors, experience: Any) -> None:
        """Add to the gradient of the coming task; its model is built after this call."""
        if self.old:
            doors.gradients.add(self.gradient, state={"old": self.old}, groups=("actor",))

    def gradient(self, parameters: Named, state: Tensors, batch: Tensors) -> Named:
        """Return the gradient of the penalty; a function of named tensors and nothing else."""
        old = state["old"]
        return {
            name: 2 * self.strength * (parameters[name] - old[name])
            for name in parameters.keys() & old.keys()
        }

    def post_adapt(self, doors: Doors, experience: Any) -> None:
        """Keep what later tasks must not lose."""
        self.old = snapshot(doors.gradients.parameters("actor"))

    def state(self) -> dict[str, Tensor]:
        """Return what must survive a restart."""
        return self.old

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take it back."""
        self.old = {name: tensor.to(doors.facts.device) for name, tensor in tensors.items()}
