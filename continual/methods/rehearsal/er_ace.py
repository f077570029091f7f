"""Cloning of sampled actions, what is left of ER-ACE where every task has all actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, gradient_of
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import ACTING, Reader, draw, log_likelihood
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.rehearsal.episodic import Labelled


@dataclass(kw_only=True, eq=False)
class ERACE(Method):
    """Clones actions that the policy drew at the end of each finished task.

    Named after ER-ACE, and not that method: its asymmetric softmax has nothing to leave out here.

    The loss added for the actor (and its encoder), on a batch drawn evenly from the stored rows of
    all finished tasks, is::

        - strength * mean over the batch of log pi(a | s)

    Each stored observation has one action, drawn from the policy at its task's end; over all
    actions of a discrete space, or, for boxes, of the Gaussian before squashing (up to a constant).
    So it is cloning by samples: in expectation the cross-entropy of the old policy, where
    ``cloning`` has the divergence from its whole output.

    Source: Caccia et al. 2022 (arXiv:2104.05025), for classifiers. There the loss is
    asymmetric: rows from memory take their softmax over all classes, incoming rows over the classes
    of the incoming batch alone, so that new classes do not push old ones away. In RL every task
    chooses among all actions, that mask leaves nothing out, and as in MEAL what stays asymmetric is
    that current rows are never cloned and stored rows are never learned from by reward. No loss on
    the critic. MEAL adds up a mean per task, so there the loss grows with their number.

    Args:
        strength: Factor of the loss; 1 in MEAL.
        samples: Observations kept per task; MEAL keeps 100,000.
        batch_size: Rows per update; MEAL takes 1,024 over all tasks.
    """

    needs = ("boundaries",)
    doors = ("gradients", "output", "memory")
    acts_by = ()
    # Those whose output is a distribution, but for CrossQ: stored rows would move its statistics.
    algorithms = ("ppo", "a2c", "maskable_ppo", "sac", "tqc", "mappo")
    grows = "samples"
    memory = "10,000 observations and actions per task (`samples`)"
    convention = (
        "strength x mean of -log pi(a | s) over a batch of stored rows of all finished tasks; "
        "actor only"
    )

    strength: Annotated[float, (0, None)] = 1.0
    samples: Annotated[int, (1, None)] = 10_000
    batch_size: Annotated[int, (1, None)] = 128
    stored: Labelled = field(init=False, default_factory=Labelled)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the cross-entropy's gradient for the coming task, once there is something stored."""
        doors.memory.keep_rollouts(self.samples)
        if len(self.stored):
            rng = experience.generator("er_ace")
            doors.gradients.add(
                partial(self.gradient, doors.output.actor),
                batch=lambda _: self.stored.draw(doors, rng, self.batch_size),
                groups=ACTING,
            )

    def gradient(self, output: Reader, parameters: Named, _state: Tensors, batch: Tensors) -> Named:
        """Return the gradient of the cross-entropy on one batch."""

        def loss(values: Named) -> Tensor:
            current = output.of(values, batch["seen"])
            likelihood = log_likelihood(output.spec, current, batch["labels"]["actions"])
            return -self.strength * likelihood.mean()

        return gradient_of(loss, parameters)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Store observations of the finished task, with an action of its policy for each.

        Actions are drawn again: those in a replay buffer are of every policy that there was.
        """
        rng = experience.generator("er_ace", "store")
        observations = doors.memory.observations(self.samples, rng)
        device = doors.facts.device
        generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**63)))
        with torch.no_grad():
            said = doors.output.of({}, doors.memory.policy_input(observations))
            actions = draw(doors.output.spec, said, generator)
        self.stored.add(observations, {"actions": actions}, experience.slot)

    def state(self) -> dict[str, Tensor]:
        """Return the stored observations and actions."""
        return self.stored.state()

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take the stored observations and actions back."""
        self.stored.load(tensors, doors.facts.device)
