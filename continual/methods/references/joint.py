"""All tasks at once: the upper bound on what can be retained."""

from __future__ import annotations

from holdfast.continual.method import Doors, Experience, Method


class Joint(Method):
    """Learns every task of the stream at the same time, an episode of each in turn.

    No continual learner may do that: it is the reference for how well one agent can do in all tasks
    together (multi-task learning, Wolczyk et al. 2021, arXiv:2105.10919, section 4.3). Each task
    gets the steps of its own budget, spread over the whole stream. One model learns from the first
    step to the last: its replay buffer, optimizers, schedules and exploration go on where the other
    methods switch tasks, whatever ``carry`` says; it is measured and saved there, and episodes are
    cut. A supervised model keeps its optimizer. Forgetting and forward transfer of its row mean
    nothing.
    """

    doors = ("lifecycle",)
    not_in_teams = "it trains on all tasks at once, which a team's environments cannot"
    alone = True

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Make the environments take turns through all tasks."""
        doors.lifecycle.interleave()
