"""Networks of streaming learners: sparse at their start, normalised between their layers.

Torch modules, as everything else reads them; and the same network in NumPy with its gradient
written by hand, on the same memory. For one observation and layers this small a call of torch costs
ten times what its arithmetic does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from holdfast.agents.streaming.moments import Moments

SLOPE, EPSILON = 0.01, 1e-5
"""Of torch's LeakyReLU below zero, and of its LayerNorm."""


def sparse_(weight: Tensor, sparsity: float) -> Tensor:
    """Fill a layer's weight with few connections, in place.

    Each row is uniform within 1 / sqrt(inputs), but for a share of zeros at random places.

    Args:
        weight: Shape (outputs, inputs).
        sparsity: Share of zeros in each row, rounded up to whole connections.

    Source: arXiv:2410.14606, algorithm SparseInit.
    """
    outputs, inputs = weight.shape
    zeros = math.ceil(sparsity * inputs)
    with torch.no_grad():
        weight.uniform_(-(inputs**-0.5), inputs**-0.5)
        for row in range(outputs):
            weight[row, torch.randperm(inputs)[:zeros]] = 0.0
    return weight


class SparseNetwork(nn.Module):
    """A perceptron on normalised observations: linear, LayerNorm without weights, LeakyReLU.

    Args:
        moments: Of the entries of an observation that are normalised, which come first.
        inputs: Entries of an observation, those of a task id included.
        hidden: Width of each hidden layer.
        outputs: Of the last layer, which is linear.
        sparsity: See ``sparse_``.

    Attributes:
        flat: All weights and biases as one vector; those of ``layers`` are views of it.
    """

    def __init__(
        self, moments: Moments, inputs: int, hidden: list[int], outputs: int, *, sparsity: float
    ) -> None:
        super().__init__()
        self.moments = moments
        layers: list[nn.Module] = []
        for width in hidden:
            normalized = nn.LayerNorm(width, eps=EPSILON, elementwise_affine=False)
            layers += [nn.Linear(inputs, width), normalized, nn.LeakyReLU(SLOPE)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, outputs))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                sparse_(layer.weight, sparsity)
                nn.init.zeros_(layer.bias)
        self.flat = _flattened(self.layers)

    def forward(self, observations: Tensor, _actions: Tensor | None = None) -> Tensor:
        """Return the outputs for raw observations, shape (batch, outputs).

        Args:
            observations: Shape (batch, ...).
            _actions: What critics elsewhere in Stable-Baselines3 are given; it is not looked at.
        """
        rows = observations.flatten(1)  # (batch, inputs)
        count = self.moments.mean.shape[0]
        seen = torch.cat([self.moments(rows[:, :count]), rows[:, count:].double()], dim=1)
        outputs: Tensor = self.layers(seen.to(self.flat.dtype))
        return outputs


def _flattened(layers: nn.Module) -> Tensor:
    """Return all parameters as one vector, and make them views of it."""
    parameters = list(layers.parameters())
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.view_as(parameter)
    return flat


class Arithmetic:
    """The layers of a network in NumPy, for one observation at a time.

    Args:
        network: Whose weights these are, in the same memory.

    Attributes:
        gradient: Of what ``backward`` was last asked for, in the order of ``network.flat``.
    """

    def __init__(self, network: SparseNetwork) -> None:
        flat = network.flat.numpy()
        self.gradient: NDArray[Any] = np.zeros_like(flat)
        self._layers: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._gradients: list[tuple[NDArray[Any], NDArray[Any]]] = []
        start = 0
        for layer in network.layers:
            if isinstance(layer, nn.Linear):
                shape = tuple(layer.weight.shape)
                middle = start + layer.weight.numel()
                end = middle + layer.bias.numel()
                for whole, parts in ((flat, self._layers), (self.gradient, self._gradients)):
                    parts.append((whole[start:middle].reshape(shape), whole[middle:end]))
                start = end
        # Of the last forward: input and normalised output of each layer, and its 1 / deviation.
        self._inputs: list[NDArray[Any]] = []
        self._normalized: list[tuple[NDArray[Any], float]] = []

    def forward(self, seen: NDArray[Any]) -> NDArray[Any]:
        """Return the outputs for a normalised observation, shape (outputs,)."""
        *hidden, (weight, bias) = self._layers
        self._inputs, self._normalized = [seen], []
        for own, own_bias in hidden:
            values = own.dot(seen)  # (width,)
            values += own_bias
            values -= np.add.reduce(values) / len(values)
            scale = 1.0 / math.sqrt(float(values.dot(values)) / len(values) + EPSILON)
            values *= scale
            self._normalized.append((values, scale))
            seen = np.maximum(values, SLOPE * values)
            self._inputs.append(seen)
        outputs: NDArray[Any] = weight.dot(seen)
        outputs += bias
        return outputs

    def backward(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient of ``outputs @ forward(seen)`` in all weights, as ``gradient``.

        Args:
            outputs: Factor of each output, shape (outputs,).
        """
        back = outputs
        for place in range(len(self._layers) - 1, -1, -1):
            weight, bias = self._gradients[place]
            np.multiply(back[:, None], self._inputs[place][None, :], out=weight)
            bias[:] = back
            if place:
                values, scale = self._normalized[place - 1]
                back = back.dot(self._layers[place][0])  # (width,)
                back = np.where(values > 0, back, SLOPE * back)
                # LayerNorm moves with the mean and the deviation of what it normalises.
                back -= np.add.reduce(back) / len(back) + values * (back.dot(values) / len(back))
                back *= scale
        return self.gradient
