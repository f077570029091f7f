"""Weights that stay as they are, bit for bit, while others of the same tensor learn."""

from __future__ import annotations

import torch

from holdfast.agents.doors.gradients import Named, Rewritten


class Freezing:
    """Masks the gradients of frozen entries and writes their values back after each step.

    A mask alone would not do: Adam moves a weight whose gradient is zero, by its moments and by
    weight decay. What an entry is held at is its value at the first update.

    Args:
        free: Boolean masks by parameter: the entries that learn. Parameters left out learn whole.
    """

    def __init__(self, free: Named) -> None:
        self._free = {name: mask for name, mask in free.items() if not bool(mask.all())}
        self._factors: Named = {}
        self._values: Named = {}
        self._renewed: Named = {name: ~mask for name, mask in self._free.items()}

    def factors(self, parameters: Named) -> Named:
        """Return 0 for frozen entries and 1 for free ones, for ``gradients.scale``."""
        held = [name for name in self._free if name in parameters]
        for name in held:
            if name not in self._values:
                self._values[name] = parameters[name].clone()
                self._factors[name] = self._free[name].to(parameters[name].dtype)
        return {name: self._factors[name] for name in held}

    def restore(self, parameters: Named) -> Rewritten | None:
        """Return the frozen values, for ``gradients.rewrite``; their moments start anew, once."""
        held = [name for name in self._values if name in parameters]
        if not held:
            return None
        values = {
            name: torch.where(self._free[name], parameters[name], self._values[name])
            for name in held
        }
        renewed = {name: self._renewed.pop(name) for name in held if name in self._renewed}
        return Rewritten(values, renewed)

    @torch.no_grad()
    def write(self, parameters: Named) -> None:
        """Write the frozen values into ``parameters``, whatever else has changed them since."""
        rewritten = self.restore(parameters)
        for name, value in (rewritten.values if rewritten else {}).items():
            parameters[name].copy_(value)
