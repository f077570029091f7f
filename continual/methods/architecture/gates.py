"""Gates on the hidden units of an actor, opened and closed by an embedding that learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.agents.doors.networks import Slot
from holdfast.errors import UsageError

EMBEDDING, SCALE = "gate_embedding", "gate_scale"
"""Last parts of the names of a gate's tensors."""

BOUND = 50.0
"""End of the compensation of ``opening``: ``thres_cosh`` in the code of the paper's authors."""

_HARD = 1000.0  # sigmoid(+-1000) is 1 or 0, to the bit


def opening(embedding: Tensor, scale: Tensor) -> Tensor:
    """Return how far each gate is open: ``sigmoid(scale * e)``, with a compensated gradient.

    The gradient of e is that of ``sigmoid(e)``, whatever the scale, so that a gate which is nearly
    binary learns still; where ``|scale * e|`` is above ``BOUND`` it fades away. That is equation 5
    of Serra et al. 2018 (arXiv:1801.01423), ``s_max (cosh(s e) + 1) / (s (cosh(e) + 1))`` times the
    gradient through ``sigmoid(s e)``, with two changes. It is computed in closed form: in single
    precision the derivative of the sigmoid is already 0 where s e is above 17. And the factor s_max
    is left out: Adam and RMSprop divide it out again, while it would take up the whole norm that
    PPO clips gradients to.

    >>> e = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    >>> gates = opening(e, torch.tensor(30.0))
    >>> [round(gate, 3) for gate in gates.tolist()]
    [0.5, 1.0, 0.0]
    >>> gates.sum().backward()
    >>> [round(gradient, 4) for gradient in e.grad.tolist()]  # e^-e / (1 + e^-e)^2
    [0.25, 0.1966, 0.1966]
    """
    gates = torch.sigmoid(scale * embedding)
    if not torch.is_grad_enabled():
        return gates
    smooth = torch.sigmoid(embedding)
    # Not an autograd.Function: per-sample gradients (vmap) go through this too.
    slope = compensated(embedding.detach(), scale)
    return gates.detach() + slope * (smooth - smooth.detach())


def compensated(embedding: Tensor, scale: Tensor) -> Tensor:
    """Return the share of the gradient that is left where ``|scale * e|`` is above ``BOUND``."""
    steep = (scale * embedding).abs()
    return (torch.cosh(steep.clamp(max=BOUND)) + 1) / (torch.cosh(steep) + 1)


def annealed(share: float, s_max: float) -> float:
    """Return the scale after this share of a task: from 1 / s_max to s_max (equation 3).

    >>> [annealed(share, 4.0) for share in (0.0, 0.5, 1.0)]
    [0.25, 2.125, 4.0]
    """
    return 1 / s_max + (s_max - 1 / s_max) * share


class Gate(nn.Module):
    """Multiplies the units of a layer by their gates.

    Args:
        embedding: Shape (units,).
        scale: How steep the sigmoid is at first.
    """

    gate_scale: Tensor

    def __init__(self, embedding: Tensor, scale: float) -> None:
        super().__init__()
        self.gate_embedding = nn.Parameter(embedding)
        self.register_buffer(SCALE, torch.tensor(float(scale)))

    def value(self) -> Tensor:
        """Return how far each gate is open, shape (units,)."""
        return opening(self.gate_embedding, self.gate_scale)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the gated units, shape (batch, units)."""
        return hidden * self.value()

    @torch.no_grad()
    def harden(self) -> None:
        """Make each gate what it is nearer to, 0 or 1 to the bit, for good."""
        self.gate_embedding.copy_(torch.where(self.gate_embedding > 0, 1.0, -1.0))
        self.gate_scale.fill_(_HARD)


class GatedNorm(nn.LayerNorm):
    """A layer normalisation of gated units.

    Ungated, a unit that is closed for a task would still move its mean and variance.
    """

    gate: Gate

    def __init__(self, norm: nn.LayerNorm, gate: Gate) -> None:
        super().__init__(norm.normalized_shape, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.__dict__["gate"] = gate  # not a part: it stands after the activation, once

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the normalised units, shape (batch, units)."""
        return super().forward(inputs * self.gate.value())


def gated_slot(
    slot: Slot, embeddings: Callable[[int, int], Tensor], scale: float
) -> tuple[list[Gate], nn.Module] | None:
    """Return gates for the hidden layers of a network that acts, and the trunk they are put into.

    Args:
        slot: Of an actor, or of its slowly moving copy; None is returned for others.
        embeddings: Number of the layer, from 0, and of its units to the embedding it begins with.
        scale: How steep the gates are at first.

    Raises:
        UsageError: If the actor has no hidden layer, or parts between a layer and its activation
            that mix units in a way not known here.
    """
    if not slot.acts:
        return None
    if not any(isinstance(layer, nn.Linear) for layer in slot.trunk):
        raise UsageError("method hat: needs a hidden layer (policy_kwargs.net_arch)")
    return _with_gates(slot.trunk, embeddings, scale)


def _with_gates(
    trunk: nn.Sequential, embeddings: Callable[[int, int], Tensor], scale: float
) -> tuple[list[Gate], nn.Module]:
    layers: list[nn.Module] = []
    gates: list[Gate] = []
    for layer in trunk:
        if isinstance(layer, nn.Linear):
            layers += gates[-1:]
            embedding = embeddings(len(gates), layer.out_features)
            gates.append(Gate(embedding.to(layer.weight), scale))
        elif isinstance(layer, nn.LayerNorm) and gates:
            layer = GatedNorm(layer, gates[-1])  # the same, gated
        elif next(layer.parameters(), None) is not None:
            raise UsageError(f"method hat: does not know which units {type(layer).__name__} mixes")
        layers.append(layer)
    return gates, nn.Sequential(*layers, gates[-1])
