"""Behavioural cloning of old policies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.exploration import Exploration, Exploring, Heads
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import Reader
from holdfast.continual.method import Method
from holdfast.continual.methods.imitation import ACTING, imitation_gradient
from holdfast.continual.methods.rehearsal.episodic import Labelled
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.agents.doors.doors import Doors
    from holdfast.continual.streams.experience import StageExperience


class Cloning(Method):
    """Stays near what the policy said, at each task's end, about observations of that task.

    The loss added for the actor (and its encoder), on a batch drawn from all finished tasks, is::

        strength * mean over the batch of KL(stored output || current output)

    Source: Wolczyk et al. 2022, Disentangling Transfer in Continual RL (arXiv:2209.13900), where it
    is called behavioural cloning of ClonEx-SAC; no loss on the critic, as there. For algorithms on
    action values, the output is a unit Gaussian around them, or their softmax.

    Args:
        strength: Factor of the loss; ClonEx-SAC uses 100 together with ``clip_norm`` .1.
        samples: Observations kept per task; ClonEx keeps 10,000.
        batch_size: Rows per update; ClonEx uses 128.
        clip_norm: Largest norm of the added gradient; None leaves it as it is.
        temperature: For action values: compare softmax(values / temperature); None compares the
            values.
        exploration_steps: Steps at the start of each later task that are taken as for an earlier
            task, in place of uniformly random ones; off-policy algorithms with a task id only.
            ClonEx-SAC uses 10,000.
        exploration: Which earlier task that is: ``best_return``, the one with the best mean return
            on the new task so far; ``previous``; or ``uniform``, drawn for each episode.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients", "lifecycle", "output", "memory")
    claims: ClassVar[tuple[str, ...]] = ("exploration",)
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "strength": (0, None),
        "samples": (1, None),
        "batch_size": (1, None),
        "clip_norm": (0, None),
        "temperature": (1e-6, None),
        "exploration_steps": (0, None),
    }
    memory: ClassVar[str] = "10,000 observations and policy outputs per task (`samples`)"
    convention: ClassVar[str] = (
        "strength x mean KL(stored || current) over a batch of stored observations; actor only"
    )

    def __init__(
        self,
        *,
        strength: float = 1.0,
        samples: int = 10_000,
        batch_size: int = 128,
        clip_norm: float | None = None,
        temperature: float | None = None,
        exploration_steps: int = 0,
        exploration: Exploring = "best_return",
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.exploration_steps = exploration_steps
        self.exploration: Exploring = exploration
        self.stored = Labelled()
        self._gradient = partial(
            imitation_gradient, strength=strength, temperature=temperature, clip_norm=clip_norm
        )

    def pre_adapt(self, doors: Doors, experience: StageExperience) -> None:
        """Add the cloning gradient for the coming task, once there is something to clone."""
        doors.memory.keep_rollouts(self.samples)
        self._explore(doors, experience)
        if not len(self.stored):
            return
        rng = experience.generator("cloning")
        doors.gradients.add(
            partial(self.gradient, doors.output.actor),
            batch=lambda _: self.stored.draw(doors, rng, self.batch_size),
            groups=ACTING,
        )

    def gradient(self, output: Reader, parameters: Named, _state: Tensors, batch: Tensors) -> Named:
        """Return the gradient of the loss on stored observations."""
        return self._gradient(output, parameters, batch["seen"], batch["labels"])

    def forget(self) -> None:
        """Drop all that is stored; the loss is zero from now on, until a task is stored again."""
        self.stored.clear()

    def _explore(self, doors: Doors, experience: StageExperience) -> None:
        """Begin the coming task as an earlier one, where that is asked for."""
        if not self.exploration_steps:
            return
        if doors.facts.on_policy:
            raise UsageError(
                "method cloning.exploration_steps: needs an off-policy algorithm, which may learn "
                f"from actions of another task's policy; '{doors.facts.algorithm}' "
                "learns from its own only: remove the argument"
            )
        if not doors.facts.id_width:
            raise UsageError(
                "method cloning.exploration_steps: acts under the ids of earlier tasks, which "
                "stream.task_id: hidden hides; write task_id: observed or heads"
            )
        earlier = tuple(dict.fromkeys(experience.earlier_tasks))
        if earlier:
            rng = experience.generator("cloning", "exploration")
            heads = Heads(self.exploration, earlier, rng)
            width = doors.facts.id_width
            doors.lifecycle.explore(Exploration(self.exploration_steps, heads, width))

    def post_adapt(self, doors: Doors, experience: StageExperience) -> None:
        """Store observations of the finished task with what the policy says about them now."""
        rng = experience.generator("cloning", "store")
        observations = doors.memory.observations(self.samples, rng)
        with torch.no_grad():
            outputs = doors.output.of({}, doors.memory.policy_input(observations))
        rows = len(next(iter(observations.values())))
        self.stored.add(observations, {k: v.expand(rows, -1) for k, v in outputs.items()})

    def state(self) -> dict[str, Tensor]:
        """Return the stored observations and outputs."""
        return self.stored.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the stored observations and outputs back."""
        self.stored.load(tensors, doors.facts.device)
