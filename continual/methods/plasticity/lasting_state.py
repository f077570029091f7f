"""Methods whose functions at the gradient door keep their state over the tasks of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, flat, grouped
from holdfast.agents.doors.gradients import Tensors, Work
from holdfast.continual.method import Doors, Experience, Method


@dataclass(kw_only=True, eq=False)
class LastingState(Method):
    """Base of methods that add one function, whose state outlives the task.

    Each optimizer has its own; its first weight stands for it.
    """

    _work: Work | None = field(init=False, default=None)
    _kept: dict[str, Tensors] = field(init=False, default_factory=dict)

    def begun(self, parameters: Named, fresh: Callable[[Named], Tensors]) -> Tensors:
        """Return the state that was kept last; a fresh one for networks of another form."""
        new, kept = fresh(parameters), self._kept.get(next(iter(parameters)), {})
        return kept if _shapes(kept) == _shapes(new) else new

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Keep the state for the next task."""
        for part in () if self._work is None else self._work.parts:
            if part.state is not None:
                self._kept[next(iter(part.parameters))] = part.state
        self._work = None

    def state(self) -> dict[str, Tensor]:
        """Return all that is kept, by path."""
        return flat(self._kept)

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take it back."""
        self._kept = {}
        for first, own in grouped(tensors).items():
            inside: dict[str, Any] = {}
            for path, tensor in own.items():
                kind, _, name = path.partition("/")
                if name:
                    inside.setdefault(kind, {})[name] = tensor.to(doors.facts.device)
                else:
                    inside[kind] = tensor.to(doors.facts.device)
            self._kept[first] = inside


def _shapes(state: Tensors) -> dict[str, torch.Size]:
    return {path: tensor.shape for path, tensor in flat(state).items()}
