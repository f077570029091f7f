"""State of functions at the gradient door that outlives the tasks in which they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from holdfast.agents.base.parameters import Named, flat, grouped
from holdfast.agents.doors.gradients import Tensors, Work


class Lasting:
    """What a function knows of each optimizer; its first weight stands for it.

    Args:
        fresh: Returns the state of a function that has not been called yet.
    """

    def __init__(self, fresh: Callable[[Named], Tensors]) -> None:
        self._fresh = fresh
        self._kept: dict[str, Tensors] = {}

    def begun(self, parameters: Named) -> Tensors:
        """Return the state that was kept last; a fresh one for networks of another form."""
        fresh, kept = self._fresh(parameters), self._kept.get(next(iter(parameters)), {})
        return kept if _shapes(kept) == _shapes(fresh) else fresh

    def keep(self, work: Work | None) -> None:
        """Keep the state that a function has come to."""
        for part in () if work is None else work.parts:
            if part.state is not None:
                self._kept[next(iter(part.parameters))] = part.state

    def state(self) -> Named:
        """Return all that is kept, by path."""
        return flat(self._kept)

    def load(self, tensors: Named, device: torch.device) -> None:
        """Take back what ``state`` gave."""
        self._kept = {}
        for first, own in grouped(tensors).items():
            inside: dict[str, Any] = {}
            for path, tensor in own.items():
                kind, _, name = path.partition("/")
                if name:
                    inside.setdefault(kind, {})[name] = tensor.to(device)
                else:
                    inside[kind] = tensor.to(device)
            self._kept[first] = inside


def _shapes(state: Tensors) -> dict[str, torch.Size]:
    return {path: tensor.shape for path, tensor in flat(state).items()}
