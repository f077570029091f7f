"""Weights that mattered to no finished task: how many, how far they move, which units they wake.

A hidden unit that put out zero all through a task gives every weight of its own an importance of
zero. No penalty holds those, whatever its strength, and another task may move them until the unit
puts out something on the observations of the task that was finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, group_of, named_parameters, snapshot
from holdfast.agents.modules.heads import head_tasks
from holdfast.agents.modules.units import activations, magnitudes
from holdfast.continual.method import Method
from holdfast.continual.run_folder.plasticity_record import GROUPS


class FreeWeights:
    """The free and the held weights of a task that has just been started, and where they start.

    A head of a task's own is left out: no other task moves it.

    Args:
        policy: The networks.
        methods: Those with an importance per weight; what none of them gives one is free.
        observations: Of other tasks that were finished, as the policy takes them; None if there
            are none.
    """

    def __init__(self, policy: Any, methods: Iterable[Method], observations: Any) -> None:
        free: Named = {}
        for method in methods:
            for name, mask in method.free().items():
                free[name] = free[name] & mask if name in free else mask
        self._free = {name: mask for name, mask in free.items() if not head_tasks(policy, name)}
        parameters = named_parameters(policy)
        self._start = snapshot({n: parameters[n] for n in self._free if n in parameters})
        has_units = bool(self._free) and observations is not None
        self._dead = _dead(policy, observations) if has_units else {}

    def measure(self, policy: Any, observations: Any) -> dict[str, float]:
        """Return the numbers since the start, by ``<quantity>/<group>``; none where none is held.

        Args:
            policy: The networks as they are now.
            observations: The same as at the start.
        """
        now = _dead(policy, observations) if self._dead else {}
        found: dict[str, float] = {}
        for group in GROUPS:
            own = {n: p for n, p in named_parameters(policy, group).items() if n in self._start}
            if not own:
                continue
            free = torch.cat([self._free[name].reshape(-1) for name in own])
            moves = [(p.detach() - self._start[n]).double().reshape(-1) for n, p in own.items()]
            moved = torch.cat(moves)
            found[f"free_weights/{group}"] = float(free.double().mean())
            for quantity, chosen in (("free_moved", free), ("held_moved", ~free)):
                if chosen.any():
                    found[f"{quantity}/{group}"] = float(moved[chosen].square().mean().sqrt())
            layers = [name for name in self._dead if group_of(name, policy) == group]
            if layers:
                dead = torch.cat([self._dead[name] for name in layers])
                woken = dead & ~torch.cat([now[name] for name in layers])
                found[f"dead_units/{group}"] = float(dead.sum())
                found[f"woken_units/{group}"] = float(woken.sum())
        return found


def _dead(policy: Any, observations: Any) -> dict[str, Tensor]:
    """Return which hidden units put out zero on every observation, by module name."""
    seen = magnitudes(policy, activations(policy, observations))
    return {name: size == 0 for name, size in seen.items()}
