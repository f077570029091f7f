"""Projecting conflicting gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from holdfast.agents.gradients import Named
from holdfast.continual.episodic import EpisodicMemory, check_finite, draws, joined, split
from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent
    from holdfast.continual.stream import TaskExperience


class PCGrad(Method):
    """Takes out of each gradient, task by task, what conflicts with a finished task.

    With g the gradient of the update, after clipping, and r_k that of the algorithm's own loss on a
    batch of finished task k, for each k in random order, where g.r_k < 0::

        g <- g - (g.r_k / r_k.r_k) r_k

    Source: Yu et al. 2020, Gradient Surgery for Multi-Task Learning (arXiv:2001.06782), algorithm
    1. There all tasks are learned at once and the step takes the sum of their projected gradients;
    here only the current task is learned, and only its gradient is projected. A later projection
    may bring back some of an earlier conflict: ``gem`` meets all constraints at once. SAC, TQC, TD3
    and DDPG have an optimizer for the actor and for the critic, whose gradients are projected
    apart.

    Args:
        samples: Rows kept per task; as many as A-GEM keeps in Continual World.
        batch_size: Rows per finished task and update.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients", "memory")
    algorithms: ClassVar[tuple[str, ...]] = (
        "ppo",
        "a2c",
        "maskable_ppo",
        "dqn",
        "qrdqn",
        "sac",
        "td3",
        "ddpg",
        "tqc",
    )
    claims: ClassVar[tuple[str, ...]] = ("projection",)
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "samples": (1, None),
        "batch_size": (1, None),
    }
    memory: ClassVar[str] = "10,000 transitions or rollout rows per task (`samples`)"
    extra: ClassVar[str] = "one more gradient per update and finished task"
    convention: ClassVar[str] = "no strength; finished tasks' gradients are projected against only"

    def __init__(self, *, samples: int = 10_000, batch_size: int = 128) -> None:
        self.samples = samples
        self.stored = EpisodicMemory(samples, batch_size)

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Project the gradients of the coming task, once there is something to protect."""
        agent.memory.keep_rollouts(self.samples)
        if not len(self.stored):
            return
        drawn = draws(agent, experience, "pcgrad")
        order = experience.generator("pcgrad", "order")
        steps = conflicts = 0

        def project(parameters: Named, gradients: Named) -> Named:
            nonlocal steps, conflicts
            own = {name: parameters[name] for name in gradients}
            references = torch.stack(
                [joined(reference) for reference in self.stored.gradients(agent, own, drawn)]
            )  # (tasks, n)
            tasks = order.permutation(len(references)).tolist()
            projected = project_in_turn(joined(gradients), references, tasks)
            steps, conflicts = steps + 1, conflicts + (projected is not None)
            agent.log("method/pcgrad/projected", conflicts / steps)
            return {} if projected is None else split(projected, gradients)

        agent.gradients.project(project)

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Keep rows of the finished task."""
        self.stored.store(agent, experience.generator("pcgrad", "store"))

    def state(self) -> dict[str, Tensor]:
        """Return the stored rows."""
        return self.stored.state()

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take the stored rows back."""
        self.stored.load(tensors)


def project_in_turn(gradient: Tensor, references: Tensor, order: Iterable[int]) -> Tensor | None:
    """Return a gradient after one projection against each reference that it conflicts with.

    Args:
        gradient: Shape (n,).
        references: Shape (tasks, n).
        order: Indices of the references, in the order of projection.

    Returns:
        Shape (n,); None where the gradient conflicts with none.
    """
    projected: Tensor | None = None
    for task in order:
        reference, current = references[task], gradient if projected is None else projected
        product = (current @ reference).item()
        check_finite(product, "pcgrad")
        if product < 0:
            projected = current - (product / (reference @ reference)) * reference
    return projected
