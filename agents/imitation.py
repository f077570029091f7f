"""Staying near what a policy said: the loss of cloning and distillation, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.agents.gradients import Named, Term, gradient_of, group_of, named_parameters
from holdfast.agents.memory import Arrays
from holdfast.agents.outputs import (
    Output,
    OutputSpec,
    PolicyOutput,
    divergence,
    softmax_divergence,
)

if TYPE_CHECKING:
    from holdfast.agents.stable_baselines import StableBaselinesAgent


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
        return softmax_divergence(stored, current, temperature).mean()
    return divergence(spec, stored, current).mean()


def imitation_gradient(
    module: PolicyOutput,
    parameters: Named,
    observations: Any,
    stored: Output,
    *,
    strength: float,
    temperature: float | None = None,
) -> Named:
    """Return the gradient of ``strength`` x ``imitation_loss`` on one batch, by name.

    Args:
        module: The policy.
        parameters: Those that the loss may move, detached.
        observations: As the policy takes them, shape (batch, ...).
        stored: What is to be imitated, each entry of shape (batch, n).
        strength: Factor of the loss.
        temperature: As ``imitation_loss`` takes it.
    """

    def loss(values: Named) -> Tensor:
        current = output_of(module, values, observations)
        return strength * imitation_loss(module.spec, stored, current, temperature)

    return gradient_of(loss, parameters)


def rehearsal(
    agent: StableBaselinesAgent,
    batch: Callable[[], tuple[Arrays, Output]],
    gradient: Callable[[PolicyOutput, Named, Any, Output], Named],
) -> Term:
    """Return a term of the gradient door that acts on the actor and its encoder.

    Args:
        agent: The learner; its model need not exist yet.
        batch: Draws observations, as the environment gives them, and what is to be said of them.
        gradient: The policy, its parameters, observations as it takes them and what is to be said
            of them, to the gradient by name.
    """
    module: PolicyOutput | None = None

    def term(parameters: Named) -> Named:
        nonlocal module
        actor = acting(parameters, agent.policy)
        if not actor:
            return {}
        module = module or agent.output()
        observations, stored = batch()
        return gradient(module, actor, agent.policy_input(observations), stored)

    return term


def clipped(gradients: Named, norm: float | None) -> Named:
    """Return the gradients scaled down to a total norm of at most ``norm``; None leaves them."""
    if norm is None:
        return gradients
    total = torch.nn.utils.get_total_norm(gradients.values())
    scale = torch.clamp(norm / (total + 1e-6), max=1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}
