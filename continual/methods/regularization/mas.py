"""Memory aware synapses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.regularization.importance import measured, sensitivity
from holdfast.continual.methods.regularization.quadratic import Penalized, Quadratic


@dataclass(kw_only=True, eq=False)
class MAS(Penalized):
    """Holds each weight near its old value, in proportion to how far it sways the output.

    The penalty added to the loss is::

        strength * sum over weights i of Omega[i] * (theta[i] - theta_old[i])^2

    with ``Omega`` the sum over finished tasks of the mean over observations of |d ||f(s)||^2 / d
    theta[i]|, and ``theta_old`` the latest weights. Source: Aljundi et al. 2018, Memory Aware
    Synapses (arXiv:1711.09601), equations 2 to 4, with the gradient of the squared length (section
    4.1). The output f is the logits of discrete actions, the action values (DQN), and for a
    Gaussian its mean and the logarithm of its deviation, so that the squared length is mu^2 +
    log(sigma)^2 summed over dimensions; in Continual World with the squashed mean.

    Args:
        strength: Factor of the penalty; 1e4 in Continual World and COOM.
        kind: ``summed``; ``separate`` keeps a term per task; ``online`` lets earlier importances
            decay.
        decay: Of earlier importances, for ``online``.
        samples: Observations of each task that the importance is estimated on; 10 batches of 256 as
            in Continual World.
        squashed: Take the mean as the environment gets it, tanh(mu) x scale for SAC, TQC and
            CrossQ, as Continual World. Other algorithms squash nothing: it changes nothing there.
        regularize: ``actor`` (with its encoder), ``critic`` or ``both``; the output of a critic is
            its values.
        hold_log_std: Whether PPO's and A2C's bare ``log_std`` is held too. Ours is False: it says
            how much the policy explores, and can matter hundreds of times as much as a weight.
    """

    name = "mas"
    has_importance = True
    doors = ("gradients", "output", "memory")
    extra = "one backward pass per kept observation after each task"
    convention = (
        "strength x sum of Omega (theta - theta_old)^2, no factor 1/2; Omega sums over tasks the "
        "mean of per-sample absolute gradients of the squared output; actor only by default"
    )

    strength: Annotated[float, (0, None)] = 1.0
    kind: Literal["separate", "online", "summed"] = "summed"
    decay: Annotated[float, (0, 1)] = 0.99
    samples: Annotated[int, (1, None)] = 2560
    squashed: bool = False

    def __post_init__(self) -> None:
        self.penalty = Quadratic(self.strength, self.kind, self.decay)

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the penalty's gradient for the coming task, once there is something to hold."""
        doors.memory.keep_rollouts(self.samples)
        super().pre_adapt(doors, experience)

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Measure what the finished task's weights matter and anchor at them."""
        kept = doors.memory.observations(self.samples, experience.generator("mas"))
        observations = doors.memory.policy_input(kept)
        measure = partial(sensitivity, squashed=self.squashed)
        self.penalty.consolidate(*measured(doors, self.regularize, observations, measure))
