"""Snapshots: what a view of a finished task needs besides the current weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.agents.base.parameters import Named, snapshot

if TYPE_CHECKING:
    from holdfast.agents.doors.doors import Doors
    from holdfast.agents.doors.lifecycle import Snapshot

DEVIATION = "log_std"
"""PPO's deviation, which is a bare parameter and no part of a network."""


def deviation_of(doors: Doors) -> Named:
    """Return PPO's ``log_std``; nothing where there is none."""
    return {name: tensor for name, tensor in doors.lifecycle.weights().items() if name == DEVIATION}


class Snapshots:
    """Tensors of the policy and running statistics, from the end of training a task or a module.

    Args:
        prefix: Before the names of their tensors in a checkpoint.
    """

    def __init__(self, prefix: str = "kept/") -> None:
        self._prefix = prefix
        self._kept: dict[int, dict[str, Named]] = {}

    def keep(self, index: int, kept: Snapshot) -> None:
        """Keep a snapshot under a number."""
        self._kept[index] = dict(kept)

    def keep_tensors(self, doors: Doors, index: int, tensors: Named) -> None:
        """Keep copies of these tensors of the policy, and the statistics, under a number."""
        statistics = doors.lifecycle.statistics()
        self.keep(index, {"policy": snapshot(tensors), "normalization": statistics})

    def of(self, index: int, more: Named | None = None) -> Snapshot:
        """Return what was kept, with further tensors of the policy."""
        kept = self._kept.get(index, {})
        return {**kept, "policy": (more or {}) | kept.get("policy", {})}

    def indices(self) -> list[int]:
        """Return the numbers that something is kept under, in the order of keeping."""
        return list(self._kept)

    def state(self) -> dict[str, Tensor]:
        """Return all of it as ``<prefix><number>/<file>/<name>``."""
        return {
            f"{self._prefix}{index}/{file}/{name}": tensor
            for index, files in self._kept.items()
            for file, tensors in files.items()
            for name, tensor in tensors.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned, from among other tensors."""
        for path, tensor in tensors.items():
            if path.startswith(self._prefix):
                index, file, name = path.removeprefix(self._prefix).split("/", 2)
                self._kept.setdefault(int(index), {}).setdefault(file, {})[name] = tensor
