"""What was done in demonstrations as a target of the policy: a term of its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, gradient_of
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import Output, Reader, one_hot

MARGIN = 0.8
"""By how much the value of an action that was shown is to be above those of all others."""


def distance(said: Output, actions: Tensor) -> Tensor:
    """Return how far what a policy does is from what was done, the mean over a batch.

    Continuous actions: the squared distance of the likeliest one, both scaled to -1..1 and summed
    over entries (Nair et al. 2018, Overcoming Exploration in Reinforcement Learning with
    Demonstrations, arXiv:1709.10089, its behaviour cloning loss, without its filter).
    Action values: max over a of (Q(a) + margin, none for the action shown) less that action's
    value (Hester et al. 2018, Deep Q-learning from Demonstrations, arXiv:1704.03732, the large
    margin loss, with its margin of .8).

    Args:
        said: ``mean`` and, where it is squashed, ``log_std``, shape (batch, n) each.
        actions: As a replay buffer keeps them, shape (batch, n); of action values (batch, 1).
    """
    mean = said["mean"]
    if actions.is_floating_point():
        likeliest = torch.tanh(mean) if "log_std" in said else mean
        return (likeliest - actions).square().sum(-1).mean()
    shown = one_hot(actions[:, 0], mean)
    best = (mean + MARGIN * (1 - shown)).max(dim=-1).values
    return (best - (mean * shown).sum(-1)).mean()


def cloned(
    output: Reader, weight: float, parameters: Named, _state: Tensors, batch: Tensors
) -> Named:
    """Return the gradient of ``weight`` x ``distance``, by name: a term of the gradient door.

    Args:
        output: The policy.
        weight: Factor of the loss.
        parameters: Those that it may move.
        batch: ``seen``, observations as the policy takes them, and ``actions``.
    """
    actions: Any = batch["actions"]
    return gradient_of(
        lambda values: weight * distance(output.of(values, batch["seen"]), actions), parameters
    )
