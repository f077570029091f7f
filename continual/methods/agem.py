"""Averaged gradient episodic memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from holdfast.agents.gradients import Named, group_of
from holdfast.continual.episodic import EpisodicMemory, check_finite, draws, joined, split
from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent
    from holdfast.continual.stream import TaskExperience


class AGEM(Method):
    """Takes out of each gradient what would raise the mean loss on finished tasks.

    With g the gradient of the update, after clipping, and r that of the algorithm's own loss on a
    batch drawn evenly from the rows of all finished tasks, where g.r < 0 the step is taken with::

        g - (g.r / r.r) r

    Source: Chaudhry et al. 2018 (arXiv:1812.00420), equation 11; in RL as in Continual World
    (arXiv:2105.10919). The condition g.r >= 0 holds for the gradient, not for what Adam makes of
    it. On-policy, r is the gradient of PPO's or A2C's loss on stored rollouts, with their
    advantages as they were.

    Args:
        dot_product: ``joint`` takes one product over all parameters that one optimizer moves. For
            PPO and A2C these are actor, critic and encoder together. For SAC, TQC, TD3 and DDPG the
            actor and the critic have an optimizer each: there it is one product for either, where
            Continual World's SAC takes a single one over both. ``per_network`` takes one for each
            of actor, critic and encoder, so that the larger gradients of one cannot outvote those
            of another.
        samples: Rows kept per task; 10,000 in Continual World.
        batch_size: Rows per update; 128 in Continual World.
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
    extra: ClassVar[str] = "one more gradient per update"
    convention: ClassVar[str] = "no strength; one constraint for the mean over finished tasks"

    def __init__(
        self,
        *,
        dot_product: Literal["joint", "per_network"] = "joint",
        samples: int = 10_000,
        batch_size: int = 128,
    ) -> None:
        self.dot_product = dot_product
        self.samples = samples
        self.stored = EpisodicMemory(samples, batch_size)

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Project the gradients of the coming task, once there is something to protect."""
        agent.memory.keep_rollouts(self.samples)
        if not len(self.stored):
            return
        drawn = draws(agent, experience, "agem")
        products = conflicts = 0

        def project(parameters: Named, gradients: Named) -> Named:
            nonlocal products, conflicts
            own = {name: parameters[name] for name in gradients}
            reference = self.stored.gradient(agent, own, drawn)
            changed: Named = {}
            for names in self._networks(agent, gradients):
                part = {name: gradients[name] for name in names}
                projected = project_away(
                    joined(part), joined({name: reference[name] for name in names})
                )
                products += 1
                if projected is not None:
                    conflicts += 1
                    changed |= split(projected, part)
            agent.log("method/agem/projected", conflicts / products)
            return changed

        agent.gradients.project(project)

    def _networks(self, agent: StableBaselinesAgent, gradients: Named) -> list[list[str]]:
        if self.dot_product == "joint":
            return [list(gradients)]
        networks: dict[str | None, list[str]] = {}
        for name in gradients:
            networks.setdefault(group_of(name, agent.policy), []).append(name)
        return list(networks.values())

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Keep rows of the finished task."""
        self.stored.store(agent, experience.generator("agem", "store"))

    def state(self) -> dict[str, Tensor]:
        """Return the stored rows."""
        return self.stored.state()

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take the stored rows back."""
        self.stored.load(tensors)


def project_away(gradient: Tensor, reference: Tensor) -> Tensor | None:
    """Return the nearest vector to a gradient that has no negative product with a reference.

    Args:
        gradient: Shape (n,).
        reference: Shape (n,).

    Returns:
        Shape (n,); None where the gradient is that vector itself.

    >>> import torch
    >>> project_away(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
    tensor([1., 0.])
    """
    product = gradient @ reference
    value = product.item()
    check_finite(value, "agem")
    if value >= 0:
        return None
    return gradient - (product / (reference @ reference)) * reference
