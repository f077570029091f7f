"""Elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from holdfast.agents.gradients import Named, named_parameters
from holdfast.agents.outputs import PolicyOutput, draw, log_likelihood
from holdfast.continual.method import Method, check_range

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent
    from holdfast.continual.stream import TaskExperience

_CHUNK = 128
"""Observations whose per-sample gradients are held at once."""


class EWC(Method):
    """Holds each weight near its old value, in proportion to its Fisher information.

    The penalty added to the loss, for the actor (and its encoder), is::

        strength * sum over tasks t, weights i of F_t[i] * (theta[i] - theta_t[i])^2

    with ``F_t`` the mean of squared per-sample gradients of log pi(a | s), a drawn from the policy
    and s from task t. ``separate`` keeps every task's term (Kirkpatrick et al. 2017,
    arXiv:1612.00796, equation 3, there with a factor 1/2). A sum of parabolas is one parabola, so
    it is held exactly as one importance and one centre per weight, however many tasks there were.
    ``online`` keeps F <- decay * F + F_t and anchors at the latest weights only (Schwarz et al.
    2018, Progress & Compress, arXiv:1805.06370, equation 9).

    Args:
        strength: Factor of the penalty; 1e4 and no factor 1/2 as in Continual World (METHODS,
            section 6).
        kind: ``separate`` or ``online``.
        decay: Of the older Fisher information, for ``online``; at most 1. Progress & Compress uses
            values below 1, CORA .99.
        samples: Observations of each task that the Fisher information is estimated on; 10 batches
            of 256 as in Continual World.
    """

    needs: ClassVar[tuple[str, ...]] = ("boundaries",)
    doors: ClassVar[tuple[str, ...]] = ("gradients", "output")
    convention: ClassVar[str] = (
        "strength x sum over tasks of F (theta - theta_t)^2, no factor 1/2; F is the mean of "
        "per-sample squared gradients of the log-likelihood, not normalised; actor only"
    )

    def __init__(
        self,
        *,
        strength: float = 1e4,
        kind: Literal["separate", "online"] = "separate",
        decay: float = 0.99,
        samples: int = 2560,
    ) -> None:
        check_range("ewc.strength", strength, 0)
        check_range("ewc.decay", decay, 0, 1)
        check_range("ewc.samples", samples, 1)
        self.strength = strength
        self.kind = kind
        self.decay = decay
        self.samples = samples
        self.importance: Named = {}
        self.centre: Named = {}

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Add the penalty's gradient for the coming task, once there is something to hold."""
        agent.memory.keep_observations(self.samples)
        if self.importance:
            agent.gradients.add(self.penalty_gradient)

    def penalty_gradient(self, parameters: Named) -> Named:
        """Return the gradient of the penalty at ``parameters``."""
        names = [name for name in self.importance if name in parameters]
        if not names:
            return {}
        gaps = torch._foreach_sub(
            [parameters[name] for name in names], [self.centre[name] for name in names]
        )
        torch._foreach_mul_(gaps, [self.importance[name] for name in names])
        torch._foreach_mul_(gaps, 2 * self.strength)
        return dict(zip(names, gaps, strict=True))

    def post_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Estimate the Fisher information of the finished task and add its parabola."""
        rng = experience.generator("ewc")
        observations = agent.policy_input(agent.observations(self.samples, rng))
        parameters = {
            name: parameter.detach().clone()
            for name, parameter in named_parameters(agent.policy, "actor", "encoder").items()
        }
        fisher = fisher_information(agent.output(), parameters, observations, rng)
        self.consolidate(parameters, fisher)

    def consolidate(self, parameters: Named, fisher: Named) -> None:
        """Merge a task's parabola: importances add up, the centre is their weighted mean."""
        kept = self.decay if self.kind == "online" else 1.0
        for name, anchor in parameters.items():
            old = self.importance.get(name, torch.zeros_like(anchor)) * kept
            total = old + fisher[name]
            centre = anchor
            if self.kind == "separate" and name in self.centre:
                # Written as a step from the anchor: where no task cared, the anchor stays exact.
                share = torch.where(total > 0, old / total.clamp_min(1e-38), 0.0)
                centre = anchor + share * (self.centre[name] - anchor)
            self.importance[name], self.centre[name] = total, centre

    def state(self) -> dict[str, Tensor]:
        """Return importance and centre of every weight."""
        return {f"importance/{name}": value for name, value in self.importance.items()} | {
            f"centre/{name}": value for name, value in self.centre.items()
        }

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take importance and centre back."""
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            kept = self.importance if kind == "importance" else self.centre
            kept[name] = tensor.to(agent.device)


def fisher_information(
    output: PolicyOutput,
    parameters: Named,
    observations: Tensor | dict[str, Tensor],
    rng: np.random.Generator,
) -> Named:
    """Return the diagonal Fisher information of the policy, one tensor per parameter.

    The mean over observations of the squared gradient of log pi(a | s), for one action drawn per
    observation. Squaring the gradient of a batch mean instead would underestimate it by the batch
    size.

    Args:
        output: The policy; its ``functional_call`` names have ``policy.`` before them.
        parameters: By their names in the policy, detached.
        observations: As the policy takes them, shape (samples, ...) or such tensors by key.
        rng: Draws the actions.
    """

    def likelihood(values: Named, observation: Tensor, action: Tensor) -> Tensor:
        one = _each(lambda t: t.unsqueeze(0), observation)  # (1, ...)
        named = {f"policy.{name}": value for name, value in values.items()}
        return log_likelihood(output.spec, functional_call(output, named, (one,)), action[None])[0]

    per_sample = vmap(grad(likelihood), in_dims=(None, 0, 0))
    if _is_coded(output.policy.observation_space):
        per_sample = _one_by_one(grad(likelihood))
    with torch.no_grad():
        outputs = output(observations)
    device = next(iter(outputs.values())).device
    generator = torch.Generator(device=device).manual_seed(int(rng.integers(2**63)))
    actions = draw(output.spec, outputs, generator)
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for start in range(0, len(actions), _CHUNK):
        rows = slice(start, start + _CHUNK)
        chunk = _each(itemgetter(rows), observations)
        for name, gradient in per_sample(parameters, chunk, actions[rows]).items():
            total[name] += gradient.square().sum(0)
    return {name: value / len(actions) for name, value in total.items()}


Batch = Tensor | dict[str, Tensor]


def _each(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Return a batch with ``change`` made to its tensor, or to each entry of a Dict observation."""
    if isinstance(batch, dict):
        return {key: change(value) for key, value in batch.items()}
    return change(batch)


def _is_coded(space: gym.Space[Any]) -> bool:
    """Return whether observations are numbers of categories: torch's one_hot cannot be batched."""
    entries = space.spaces.values() if isinstance(space, gym.spaces.Dict) else [space]
    return any(isinstance(e, gym.spaces.Discrete | gym.spaces.MultiDiscrete) for e in entries)


def _one_by_one(gradient: Callable[..., Named]) -> Callable[..., Named]:
    def per_sample(parameters: Named, observations: Batch, actions: Tensor) -> Named:
        rows = [
            gradient(parameters, _each(itemgetter(i), observations), actions[i])
            for i in range(len(actions))
        ]
        return {name: torch.stack([row[name] for row in rows]) for name in parameters}

    return per_sample
