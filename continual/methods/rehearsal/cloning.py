"""Behavioural cloning of old policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.exploration import Exploration, Exploring, Heads
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import ACTING, Reader
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.imitation import Imitation, clipped_to
from holdfast.continual.methods.rehearsal.episodic import Labelled
from holdfast.errors import UsageError


@dataclass(kw_only=True, eq=False)
class Cloning(Method):
    """Stays near what the policy said, at each task's end, about observations of that task.

    The loss added for the actor (and its encoder), on a batch drawn from all finished tasks, is::

        strength * mean over the batch of KL(stored output || current output)

    Source: Wolczyk et al. 2022, Disentangling Transfer in Continual RL (arXiv:2209.13900), where it
    is called behavioural cloning of ClonEx-SAC; no loss on the critic, as there. For algorithms on
    action values, the output is a unit Gaussian around them, or their softmax. ``merge: mean`` does
    with both gradients what ClonEx does, as COOM's code has it (methods/clonex.py, rl/sac.py).

    Args:
        strength: Factor of the loss; ClonEx-SAC uses 100 together with ``clip_norm`` .1.
        samples: Observations kept per task; ClonEx keeps 10,000.
        batch_size: Rows per update; ClonEx uses 128.
        clip_norm: Largest norm of a gradient, which ``merge`` names; None leaves it as it is.
        merge: ``sum`` adds the cloning gradient, itself clipped to ``clip_norm``, to the
            algorithm's own. ``mean`` takes half of their sum, and ``clip_norm`` bounds what each
            optimizer gets in every update, those of the critic and of the first task among them.
        temperature: For action values: compare softmax(values / temperature); None compares the
            values.
        exploration_steps: Steps at the start of each later task that are taken as for an earlier
            task, in place of uniformly random ones; off-policy algorithms with a task id only.
            ClonEx-SAC uses 10,000.
        exploration: Which earlier task that is: ``best_return``, the one with the best mean return
            on the new task so far; ``previous``; or ``uniform``, drawn for each episode.
    """

    needs = ("boundaries",)
    doors = ("gradients", "lifecycle", "output", "memory")
    acts_by = ()
    claims = ("exploration",)
    off_policy_arguments = ("exploration_steps",)
    grows = "samples"
    memory = "10,000 observations and policy outputs per task (`samples`)"
    convention = (
        "strength x mean KL(stored || current) over a batch of stored observations; actor only"
    )

    strength: Annotated[float, (0, None)] = 1.0
    samples: Annotated[int, (1, None)] = 10_000
    batch_size: Annotated[int, (1, None)] = 128
    clip_norm: Annotated[float | None, (0, None)] = None
    merge: Literal["sum", "mean"] = "sum"
    temperature: Annotated[float | None, (1e-6, None)] = None
    exploration_steps: Annotated[int, (0, None)] = 0
    exploration: Exploring = "best_return"
    stored: Labelled = field(init=False, default_factory=Labelled)

    def __post_init__(self) -> None:
        norm = self.clip_norm if self.merge == "sum" else None
        self._imitation = Imitation(self.strength, self.temperature, norm)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the cloning gradient for the coming task, once there is something to clone."""
        doors.memory.keep_rollouts(self.samples)
        self._explore(doors, experience)
        if self.merge == "mean" and self.clip_norm is not None:
            doors.gradients.project(partial(clipped_to, norm=self.clip_norm))
        if not len(self.stored):
            return
        rng = experience.generator("cloning")
        doors.gradients.add(
            partial(self.gradient, doors.output.actor),
            batch=lambda _: self.stored.draw(doors, rng, self.batch_size),
            groups=ACTING,
        )
        if self.merge == "mean":
            doors.gradients.scale(halves, groups=ACTING)

    def gradient(self, output: Reader, parameters: Named, _state: Tensors, batch: Tensors) -> Named:
        """Return the gradient of the loss on stored observations."""
        return self._imitation.gradient(output, parameters, batch["seen"], batch["labels"])

    def forget(self) -> None:
        """Drop all that is stored; the loss is zero from now on, until a task is stored again."""
        self.stored.clear()

    def _explore(self, doors: Doors, experience: Experience) -> None:
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

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Store observations of the finished task with what the policy says about them now."""
        rng = experience.generator("cloning", "store")
        observations = doors.memory.observations(self.samples, rng)
        with torch.no_grad():
            outputs = doors.output.of({}, doors.memory.policy_input(observations))
        rows = len(next(iter(observations.values())))
        labels = {k: v.expand(rows, -1) for k, v in outputs.items()}
        self.stored.add(observations, labels, experience.slot)

    def state(self) -> dict[str, Tensor]:
        """Return the stored observations and outputs."""
        return self.stored.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the stored observations and outputs back."""
        self.stored.load(tensors, doors.facts.device)


def halves(parameters: Named, _state: Tensors, _batch: Tensors) -> Named:
    """Return the factor 1/2 for each parameter: the sum of two gradients becomes their mean."""
    return {name: value.new_full((), 0.5) for name, value in parameters.items()}
