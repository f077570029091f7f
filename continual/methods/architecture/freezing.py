"""Weights that stay as they are, bit for bit, while others of the same tensor learn."""

from __future__ import annotations

from collections.abc import Callable

import torch

from holdfast.agents.base.parameters import Named, below
from holdfast.agents.doors.gradients import Gradients, Rewritten, Tensors
from holdfast.continual.method import Doors


class Freezing:
    """Masks the gradients of frozen entries and writes their values back after each step.

    A mask alone would not do: Adam moves a weight whose gradient is zero, by its moments and by
    weight decay. What an entry is held at is its value at the first update.

    Args:
        gradients: The door, for the coming task.
        free: Returns boolean masks by parameter before the first update: the entries that learn.
            Parameters left out learn whole.
    """

    def __init__(self, gradients: Gradients, free: Callable[[], Named]) -> None:
        self._free = free
        self._values: Named = {}
        self._masks: Named = {}
        self._works = (
            gradients.scale(factors, state=self.begun),
            gradients.rewrite(restored, state=self.begun, flags=lambda n: {"is_first": not n}),
        )

    def restart(self) -> None:
        """Ask for the masks again at the next update, and hold what is there then."""
        self._values, self._masks = {}, {}
        for work in self._works:
            work.restart()

    def state(self) -> dict[str, Named]:
        """Return what is held and where, for a checkpoint inside the task."""
        return {"value": dict(self._values), "mask": dict(self._masks)}

    def load(self, tensors: Named, device: torch.device) -> None:
        """Take back what ``state`` gave, flat; the door has the state of its functions."""
        self._values = below(tensors, "value", device)
        self._masks = below(tensors, "mask", device)

    def begun(self, parameters: Named) -> Tensors:
        """Return the state of both functions: masks of free entries, factors, values."""
        held = {
            name: mask
            for name, mask in self._free().items()
            if name in parameters and not bool(mask.all())
        }
        for name, mask in held.items():
            self._masks[name] = mask
            self._values.setdefault(name, parameters[name].clone())
        return {
            "free": held,
            "factors": {name: mask.to(parameters[name].dtype) for name, mask in held.items()},
            "values": {name: self._values[name] for name in held},
        }

    def write(self, doors: Doors) -> None:
        """Write the frozen values into the policy, whatever else has changed them since."""
        live = doors.lifecycle.weights()
        doors.lifecycle.write(
            {n: torch.where(self._masks[n], live[n], held) for n, held in self._values.items()}
        )


def factors(_parameters: Named, state: Tensors, _batch: Tensors) -> Named:
    """Return 0 for frozen entries and 1 for free ones."""
    found: Named = state["factors"]
    return found


def restored(parameters: Named, state: Tensors, _batch: Tensors, *, is_first: bool) -> Rewritten:
    """Return the frozen values; their moments start from zero, once."""
    free, values = state["free"], state["values"]
    kept = {name: torch.where(free[name], parameters[name], held) for name, held in values.items()}
    return Rewritten(kept, {name: ~mask for name, mask in free.items()} if is_first else {})
