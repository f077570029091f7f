"""Adam whose renewed weights count their own steps.

Adam divides its moments by ``1 - beta^t``, as both began at zero. Where a weight begins again, with
moments of zero, torch's one ``t`` for all entries of a parameter is too large for it: with betas of
.9 and .999 its first step is 3.2 times the learning rate, the tenth 6.5 times. Continual
backpropagation's own Adam keeps a ``t`` per weight (Dohare et al. 2024; ``AdamGnT`` in
https://github.com/shibhansh/loss-of-plasticity). The moments are the same in both, so that it is
enough to exchange, after torch's step, what it took from a weight by what its own ``t`` takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

RENEWED_AT = "renewed_at"
"""Steps of a parameter when each of its entries was renewed last, in the optimizer's state: it is
saved, carried and dropped with the moments."""


def renew(optimizer: Optimizer, parameter: nn.Parameter, mask: Tensor) -> None:
    """Count the steps of some entries of a parameter from zero; of other optimizers, nothing.

    Args:
        optimizer: Has the parameter.
        parameter: The parameter.
        mask: Boolean, of its shape: entries whose moments were set to zero.
    """
    if type(optimizer) not in (Adam, AdamW):
        return
    state = optimizer.state[parameter]
    if "step" in state:  # a parameter without a gradient so far has taken none
        since = state.setdefault(RENEWED_AT, torch.zeros_like(parameter.detach()))
        since.masked_fill_(mask, state["step"].item())


@torch.no_grad()
def correct(optimizer: Optimizer) -> None:
    """Make the step just taken, for renewed entries, the one that their own number of steps gives.

    All other entries stay as they are, bit for bit.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if RENEWED_AT not in state or parameter.grad is None:
                continue
            since = state[RENEWED_AT]
            steps = state["step"].to(since)
            error = _change(group, state, steps) - _change(group, state, steps - since)
            parameter.add_(error.masked_fill_(since == 0, 0.0))


def _change(group: Mapping[str, Any], state: Mapping[str, Any], steps: Tensor) -> Tensor:
    """Return what Adam subtracts after so many steps. Kingma & Ba 2015, algorithm 1."""
    first, second = (_corrected(beta, steps) for beta in group["betas"])
    squares = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    direction = state["exp_avg"] / first / ((squares / second).sqrt() + group["eps"])
    change: Tensor = direction * group["lr"]
    return change


def _corrected(beta: float, steps: Tensor) -> Tensor:
    """Return 1 - beta^steps, to the last digits also where it is small."""
    left: Tensor = torch.expm1(steps * math.log(beta)) if beta else -torch.ones_like(steps)
    return -left
