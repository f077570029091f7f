"""Linear layers with a mean and a deviation per weight, and the noise that they share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from holdfast.agents.doors.networks import Slot
from holdfast.agents.modules.heads import TaskHead, TaskTrunk

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


def bayesian_slot(slot: Slot, std: float) -> tuple[nn.Module, dict[str, nn.Module]] | None:
    """Return Bayesian layers for a network that acts, or for its slowly moving copy."""
    if not slot.acts:
        return None
    heads = {name: _bayesian(head, std) for name, head in slot.heads.items()}
    return _bayesian(slot.trunk, std), heads


def _bayesian(module: nn.Module, std: float) -> nn.Module:
    """Return a Bayesian layer for a linear one; replace those inside what holds a network."""
    if isinstance(module, nn.Linear):
        return BayesianLinear(module, std)
    if isinstance(module, nn.Sequential | TaskTrunk | TaskHead):
        for name, part in module.named_children():
            setattr(module, name, _bayesian(part, std))
    return module


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
