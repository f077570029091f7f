"""Measures of plasticity on tensors worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.agents.modules.plasticity import (
    dormant_fraction,
    effective_rank,
    norm,
    singular_values,
    srank,
)


def test_dormant_units_are_counted_over_all_layers_each_by_its_own_mean() -> None:
    """The second layer is a thousand times quieter, and just as alive."""
    loud, quiet = torch.tensor([0.0, 10.0, 20.0]), torch.tensor([0.01, 0.02, 0.0, 0.0, 0.01])
    assert dormant_fraction([loud, quiet], 0.025) == 3 / 8
    assert dormant_fraction([torch.zeros(4)], 0.025) == 1.0
    # A score of exactly tau counts: mean 1, so the first unit's score is .5.
    assert dormant_fraction([torch.tensor([0.5, 1.5])], 0.5) == 0.5


def test_singular_values_are_those_of_the_matrix() -> None:
    rng = np.random.default_rng(0)
    for shape in ((20, 6), (6, 20)):
        matrix = rng.normal(size=shape)
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(singular_values(torch.as_tensor(matrix)), expected, rtol=1e-6)


def test_effective_rank_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4: entropy 1.5 ln 2, so 2^1.5."""
    assert effective_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)
    assert effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1.0)
    features = torch.eye(5)[:, :3].repeat(4, 1)
    assert effective_rank(singular_values(features)) == pytest.approx(3.0)


def test_srank_by_hand() -> None:
    assert srank(torch.tensor([99.5, 0.5])) == 1
    assert srank(torch.tensor([98.5, 1.0, 0.5])) == 2
    assert srank(torch.ones(100)) == 99
    assert srank(torch.tensor([3.0, 1.0]), delta=0.25) == 1
    assert srank(torch.zeros(3)) == 0


def test_norm_is_over_everything_together() -> None:
    assert norm([torch.full((2, 2), 2.0), torch.tensor([3.0])]) == 5.0
    assert norm([]) == 0.0
    assert math.isfinite(norm([torch.full((10,), 1e30)]))  # its square is beyond float32
