"""The network of a supervised agent, and how it is trained: what ``agent:`` says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast import registry
from holdfast.errors import UsageError

CLASSIFIER = "classifier"
"""Attribute of a network that holds its last layer, which a head per task replaces."""


@dataclass(kw_only=True)
class Classifier:
    """A network trained on minibatches with Avalanche's loop; ``steps`` are its updates.

    Args:
        hidden: Units of each hidden layer, with ReLU between; inputs are flattened.
        model: A network of your own instead, ``module:Class``, whose last layer is an attribute
            ``classifier``; for example ``avalanche.models:SimpleCNN``.
        model_kwargs: Its constructor's arguments.
        optimizer: Plain SGD is what regularisation plugins were published with; Adam's step does
            not shrink with a weight's importance.
        learning_rate: Of the optimizer.
        momentum: Of SGD.
        weight_decay: Of the optimizer.
        batch_size: Samples of the current experience in each minibatch.

    Raises:
        UsageError: If ``hidden`` is empty or not positive, or momentum is asked of Adam.
    """

    hidden: Sequence[int] = (100,)
    model: str | None = None
    model_kwargs: dict[str, Any] | None = None
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        units = list(self.hidden)
        if not units or min(units) < 1:
            raise UsageError(f"agent.hidden: units of each layer, at least 1; got {units}")
        if self.momentum and self.optimizer != "sgd":
            raise UsageError("agent.momentum: only sgd has it; remove it, or write optimizer: sgd")
        if self.model_kwargs and self.model is None:
            raise UsageError("agent.model_kwargs: arguments of agent.model, which is missing")

    def network(
        self, input_shape: Sequence[int], class_count: int, *, heads: bool, folder: Path | None
    ) -> Any:
        """Return a newly initialised network.

        Args:
            input_shape: Shape of one input.
            class_count: Width of the output.
            heads: Whether it gets Avalanche's head per task in place of its last layer.
            folder: The scenario's folder, where ``module:Class`` is looked for.

        Raises:
            UsageError: If a network of the user's own cannot be built, or has no last layer to
                replace.
        """
        if self.model is None:
            network: nn.Module = MLP(prod(input_shape), self.hidden, class_count)
        else:
            network = self._own_network(self.model, folder)
        if not heads:
            return network
        from avalanche.models import as_multitask  # here: Avalanche takes seconds to import

        if not isinstance(getattr(network, CLASSIFIER, None), nn.Linear | nn.Sequential):
            raise UsageError(
                f"agent.model: '{self.model}' has no layer '{CLASSIFIER}' for a head per task to "
                "replace; name its last layer so, or write stream: {task_id: hidden}"
            )
        return as_multitask(network, CLASSIFIER)

    def _own_network(self, target: str, folder: Path | None) -> nn.Module:
        try:
            network = registry.load(target, folder)(**(self.model_kwargs or {}))
        except Exception as error:  # a user's own class: whatever it raises means the same
            raise UsageError(
                f"agent.model: '{target}' cannot be built: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(network, nn.Module):
            raise UsageError(f"agent.model: '{target}' is no torch network but {network!r}")
        return network

    def new_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return a new optimizer of all weights."""
        weights, rate, decay = network.parameters(), self.learning_rate, self.weight_decay
        if self.optimizer == "adam":
            return torch.optim.Adam(weights, rate, weight_decay=decay)
        return torch.optim.SGD(weights, rate, self.momentum, weight_decay=decay)


class MLP(nn.Module):
    """Fully connected layers with ReLU between, over flattened inputs."""

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        layers = [
            layer
            for width, units in pairwise((inputs, *hidden))
            for layer in (nn.Linear(width, units), nn.ReLU())
        ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(hidden[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits, shape (batch, classes), of inputs of shape (batch, ...)."""
        logits: Tensor = self.classifier(self.features(inputs.flatten(1)))
        return logits
