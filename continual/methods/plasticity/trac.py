"""TRAC: a tuner of how far the weights may move from where they began."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from holdfast.agents.base.parameters import Named, snapshot
from holdfast.agents.doors.gradients import Move, Tensors
from holdfast.continual.method import Doors, Experience
from holdfast.continual.methods.plasticity.lasting_state import LastingState

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
"""Discounts of the six tuners whose scales are added, as in the paper."""

EPSILON = 1e-8
"""Added to what is divided by, as in the authors' code."""


@dataclass(kw_only=True, eq=False)
class TRAC(LastingState):
    """Scales, update by update, how far the weights are from where they began: TRAC.

    After each step of the optimizer, which went from theta to theta + u with the gradient g, for
    all weights together::

        delta <- (theta - theta_0) / (S + eps)
        h      = g . delta
        v_j   <- beta_j^2 v_j + h^2,    sigma_j <- beta_j sigma_j - h        for six beta_j
        S     <- sum over j of scale / erfi(1 / sqrt(2)) * erfi(sigma_j / (sqrt(2 v_j) + eps))
        theta <- theta_0 + max(S, 0) * (delta + u)

    While updates go on in a direction that gains, S grows, from about ``scale``; where they do not,
    it shrinks, and the weights go back towards theta_0, at which they are plastic. Source: Muppidi
    et al. 2024, Fast TRAC: A Parameter-Free Optimizer for Lifelong Reinforcement Learning
    (arXiv:2405.16642), algorithms 1 and 2, and the authors' code
    (github.com/ComputationalRobotics/TRAC, trac_optimizer). It needs no boundaries: theta_0, the
    weights before any learning, and the tuners are those of the whole stream. Each optimizer has
    its own, as each would be wrapped by itself. Where a target network follows, it goes on doing
    so.

    Args:
        scale: About where S begins; 1e-8 in the paper, ``s_prev`` of the code.
    """

    doors = ("gradients",)
    claims = ("weights",)
    acts_by = ()
    memory = "1 number per weight"
    convention = (
        "theta_0 + S (sum of the optimizer's steps), S tuned from scale upwards for each "
        "optimizer; actor and critic"
    )

    scale: Annotated[float, (1e-30, None)] = 1e-8

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Scale the steps of the coming task."""
        self._work = doors.gradients.revise(self.revised, state=partial(self.begun, fresh=begun))

    def revised(self, move: Move, state: Tensors, _batch: Tensors) -> tuple[Named, Tensors]:
        """Return the weights after a step, and the tuners."""
        names = list(move.after)
        starts = [state["start"][name] for name in names]
        before, after = list(move.before.values()), list(move.after.values())
        sums = torch._foreach_sub(before, starts)
        torch._foreach_div_(sums, state["scales"].sum() + EPSILON)
        gains = torch._foreach_mul(sums, [move.gradients[name] for name in names])
        gain = torch.stack([one.sum() for one in gains]).sum()  # h
        betas = state["sigma"].new_tensor(BETAS)
        variance = betas.square() * state["variance"] + gain.square()
        sigma = betas * state["sigma"] - gain
        reached = erfi(sigma / (math.sqrt(2) * variance.sqrt() + EPSILON))
        scales = reached * (self.scale / _ERFI_AT_ROOT_HALF)
        torch._foreach_add_(sums, torch._foreach_sub(after, before))
        torch._foreach_mul_(sums, scales.sum().clamp_min(0.0))
        torch._foreach_add_(sums, starts)
        tuned = {"sigma": sigma, "variance": variance, "scales": scales}
        return dict(zip(names, sums, strict=True)), {"start": state["start"], **tuned}


def begun(parameters: Named) -> Tensors:
    """Return the state of the tuners before the first step."""
    zeros = next(iter(parameters.values())).new_zeros(len(BETAS))
    return {
        "start": snapshot(parameters),
        "sigma": zeros + EPSILON,
        "variance": zeros,
        "scales": zeros.clone(),
    }


def erfi(x: Tensor) -> Tensor:
    """Return the imaginary error function, -i erf(i x), of a vector.

    Torch has none. Rybicki's sum for Dawson's integral, with a step of 1/4, is exact to double
    precision as far as |x| = 18; erfi(10) does not fit single precision any more. Source: Rybicki
    1989, Dawson's Integral and the Sampling Theorem.

    >>> erfi(torch.tensor([-1.0, 0.0, 0.5]))
    tensor([-1.6504,  0.0000,  0.6150])
    """
    odd = torch.arange(1, 101, 2, dtype=x.dtype, device=x.device)  # (50,)
    size = x.abs()[:, None]  # (n, 1)
    # exp(-(x - n/4)^2) - exp(-(x + n/4)^2), without loss of digits at small x
    terms = -torch.expm1(-size * odd) * torch.exp(-(size - odd / 4).square()) / odd  # (n, 50)
    return torch.sign(x) * torch.exp(x.square()) * terms.sum(1) * (2 / math.pi)


_ERFI_AT_ROOT_HALF = 0.9534382692512611
