"""Learn the first task only: what forgetting costs nothing and learning brings nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.doors.doors import Doors
    from holdfast.continual.experience import Experience


class Frozen(Method):
    """Learns the first task and keeps that policy for all others.

    A reference for what the first task alone gives to later ones; called FT-1 where a network per
    task is FT-N (CKA-RL, salina). In later tasks no environment step is taken.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("lifecycle",)
    alone: ClassVar[bool] = True

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Learn nothing from the second task on."""
        doors.lifecycle.freeze(1)
