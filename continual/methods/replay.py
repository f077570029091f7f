"""Experience replay of finished tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.memory import Arrays
from holdfast.continual.method import Method, check_range

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent
    from holdfast.continual.stream import TaskExperience


class Replay(Method):
    """Keeps transitions of each task and puts them into the batches of later ones.

    A batch keeps its size: ``fraction`` of its rows are replaced by rows drawn evenly from all
    finished tasks. Source: Rolnick et al. 2018, Experience Replay for Continual Learning
    (arXiv:1811.11682), which mixes new and old half and half; here for off-policy algorithms, which
    need no importance weights. On-policy algorithms use ``cloning``.

    Args:
        samples: Transitions kept per task; 10,000 as A-GEM and ClonEx keep in Continual World.
        fraction: Share of each batch that is old, 0 to 1.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("memory",)
    on_policy: ClassVar[bool | None] = False
    convention: ClassVar[str] = "fraction of the rows of each batch that come from finished tasks"

    def __init__(self, *, samples: int = 10_000, fraction: float = 0.5) -> None:
        check_range("replay.samples", samples, 1)
        check_range("replay.fraction", fraction, 0, 1)
        self.samples = samples
        self.fraction = fraction
        self._stored: Arrays = {}

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Mix stored transitions into the batches of the coming task, once there are any."""
        if not self._stored:
            return
        rng = experience.generator("replay")

        def mix(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            size = len(batch["actions"])
            rows = rng.integers(len(self._stored["actions"]), size=round(size * self.fraction))
            old = agent.batch({name: values[rows] for name, values in self._stored.items()})
            return {
                name: torch.cat([old[name], values[len(rows) :]]) for name, values in batch.items()
            }

        agent.memory.mix(mix)

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Store transitions of the finished task, before its replay buffer is dropped."""
        new = agent.transitions(self.samples, experience.generator("replay", "store"))
        self._stored = {
            name: np.concatenate([self._stored.get(name, values[:0]), values])
            for name, values in new.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return the stored transitions."""
        return {name: torch.as_tensor(values) for name, values in self._stored.items()}

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take the stored transitions back."""
        self._stored = {name: tensor.numpy() for name, tensor in tensors.items()}
