"""FIRE: projection of the weights onto isometries at task starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named
from holdfast.continual.method import Doors, Experience, Method


@dataclass(kw_only=True, eq=False)
class FIRE(Method):
    """Makes the weight matrices orthogonal at task starts, as near to what they were as can be.

    At the start of every task but the first, the weight W of each linear layer, of shape (out, in),
    becomes::

        sqrt(out / in) * W (W^T W)^(-1/2)

    the nearest isometry in the Frobenius norm, scaled: all its singular values are equal. It is
    approximated by ``iterations`` steps ``X <- 1.5 X - .5 X X^T X`` of Newton and Schulz from
    ``W / ||W||_F``, which leave small singular values small. Of a convolution, the matrix at each
    place of the kernel is treated so, and divided by the number of places. Biases, normalisations
    and recurrent layers stay. Source: Han et al. 2026, FIRE: Frobenius-Isometry Reinitialization
    for Balancing the Stability-Plasticity Tradeoff (arXiv:2602.08040), and the authors' code
    (github.com/isaac7778/FIRE). As in their SAC, target networks take the new weights of what they
    follow; the optimizer starts again (``carry.optimizer``).

    Heads of tasks are left as they are: that is ours, as their networks have none. So is the
    choice of when: they do it once, when new data come, and here that is a task start.

    Args:
        iterations: Steps of Newton and Schulz; 10 in the authors' code. Zero does nothing.
    """

    needs = ("boundaries",)
    doors = ("gradients", "lifecycle")
    claims = ("weights",)
    convention = (
        "W <- sqrt(out / in) x the nearest orthogonal matrix, at task starts; weights of linear "
        "and convolutional layers, actor and critic"
    )

    iterations: Annotated[int, (0, None)] = 10

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Project what is carried into the coming task."""
        doors.lifecycle.blend(lambda carried, _fresh: self._projected(doors, carried))

    def _projected(self, doors: Doors, carried: Named) -> Named:
        if not self.iterations:
            return {}
        names = [name for name in doors.gradients.layer_names() if name in carried]
        weights = {n: carried[n] for n in names if n.endswith(".weight") and carried[n].ndim > 1}
        found = {}
        for name, weight in weights.items():
            owner, _, rest = name.partition(".")
            if owner.endswith("_target") or doors.gradients.task_rows(name, 0) is not None:
                continue
            found[name] = self.isometry(weight)
            target = f"{owner}_target.{rest}"
            if target in carried:
                found[target] = found[name].clone()
        return found

    def isometry(self, weight: Tensor) -> Tensor:
        """Return the scaled isometry that is nearest to a weight.

        Args:
            weight: Shape (out, in), or (out, in, height, width) of a convolution.
        """
        outputs, inputs = weight.shape[:2]
        matrices = weight.flatten(2) if weight.ndim > 2 else weight[..., None]
        matrices = matrices.permute(2, 0, 1)  # (places, out, in)
        nearest = newton_schulz(matrices, self.iterations)
        nearest = nearest * (math.sqrt(outputs / inputs) / len(matrices))
        return nearest.permute(1, 2, 0).reshape(weight.shape).contiguous()


def newton_schulz(matrices: Tensor, iterations: int) -> Tensor:
    """Return matrices whose singular values have been brought towards one.

    Args:
        matrices: Shape (n, rows, columns). A matrix of zeros stays as it is.
        iterations: Of ``X <- 1.5 X - .5 X X^T X``, from X over its Frobenius norm.

    >>> newton_schulz(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), 10).round(decimals=3)
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = matrices if is_tall else matrices.mT  # the smaller product
    norms = found.flatten(1).norm(dim=1)[:, None, None]
    found = found / torch.where(norms == 0, torch.ones_like(norms), norms)
    for _ in range(iterations):
        found = 1.5 * found - 0.5 * found @ (found.mT @ found)
    return found if is_tall else found.mT
