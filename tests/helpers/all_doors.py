"""Doors for tests: all of them, and what methods do to the modules behind them."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

from torch import nn

from holdfast.agents.doors.doors import Doors
from holdfast.agents.doors.networks import Networks
from holdfast.agents.doors.outputs import Reader
from holdfast.continual.method import Method


class Every(Method):
    """Declares every door; what is due is called by its name."""

    doors = ("gradients", "memory", "networks", "lifecycle", "output")

    def __init__(self, **due: Any) -> None:
        self._acts = due

    def due(self, doors: Doors, name: str) -> None:
        self._acts[name]()


def every_door(agent: Any, **due: Any) -> Doors:
    """Return all doors of an agent."""
    doors: Doors = agent.doors(Every(**due))
    return doors


def reader(agent: Any) -> Reader:
    """Return what the agent's policy says, as a function of named tensors."""
    return every_door(agent).output.actor


def modules_of(policy: nn.Module, kind: Any, *, targets: bool = False) -> list[Any]:
    """Return the modules of a kind, in the order of their names; of targets too if asked for."""
    return [
        module
        for name, module in policy.named_modules()
        if isinstance(module, kind) and (targets or "target" not in name.split(".")[0])
    ]


def rebuild(method: Method, policy: nn.Module) -> None:
    """Do to a policy what a method asks of the networks in the first task."""
    doors = MagicMock(networks=Networks())
    doors.facts.carries = {"weights"}
    method.pre_adapt(doors, MagicMock(steps=1, stage=0))
    for change in doors.networks.maps + doors.networks.maps_above_heads:
        change(policy)
