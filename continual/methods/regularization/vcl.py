"""Variational continual learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Named, named_parameters
from holdfast.continual.method import Method
from holdfast.continual.methods.regularization.bayesian import (
    SUFFIX,
    bayesian_layers,
    draw_noise,
    make_actor_bayesian,
)
from holdfast.continual.methods.regularization.quadratic import snapshot

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience


class VCL(Method):
    """Learns a Gaussian over each weight of the actor and stays near that of the task before.

    Every linear layer of the actor has a mean and a deviation per weight, and the penalty added to
    the loss is::

        strength * sum over weights i of KL(N(mu[i], sigma[i]^2) || N(mu_old[i], sigma_old[i]^2))

    with the old Gaussians as the latest task left them: weights that it knew well (small deviation)
    are held. Source: Nguyen et al. 2018, Variational Continual Learning (arXiv:1710.10628), without
    a coreset. The loss is that of weights drawn as mu + sigma * noise, so that its gradient reaches
    both.

    One noise is drawn for all weights at a time. On-policy it is kept for a whole rollout and the
    update from it, as NoisyNet-A3C does (Fortunato et al. 2018, arXiv:1706.10295, section 3.1): the
    probabilities that the update divides are then of one and the same policy, and PPO's ratio
    starts at one. Off-policy it is drawn anew after each update of the actor. Whatever is measured
    or stored acts by the means.

    Args:
        strength: Factor of the divergence; 1 in Continual World and COOM.
        initial_std: Deviation that every weight starts with; Continual World uses .05 (variance
            e^-6).
        first_task_kl: Whether the first task is held near N(0, 1) too; False in Continual World's
            experiments.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients", "networks", "lifecycle")
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "strength": (0, None),
        "initial_std": (1e-6, None),
    }
    memory: ClassVar[str] = "3 numbers more per weight of the actor, however many tasks"
    extra: ClassVar[str] = "noise for every weight of the actor, per rollout or update"
    convention: ClassVar[str] = (
        "strength x KL(weights || weights after the task before), summed over weights, not divided "
        "by the number of samples; actor only"
    )

    def __init__(
        self,
        *,
        strength: float = 1.0,
        initial_std: float = 0.05,
        first_task_kl: bool = False,
    ) -> None:
        self.strength = strength
        self.initial_std = initial_std
        self.first_task_kl = first_task_kl
        self.means: Named = {}
        self.precisions: Named = {}

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Make the coming model's actor Bayesian, with noise while it learns; add the penalty."""
        agent.networks.append(partial(make_actor_bayesian, std=self.initial_std))
        seed = int(experience.generator("vcl").integers(2**63))
        generator = torch.Generator(device=agent.device).manual_seed(seed)

        def draw() -> None:
            draw_noise(bayesian_layers(agent.policy), generator)

        @contextmanager
        def learning() -> Iterator[None]:
            draw()
            try:
                yield
            finally:
                for layer in bayesian_layers(agent.policy):
                    layer.noise = None

        agent.lifecycle.learn_in(learning, lambda: at_the_means(agent))
        self._redraw(agent, draw)
        if self.precisions or self.first_task_kl:
            agent.gradients.add(self.gradient)

    def _redraw(self, agent: StableBaselinesAgent, draw: Callable[[], None]) -> None:
        """Let noise be drawn anew whenever it may be."""
        if agent.algorithm.on_policy:

            def next_rollout() -> None:
                draw()
                agent.lifecycle.after_steps(agent.model.num_timesteps + 1, next_rollout)

            agent.lifecycle.after_steps(1, next_rollout)
            return

        def after_step(parameters: Named) -> None:
            if any(name.endswith(SUFFIX) for name in parameters):  # the actor's, not the critic's
                draw()

        agent.gradients.rewrite(after_step)

    def gradient(self, parameters: Named) -> Named:
        """Return the gradient of the penalty for means and logarithms of deviations."""
        names = [name for name in parameters if name + SUFFIX in parameters]
        if not names:
            return {}
        for name in names:
            if name not in self.means:  # the first task: N(0, 1)
                self.means[name] = torch.zeros_like(parameters[name])
                self.precisions[name] = torch.ones_like(parameters[name])
        precisions = [self.precisions[name] for name in names]
        gaps = torch._foreach_sub([parameters[n] for n in names], [self.means[n] for n in names])
        torch._foreach_mul_(gaps, precisions)
        torch._foreach_mul_(gaps, self.strength)
        ratios = torch._foreach_mul([parameters[name + SUFFIX] for name in names], 2.0)
        torch._foreach_exp_(ratios)
        torch._foreach_mul_(ratios, precisions)
        torch._foreach_sub_(ratios, 1.0)
        torch._foreach_mul_(ratios, self.strength)
        deviations = (name + SUFFIX for name in names)
        return dict(zip(names, gaps, strict=True)) | dict(zip(deviations, ratios, strict=True))

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Take the Gaussians as the prior of the next task."""
        self.consolidate(snapshot(named_parameters(agent.policy, "actor")))

    def consolidate(self, parameters: Named) -> None:
        """Take means and deviations as the prior of the next task."""
        for name, mean in parameters.items():
            if name + SUFFIX in parameters:
                self.means[name] = mean
                self.precisions[name] = torch.exp(-2 * parameters[name + SUFFIX])

    def state(self) -> dict[str, Tensor]:
        """Return mean and precision (one over the variance) of every weight."""
        means = {f"mean/{name}": value for name, value in self.means.items()}
        return means | {f"precision/{name}": value for name, value in self.precisions.items()}

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take mean and precision back."""
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            kept = self.means if kind == "mean" else self.precisions
            kept[name] = tensor.to(agent.device)


@contextmanager
def at_the_means(agent: StableBaselinesAgent) -> Iterator[None]:
    """Let the policy act by its means inside the block, and keep the noise for after it."""
    layers = bayesian_layers(agent.policy)
    noises = [layer.noise for layer in layers]
    for layer in layers:
        layer.noise = None
    try:
        yield
    finally:
        for layer, noise in zip(layers, noises, strict=True):
            layer.noise = noise
