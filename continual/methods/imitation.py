"""Imitation: old policies, the loss on what they said, its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, below, flat, gradient_of
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import (
    Output,
    OutputSpec,
    Reader,
    divergence,
    softmax_divergence,
)
from holdfast.continual.method import Doors


class OldPolicy:
    """The policy as it was at a task's end, with the statistics of its observations then.

    Attributes:
        tensors: All that decides actions, by name; empty before the first task's end.
        statistics: Of the observations, where they are normalised.
    """

    def __init__(self) -> None:
        self.tensors: Named = {}
        self.statistics: dict[str, Tensor] = {}

    def keep(self, doors: Doors) -> None:
        """Keep the policy as it is now, in place of the one before."""
        kept = doors.output.kept()
        self.tensors, self.statistics = kept["policy"], kept["normalization"]

    def seen(self, doors: Doors, observations: Any) -> Any:
        """Return observations, given as the current policy takes them, as the old one saw them."""
        return doors.output.restated(observations, self.statistics)

    @torch.no_grad()
    def output(self, doors: Doors, observations: Any) -> Output:
        """Return what it says about observations that are given as the current policy takes them.

        It is shown them as it saw them: scaled by the statistics of its time.
        """
        return doors.output.of(self.tensors, self.seen(doors, observations))

    def state(self) -> dict[str, Tensor]:
        """Return the policy and the statistics."""
        return flat({"policy": self.tensors, "normalization": self.statistics})

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Take both back; entries of other names are left to the caller."""
        self.tensors = below(tensors, "policy", device)
        self.statistics = below(tensors, "normalization")


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


@dataclass(frozen=True)
class Imitation:
    """The gradient of ``strength`` x ``imitation_loss``.

    Attributes:
        strength: Factor of the loss.
        temperature: As ``imitation_loss`` takes it.
        clip_norm: Largest norm of the gradient; None leaves it as it is.
    """

    strength: float
    temperature: float | None = None
    clip_norm: float | None = None

    def gradient(
        self, output: Reader, parameters: Named, observations: Any, stored: Output
    ) -> Named:
        """Return the gradient on one batch, by name.

        Args:
            output: The policy.
            parameters: Those that the loss may move, detached.
            observations: As the policy takes them, shape (batch, ...).
            stored: What is to be imitated, each entry of shape (batch, n).
        """

        def loss(values: Named) -> Tensor:
            current = output.of(values, observations)
            return self.strength * imitation_loss(output.spec, stored, current, self.temperature)

        return clipped(gradient_of(loss, parameters), self.clip_norm)


def descended(
    tensors: Named, gradient: Callable[[Named], Named], *, updates: int, learning_rate: float
) -> Named:
    """Return tensors after steps of Adam, outside of the agent's own updates.

    Args:
        tensors: Where it starts, by name; they stay as they are.
        gradient: Of the loss at tensors of these names; called once for each step.
        updates: Steps.
        learning_rate: Of these steps.
    """
    leaves = {name: tensor.clone() for name, tensor in tensors.items()}
    optimizer = torch.optim.Adam(list(leaves.values()), lr=learning_rate)
    for _ in range(updates):
        found = gradient(leaves)
        for name, leaf in leaves.items():
            leaf.grad = found[name]
        optimizer.step()
    return leaves


def clipped(gradients: Named, norm: float | None) -> Named:
    """Return the gradients scaled down to a total norm of at most ``norm``; None leaves them."""
    if norm is None:
        return gradients
    total = torch.nn.utils.get_total_norm(gradients.values())
    scale = torch.clamp(norm / (total + 1e-6), max=1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}


def clipped_to(
    _parameters: Named, gradients: Named, state: Tensors, _batch: Tensors, *, norm: float
) -> tuple[Named, Tensors]:
    """Return an optimizer's gradients scaled down to a total norm: a projection.

    By exactly norm / total, as TensorFlow's clip_by_global_norm in Continual World. torch adds 1e-6
    to the total, which counts beside a norm of 2e-5.
    """
    total = torch.nn.utils.get_total_norm(gradients.values())
    scale = torch.clamp(norm / total.clamp_min(1e-38), max=1.0)
    return {name: gradient * scale for name, gradient in gradients.items()}, state
