"""References in float64: a policy's features, a policy that is linear, a divergence by torch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from holdfast.agents.doors.outputs import OutputSpec


class DoubleFlatten(FlattenExtractor):
    """Stable-Baselines3 turns observations into float32; this turns them into float64."""

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).double()


class Linear:
    """Says a linear function of what it sees."""

    names: ClassVar[dict[str, tuple[str, ...]]] = {
        "categorical": ("logits",),
        "gaussian": ("mean", "log_std"),
        "unit_gaussian": ("mean",),
    }

    def __init__(self, kind: Any) -> None:
        self.spec = OutputSpec(kind, [3] if kind == "categorical" else [])

    def of(self, tensors: Any, seen: Tensor) -> dict[str, Tensor]:
        return {name: seen @ tensors[name] for name in self.names[self.spec.kind]}


def kl_of(one: Any, other: Any) -> Tensor:
    """Return the mean KL divergence of outputs, by ``torch.distributions``."""
    found = kl_divergence(_distribution(one), _distribution(other))
    return found.mean() if found.ndim == 1 else found.sum(-1).mean()


def _distribution(output: dict[str, Tensor]) -> Any:
    if "logits" in output:
        return Categorical(logits=output["logits"])
    deviation = output["log_std"].exp() if "log_std" in output else torch.ones_like(output["mean"])
    return Normal(output["mean"], deviation)
