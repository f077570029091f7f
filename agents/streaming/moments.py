"""Running mean and variance of a signal, taken one sample at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

EPSILON = 1e-8
"""Added to the variance that a signal is divided by; of the authors' code."""


class Moments(nn.Module):
    """Mean and variance of all samples so far, as buffers: part of the agent that learns by them.

    The variance is the unbiased one, and 1 until there are two samples.

    Args:
        shape: Of a sample.

    Source: Elsayed et al. 2024, Streaming Deep Reinforcement Learning Finally Works
        (arXiv:2410.14606), algorithm SampleMeanVar; Welford 1962.

    >>> moments = Moments(())
    >>> for sample in (1.0, 3.0, 8.0):
    ...     moments.update(np.float64(sample))
    >>> float(moments.mean), moments.variance().item()  # 13 = (9 + 1 + 16) / 2
    (4.0, 13.0)
    """

    mean: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # The same memory: what is updated here is what a checkpoint reads and writes.
        self._arrays = self.mean.numpy(), self.squares.numpy(), self.count.numpy()

    def update(self, sample: Any) -> None:
        """Take a sample of the signal."""
        mean, squares, count = self._arrays
        count += 1.0
        gap = sample - mean
        mean += gap / count
        squares += gap * (sample - mean)

    def variance(self) -> NDArray[np.float64]:
        """Return the variance, of the shape of a sample."""
        _, squares, count = self._arrays
        return squares / (count - 1.0) if count > 1 else np.ones_like(squares)

    def centred(self, sample: Any) -> NDArray[np.float64]:
        """Return how many standard deviations a sample lies from the mean."""
        apart: NDArray[np.float64] = sample - self._arrays[0]
        return apart / np.sqrt(self.variance() + EPSILON)

    def scaled(self, sample: float) -> float:
        """Return a sample of a scalar divided by the standard deviation."""
        return float(sample / np.sqrt(self.variance() + EPSILON))

    def forward(self, samples: Tensor) -> Tensor:
        """Return what ``centred`` does for a batch, shape (batch, ...), in float64."""
        variance = self.squares / (self.count - 1.0).clamp(min=1.0)
        variance = torch.where(self.count > 1, variance, torch.ones_like(variance))
        return (samples.double() - self.mean) / torch.sqrt(variance + EPSILON)
