"""Spectral regularisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.regularization.quadratic import GROUPS, check_critic

_TINY = 1e-30
"""Least norm that is divided by."""


@dataclass(kw_only=True, eq=False)
class Spectral(Method):
    """Keeps the largest singular value of each layer near one, to stay plastic.

    The penalty added to the loss from the first update of the first task on is::

        strength * sum over layers of (sigma(W)^exponent - 1)^2 + ||b||^(2 exponent)

    with sigma the largest singular value of a layer's weight W, of shape (out, in), and b its bias.
    After Lewandowski et al. 2025, Learning Continually by Spectral Regularization
    (arXiv:2406.06811), whose beginning alone could be read: the form of the penalty, with its
    exponent and the term of biases, is that of a public re-implementation. A convolution's kernel
    counts as a matrix of shape (out, the rest), a recurrent layer's four gates as one.
    Normalisations are left alone, and so are the heads of tasks, whose matrices stand one below the
    other: both ours. It needs no boundaries.

    One step of power iteration per update follows the singular vectors, with what
    the last one found. Ours: they begin, at task starts where boundaries are known, with those of a
    singular value decomposition. The gradient is that at the vectors found, ``u v^T`` for sigma.

    Args:
        strength: Factor of the penalty; the paper's values could not be read.
        exponent: Of singular values and of the norms of biases, k of the paper; its value could
            not be read either.
        regularize: ``both``, ``actor`` (with its encoder) or ``critic``.
    """

    doors = ("gradients",)
    extra = "two products of matrix and vector per layer and update"
    convention = (
        "strength x sum over layers of (largest singular value^exponent - 1)^2 + "
        "||bias||^(2 exponent), no factor 1/2; actor and critic"
    )

    strength: Annotated[float, (0, None)] = 1e-4
    exponent: Annotated[int, (1, None)] = 2
    regularize: Literal["actor", "critic", "both"] = "both"

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the penalty's gradient for the coming task."""
        check_critic(doors, "spectral", self.regularize)

        def begun(parameters: Named) -> Tensors:  # the model does not exist before the task starts
            layers = doors.gradients.layer_names()
            shared = (n for n in parameters if doors.gradients.task_rows(n, 0) is None)
            return self.begun({name: parameters[name] for name in shared if name in layers})

        groups = GROUPS[self.regularize]
        doors.gradients.add_moving(self.gradient, state=begun, groups=groups)

    def begun(self, parameters: Named) -> Tensors:
        """Return the state before the first update.

        Args:
            parameters: Weights and biases of the layers, by name.

        Returns:
            ``left``, the left singular vector of each weight's largest singular value, shape (out);
            ``biases``, of which only the names matter.
        """
        weights = {name: value for name, value in parameters.items() if value.ndim > 1}
        return {
            "left": {n: torch.linalg.svd(w.flatten(1))[0][:, 0] for n, w in weights.items()},
            "biases": {n: b.new_zeros(0) for n, b in parameters.items() if b.ndim == 1},
        }

    def gradient(self, parameters: Named, state: Tensors, _batch: Tensors) -> tuple[Named, Tensors]:
        """Return the gradient of the penalty, and the state with the singular vectors it is at."""
        power, gradients, vectors = self.exponent, dict[str, Tensor](), dict[str, Tensor]()
        for name, left in state["left"].items():
            weight = parameters[name].flatten(1)  # (out, in)
            right = _unit(weight.T @ left)  # (in,)
            image = weight @ right  # (out,)
            sigma = image.norm()
            # A weight of zeros has no direction: it keeps the one before.
            vectors[name] = torch.where(sigma > _TINY, _unit(image), left)
            slope = 2 * self.strength * power * (sigma**power - 1) * sigma ** (power - 1)
            direction = torch.outer(vectors[name], right)
            gradients[name] = (slope * direction).view_as(parameters[name])
        for name in state["biases"]:
            bias = parameters[name]
            # Of ||b||^2k: 2 k ||b||^(2k - 2) b
            factor = 2 * self.strength * power * bias.square().sum() ** (power - 1)
            gradients[name] = factor * bias
        return gradients, {"left": vectors, "biases": state["biases"]}


def _unit(vector: Tensor) -> Tensor:
    """Return a vector of length one in the same direction; zeros where it has none."""
    unit: Tensor = vector / vector.norm().clamp_min(_TINY)
    return unit
