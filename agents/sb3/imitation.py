"""Staying near what a policy said: old policies, the loss on their answers, its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.agents.doors.gradients import Named, Term, gradient_of, group_of, named_parameters
from holdfast.agents.doors.outputs import (
    Output,
    OutputSpec,
    PolicyOutput,
    divergence,
    softmax_divergence,
)
from holdfast.agents.sb3.normalization import restated

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent


def acting(parameters: Named, policy: BasePolicy) -> Named:
    """Return those parameters that decide actions: the actor's and its encoder's."""
    return {name: p for name, p in parameters.items() if group_of(name, policy) != "critic"}


def frozen_policy(policy: BasePolicy) -> Named:
    """Return copies of all that decides actions: parameters, and buffers such as batch norm's."""
    tensors = dict(named_parameters(policy, "actor", "encoder"))
    buffers = {n: b for n, b in policy.named_buffers() if group_of(n, policy) in _ACTING}
    return {name: t.detach().clone() for name, t in (tensors | buffers).items()}


_ACTING = ("actor", "encoder")


@contextmanager
def as_evaluated(policy: nn.Module) -> Iterator[None]:
    """Let layers that differ while training act as in evaluation: batch norm must not drift."""
    if next(policy.buffers(), None) is None:
        yield
        return
    modes = [
        (module, module.training) for module in policy.modules()
    ]  # CrossQ sets them one by one
    policy.train(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def output_of(module: PolicyOutput, parameters: Named, observations: Any) -> Output:
    """Return what the policy says with some of its parameters replaced.

    Args:
        module: The policy.
        parameters: By their names in the policy; those left out keep the policy's own values.
        observations: As the policy takes them, shape (batch, ...).
    """
    named = {f"policy.{name}": value for name, value in parameters.items()}
    with as_evaluated(module.policy):
        output: Output = functional_call(module, named, (observations,))
    return output


class OldPolicy:
    """The policy as it was at a task's end, with the statistics of its observations then.

    Attributes:
        tensors: All that decides actions, by name; empty before the first task's end.
        statistics: Of the observations, where they are normalised.
    """

    def __init__(self) -> None:
        self.tensors: Named = {}
        self.statistics: dict[str, Tensor] = {}

    def keep(self, agent: StableBaselinesAgent) -> None:
        """Keep the policy as it is now, in place of the one before."""
        self.tensors = frozen_policy(agent.policy)
        self.statistics = agent.normalizer.tensors() if agent.normalizer is not None else {}

    @torch.no_grad()
    def output(
        self, agent: StableBaselinesAgent, module: PolicyOutput, observations: Any
    ) -> Output:
        """Return what it says about observations that are given as the current policy takes them.

        It is shown them as it saw them: scaled by the statistics of its time.
        """
        seen = restated(agent.normalizer, observations, self.statistics)
        return output_of(module, self.tensors, seen)

    def state(self) -> dict[str, Tensor]:
        """Return the policy and the statistics."""
        return {f"policy/{name}": tensor for name, tensor in self.tensors.items()} | {
            f"normalization/{name}": tensor for name, tensor in self.statistics.items()
        }

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take both back; entries of other names are left to the caller."""
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            if kind == "policy":
                self.tensors[name] = tensor.to(device)
            elif kind == "normalization":
                self.statistics[name] = tensor


def imitation_loss(
    spec: OutputSpec, stored: Output, current: Output, temperature: float | None = None
) -> Tensor:
    """Return the mean of KL(stored || current) over a batch.

    Args:
        spec: How to read both.
        stored: What is to be imitated.
        current: What the policy says now.
        temperature: For action values: compare softmax(values / temperature); None compares the
            values as means of unit Gaussians. Other outputs are compared as what they are.
    """
    if temperature is not None and spec.kind == "unit_gaussian":
        return softmax_divergence(stored, current, temperature, spec.splits).mean()
    return divergence(spec, stored, current).mean()


def imitation_gradient(
    module: PolicyOutput,
    parameters: Named,
    observations: Any,
    stored: Output,
    *,
    strength: float,
    temperature: float | None = None,
    clip_norm: float | None = None,
) -> Named:
    """Return the gradient of ``strength`` x ``imitation_loss`` on one batch, by name.

    Args:
        module: The policy.
        parameters: Those that the loss may move, detached.
        observations: As the policy takes them, shape (batch, ...).
        stored: What is to be imitated, each entry of shape (batch, n).
        strength: Factor of the loss.
        temperature: As ``imitation_loss`` takes it.
        clip_norm: Largest norm of the gradient; None leaves it as it is.
    """

    def loss(values: Named) -> Tensor:
        current = output_of(module, values, observations)
        return strength * imitation_loss(module.spec, stored, current, temperature)

    return clipped(gradient_of(loss, parameters), clip_norm)


_Stored = TypeVar("_Stored")


def rehearsal(
    agent: StableBaselinesAgent,
    batch: Callable[[PolicyOutput], tuple[Any, _Stored]],
    gradient: Callable[[PolicyOutput, Named, Any, _Stored], Named],
) -> Term:
    """Return a term of the gradient door that acts on the actor and its encoder.

    Args:
        agent: The learner; its model need not exist yet.
        batch: Draws observations, as the policy takes them, and what is to be said of them.
        gradient: The policy, its parameters and such a batch, to the gradient by name.
    """
    module: PolicyOutput | None = None

    def term(parameters: Named) -> Named:
        nonlocal module
        actor = acting(parameters, agent.policy)
        if not actor:
            return {}
        module = module or agent.output()  # the task's model does not exist before it starts
        return gradient(module, actor, *batch(module))

    return term


def clipped(gradients: Named, norm: float | None) -> Named:
    """Return the gradients scaled down to a total norm of at most ``norm``; None leaves them."""
    if norm is None:
        return gradients
    total = torch.nn.utils.get_total_norm(gradients.values())
    scale = torch.clamp(norm / (total + 1e-6), max=1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}
