"""Parseval regularisation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Tensors
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.regularization.quadratic import GROUPS, check_critic


@dataclass(kw_only=True, eq=False)
class Parseval(Method):
    """Keeps the rows of each hidden layer orthogonal and of equal length, to stay plastic.

    The penalty added to the loss from the first update of the first task on is::

        strength * sum over hidden layers of ||W W^T - scale I||^2 (squared Frobenius norm)

    Source: Chung et al. 2024, Parseval Regularization for Continual Reinforcement Learning
    (arXiv:2412.07224), equation 1. As there, it acts on every linear layer of actor and critic but
    the last, and on no bias. Convolutions are left alone. It needs no boundaries.

    Args:
        strength: Factor of the penalty, lambda of the paper; 1e-3 there at a width of 64, out of
            1e-3, 1e-4, 1e-5.
        scale: Squared length of a row, s of the paper; 2 in the authors' code. The orthogonal
            start of PPO's networks in Stable-Baselines3 (gain sqrt(2)) has it already.
        regularize: ``both`` as in the paper, ``actor`` (with its encoder) or ``critic``.
    """

    doors = ("gradients",)
    extra = "two matrix products per hidden layer and update"
    convention = (
        "strength x sum over hidden layers of ||W W^T - scale I||_F^2, no factor 1/2; actor and "
        "critic"
    )

    strength: Annotated[float, (0, None)] = 1e-3
    scale: Annotated[float, (0, None)] = 2.0
    regularize: Literal["actor", "critic", "both"] = "both"

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the penalty's gradient for the coming task."""
        check_critic(doors, "parseval", self.regularize)
        groups = GROUPS[self.regularize]

        def begun(_: Named) -> Named:  # the task's model does not exist before it starts
            held = doors.gradients.parameters(*groups)
            layers = hidden_layers(name for name, p in held.items() if p.ndim == 2)
            return {name: held[name].new_zeros(0) for name in held if name in layers}  # names

        doors.gradients.add(self.gradient, state=begun, groups=groups)

    def gradient(self, parameters: Named, state: Tensors, _batch: Tensors) -> Named:
        """Return the gradient of the penalty, 4 strength (W W^T - scale I) W, per matrix.

        Of the state only the names matter: those of the matrices.
        """
        weights = {name: p for name, p in parameters.items() if name in state}
        factor = 4 * self.strength
        gradients = {}
        for name, weight in weights.items():
            rows, columns = weight.shape
            if rows <= columns:
                product = (weight @ weight.T, weight)
            else:  # W (W^T W) is the same for less
                product = (weight, weight.T @ weight)
            gradients[name] = torch.addmm(weight, *product, beta=-factor * self.scale, alpha=factor)
        return gradients


_SEQUENCE = re.compile(r"(.*(?:q_net|quantile_net|qf\d+|actor\.mu))\.(\d+)\.weight")
_OUTPUT = re.compile(r"(action_net|value_net)\..*|.*\.heads\..*|actor\.(mu|log_std)\.weight")


def hidden_layers(names: Iterable[str]) -> set[str]:
    """Return the weight matrices that are not the last of their network.

    Args:
        names: Of matrices, as Stable-Baselines3 calls them.

    >>> sorted(hidden_layers(["critic.qf0.0.weight", "critic.qf0.2.weight", "actor.mu.weight"]))
    ['critic.qf0.0.weight']
    """
    last: dict[str, int] = {}
    found = [name for name in names if name.endswith(".weight") and not _OUTPUT.fullmatch(name)]
    for name in found:
        if match := _SEQUENCE.fullmatch(name):
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    outputs = {f"{sequence}.{index}.weight" for sequence, index in last.items()}
    return set(found) - outputs
