"""Count of the updates of each optimizer in a task, for what is done every so many of them."""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named


class Counted:
    """Updates of each optimizer since a task began; its first weight stands for it."""

    def __init__(self) -> None:
        self._updates: dict[str, int] = {}

    def next_of(self, parameters: Named) -> int:
        """Count one more update of the optimizer of these parameters, and return which it is."""
        first = next(iter(parameters))
        self._updates[first] = self._updates.get(first, 0) + 1
        return self._updates[first]

    def state(self) -> dict[str, Tensor]:
        """Return the counts by name; nothing before the first update."""
        return {f"updates/{name}": torch.tensor(count) for name, count in self._updates.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        self._updates = {n.removeprefix("updates/"): int(t) for n, t in tensors.items()}
