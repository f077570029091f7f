"""Learn the first task only: what forgetting costs nothing and learning brings nothing."""

from __future__ import annotations

from holdfast.continual.method import Doors, Experience, Method


class Frozen(Method):
    """Learns the first task and keeps that policy for all others.

    A reference for what the first task alone gives to later ones; called FT-1 where a network per
    task is FT-N (CKA-RL, salina). In later tasks no environment step is taken.
    """

    needs = ("boundaries",)
    doors = ("lifecycle",)
    alone = True

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Learn nothing from the second task on."""
        doors.lifecycle.freeze(1)
