"""What a view of a finished task needs besides the weights as they are now."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from holdfast.agents.doors.gradients import Named

if TYPE_CHECKING:
    from holdfast.agents.agent import Files
    from holdfast.agents.sb3.learner import StableBaselinesAgent

_PREFIX = "kept/"


def deviation_of(policy: Any) -> Named:
    """Return PPO's ``log_std``, which is a bare parameter; nothing where there is none."""
    deviation = getattr(policy, "log_std", None)
    return {"log_std": deviation} if isinstance(deviation, Tensor) else {}


class Kept:
    """Tensors of the policy and running statistics, from the end of training a task or a module."""

    def __init__(self) -> None:
        self._files: dict[int, Files] = {}

    def keep(self, agent: StableBaselinesAgent, index: int, policy: Named) -> None:
        """Keep copies of these tensors of the policy, and the statistics, under a number."""
        copies = {name: tensor.detach().clone() for name, tensor in policy.items()}
        statistics = agent.normalizer.tensors() if agent.normalizer is not None else {}
        self._files[index] = {"policy": copies, "normalization": statistics}

    def overlaid(
        self, agent: StableBaselinesAgent, index: int, policy: Named | None = None
    ) -> AbstractContextManager[None]:
        """Return a context that acts with what was kept, and with further tensors of the policy."""
        files = self._files.get(index, {})
        tensors = (policy or {}) | files.get("policy", {})
        return agent.overlaid(tensors, files.get("normalization", {}))

    def state(self) -> dict[str, Tensor]:
        """Return all of it as ``kept/<task>/<file>/<name>``."""
        return {
            f"{_PREFIX}{task}/{file}/{name}": tensor
            for task, files in self._files.items()
            for file, tensors in files.items()
            for name, tensor in tensors.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned, from among other tensors."""
        for path, tensor in tensors.items():
            if path.startswith(_PREFIX):
                task, file, name = path.removeprefix(_PREFIX).split("/", 2)
                self._files.setdefault(int(task), {}).setdefault(file, {})[name] = tensor
