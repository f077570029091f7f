"""Fresh weights: what a layer of a policy would have been built with, drawn from a generator."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.agents.base.parameters import GAINS, Named, is_orthogonal
from holdfast.agents.modules.heads import TaskHead

_LAYERS = (nn.Linear, nn.Conv2d, nn.LSTM)


def fresh_weights(policy: Any, names: Collection[str], rng: np.random.Generator) -> Named:
    """Return newly drawn values of parameters, by name; nothing else draws from the generator.

    Linear and convolutional layers of PPO and its kin are orthogonal with Stable-Baselines3's gains
    (where ``ortho_init`` is on) and without bias; other layers have torch's default, a
    normalisation scales by one. Names of other parameters are left out.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    return {
        name: _draw(policy, module, name, generator).to(parameter)
        for name, module, parameter in _owned(policy)
        if name in names
    }


def layer_names(policy: Any) -> set[str]:
    """Return the names of the weights and biases of layers: no normalisation, no deviation.

    Targets are among them, and every name of a tensor that has several, as in
    ``policy.state_dict()``.
    """
    return {
        f"{path}.{name}"
        for path, module in policy.named_modules(remove_duplicate=False)
        if isinstance(module, _LAYERS)
        for name, _ in module.named_parameters(recurse=False)
    }


def _owned(policy: Any) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield each parameter that is a layer's or a normalisation's, with the module it is of."""
    inside_heads = {
        f"{path}.heads": module
        for path, module in policy.named_modules()
        if isinstance(module, TaskHead)
    }
    for path, module in policy.named_modules():
        owner = inside_heads.get(path, module)
        if isinstance(module, _LAYERS) or hasattr(module, "eps"):
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{path}.{name}", owner, parameter


def _draw(policy: Any, module: nn.Module, name: str, generator: torch.Generator) -> Tensor:
    kind = name.rpartition(".")[2]
    if isinstance(module, TaskHead):
        shape = torch.Size([module.out, module.heads.in_features])
        parts = [_draw_layer(policy, shape, name, generator) for _ in range(module.tasks)]
        return torch.cat(parts)  # a head per task, each drawn by itself
    if isinstance(module, nn.LSTM):
        bound = 1 / math.sqrt(module.hidden_size)
        shape = getattr(module, kind).shape
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)
    if isinstance(module, nn.Linear | nn.Conv2d):
        return _draw_layer(policy, module.weight.shape, name, generator)
    shape = getattr(module, kind).shape
    return torch.zeros(shape) if kind == "bias" else torch.ones(shape)


def _draw_layer(policy: Any, shape: torch.Size, name: str, generator: torch.Generator) -> Tensor:
    """Return a weight of this shape, or the bias beside it."""
    weight = torch.empty(shape)
    fan_in = weight[0].numel()
    gain = _gain(policy, name)
    if name.endswith(".bias"):
        if gain is not None:
            return torch.zeros(weight.shape[0])
        bound = 1 / math.sqrt(fan_in)
        return torch.empty(weight.shape[0]).uniform_(-bound, bound, generator=generator)
    if gain is not None:
        return nn.init.orthogonal_(weight, gain, generator=generator)
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def _gain(policy: Any, name: str) -> float | None:
    """Return the gain of the orthogonal initialisation; None where torch's default was left."""
    return GAINS.get(name.split(".")[0]) if is_orthogonal(policy) else None
