"""Snapshots: what a view of a finished task needs besides the weights as they are now."""

from __future__ import annotations

from holdfast.agents.base.parameters import Named, grouped, snapshot
from holdfast.agents.doors.lifecycle import Snapshot
from holdfast.continual.method import Doors

DEVIATION = "log_std"
"""PPO's deviation, which is a bare parameter and no part of a network."""


def deviation_of(doors: Doors) -> Named:
    """Return PPO's ``log_std``; nothing where there is none."""
    return {name: tensor for name, tensor in doors.lifecycle.weights().items() if name == DEVIATION}


class Snapshots:
    """Tensors of the policy and running statistics, from the end of training a task or a module.

    Attributes:
        kept: By the number of the task or module, by file, by name.
    """

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, Named]] = {}

    def keep(self, doors: Doors, number: int, tensors: Named) -> None:
        """Keep copies of these tensors of the policy, and the statistics, under a number."""
        statistics = doors.lifecycle.statistics()
        self.kept[number] = {"policy": snapshot(tensors), "normalization": statistics}

    def of(self, number: int, more: Named | None = None) -> Snapshot:
        """Return what was kept, with further tensors of the policy."""
        kept = self.kept.get(number, {})
        return {**kept, "policy": (more or {}) | kept.get("policy", {})}

    def load(self, tensors: Named) -> None:
        """Take back what ``flat`` made of ``kept``."""
        self.kept = {int(number): grouped(files) for number, files in grouped(tensors).items()}
