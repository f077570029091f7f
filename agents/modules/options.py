"""Options of ``policy_kwargs`` beyond Stable-Baselines3's own arguments.

``activation: crelu``, ``layer_norm: all | first | critics``, ``dropout_rate`` and ``weight_decay``:
plain forms that keep a network able to learn. Networks are changed right after they are built,
trunks only: a convolutional encoder keeps its shape, as it does under ``activation`` in
Stable-Baselines3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from holdfast.agents.base.parameters import GAINS, is_orthogonal, optimizers_of
from holdfast.agents.doors.networks import Slot, map_slots
from holdfast.errors import UsageError

OPTIONS = ("layer_norm", "dropout_rate", "weight_decay")


class CReLU(nn.Module):
    """relu(x) beside relu(-x): (batch, n, ...) to (batch, 2 n, ...), so no unit is ever off.

    Source: Abbas et al. 2023 (arXiv:2303.07507), after Shang et al. 2016 (arXiv:1603.05201).
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the positive parts, then the negative parts."""
        return torch.cat([inputs.relu(), (-inputs).relu()], 1)


class TargetDropout(nn.Dropout):
    """Dropout that is always on: Stable-Baselines3 keeps targets as they are evaluated.

    DroQ draws a mask for its targets too (Hiraoka et al. 2022, algorithm 2).
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs with some of them zero, and the others larger by as much."""
        return F.dropout(inputs, self.p, training=True)


def network_changes(policy_arguments: dict[str, Any]) -> list[Callable[[Any], None]]:
    """Return what is done to a newly built policy, from ``policy_kwargs`` in plain form."""
    changes: list[Callable[[Any], None]] = []
    if policy_arguments.get("activation") == "crelu":
        changes.append(_widen)
    where = policy_arguments.get("layer_norm")
    if where is not None:
        changes.append(lambda policy: _normalize(policy, where))
    if rate := policy_arguments.get("dropout_rate"):
        changes.append(lambda policy: _drop(policy, float(rate)))
    return changes


def set_weight_decay(policy: Any, weight_decay: float | None) -> None:
    """Set the weight decay of a policy's optimizers; None leaves the optimizers' default.

    ``adam`` and ``rmsprop`` add it to the gradient (L2 regularisation, scaled by the moments),
    ``adamw`` shrinks the weights beside the gradient. Biases decay too, as in torch.
    """
    if weight_decay is None:
        return
    # Not by the constructor's arguments: A2C and QR-DQN replace those with their own.
    for optimizer in optimizers_of(policy):
        for group in optimizer.param_groups:
            group["weight_decay"] = float(weight_decay)


def _widen(policy: Any) -> None:
    """Give each layer after a CReLU twice the inputs that Stable-Baselines3 gave it."""
    orthogonal = is_orthogonal(policy)

    def double(layer: Any, part: str) -> nn.Linear:
        if not isinstance(layer, nn.Linear):
            raise UsageError("agent.use_sde cannot be used with activation: crelu")
        wider = nn.Linear(2 * layer.in_features, layer.out_features, layer.bias is not None)
        if orthogonal:
            policy.init_weights(wider, gain=GAINS[part])
        return wider

    def to_wide(slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]]:
        layers: list[nn.Module] = []
        is_doubled = False
        for layer in slot.trunk:
            is_read = is_doubled and isinstance(layer, nn.Linear)
            layers.append(double(layer, "mlp_extractor") if is_read else layer)
            is_doubled = is_doubled or isinstance(layer, CReLU)
        heads: dict[str, nn.Module] = {
            name: double(head, name) if is_doubled else head for name, head in slot.heads.items()
        }
        return nn.Sequential(*layers), heads

    map_slots(policy, to_wide)


def _normalize(policy: Any, where: str) -> None:
    """Put a LayerNorm between hidden layers and their activations.

    Continual World has one after the first layer of each network only (arXiv:2105.10919), DroQ
    after all of the critics alone (arXiv:2110.02034).
    """

    def to_normed(slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        if where == "critics" and slot.acts:
            return None
        only_first = where == "first"
        return _after_layers(
            slot, lambda layer: nn.LayerNorm(layer.out_features), "layer_norm", only_first
        )

    map_slots(policy, to_normed)


def _drop(policy: Any, rate: float) -> None:
    """Put dropout right after each hidden layer of the critics, before a normalisation.

    Source: Hiraoka et al. 2022, Dropout Q-Functions for Doubly Efficient Reinforcement Learning
    (arXiv:2110.02034), figure 1.
    """

    def to_dropped(slot: Slot) -> tuple[nn.Module, dict[str, nn.Module]] | None:
        if slot.acts:
            return None
        kind = TargetDropout if slot.role == "target" else nn.Dropout
        return _after_layers(slot, lambda _: kind(rate), "dropout_rate")

    map_slots(policy, to_dropped)


def _after_layers(
    slot: Slot, made: Callable[[nn.Linear], nn.Module], key: str, only_first: bool = False
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return a slot's trunk and heads, with a module more after hidden layers."""
    layers: list[nn.Module] = []
    count = 0
    for layer in slot.trunk:
        layers.append(layer)
        if isinstance(layer, nn.Linear) and not (only_first and count):
            layers.append(made(layer))
            count += 1
    if not count:
        where = "needs a hidden layer (policy_kwargs.net_arch)"
        raise UsageError(f"agent.policy_kwargs.{key}: {where}")
    return nn.Sequential(*layers), dict(slot.heads)
