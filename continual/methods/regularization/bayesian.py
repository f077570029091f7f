"""Linear layers with a mean and a deviation per weight, and the noise that they share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.agents.doors.gradients import group_of

SUFFIX = "_log_std"
"""After the name of a mean, that of the logarithm of its deviation."""


class BayesianLinear(nn.Module):
    """A linear layer with a Gaussian over every weight and bias.

    The means keep the names of ``nn.Linear``. While ``noise`` is None they are the weights; else
    the weights are mean + deviation * noise, the same noise for the whole batch and every call.

    Args:
        linear: Its weights become the means.
        std: Deviation that every weight starts with.
    """

    noise: tuple[Tensor, Tensor] | None

    def __init__(self, linear: nn.Linear, std: float) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_log_std = nn.Parameter(torch.full_like(linear.weight.data, math.log(std)))
        self.bias_log_std = nn.Parameter(torch.full_like(linear.bias.data, math.log(std)))
        self.noise = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output, shape (batch, out)."""
        if self.noise is None:
            return nn.functional.linear(inputs, self.weight, self.bias)
        weight = torch.addcmul(self.weight, self.weight_log_std.exp(), self.noise[0])
        bias = torch.addcmul(self.bias, self.bias_log_std.exp(), self.noise[1])
        return nn.functional.linear(inputs, weight, bias)


def make_actor_bayesian(policy: Any, std: float) -> None:
    """Replace the linear layers of a newly built actor, and those of its slowly moving copy."""
    for path, module in list(policy.named_modules()):
        for name, child in list(module.named_children()):
            owner = f"{path}.{name}".lstrip(".")
            followed = owner.replace("_target.", ".", 1)
            if isinstance(child, nn.Linear) and group_of(f"{followed}.weight", policy) == "actor":
                setattr(module, name, BayesianLinear(child, std))


def bayesian_layers(policy: nn.Module) -> list[BayesianLinear]:
    """Return the Bayesian layers that learn; a target network's stay at their means."""
    return [
        module
        for name, module in policy.named_modules()
        if isinstance(module, BayesianLinear) and "_target" not in name.split(".")[0]
    ]


def draw_noise(layers: Iterable[BayesianLinear], generator: torch.Generator) -> None:
    """Give every layer new noise."""
    for layer in layers:
        weight, bias = layer.weight, layer.bias
        both = torch.randn(
            weight.numel() + bias.numel(),
            generator=generator,
            dtype=weight.dtype,
            device=weight.device,
        )
        layer.noise = both[bias.numel() :].view_as(weight), both[: bias.numel()]
