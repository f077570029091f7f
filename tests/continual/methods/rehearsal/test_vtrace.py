"""V-trace against a plain loop over its definition, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.continual.methods.rehearsal.vtrace import vtrace


def test_by_hand() -> None:
    """Two steps, discount 1/2, ratios 2 and 1/2 under thresholds of 1.

    delta_1 = 1/2 (4 + 1/2 * 8 - 2) = 3, so v_1 = 2 + 3 = 5.
    delta_0 = 1 (1 + 1/2 * 2 - 6) = -4, so v_0 = 6 - 4 + 1/2 * 1 * (5 - 2) = 3.5.
    Advantages: 1 (1 + 1/2 * 5 - 6) = -2.5 and 1/2 (4 + 1/2 * 8 - 2) = 3.
    """
    column = lambda *values: torch.tensor(values)[:, None]  # noqa: E731
    found = vtrace(column(2.0, 0.5), column(1.0, 4.0), column(0.5, 0.5), column(6.0, 2.0, 8.0))
    assert found.targets.flatten().tolist() == [3.5, 5.0]
    assert found.advantages.flatten().tolist() == [-2.5, 3.0]


def test_on_policy_it_is_the_n_step_return() -> None:
    """Remark 1 of the paper: with all ratios 1, v is the discounted sum, cut where episodes end."""
    rewards = torch.tensor([[1.0], [2.0], [3.0]])
    discounts = torch.tensor([[0.5], [0.0], [0.5]])
    values = torch.tensor([[7.0], [9.0], [5.0], [4.0]])
    found = vtrace(torch.ones(3, 1), rewards, discounts, values)
    assert found.targets.flatten().tolist() == [1.0 + 0.5 * 2.0, 2.0, 3.0 + 0.5 * 4.0]


@pytest.mark.parametrize(("largest_rho", "largest_c"), [(1.0, 1.0), (2.0, 0.5)])
def test_it_equals_the_sum_of_equation_1(largest_rho: float, largest_c: float) -> None:
    """v_s = V_s + sum over t >= s of (discounts and c of s..t-1) delta_t, in plain loops."""
    rng = np.random.default_rng(0)
    steps, batch = 7, 5
    ratios = rng.lognormal(size=(steps, batch))
    rewards, values = rng.normal(size=(steps, batch)), rng.normal(size=(steps + 1, batch))
    discounts = 0.9 * rng.integers(2, size=(steps, batch))
    arrays = [torch.as_tensor(a) for a in (ratios, rewards, discounts, values)]
    found = vtrace(*arrays, largest_rho=largest_rho, largest_c=largest_c)
    targets = np.zeros((steps + 1, batch))
    targets[steps] = values[steps]
    for b in range(batch):
        for s in range(steps):
            total, weight = values[s, b], 1.0
            for t in range(s, steps):
                rho = min(largest_rho, ratios[t, b])
                gap = rewards[t, b] + discounts[t, b] * values[t + 1, b] - values[t, b]
                total += weight * rho * gap
                weight *= discounts[t, b] * min(largest_c, ratios[t, b])
            targets[s, b] = total
    rho = np.minimum(largest_rho, ratios)
    advantages = rho * (rewards + discounts * targets[1:] - values[:-1])
    np.testing.assert_allclose(found.targets, targets[:-1], rtol=1e-12)
    np.testing.assert_allclose(found.advantages, advantages, rtol=1e-12)
