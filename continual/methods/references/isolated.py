"""A fresh agent per task: the single-task reference."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience


class Isolated(Method):
    """Trains a newly initialised agent on each task and keeps one network per task.

    Nothing is transferred and nothing can be forgotten, at the price of as many networks as tasks.
    Forward transfer is measured against its cells (Wolczyk et al. 2021, arXiv:2105.10919, section
    4.2).
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("lifecycle",)
    alone: ClassVar[bool] = True
    memory: ClassVar[str] = "one agent per task"

    def __init__(self) -> None:
        self._agents: dict[int, dict[str, Tensor]] = {}

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Let the coming task start from nothing."""
        agent.lifecycle.has_views = True
        agent.lifecycle.start_fresh()

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Keep the trained agent as the view of its task."""
        task_index = agent.current_task
        files = agent.files()
        self._agents[task_index] = {
            f"{file}/{name}": tensor
            for file in ("policy", "normalization")
            for name, tensor in files.get(file, {}).items()
        }
        self._keep_view(agent, task_index)

    def _keep_view(self, agent: StableBaselinesAgent, task_index: int) -> None:
        kept = self._agents[task_index]
        policy, statistics = (
            {
                name.removeprefix(file): tensor
                for name, tensor in kept.items()
                if name.startswith(file)
            }
            for file in ("policy/", "normalization/")
        )
        agent.lifecycle.keep_view(task_index, partial(agent.overlaid, policy, statistics))

    def state(self) -> dict[str, Tensor]:
        """Return the kept agents, each tensor under ``<task>/<file>/<name>``."""
        return {
            f"{task}/{name}": tensor
            for task, tensors in self._agents.items()
            for name, tensor in tensors.items()
        }

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take the kept agents back and register their views."""
        for path, tensor in tensors.items():
            task, _, name = path.partition("/")
            self._agents.setdefault(int(task), {})[name] = tensor
        agent.lifecycle.has_views = True
        for task_index in self._agents:
            self._keep_view(agent, task_index)
