"""All tasks at once: the upper bound on what can be retained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.doors.doors import Doors
    from holdfast.continual.streams.experience import StageExperience


class Joint(Method):
    """Learns every task of the stream at the same time, an episode of each in turn.

    No continual learner may do that: it is the reference for how well one agent can do in all tasks
    together (multi-task learning, Wolczyk et al. 2021, arXiv:2105.10919, section 4.3). Each task
    gets the steps of its own budget, spread over the whole stream. At a task switch the agent
    starts as any other does: with fresh optimizers and an empty replay buffer, unless ``carry``
    says otherwise. Forgetting and forward transfer of its row mean nothing.
    """

    doors: ClassVar[tuple[str, ...]] = ("lifecycle",)
    not_in_teams: ClassVar[str] = (
        "it trains on all tasks at once, which a team's environments cannot"
    )
    alone: ClassVar[bool] = True

    def pre_adapt(self, doors: Doors, experience: StageExperience) -> None:
        """Learn the coming task in environments that take turns through all tasks."""
        doors.lifecycle.interleave()
