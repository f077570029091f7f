"""V-trace: values and advantages of steps that another policy took."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Corrected(NamedTuple):
    """Result of V-trace for a segment, each of shape (steps, batch).

    Attributes:
        targets: v_t, what the value of each observation should be.
        errors: How much better each action was than the value said.
        rho: The importance ratios, cut off.
    """

    targets: Tensor
    errors: Tensor
    rho: Tensor

    @property
    def advantages(self) -> Tensor:
        """Factors of grad log pi: the errors with their ratios."""
        return self.rho * self.errors


def vtrace(
    ratios: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    values: Tensor,
    *,
    largest_rho: float = 1.0,
    largest_c: float = 1.0,
) -> Corrected:
    """Return V-trace targets and policy-gradient advantages.

    With ``rho_t = min(largest_rho, ratio_t)`` and ``c_t = min(largest_c, ratio_t)``::

        v_t = V_t + delta_t + discount_t c_t (v_{t+1} - V_{t+1})
        delta_t = rho_t (reward_t + discount_t V_{t+1} - V_t)
        error_t = reward_t + discount_t v_{t+1} - V_t
        advantage_t = rho_t error_t

    and v = V after the last step. Source: Espeholt et al. 2018, IMPALA (arXiv:1802.01561), remark 1
    and section 4.2, whose thresholds are 1.

    Args:
        ratios: pi(a | s) / mu(a | s) of the policy that learns and the one that acted, shape
            (steps, batch).
        rewards: Shape (steps, batch).
        discounts: The discount factor; 0 where the episode ended with this step. Shape (steps,
            batch).
        values: V of each observation and, in the last row, of the one after the last step; shape
            (steps + 1, batch).
        largest_rho: Threshold of the ratio that decides which policy's value is estimated.
        largest_c: Threshold of the ratio that decides how far corrections travel.

    >>> one = torch.ones(2, 1)
    >>> vtrace(one, one, one, torch.zeros(3, 1)).targets.flatten()
    tensor([2., 1.])
    """
    rho, c = ratios.clamp(max=largest_rho), ratios.clamp(max=largest_c)
    deltas = rho * (rewards + discounts * values[1:] - values[:-1])
    travels = discounts * c
    gap = torch.zeros_like(values[-1])  # v_{t+1} - V_{t+1}
    gaps = [gap]
    for delta, travel in zip(deltas.flip(0), travels.flip(0), strict=True):
        gap = torch.addcmul(delta, travel, gap)
        gaps.append(gap)
    targets = values + torch.stack(gaps[::-1])  # (steps + 1, batch)
    errors = rewards + discounts * targets[1:] - values[:-1]
    return Corrected(targets[:-1], errors, rho)
