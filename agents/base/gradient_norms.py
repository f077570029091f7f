"""How large gradients are, by group of parameters: a sample of the updates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from holdfast.agents.base.parameters import group_of, named_parameters, optimizers_of

SAMPLED = 16
"""Every so many updates the norm of the gradient is taken: each time would cost some percent."""


class GradientNorms:
    """Means of the gradient's norm by group, over a sample of the updates."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._found: dict[str, list[Tensor]] = {}
        self._updates: list[list[int]] = []  # of each optimizer
        self._places: dict[int, int] = {}

    def attach(self, policy: Any) -> None:
        """Hook the optimizers of a policy; norms of an earlier one are forgotten."""
        self.detach()
        self._found, self._updates, self._places = {}, [], {}
        parameters = named_parameters(policy)
        for optimizer in optimizers_of(policy):
            moved = {id(p) for entry in optimizer.param_groups for p in entry["params"]}
            own: dict[str, list[Any]] = {}
            for name, parameter in parameters.items():
                if id(parameter) in moved and (group := group_of(name, policy)) is not None:
                    own.setdefault(group, []).append(parameter)
            self._places[id(optimizer)] = len(self._updates)
            self._updates.append([0])
            sample = partial(self._sample, own, self._updates[-1])
            handle = optimizer.register_step_pre_hook(sample)
            # First, also where doors are open already: methods change gradients in such hooks.
            hooks: Any = optimizer._optimizer_step_pre_hooks  # an OrderedDict, typed as a dict
            hooks.move_to_end(handle.id, last=False)
            self._handles.append(handle)

    def _sample(self, own: dict[str, list[Any]], updates: list[int], *_: object) -> None:
        updates[0] += 1
        if updates[0] % SAMPLED != 1:
            return
        for group, parameters in own.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                norm = torch.stack(torch._foreach_norm(gradients)).norm()
                self._found.setdefault(group, []).append(norm)

    def add(self, optimizer: Optimizer, norms: Mapping[str, Any]) -> None:
        """Take the norms of steps that were taken without the optimizer, one after another.

        Args:
            optimizer: Whose steps they are.
            norms: By group, a number for each step.
        """
        if not self._handles or (place := self._places.get(id(optimizer))) is None:
            return
        own, count = self._updates[place], max(map(len, norms.values()), default=0)
        first = -own[0] % SAMPLED
        for group, values in norms.items():
            found = [torch.as_tensor(value) for value in values[first::SAMPLED]]
            if found:
                self._found.setdefault(group, []).extend(found)
        own[0] += count

    def told(self) -> tuple[list[int], dict[str, Tensor]]:
        """Return the updates of each optimizer, and the norms since the last ``take``."""
        norms = {group: torch.stack(found) for group, found in self._found.items()}
        return [updates[0] for updates in self._updates], norms

    def put_back(self, updates: list[int], norms: dict[str, Tensor]) -> None:
        """Put back what ``told`` gave, into the optimizers of a policy that was attached."""
        for own, count in zip(self._updates, updates, strict=True):
            own[0] = int(count)
        self._found = {group: list(found.unbind()) for group, found in norms.items()}

    def take(self) -> dict[str, float]:
        """Return the means since the last call, and forget them."""
        found, self._found = self._found, {}
        means = {group: torch.stack(norms).double().mean() for group, norms in found.items()}
        return {f"gradient_norm/{group}": float(mean) for group, mean in means.items()}

    def detach(self) -> None:
        """Remove the hooks; what was sampled stays until it is taken."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
