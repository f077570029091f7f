"""A fresh agent per task: the single-task reference."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from holdfast.agents.base.parameters import flat
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.snapshots import Snapshots


class Isolated(Method):
    """Trains a newly initialised agent on each task and keeps one network per task.

    Nothing is transferred and nothing can be forgotten, at the price of as many networks as tasks.
    Forward transfer is measured against its cells (Wolczyk et al. 2021, arXiv:2105.10919, section
    4.2).
    """

    needs = ("boundaries",)
    doors = ("lifecycle",)
    alone = True
    grows = "networks"
    memory = "one agent per task"

    def __init__(self) -> None:
        self._agents = Snapshots()

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Start the coming task from nothing."""
        doors.lifecycle.keep_views()
        doors.lifecycle.start_fresh()

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Keep the trained agent as the view of its task."""
        task_index = doors.facts.current_task
        self._agents.kept[task_index] = dict(doors.lifecycle.snapshot())
        doors.lifecycle.keep_view(task_index, partial(self._agents.of, task_index))

    def state(self) -> dict[str, Tensor]:
        """Return the kept agents, each tensor under ``<task>/<file>/<name>``."""
        return flat(self._agents.kept)

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the kept agents back and register their views."""
        self._agents.load(tensors)
        doors.lifecycle.keep_views()
        for task_index in self._agents.kept:
            doors.lifecycle.keep_view(task_index, partial(self._agents.of, task_index))
