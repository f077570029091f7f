"""Weight clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Rewritten, Tensors
from holdfast.continual.method import Doors, Experience, Method


@dataclass(kw_only=True, eq=False)
class WeightClipping(Method):
    """Clips every weight to the range that it was initialised in, to stay plastic.

    After each step, for the weights and biases of all layers::

        theta <- clip(theta, -kappa * bound, kappa * bound),    bound = 1 / sqrt(fan-in)

    ``bound`` is that of torch's uniform initialisation of a linear or convolutional layer; of a
    recurrent one it is 1 / sqrt(hidden units). Source: Elsayed et al. 2024, Weight Clipping for
    Deep Continual and Reinforcement Learning (arXiv:2407.01704), algorithm 1, and the authors' code
    (github.com/mohmdelsayed/weight-clipping, rl_experiments/weight_clipping.py). As there the last
    layers are clipped too, and layers that begin orthogonal (PPO's) have the same bounds.
    Normalisations and PPO's bare ``log_std`` are left alone. It needs no boundaries.

    Args:
        kappa: Range of a weight, in bounds of its initialisation; 3 in the authors' PPO.
    """

    doors = ("gradients",)
    convention = (
        "theta clipped to +-kappa / sqrt(fan-in) after every update; weights and biases of all "
        "layers, actor and critic"
    )

    kappa: Annotated[float, (0, None)] = 3.0

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Clip the weights after every update of the coming task."""

        def begun(parameters: Named) -> Named:  # the task's model does not exist before it starts
            layers = doors.gradients.layer_names()
            return {n: p.new_zeros(0) for n, p in parameters.items() if n in layers}  # names

        doors.gradients.rewrite(self.clipped, state=begun)

    def clipped(self, parameters: Named, state: Tensors, _batch: Tensors) -> Rewritten:
        """Return the clipped weights. Of the state only the names matter."""
        bounds = {name: self.kappa * initial_bound(name, parameters) for name in state}
        return Rewritten({n: parameters[n].clamp(-b, b) for n, b in bounds.items()}, {})


def initial_bound(name: str, parameters: Named) -> float:
    """Return the bound of torch's uniform initialisation of a layer's weight or bias.

    Args:
        name: Of the weight or bias.
        parameters: By name; the layer's weight among them.

    >>> import torch
    >>> initial_bound("q.0.bias", {"q.0.weight": torch.zeros(3, 16), "q.0.bias": torch.zeros(3)})
    0.25
    """
    owner, _, kind = name.rpartition(".")
    weight: Tensor = parameters[f"{owner}.{kind.replace('bias', 'weight')}"]
    if kind in ("weight", "bias"):
        return 1 / math.sqrt(weight[0].numel())
    return 1 / math.sqrt(weight.shape[0] / 4)  # an LSTM's four gates, one below the other
